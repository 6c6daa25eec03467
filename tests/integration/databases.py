"""Database servers of others, each with a folder and a free port of its own on loopback, with passwords and a log of all statements."""

import os
import pathlib
import pwd
import shutil
import signal
import subprocess

import psycopg2
import pytest

from conftest import alive, die_with_parent, new_folder, wait_until
from ports import free_port

PASSWORD = "s3cr3t/p%w@rd"  # what an address must write otherwise
CODED = "s3cr3t%2Fp%25w%40rd"


def someone():
    """Servers refuse to run as root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class Server:
    def __init__(self, name):
        self.folder = new_folder(f"sl-{name}-")
        self.who, self.port, self.process = someone(), free_port(), None
        if self.who:
            os.chown(self.folder, self.who["user"], self.who["group"])
        self.log, self.out = self.folder / "log", self.folder / "out"

    def run(self, *args, **kw):
        subprocess.run(list(map(str, args)), check=True, capture_output=True, cwd=self.folder, env={**os.environ, "HOME": str(self.folder)}, **self.who, **kw)

    def start(self):
        with open(self.out, "ab") as out:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder, preexec_fn=die_with_parent, **self.who
            )
        wait_until(self.ready, f"{type(self).__name__}'s start")
        return self

    def stop(self, sig=signal.SIGINT):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(30)

    def close(self):
        self.stop()
        if self.process:
            wait_until(lambda: not alive(self.process.pid), "the server's end")
        shutil.rmtree(self.folder, ignore_errors=True)

    def statements(self):
        return self.log.read_text(errors="replace")

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()


class Postgres(Server):
    def __init__(self):
        super().__init__("pg")
        self.out = self.log
        self.bin = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        (self.folder / "pw").write_text(PASSWORD)
        self.run(self.bin / "initdb", "-D", self.folder / "data", "-A", "scram-sha-256", "-U", "app", "--pwfile", self.folder / "pw", "-N", "-E", "UTF8", "--locale", "C.UTF-8")

    def command(self):
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "log_statement": "all", "logging_collector": "off", "fsync": "off"}
        words = [w for k, v in settings.items() for w in ("-c", f"{k}={v}")]
        return [str(self.bin / "postgres"), "-D", str(self.folder / "data"), *map(str, words)]

    @property
    def uri(self):
        return f"postgresql://app:{CODED}@127.0.0.1:{self.port}/postgres"

    def connect(self):
        return psycopg2.connect(host="127.0.0.1", port=self.port, user="app", password=PASSWORD, dbname="postgres")

    def ready(self):
        assert self.process.poll() is None, self.statements()
        try:
            self.connect().close()
            return True
        except psycopg2.OperationalError:
            return False

    def sql(self, text):
        connection = self.connect()
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()


class MySQL(Server):
    """MariaDB, which speaks its protocol. Its tmpdir is its own: at its start a server removes every "#sql" file there, those of another that runs too."""

    def __init__(self):
        super().__init__("my")
        self.run("mariadb-install-db", "--no-defaults", f"--datadir={self.folder}/data", f"--tmpdir={self.folder}", "--auth-root-authentication-method=normal", "--skip-test-db")

    def command(self):
        return [
            shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin"), "--no-defaults", f"--datadir={self.folder}/data", f"--tmpdir={self.folder}", f"--port={self.port}",
            "--bind-address=127.0.0.1", f"--socket={self.folder}/my.sock", f"--pid-file={self.folder}/pid", "--general-log=1",
            f"--general-log-file={self.log}", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M",
        ]  # fmt: skip

    def stop(self, sig=signal.SIGTERM):
        super().stop(sig)

    def start(self):
        super().start()
        if "app" not in self.sql("SELECT user FROM mysql.user"):
            self.sql(f"CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO app@'%'")
        return self

    @property
    def uri(self):
        return f"mysql://app:{CODED}@127.0.0.1:{self.port}/shop"

    def client(self, text, check=True):
        return subprocess.run(
            ["mariadb", "--no-defaults", "-S", str(self.folder / "my.sock"), "-u", "root", "-N", "-B", "--binary-as-hex"], input=text, text=True, capture_output=True, check=check
        )

    def ready(self):
        assert self.process.poll() is None, self.out.read_text()
        return self.client("SELECT 1", check=False).returncode == 0

    def sql(self, text):
        return self.client(f"CREATE DATABASE IF NOT EXISTS shop; USE shop; {text}").stdout


@pytest.fixture(scope="module")
def pg():
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def mysql():
    with MySQL() as server:
        yield server
