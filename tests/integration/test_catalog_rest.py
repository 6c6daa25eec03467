"""catalog.type: rest: flows on the tables of another server. That is another Sluice, SeaweedFS, and, where SLUICE_BENCH_ICEBERG names its jars, Iceberg's own."""

import contextlib
import glob
import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from conftest import ROOT, link_engine, postgres, task_of, why
from s3_stores import KEY, SECRET, running

FLOW = """
    id: f
    tasks:
      - id: one
        type: curate
        into: lake.stg.t
        mode: append
        sql: SELECT range AS id, 'r' || range AS name FROM range(10)
      - id: two
        type: curate
        depends_on: [one]
        into: cur.c
        mode: overwrite
        sql: SELECT count(*) AS n FROM stg.t
      - id: check
        type: validate
        depends_on: [two]
        table: cur.c
        checks: [{row_count: {min: 1, max: 1}}, {sql: SELECT n >= 10 FROM this}]
"""
JARS = os.environ.get("SLUICE_BENCH_ICEBERG")  # a folder: tests/bench/README.md


class Relay:
    """A real server behind another port, for what cannot be had from it at will: `before(method, path)` may do something first, and says what
    becomes of the request: None as usual, "hang", "lost" (the server does it, the answer is not passed on). Tokens are exchanged for its own,
    which `expire` ends."""

    def __init__(self, url):
        self.target, self.before, self.tokens, self.done = url, lambda *_: None, {}, threading.Event()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def any(self):
                relay.pass_on(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            do_GET = do_POST = do_DELETE = do_HEAD = any

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def expire(self):
        self.tokens = {token: None for token in self.tokens}

    def pass_on(self, handler, body):
        fate = self.before(handler.command, handler.path)
        if fate == "hang":
            self.done.wait(60)
            return
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in ("host", "connection", "content-length", "expect")}
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.tokens:
            if self.tokens[token] is None:
                return self.answer(handler, 401, json.dumps({"error": {"message": "the token has expired", "type": "NotAuthorizedException", "code": 401}}).encode())
            headers["Authorization"] = f"Bearer {self.tokens[token]}"
        request = urllib.request.Request(self.target + handler.path, data=body or None, headers=headers, method=handler.command)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                status, answer = reply.status, reply.read()
        except urllib.error.HTTPError as reply:
            status, answer = reply.code, reply.read()
        if handler.path.endswith("/oauth/tokens") and status == 200:
            given = json.loads(answer)
            mine = f"relay-{len(self.tokens)}"
            self.tokens[mine] = given["access_token"]
            answer = json.dumps({**given, "access_token": mine}).encode()
        if fate == "lost":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        self.answer(handler, status, answer)

    @staticmethod
    def answer(handler, status, body):
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        if status != 204:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if status != 204:
            handler.wfile.write(body)

    def stop(self):
        self.done.set()
        self.server.shutdown()
        self.server.server_close()


class Lake:
    """Another server with an empty catalog: `settings` of a config, and PyIceberg's view of it."""

    def __init__(self, url, settings, client, more=""):
        self.url, self.settings, self.client, self.more = url, settings, client, more

    def config(self, url=None, **changes):
        settings = {"name": "lake", "type": "rest", "uri": url or self.url, "timeout": "9s", **self.settings, **changes}
        return "catalog:\n" + "".join(f"  {k}: {json.dumps(v)}\n" for k, v in settings.items() if v is not None) + self.more

    def catalog(self):
        return load_catalog("lake", type="rest", uri=self.url, **self.client)

    def rows(self, name):
        return sorted(self.catalog().load_table(name).scan().to_arrow().to_pylist(), key=str)


@pytest.fixture
def another(make_daemon, folder):
    (folder / "none").mkdir()
    server = make_daemon(name="server", flows=folder / "none")
    return server, Lake(f"{server.url}/iceberg", {"token": server.token}, {"token": server.token})


