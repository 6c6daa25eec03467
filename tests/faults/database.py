"""A PostgreSQL of the test's own, and a proxy before it that can be slow, silent, or refuse."""

import asyncio
import os
import pathlib
import signal
import subprocess
import threading


def programs():
    """The folder of the newest server's programs."""
    if forced := os.environ.get("SLUICE_PG_BIN"):
        return pathlib.Path(forced)
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    return found[-1].parent if found else pathlib.Path("/usr/local/bin")


class Database:
    def __init__(self, folder, data=None):
        self.folder = pathlib.Path(folder)
        self.data, self.sock = pathlib.Path(data or self.folder / "db"), self.folder / "db.run"
        # PostgreSQL refuses to run as root.
        self.user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        for path in (self.data, self.sock):
            path.mkdir(exist_ok=True)
            if self.user:
                subprocess.run(["chown", "postgres:postgres", path], check=True)
            path.chmod(0o700)
        self.data = self.data / "cluster"
        subprocess.run(
            [programs() / "initdb", "-D", self.data, "-U", "sluice", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "--wal-segsize=1"],
            check=True, capture_output=True, cwd="/", extra_groups=[] if self.user else None, **self.user,
        )
        self.dsn = f"host={self.sock} user=sluice dbname=postgres connect_timeout=10"
        self.process, self.wanted = None, False
        self.proxy = Proxy(f"{self.sock}/.s.PGSQL.5432")
        self.proxied = f"host=127.0.0.1 port={self.proxy.port} user=sluice dbname=postgres connect_timeout=5"

    def pid(self):
        return self.process.pid

    def start(self):
        self.wanted = True
        with open(self.folder / "db.log", "ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data, "-c", f"unix_socket_directories={self.sock}", "-c", "listen_addresses=", "-c", "shared_buffers=16MB",
                 "-c", "max_wal_size=32MB", "-c", "min_wal_size=2MB"],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, extra_groups=[] if self.user else None, **self.user,
            )

    def stop(self, sig=signal.SIGINT):
        self.wanted = False
        self.process.send_signal(sig)
        self.process.wait(60)

    def database_log(self):
        return (self.folder / "db.log").read_text(errors="replace")

    def tend(self):
        """What a service manager does."""
        if self.wanted and self.process.poll() is not None:
            self.start()

    def close(self):
        self.wanted = False
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(60)
        self.proxy.close()


class Proxy:
    """TCP on loopback to a unix socket. `delay` holds every piece back; `refuse` ends connections; `silent` lets nothing through."""

    def __init__(self, target):
        self.target, self.delay, self.refuse, self.silent = target, 0, False, False
        self.loop, self.writers, self.port = asyncio.new_event_loop(), set(), None
        ready = threading.Event()

        async def serve():
            server = await asyncio.start_server(self.client, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        def run():
            asyncio.set_event_loop(self.loop)
            self.loop.create_task(serve())
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        ready.wait()

    async def client(self, reader, writer):
        self.writers.add(writer)
        try:
            if self.refuse:
                return
            there_reader, there_writer = await asyncio.open_unix_connection(self.target)
            self.writers.add(there_writer)
            try:
                await asyncio.gather(self.pump(reader, there_writer), self.pump(there_reader, writer))
            finally:
                self.writers.discard(there_writer)
                there_writer.close()
        except OSError:
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def pump(self, reader, writer):
        try:
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                while self.silent:
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    def drop(self):
        """Ends every connection now, in the midst of whatever it says."""

        def do():
            for writer in list(self.writers):
                writer.transport.abort()

        self.loop.call_soon_threadsafe(do)

    def close(self):
        self.drop()
        self.loop.call_soon_threadsafe(self.loop.stop)
