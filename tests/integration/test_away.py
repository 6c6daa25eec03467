"""What the daemon needs is away, stands still or is used up: it says so once, answers in a bounded time, and goes on by itself."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import signal
import threading
import time

import psycopg2
import pytest
from conftest import PATIENCE, http, task_of, wait_until, why

# A request ends within this, whatever the database does.
BOUND = 40


def until(path):
    return f"until [ -e {path} ]; do sleep 0.02; done"


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def postmaster(daemon):
    return int((daemon.home / "pg" / "postmaster.pid").read_text().split()[0])


def database(daemon):
    sock = daemon.home / "pg.run"
    port = int(next(sock.glob(".s.PGSQL.*[0-9]")).name.rsplit(".", 1)[1])
    connection = psycopg2.connect(host=str(sock), port=port, user="sluice", dbname="postgres")
    connection.autocommit = True
    return connection


def processes():
    """pid -> (parent, state) of everything that lives."""
    out = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        out[int(stat.parent.name)] = (int(fields[1]), fields[0])
    return out


class Frozen:
    """PostgreSQL, all of it, stands still: connections stay open, nothing answers."""

    def __init__(self, daemon):
        self.master = postmaster(daemon)
        self.pids = []

    def __enter__(self):
        os.kill(self.master, signal.SIGSTOP)  # first, so that no backend is born meanwhile
        self.pids = [self.master] + [p for p, (parent, _) in processes().items() if parent == self.master]
        for pid in self.pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        return self

    def __exit__(self, *_):
        self.thaw()

    def thaw(self):
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.pids = []


class Gone:
    """A PostgreSQL that refuses connections: ended, and its program hidden from the daemon's attempts to start it again."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.data = (daemon.home / "pg").resolve()
        self.control = self.data / "global" / "pg_control"
        self.aside = self.control.with_name("pg_control.aside")

    def __enter__(self):
        pid = postmaster(self.daemon)
        self.control.rename(self.aside)  # without it no server starts
        os.kill(pid, signal.SIGQUIT)
        return self

    def __exit__(self, *_):
        self.back()

    def back(self):
        if self.aside.exists():
            self.aside.rename(self.control)


def ready(daemon):
    return http("GET", daemon.url + "/readyz", timeout=BOUND).status == 200


def status(daemon):
    return daemon.get("/api/v1/status", timeout=5)


def troubles(daemon):
    return {t["what"]: t for t in status(daemon)["troubles"]}


def timed(daemon, method, path, body=None, **kw):
    began = time.monotonic()
    answer = daemon.request(method, path, body, timeout=BOUND * 2, **kw)
    took = time.monotonic() - began
    assert took < BOUND, f"{method} {path} took {took:.0f} s"
    return answer


def refused(answer):
    """A 503 that tells when to come again, and says what is wrong."""
    assert answer.status == 503, answer
    assert int(answer.headers["Retry-After"]) >= 1
    if answer.headers["Content-Type"].startswith("application/problem+json"):
        assert answer.json["status"] == 503 and answer.json["detail"] and answer.json["type"] and answer.json["title"]
    else:
        assert answer.json["error"]["code"] == 503 and answer.json["error"]["message"]


GATED = """\
id: gated
tasks:
  - {{id: first, type: command, command: "touch {f}/began; {gate}; echo '{{\\"outputs\\": {{\\"n\\": 7}}}}' >&3", outputs: {{n: int}}}}
  - {{id: second, type: command, depends_on: [first], command: "echo ${{tasks.first.outputs.n}} >> {f}/second"}}
"""


def gated(daemon, folder):
    daemon.flow("gated", GATED.format(f=folder, gate=until(folder / "go")))
    run = daemon.post("/api/v1/flows/gated/runs")
    wait_until((folder / "began").exists, "the first task's start")
    return run


def needs_the_database(daemon, run):
    return [
        ("GET", "/api/v1/runs", None),
        ("GET", f"/api/v1/runs/{run['id']}", None),
        ("GET", f"/api/v1/runs/{run['id']}/tasks/first", None),
        ("GET", "/api/v1/flows", None),
        ("GET", "/api/v1/tables", None),
        ("GET", "/api/v1/events", None),
        ("POST", "/api/v1/flows/gated/runs", {}),
        ("POST", "/api/v1/flows/gated/runs?wait=30s", {}),
        ("POST", "/api/v1/flows/gated/pause", {}),
        ("POST", f"/api/v1/runs/{run['id']}/cancel", {}),
        ("POST", "/api/v1/tokens", {"scope": "viewer"}),
        ("GET", "/iceberg/v1/namespaces", None),
        ("POST", "/iceberg/v1/namespaces", {"namespace": ["x"], "properties": {}}),
        ("POST", "/iceberg/v1/namespaces/x/tables/t", {"requirements": [], "updates": []}),
    ]


# ---- the database ----