@pytest.fixture
def relayed(another):
    """Another Sluice behind a relay, with a credential."""
    server, lake = another
    made = json.loads(server.cli("token", "create", "--scope", "admin", "--json").stdout)
    relay = Relay(lake.url)
    lake.settings = {"credential": f"{made['id']}:{made['token']}"}
    yield relay, lake
    relay.stop()


@contextlib.contextmanager
def seaweedfs():
    with running("seaweedfs") as store:
        assert store.request("PUT", "/buckets", b'{"name": "lake"}', service="s3tables")[0] == 200
        s3 = {"endpoint": store.endpoint, "access_key": KEY, "secret_key": SECRET, "path_style": True}
        client = {"warehouse": "s3://lake", "credential": f"{KEY}:{SECRET}", "s3.endpoint": store.endpoint, "s3.access-key-id": KEY, "s3.secret-access-key": SECRET}
        yield Lake(store.catalog, {"warehouse": "s3://lake", "credential": f"{KEY}:{SECRET}"}, client, f"s3: {json.dumps(s3)}\n")


@contextlib.contextmanager
def java(daemon, folder):
    with contextlib.closing(postgres(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE java")
    (folder / "java").mkdir()
    sock = glob.glob(f"{(daemon.home / 'pg.run').resolve()}/.s.PGSQL.*[0-9]")[0]
    with open(folder / "java.log", "wb") as log:
        argv = ["java", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{JARS}/*", ROOT / "tests" / "bench" / "RestServer.java", sock, folder / "java"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        port = process.stdout.readline().split()[1]
        yield Lake(f"http://127.0.0.1:{port}", {"credential": "me:secret"}, {"credential": "me:secret"})
    finally:
        process.stdin.close()  # it ends with its standard input
        process.wait(30)


@pytest.fixture(params=["sluice", "seaweedfs"] + ["java"] * bool(JARS))
def lake(request, folder):
    if request.param == "seaweedfs":
        with seaweedfs() as made:
            yield made
        return
    server, made = request.getfixturevalue("another")
    if request.param == "sluice":
        yield made
        return
    with java(server, folder) as made:
        yield made


def test_writes_and_reads(lake, make_daemon):
    daemon = make_daemon(config=lake.config())
    daemon.flow("f", FLOW)
    for n in (10, 20):
        run = daemon.trigger("f")
        assert run["state"] == "success", why(run)
        assert lake.rows("cur.c") == [{"n": n}] == daemon.sql("SELECT n FROM lake.cur.c")
    assert task_of(run, "one")["attempts"][0]["tables"][0]["table"] == "stg.t"

    # Its owners write as well, and change it; an upsert reads what they wrote.
    table = lake.catalog().load_table("stg.t")
    table.append(pa.table({"id": pa.array([99], pa.int64()), "name": ["theirs"]}))
    daemon.flow("g", """
        id: g
        tasks:
          - {id: up, type: curate, into: stg.t, mode: upsert, key: [id], sql: "SELECT 99 AS id, 'ours' AS name"}
          - {id: parts, type: curate, into: deep.er.p, mode: overwrite_partitions, partition_by: [k], sql: "SELECT 1 AS k, 2 AS v"}
    """)
    run = daemon.trigger("g")
    assert run["state"] == "success", why(run)
    assert lake.rows("stg.t")[-1] == {"id": 99, "name": "ours"} and len(lake.rows("stg.t")) == 21
    assert lake.rows("deep.er.p") == [{"k": 1, "v": 2}]
    snapshots = lake.catalog().load_table("stg.t").snapshots()
    assert [s.summary.additional_properties.get("sluice.task-id") for s in snapshots] == ["one", "one", None, "up"]
    first = snapshots[0].snapshot_id
    assert daemon.sql(f"SELECT count(*) AS n FROM as_of('stg.t', '{first}')") == [{"n": 10}]
    assert len(daemon.sql("SELECT * FROM snapshots('stg.t')")) == 4

    # Whoever may query cannot write with the config's credentials, nor send them elsewhere.
    for sql in ("DELETE FROM stg.t", "CREATE TABLE lake.stg.x AS SELECT 1 AS a", "DROP TABLE lake.stg.t"):
        refused = daemon.cli("sql", sql, check=False)
        assert refused.returncode != 0 and "read-only" in refused.stderr, refused
    refused = daemon.cli("sql", f"ATTACH '' AS x (TYPE iceberg, ENDPOINT '{lake.url}', SECRET sluice_catalog)", check=False)
    assert refused.returncode != 0 and "sluice_catalog" in refused.stderr, refused


def test_writes_and_reads_with_polars(lake, make_daemon):
    daemon = make_daemon(config=lake.config())
    link_engine(daemon.home, "polars")
    rows = " UNION ALL ".join(f"SELECT {i} AS id, 'r{i}' AS name" for i in range(10))
    flow = FLOW.replace("SELECT range AS id, 'r' || range AS name FROM range(10)", rows)
    daemon.flow("f", flow.replace("id: f", "id: f\n    defaults: {engine: polars}"))
    for n in (10, 20):
        run = daemon.trigger("f")
        assert run["state"] == "success", why(run)
        assert {t["engine"] for t in run["tasks"]} == {"polars"}
        assert lake.rows("cur.c") == [{"n": n}] == daemon.sql("SELECT n FROM lake.cur.c")
    snapshots = lake.catalog().load_table("stg.t").snapshots()
    assert [s.summary.additional_properties.get("sluice.run-id") for s in snapshots][1] == run["id"]


def test_tables_and_their_states(lake, make_daemon):
    """`sluice tables`, diff, tags and rollback, as with the daemon's own catalog."""
    daemon = make_daemon(config=lake.config())
    daemon.flow("f", FLOW)
    assert daemon.get("/api/v1/tables")["items"] == []
    for _ in range(2):
        run = daemon.trigger("f")
        assert run["state"] == "success", why(run)
    lake.catalog().create_namespace_if_not_exists("deep")
    lake.catalog().create_namespace_if_not_exists("deep.er")
    lake.catalog().create_table("deep.er.e", pa.schema([("x", pa.int64())]))

    items = daemon.get("/api/v1/tables")["items"]
    assert [(t["name"], t["rows"], t["snapshots"]) for t in items] == [("cur.c", 1, 2), ("deep.er.e", 0, 0), ("stg.t", 20, 2)]
    page = daemon.get("/api/v1/tables?limit=1&cursor=cur.c")
    assert [t["name"] for t in page["items"]] == ["deep.er.e"] and page["next"] == "deep.er.e"
    assert [t["name"] for t in daemon.get("/api/v1/tables?namespace=stg")["items"]] == ["stg.t"]
    shown = daemon.get("/api/v1/tables/lake.stg.t")
    assert [f["name"] for f in shown["schema"]["fields"]] == ["id", "name"] and shown["current_snapshot"]["summary"]["sluice.flow"] == "f"
    assert len(daemon.get("/api/v1/tables/stg.t/files")["items"]) == 2
    assert daemon.get("/api/v1/tables/deep.er.e")["snapshots"] == 0
    assert len(daemon.get("/api/v1/tables/stg.t/preview?at=previous")["rows"]) == 10
    assert daemon.get("/api/v1/tables/stg.t/diff")["counts"]["added"] == 10
    missing = daemon.request("GET", "/api/v1/tables/stg.tt")
    assert missing.status == 404 and 'did you mean "stg.t"?' in missing.json["detail"]

    daemon.cli("tag", "stg.t", "v1", "--at", "previous")
    assert daemon.sql("SELECT count(*) AS n FROM as_of('stg.t', 'v1')") == [{"n": 10}]
    daemon.cli("rollback", "stg.t", "--to", "v1")
    assert len(lake.rows("stg.t")) == 10

    undone = daemon.cli("undo", run["id"], check=False)
    assert undone.returncode != 0 and lake.url in undone.stderr and "sluice rollback" in undone.stderr

    # The daemon's own catalog is out of use rather than a second one.
    refused = daemon.request("GET", "/iceberg/v1/config")
    assert refused.status in (406, 501) and lake.url in refused.text, refused


def test_isolation_of_runs_is_refused(another, make_daemon):
    daemon = make_daemon(config=another[1].config())
    path = daemon.write("f.yaml", FLOW.replace("id: f\n", "id: f\n    isolation: run\n", 1))
    done = daemon.cli("validate", path, "--config", daemon.config, check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert f'f.yaml:3:12: error: isolation: run is not possible with the catalog "lake", which another server keeps ({another[1].url})' in text, text
    daemon.write("f.yaml", FLOW.replace("id: f\n", "id: f\n    isolation: task\n", 1))
    assert daemon.cli("validate", path, "--config", daemon.config, check=False).returncode == 0


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"token": "no-such-token-27"}, ["answers 401", "catalog.token"]),
        ({"token": None, "credential": "who:no-such-secret-27"}, ["gave no token for catalog.credential", "/v1/oauth/tokens"]),
        ({"token": None}, ["answers 401"]),
    ],
)
def test_wrong_credentials(another, make_daemon, settings, said):
    daemon = make_daemon(config=another[1].config(**settings))
    daemon.flow("f", FLOW)
    run = daemon.trigger("f")
    told = why(run)
    assert run["state"] == "failed" and all(s in told for s in [*said, another[1].url]), told
    shown = daemon.cli("sql", "SELECT 1", check=False)
    assert shown.returncode != 0 and said[0] in shown.stderr
    everything = told + daemon.log + daemon.task_log(run["id"], "one") + shown.stderr
    assert "no-such-secret-27" not in everything and "no-such-token-27" not in everything


def test_bad_settings_are_refused(make_daemon):
    for settings, said in [
        ("type: rest", 'needs "uri"'),
        ("type: rest, uri: 'ftp://x'", "must begin with http:// or https://"),
        ("type: rest, uri: 'http://x', credential: hunter2", "must be ID:SECRET"),
        ("type: rest, uri: 'http://x', credential: 'a:hunter2', token: t", "both a token and a credential"),
    ]:
        daemon = make_daemon(name="x", config=f"catalog: {{{settings}}}", start=False)
        done = subprocess.run(daemon.command(), env=daemon.env, capture_output=True, text=True, timeout=30)
        assert done.returncode != 0 and said in done.stderr and "hunter2" not in done.stderr, done.stderr


@pytest.mark.parametrize("how", ["away", "hangs", "no catalog"])
def test_a_server_that_does_not_answer(make_daemon, daemon, folder, how):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        if how == "hangs":
            s.listen(64)
        url = f"http://127.0.0.1:{s.getsockname()[1]}" if how != "no catalog" else daemon.url
        (folder / "there").mkdir()
        there = make_daemon(name="there", flows=folder / "there", config=f"catalog: {{name: lake, type: rest, uri: '{url}', timeout: 3s}}")
        there.flow("f", FLOW)
        run = there.trigger("f")
        shown = there.cli("sql", "SELECT 1", check=False)
    told = why(run)
    assert run["state"] == "failed" and url in told and url in shown.stderr, told
    assert task_of(run, "one")["attempts"][0]["wall_us"] < 8e6


def test_somebody_commits_first(relayed, make_daemon):
    relay, lake = relayed
    daemon = make_daemon(config=lake.config(relay.url))
    daemon.flow("f", FLOW)
    assert daemon.trigger("f")["state"] == "success"
    theirs = []

    def before(method, path):
        if method == "POST" and path.endswith("/tables/t") and len(theirs) < wanted:
            theirs.append(len(theirs))
            lake.catalog().load_table("stg.t").append(pa.table({"id": pa.array([100 + len(theirs)], pa.int64()), "name": ["theirs"]}))

    # An append goes on top of theirs; nobody's rows are lost.
    wanted, relay.before = 2, before
    run = daemon.trigger("f")
    assert run["state"] == "success" and len(task_of(run, "one")["attempts"]) == 1, why(run)
    assert len(lake.rows("stg.t")) == 22 and lake.rows("cur.c") == [{"n": 22}]

    # An upsert has read what is not there any more: the task begins anew, if it may.
    wanted = 3
    daemon.flow("g", """
        id: g
        tasks: [{id: up, type: curate, into: stg.t, mode: upsert, key: [id], retry: {max_attempts: 2, interval: 0s}, sql: "SELECT 103 AS id, 'ours' AS name"}]
    """)
    run = daemon.trigger("g")
    assert run["state"] == "success", why(run)
    assert [a["cause"] for a in task_of(run, "up")["attempts"]] == ["conflict", "exit"]
    assert [r for r in lake.rows("stg.t") if r["id"] == 103] == [{"id": 103, "name": "ours"}]


def test_an_answer_that_is_lost(relayed, make_daemon):
    relay, lake = relayed
    daemon = make_daemon(config=lake.config(relay.url))
    lost = []

    def before(method, path):
        if method == "POST" and path.endswith("/tables/t") and not lost:
            return lost.append(path) or "lost"

    relay.before = before
    daemon.flow("f", FLOW)
    run = daemon.trigger("f")
    assert run["state"] == "success" and lost, why(run)
    assert len(lake.rows("stg.t")) == 10 and "the commit had been made" in daemon.task_log(run["id"], "one")


def test_tokens_that_end(relayed, make_daemon):
    """Before each commit and before each look at a table's metadata, at first once."""
    relay, lake = relayed
    daemon = make_daemon(config=lake.config(relay.url))
    seen = set()

    def before(method, path):
        if "/tables/" in path and (method, path) not in seen:
            seen.add((method, path))
            relay.expire()

    relay.before = before
    daemon.flow("f", FLOW)
    run = daemon.trigger("f")
    assert run["state"] == "success", why(run)
    assert lake.rows("cur.c") == [{"n": 10}] and len(seen) >= 4 and len(relay.tokens) > len(seen)


def test_a_server_that_hangs_when_the_engine_asks(relayed, make_daemon):
    relay, lake = relayed
    daemon = make_daemon(config=lake.config(relay.url, timeout="3s"))
    daemon.flow("f", FLOW)
    assert daemon.trigger("f")["state"] == "success"
    relay.before = lambda method, path: "hang" if path.endswith("/tables/t") else None
    began = time.monotonic()
    done = daemon.cli("sql", "SELECT * FROM stg.t", check=False)
    assert done.returncode != 0 and time.monotonic() - began < 15 and relay.url in done.stderr, done.stderr


def test_headers_and_a_table_on_s3_with_keys_of_its_server(make_daemon, folder):
    """Another Sluice on S3 hands out the keys; this one has none."""
    with running("seaweedfs", "lake") as store:
        (folder / "none").mkdir()
        s3 = {"endpoint": store.endpoint, "access_key": KEY, "secret_key": SECRET, "path_style": True}
        server = make_daemon(name="server", flows=folder / "none", config=None, start=False)
        server.config = folder / "server.yaml"
        server.config.write_text(f"catalog: {{warehouse: 's3://lake/w'}}\ns3: {json.dumps(s3)}\n")
        server.start()
        relay = Relay(f"{server.url}/iceberg")
        got = []
        relay.before = lambda method, path: None
        passed = relay.pass_on
        relay.pass_on = lambda handler, body: (got.append(handler.headers.get("X-Team")), passed(handler, body))
        daemon = make_daemon(config=f"catalog: {{name: lake, type: rest, uri: '{relay.url}', token: {server.token}, headers: {{X-Team: blue}}}}")
        daemon.flow("f", FLOW)
        run = daemon.trigger("f")
        assert run["state"] == "success", why(run)
        assert daemon.sql("SELECT n FROM cur.c") == [{"n": 10}]
        assert set(got) == {"blue"} and [k for k in store.keys("lake", "w/stg/t/data/")]
        relay.stop()
