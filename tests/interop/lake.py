"""A daemon on a PostgreSQL that listens on loopback, since Java knows no unix sockets: the same tables by REST and by JDBC."""

import os
import pathlib
import secrets
import shutil
import signal
import subprocess

import psycopg2

from harness import Daemon, die_with_parent, new_folder, wait_until
from ports import free_port
from s3_stores import KEY, SECRET


def programs():
    """The folder of the newest server's programs."""
    if forced := os.environ.get("SLUICE_PG_BIN"):
        return pathlib.Path(forced)
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    return found[-1].parent if found else pathlib.Path("/usr/local/bin")


class Database:
    def __init__(self, folder):
        self.folder, self.port, self.password = folder, free_port(), secrets.token_urlsafe(12)
        # PostgreSQL refuses to run as root.
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        data, secret = folder / "db", folder / "db.password"
        data.mkdir(mode=0o700)
        secret.write_text(self.password)
        if self.user:
            subprocess.run(["chown", "postgres:postgres", data, secret], check=True)
        secret.chmod(0o400)
        initdb = [programs() / "initdb", "-D", data / "cluster", "-U", "sluice", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/", **self.user)
        secret.unlink()
        self.dsn = f"host=127.0.0.1 port={self.port} user=sluice password={self.password} dbname=postgres connect_timeout=10"
        with open(folder / "db.log", "ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", data / "cluster", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent, **self.user,
            )
        wait_until(self._answers, "PostgreSQL")

    def _answers(self):
        assert self.process.poll() is None, (self.folder / "db.log").read_text()
        try:
            psycopg2.connect(self.dsn).close()
            return True
        except psycopg2.OperationalError:
            return False

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


class Lake:
    """What engines connect to: `name`, `rest`, `token`, `jdbc`, `sqlalchemy`, `warehouse`. Tables get names that nobody has."""

    name = "local"

    def __init__(self, store=None, bucket=None):
        """With a store the warehouse lies there, in that bucket."""
        self.store, self.bucket, self.label = store, bucket, "s3" if store else "local"
        self.folder = new_folder()
        (self.folder / "flows").mkdir()
        self.database = Database(self.folder)
        # By the environment: a password has no place among a program's arguments.
        env, config = {"SLUICE_DATABASE": self.database.dsn}, None
        if store:
            env |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
            config = self.folder / "flows" / "sluice.yaml"
            config.write_text(f"catalog: {{warehouse: 's3://{bucket}/lake'}}\ns3: {{endpoint: '{store.endpoint}'}}\n")
        self.daemon = Daemon(self.folder / "home", self.folder / "flows", config, env=env)
        self.count = 0

    def start(self):
        self.daemon.start()
        self.rest, self.token = self.daemon.url + "/iceberg", self.daemon.token
        self.warehouse = f"s3://{self.bucket}/lake" if self.store else f"file://{self.daemon.home}/warehouse"
        at = f"127.0.0.1:{self.database.port}/postgres"
        self.jdbc, self.sqlalchemy = f"jdbc:postgresql://{at}", f"postgresql+psycopg2://sluice:{self.database.password}@{at}"
        return self

    def table(self, hint="t"):
        self.count += 1
        return f"m.{hint}_{self.count}"

    def close(self):
        self.daemon.clean_up()
        self.database.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