def test_database_is_gone_and_comes_back(daemon, folder):
    run = gated(daemon, folder)
    with Gone(daemon) as gone:
        wait_until(lambda: not ready(daemon), "the daemon's notice")
        for method, path, body in needs_the_database(daemon, run):
            refused(timed(daemon, method, path, body))
        assert http("GET", daemon.url + "/healthz").json == {"status": "ok"}
        assert status(daemon)["database"]["connected"] is False
        trouble = troubles(daemon)["database"]
        assert "what runs goes on, nothing new starts" in trouble["message"] and trouble["since"].endswith("Z")
        said = daemon.cli("runs", check=False)
        assert said.returncode == 2 and "the database cannot be reached now" in said.stderr
        asked = daemon.cli("doctor", check=False)
        assert "the daemon cannot reach it now" in asked.stdout + asked.stderr
        # The running task ends meanwhile; what depends on it does not start.
        (folder / "go").touch()
        wait_until(lambda: not list(pathlib.Path(f"{daemon.home}/runs/{run['id']}/first/1").glob("scratch")), "the first task's end")
        assert not (folder / "second").exists()
        wait_until(lambda: "first running -> success" in daemon.log, "the note of it")
        before = len(daemon.log.splitlines())
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            assert status(daemon)["database"]["connected"] is False
        assert len(daemon.log.splitlines()) - before <= 3, "\n".join(daemon.log.splitlines()[before:])
        gone.back()
    wait_until(lambda: ready(daemon), "the database's return", PATIENCE * 2)
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert lines(folder / "second") == ["7"]
    assert [a["state"] for a in task_of(run, "first")["attempts"]] == ["success"]
    wait_until(lambda: troubles(daemon) == {}, "the end of all troubles")
    assert daemon.log.count("store: the database cannot be reached") == 1 and daemon.log.count("store: the database is back (after ") == 1
    assert daemon.trigger("gated")["state"] == "success"


def test_database_stands_still(daemon, folder):
    """A server that is stopped gives no error: only time tells. What was asked meanwhile ends with 503, and all catches up."""
    run = gated(daemon, folder)
    asks = needs_the_database(daemon, run)
    with Frozen(daemon):
        with concurrent.futures.ThreadPoolExecutor(len(asks)) as pool:
            # These come while the daemon still believes in its connections; a live stream of events needs nothing of it yet.
            answers = list(pool.map(lambda ask: timed(daemon, *ask), [a for a in asks if a[1] != "/api/v1/events"]))
        for answer in answers:
            refused(answer)
        assert http("GET", daemon.url + "/readyz").status == 503
        assert status(daemon)["database"]["connected"] is False
        assert "has not answered for" in troubles(daemon)["database"]["message"]
        for method, path, body in asks:
            refused(timed(daemon, method, path, body))
        (folder / "go").touch()
        before = len(daemon.log.splitlines())
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline:
            assert http("GET", daemon.url + "/healthz").status == 200
            time.sleep(0.1)
        assert len(daemon.log.splitlines()) - before <= 6, "\n".join(daemon.log.splitlines()[before:])
    wait_until(lambda: ready(daemon), "the database's return", PATIENCE * 2)
    wait_until(lambda: daemon.run(run["id"])["state"] not in ("queued", "running"), "the run's end")
    assert daemon.log.count("store: the database is back") == 1
    # The cancel came with a 503 that says it may happen; either end is an honest one, and the table agrees with it.
    run = daemon.run(run["id"])
    assert run["state"] in ("success", "cancelled"), why(run)
    (folder / "go").touch()
    wait_until(lambda: not [r for r in daemon.get("/api/v1/runs")["items"] if r["state"] in ("queued", "running")], "the end of all runs")
    with contextlib.closing(database(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sluice.attempts WHERE state IN ('running', 'stopping')")
        assert cursor.fetchone() == (0,)


def test_writer_is_taken_over_from_a_backend_that_lives(daemon, folder):
    """The backend of the old connection still holds the lock: it is ended, and nothing of it is committed later."""
    run = gated(daemon, folder)
    with contextlib.closing(database(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
        (backend,) = cursor.fetchone()
        os.kill(backend, signal.SIGSTOP)
        try:
            (folder / "go").touch()
            wait_until(lambda: status(daemon)["database"]["connected"] is False, "the daemon's notice", PATIENCE * 2)
            wait_until(lambda: "another daemon holds its lock" in troubles(daemon)["database"]["message"] or None, "the new connection", PATIENCE)
            assert daemon.request("GET", f"/api/v1/runs/{run['id']}").status == 200  # reads go on
        finally:
            os.kill(backend, signal.SIGCONT)
        run = daemon.ended(run["id"])
        assert run["state"] == "success", why(run)
        assert lines(folder / "second") == ["7"]
        cursor.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone()[0] != backend
        cursor.execute("SELECT count(*), count(DISTINCT id) FROM sluice.events WHERE run = %s AND kind = 'task'", (run["id"],))
        assert cursor.fetchone() == (4, 4)  # two tasks, each running and success
    assert daemon.log.count("store: the database is back") == 1
    assert daemon.process.poll() is None


def test_database_refuses_to_write(daemon, folder):
    """As when its disk is full: reads go on, writes wait, and the log does not fill."""
    run = gated(daemon, folder)
    with contextlib.closing(database(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE FUNCTION sluice.full_disk() RETURNS trigger LANGUAGE plpgsql AS "
                       "$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$")
        cursor.execute("CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON sluice.attempts FOR EACH ROW EXECUTE FUNCTION sluice.full_disk()")
        (folder / "go").touch()
        wait_until(lambda: "No space left on device" in troubles(daemon).get("database", {"message": ""})["message"], "the trouble")
        assert not ready(daemon)
        refused(timed(daemon, "POST", "/api/v1/flows/gated/runs", {}))
        assert timed(daemon, "GET", f"/api/v1/runs/{run['id']}").status == 200
        before = len(daemon.log.splitlines())
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            assert not ready(daemon)
        assert len(daemon.log.splitlines()) - before <= 2, "\n".join(daemon.log.splitlines()[before:])
        cursor.execute("DROP TRIGGER full_disk ON sluice.attempts")
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert daemon.log.count("store: the database refuses to write") == 1
    assert ready(daemon) and troubles(daemon) == {}
