"""The Iceberg catalog over HTTP: commits a second, the load of a long table and a long list; and, side by side on the same
PostgreSQL, Iceberg's own Java REST server, if SLUICE_BENCH_ICEBERG names a folder of its jars (see README.md)."""
import contextlib
import glob
import json
import os
import socket
import subprocess
import threading
import time

from daemon import Failed, read
from results import quantile

HERE = os.path.dirname(os.path.abspath(__file__))
SCHEMA = {"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "id", "type": "long", "required": False}]}
NAMESPACE, MANY = "bench", "many"
SNAPSHOTS, TABLES = 10_000, 10_000


class Server:
    """A catalog's address; a connection of it is kept and asked one thing after the other."""

    def __init__(self, host, port, base, token=None):
        self.host, self.port, self.base = host, int(port), base
        self.head = f"Host: {host}:{port}\r\nContent-Type: application/json\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")

    def connect(self):
        sock = socket.create_connection((self.host, self.port), timeout=60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def send(self, sock, method, path, body=None):
        """The status and body of one request, with as little of the client in it as can be."""
        data = json.dumps(body).encode() if body is not None else b""
        sock.sendall(f"{method} {self.base}/v1/{path} HTTP/1.1\r\n{self.head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        parts, have, need, head = [], 0, None, b""
        while need is None or have < need:
            got = sock.recv(1 << 20)
            if not got:
                raise Failed(f"{self.base}: the connection ended")
            if need is None:
                head += got
                end = head.find(b"\r\n\r\n")
                if end < 0:
                    continue
                lower = head[:end].lower()
                if b"transfer-encoding: chunked" in lower:
                    return self.chunked(sock, head, end + 4)
                at = lower.find(b"content-length:")
                need = int(lower[at + 15:].split(b"\r\n")[0]) if at >= 0 else 0
                got = head[end + 4:]
            parts.append(got)
            have += len(got)
        return int(head[9:12]), b"".join(parts)

    @staticmethod
    def chunked(sock, head, start):
        data, out = head[start:], []
        while True:
            while b"\r\n" not in data:
                data += sock.recv(1 << 20)
            line, _, data = data.partition(b"\r\n")
            size = int(line, 16)
            while len(data) < size + 2:
                data += sock.recv(1 << 20)
            if size == 0:
                return int(head[9:12]), b"".join(out)
            out.append(data[:size])
            data = data[size + 2:]

    def ask(self, method, path, body=None):
        with contextlib.closing(self.connect()) as sock:
            status, text = self.send(sock, method, path, body)
        if status >= 300:
            raise Failed(f"{method} {path}: HTTP {status}: {text[:500]!r}")
        return json.loads(text) if text else None

    def make(self, table):
        self.ask("POST", f"namespaces/{NAMESPACE}/tables", {"name": table, "schema": SCHEMA})


def commit_all(server, tables, seconds):
    """One client a table's name in the list, each committing without a pause: (commits a second, latencies, how many were refused)."""
    ends, latencies, refused, troubles = time.perf_counter() + seconds, [], [], []

    def client(number, table):
        sock, i = server.connect(), 0
        try:
            while time.perf_counter() < ends:
                body = {"requirements": [], "updates": [{"action": "set-properties", "updates": {f"k{number}": str(i)}}]}
                began = time.perf_counter()
                status, text = server.send(sock, "POST", f"namespaces/{NAMESPACE}/tables/{table}", body)
                took = time.perf_counter() - began
                i += 1
                if status == 200:
                    latencies.append(took)
                elif status in (409, 500, 503):  # the Java server gives up after some tries
                    refused.append(took)
                else:
                    raise Failed(f"HTTP {status}: {text[:300]!r}")
        except Exception as e:  # noqa: BLE001 - told by the main thread
            troubles.append(e)
        finally:
            sock.close()

    threads = [threading.Thread(target=client, args=(i, t)) for i, t in enumerate(tables)]
    began = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if troubles:
        raise troubles[0]
    return len(latencies) / (time.perf_counter() - began), latencies, len(refused)


def long_table(server):
    """A table with many snapshots: the last one is the current one."""
    server.make("long")
    now = int(time.time() * 1000)
    for first in range(1, SNAPSHOTS, 1000):
        updates = []
        for n in range(first, first + 1000):
            snapshot = {"snapshot-id": n, "sequence-number": n, "timestamp-ms": now + n, "schema-id": 0,
                        "manifest-list": f"file:///warehouse/bench/long/metadata/snap-{n}-1-00000000-0000-4000-8000-000000000000.avro",
                        "summary": {"operation": "append", "added-data-files": "1", "added-records": "100", "total-records": str(n * 100)}}
            updates.append({"action": "add-snapshot", "snapshot": snapshot | ({"parent-snapshot-id": n - 1} if n > 1 else {})})
        updates.append({"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": first + 999})
        server.ask("POST", f"namespaces/{NAMESPACE}/tables/long", {"requirements": [], "updates": updates})


def timed(server, path, check, rounds=15):
    out = []
    with contextlib.closing(server.connect()) as sock:
        for _ in range(rounds):
            began = time.perf_counter()
            status, text = server.send(sock, "GET", path)
            out.append((time.perf_counter() - began) * 1e3)
            if status != 200 or not check(text):
                raise Failed(f"GET {path}: HTTP {status}")
    return out


def psql(dsn, sql):
    subprocess.run(["psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", sql], check=True)


class JavaServer:
    """Iceberg's RESTCatalogServlet on its JdbcCatalog, with the same cluster; compiled and run from source."""

    def __init__(self, jars, sock, folder):
        self.log = os.path.join(folder, "java.log")
        os.makedirs(os.path.join(folder, "java"), exist_ok=True)
        argv = ["java", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", os.path.join(jars, "*"), os.path.join(HERE, "RestServer.java"),
                sock, os.path.join(folder, "java")]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("port "):
            raise Failed(f"the Java server did not start:\n{read(self.log)[-2000:]}")
        self.server = Server("127.0.0.1", line.split()[1], "")

    def stop(self):
        self.process.stdin.close()  # it ends with its standard input
        self.process.wait(30)


def measure_server(server, dsn, catalog, seconds, results, name, bars=None):
    """The whole of one server; returns the three rates. `bars`: the rates of another one, of which three times are wanted."""
    server.ask("POST", "namespaces", {"namespace": [NAMESPACE]})
    for table in ["one", "same", *(f"own{i}" for i in range(16))]:
        server.make(table)
    rates = []
    for what, tables in (("1 client", ["one"]), ("16 clients, each its own table", [f"own{i}" for i in range(16)]), ("16 clients, one table", ["same"] * 16)):
        commit_all(server, tables, 1.5)  # warm
        rate, latencies, refused = commit_all(server, tables, seconds)
        some = f" ({refused} refused)" if refused else ""
        results.add(f"{name}: commits, {what}{some}", rate, "commits/s", at_least=round(3 * bars[len(rates)]) if bars else None)
        results.add("the same: p99", quantile(latencies, 0.99) * 1e3, "ms", at_most=50 if bars is not None else None)
        rates.append(rate)
    long_table(server)
    results.add(f"{name}: load of a table with {SNAPSHOTS:,} snapshots",
                timed(server, f"namespaces/{NAMESPACE}/tables/long", lambda text: text.count(b"snap-") >= SNAPSHOTS), "ms", at_most=50 if bars is not None else None)
    server.ask("POST", "namespaces", {"namespace": [MANY]})
    psql(dsn, "INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location, iceberg_type)"
              f" SELECT '{catalog}', '{MANY}', 'table_' || i, 'file:///none', 'TABLE' FROM generate_series(1, {TABLES}) i")
    results.add(f"{name}: list of {TABLES:,} tables", timed(server, f"namespaces/{MANY}/tables", lambda text: text.count(b"table_") == TABLES), "ms",
                at_most=50 if bars is not None else None)
    return rates


def measure_catalog(daemon, folder, seconds, results):
    host, port = daemon.address()
    token = read(os.path.join(daemon.home, "token")).strip()
    jars, theirs = os.environ.get("SLUICE_BENCH_ICEBERG"), None
    if jars:
        psql(daemon.dsn(), "CREATE DATABASE java")
        java = JavaServer(jars, glob.glob(f"{daemon.home}/pg.run/.s.PGSQL.*[0-9]")[0], folder)
        try:
            theirs = measure_server(java.server, daemon.dsn().replace("dbname=postgres", "dbname=java"), "java", seconds, results, "Iceberg's Java REST server")
        finally:
            java.stop()
    measure_server(Server(host, port, "/iceberg", token), daemon.dsn(), "local", seconds, results, "catalog", theirs or [0, 0, 0])
