"""What the daemon needs is away, stands still or is used up: it says so once, answers in a bounded time, and goes on by itself."""

import concurrent.futures
import contextlib
import http.client as http_client
import json
import os
import pathlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import psycopg2
import pytest
from conftest import BINARY, PATIENCE, clean_env, http, task_of, wait_until, why

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
    request = urllib.request.Request(daemon.url + "/api/v1/events", headers={"Authorization": f"Bearer {daemon.token}"})
    live = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE)
    with live, Gone(daemon) as gone:
        told = next(json.loads(line[6:]) for line in live if line.startswith(b"data: ") and b'"daemon"' in line)
        assert (told["kind"], told["state"]) == ("daemon", "changed")  # who watches asks for the status now
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
    wait_until(lambda: daemon.run(run["id"])["state"] not in ("queued", "running", "publishing"), "the run's end")
    assert daemon.log.count("store: the database is back") == 1
    # The cancel came with a 503 that says it may happen; either end is an honest one, and the table agrees with it.
    run = daemon.run(run["id"])
    assert run["state"] in ("success", "cancelled"), why(run)
    (folder / "go").touch()
    wait_until(lambda: not [r for r in daemon.get("/api/v1/runs")["items"] if r["state"] in ("queued", "running", "publishing")], "the end of all runs")
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


@pytest.mark.parametrize("wrote", [False, True])
def test_another_daemon_takes_the_database(daemon, folder, wrote):
    """Only if the other one has written is what this one remembers worth nothing: it ends, and begins anew with what is there."""
    run = gated(daemon, folder)
    fixed_port(daemon)
    with contextlib.closing(database(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'")
        (backend,) = cursor.fetchone()
        os.kill(daemon.process.pid, signal.SIGSTOP)  # so that it does not come first
        cursor.execute("SELECT pg_terminate_backend(%s)", (backend,))
        wait_until(lambda: (cursor.execute("SELECT pg_try_advisory_lock(782345190283)"), cursor.fetchone()[0])[1], "the lock")
        os.kill(daemon.process.pid, signal.SIGCONT)
        wait_until(lambda: "another daemon holds its lock" in troubles(daemon).get("database", {"message": ""})["message"], "the trouble")
        if wrote:
            cursor.execute("COMMENT ON SCHEMA sluice IS 'sluice 1 1'")
    if wrote:
        assert daemon.process.wait(PATIENCE) == 1
        assert "another daemon has used this database meanwhile" in daemon.log
        daemon.start()
    else:
        wait_until(lambda: ready(daemon), "the daemon's readiness")
    (folder / "go").touch()
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert lines(folder / "second") == ["7"] and len(task_of(run, "first")["attempts"]) == 1


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


# ---- used up: processes, descriptors, disk, memory ----


def nursery(daemon):
    return int((daemon.home / "nursery.pid").read_text())


def limit(pid, what, soft, hard=None):
    """Sets a limit of a process that runs; returns the one before."""
    return resource.prlimit(pid, what, (soft, hard if hard is not None else resource.prlimit(pid, what)[1]))


def fan(daemon, folder, n=12, retry=""):
    tasks = "".join(f'  - {{id: t{i}, type: command, command: "echo {i} $SLUICE_ATTEMPT >> {folder}/ran"{retry}}}\n' for i in range(n))
    daemon.flow("fan", f"id: fan\ntasks:\n{tasks}")


def held(daemon):
    """What keeps attempts from being started, as the status says."""
    return troubles(daemon).get("start", {"message": ""})["message"]


def quiet(daemon, seconds, at_most):
    """The trouble lasts for so long, and the log does not fill."""
    before = len(daemon.log.splitlines())
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert held(daemon)
        time.sleep(0.1)
    news = daemon.log.splitlines()[before:]
    assert len(news) <= at_most, "\n".join(news)


def all_ran_once(daemon, folder, run, n=12):
    """Each task ran, with its first attempt: what could not be started cost it nothing."""
    assert run["state"] == "success", why(run)
    assert sorted(lines(folder / "ran")) == sorted(f"{i} 1" for i in range(n))
    assert all([a["n"] for a in t["attempts"]] == [1] for t in run["tasks"])
    assert daemon.log.count("no attempt can be started") == 1
    wait_until(lambda: "attempts can be started again (after " in daemon.log, "the end of the trouble")
    assert troubles(daemon) == {}
    with contextlib.closing(database(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM sluice.attempts WHERE run_id = %s", (run["id"],))
        assert cursor.fetchone() == (n,)


@contextlib.contextmanager
def control_group(kind, name):
    """A control group of version 1 or 2, and the file of its limit; skips, and says why, where none can be made."""
    files = {"pids": ("pids.max", "pids.max"), "memory": ("memory.limit_in_bytes", "memory.max")}[kind]
    group = None
    for root, file in zip((pathlib.Path("/sys/fs/cgroup") / kind, pathlib.Path("/sys/fs/cgroup")), files):
        try:
            (root / name).mkdir()
        except OSError:
            continue
        if (root / name / file).exists():
            group, limit_file = root / name, root / name / file
            break
        (root / name).rmdir()
    if group is None:
        pytest.skip(f"no control group for {kind} can be made here (it takes root, and the controller {kind})")
    try:
        yield group, limit_file
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        wait_until(lambda: not (group / "cgroup.procs").read_text().split(), "the group's emptiness")
        group.rmdir()


@contextlib.contextmanager
def few_processes(daemon, name, most):
    """The nursery can have so many children; gives what lifts that again."""
    if os.geteuid() != 0 and most == 0:  # root has no such limit, and for others it counts everything of theirs
        before = limit(nursery(daemon), resource.RLIMIT_NPROC, 0)
        yield lambda: limit(nursery(daemon), resource.RLIMIT_NPROC, before[0])
        return
    with control_group("pids", name) as (group, file):
        (group / "cgroup.procs").write_text(str(nursery(daemon)))
        file.write_text(str(most + 1))
        yield lambda: file.write_text("max")


def test_no_process_can_be_started(daemon, folder):
    with few_processes(daemon, folder.name, 0) as lift:
        fan(daemon, folder)
        run = daemon.post("/api/v1/flows/fan/runs")
        wait_until(lambda: "Resource temporarily unavailable" in held(daemon), "the trouble")
        # Told at the first attempt that could not be; the others that were begun with it follow.
        wait_until(lambda: all(t["state"] == "ready" and t["attempts"] == [] for t in daemon.run(run["id"])["tasks"]), "the state before")
        assert "Resource temporarily unavailable" in task_of(daemon.run(run["id"]), "t0")["error"]
        quiet(daemon, 5, 1)
        said = daemon.cli("doctor", check=False)
        assert "no attempt can be started" in said.stdout + said.stderr
        refused(daemon.request("POST", "/api/v1/sql", {"sql": "SELECT 1"}))
        lift()
        all_ran_once(daemon, folder, daemon.ended(run["id"]))


def test_some_processes_can_be_started(daemon, folder):
    """Room for three at a time: they run three at a time, without a flood of tries."""
    with few_processes(daemon, folder.name, 3):
        tasks = "".join(f'  - {{id: t{i}, type: command, command: [sleep, "0.3"]}}\n' for i in range(12))
        daemon.flow("fan", f"id: fan\ntasks:\n{tasks}")
        run = daemon.trigger("fan")
        assert run["state"] == "success", why(run)
        assert all([a["n"] for a in t["attempts"]] == [1] for t in run["tasks"])
        assert daemon.log.count("no attempt can be started") == 1


def test_cancelled_while_nothing_can_be_started(daemon, folder):
    with few_processes(daemon, folder.name, 0):
        fan(daemon, folder)
        run = daemon.post("/api/v1/flows/fan/runs")
        wait_until(lambda: held(daemon), "the trouble")
        daemon.post(f"/api/v1/runs/{run['id']}/cancel")
        run = daemon.ended(run["id"])
        assert run["state"] == "cancelled" and {t["state"] for t in run["tasks"]} == {"cancelled"}
        assert status(daemon)["slots"]["used"] == 0
    assert not (folder / "ran").exists()


def test_daemon_dies_while_nothing_can_be_started(daemon, folder):
    with few_processes(daemon, folder.name, 0) as lift:
        fan(daemon, folder)
        run = daemon.post("/api/v1/flows/fan/runs")
        wait_until(lambda: held(daemon), "the trouble")
        daemon.kill()
        daemon.start()
        wait_until(lambda: held(daemon), "the trouble")
        lift()
        run = daemon.ended(run["id"])
        assert run["state"] == "success", why(run)
        assert sorted(line.split()[0] for line in lines(folder / "ran")) == sorted(str(i) for i in range(12))


def test_nursery_has_no_descriptors(daemon, folder):
    fan(daemon, folder)
    used = max(int(fd) for fd in os.listdir(f"/proc/{nursery(daemon)}/fd")) + 1
    before = limit(nursery(daemon), resource.RLIMIT_NOFILE, used)
    run = daemon.post("/api/v1/flows/fan/runs")
    wait_until(lambda: "Too many open files" in held(daemon), "the trouble")
    quiet(daemon, 4, 1)
    limit(nursery(daemon), resource.RLIMIT_NOFILE, before[0])
    all_ran_once(daemon, folder, daemon.ended(run["id"]))


def test_daemon_has_no_descriptors(daemon, folder):
    """No new client is taken, but those that are there are served; reports wait to be read, and none is lost."""
    daemon.flow("gated", GATED.format(f=folder, gate=until(folder / "go")))
    run = daemon.post("/api/v1/flows/gated/runs")
    wait_until((folder / "began").exists, "the first task's start")
    host, port = daemon.url.removeprefix("http://").rsplit(":", 1)
    client = http_client.HTTPConnection(host, int(port), timeout=BOUND)

    def ask(path):
        client.request("GET", path, headers={"Authorization": f"Bearer {daemon.token}"})
        reply = client.getresponse()
        return reply.status, json.loads(reply.read())

    assert ask("/healthz")[0] == 200
    pid = daemon.process.pid
    before = limit(pid, resource.RLIMIT_NOFILE, 3)
    try:
        waiting = socket.create_connection((host, int(port)))
        said = len(daemon.log.splitlines())
        cpu = cpu_seconds(pid)
        (folder / "go").touch()
        wait_until(lambda: {"accept", "report"} <= {t["what"] for t in ask("/api/v1/status")[1]["troubles"]}, "the troubles")
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            assert ask("/healthz")[0] == 200
            time.sleep(0.05)
        assert cpu_seconds(pid) - cpu < 1, "it waits busily"
        news = daemon.log.splitlines()[said:]
        assert len(news) <= 3, "\n".join(news)
        assert task_of(ask(f"/api/v1/runs/{run['id']}")[1], "first")["state"] == "running"
    finally:
        limit(pid, resource.RLIMIT_NOFILE, before[0])
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert lines(folder / "second") == ["7"]
    wait_until(lambda: status(daemon)["troubles"] == [], "the end of all troubles")
    waiting.close()
    client.close()


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class SmallDisk:
    """The folder of the runs is a disk of its own, which can be filled: mounted where only this daemon sees it."""

    def __init__(self, daemon):
        self.daemon = daemon
        runs = daemon.home / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        command = daemon.command()
        daemon.command = lambda: ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=256k,nr_inodes=200 tmpfs {runs} && exec \"$@\"", "sh", *command]

    def path(self, name):
        return pathlib.Path(f"/proc/{self.daemon.process.pid}/root{self.daemon.home}/runs/{name}")

    def fill(self):
        with open(self.path(".fill"), "wb", buffering=0) as file:
            with pytest.raises(OSError):
                while True:
                    file.write(b"x" * 4096)

    def fill_inodes(self):
        with pytest.raises(OSError):
            for i in range(1000):
                self.path(f".fill{i}").touch()

    def free(self):
        for file in self.path("").glob(".fill*"):
            file.unlink()


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_disk_of_the_logs_is_full(make_daemon, folder, what):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    daemon = make_daemon(start=False)
    disk = SmallDisk(daemon)
    daemon.start()
    # A command that cannot write its log fails by itself, if it minds: these do not write one.
    fan(daemon, folder)
    disk.fill() if what == "bytes" else disk.fill_inodes()
    run = daemon.post("/api/v1/flows/fan/runs")
    wait_until(lambda: "No space left on device" in held(daemon), "the trouble")
    quiet(daemon, 4, 1)
    disk.free()
    all_ran_once(daemon, folder, daemon.ended(run["id"]))


# ---- causes of death ----


def watch(daemon, run_id, after=0):
    """The task events of a run, from a stream of events that ends with the run."""
    found = []
    request = urllib.request.Request(
        f"{daemon.url}/api/v1/events?run={run_id}&after={after}", headers={"Authorization": f"Bearer {daemon.token}", "Accept": "text/event-stream"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as stream:
        for line in stream:
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if event["kind"] == "task":
                found.append(event)
            if event["kind"] == "run" and event["state"] in ("success", "failed", "cancelled"):
                return found


def end_event(daemon, run, task):
    return [e for e in watch(daemon, run["id"]) if e["task"] == task and e["state"] not in ("running", "ready", "waiting")][-1]


def same_end(event, attempt, **want):
    """The event says how the attempt ended, and the API says the same."""
    for key, value in want.items():
        assert event["data"][key] == value and attempt[key] == value, (key, event, attempt)
    for key in ("wall_us", "user_us", "system_us", "max_rss_bytes"):
        assert event["data"][key] == attempt[key] and event["data"][key] >= 0
    assert event["data"]["max_rss_bytes"] > 0 and event["data"]["wall_us"] > 0


def test_events_tell_how_an_attempt_ended(daemon, folder):
    daemon.flow(
        "ends",
        f"""\
        id: ends
        tasks:
          - {{id: good, type: command, command: "exit 0"}}
          - {{id: bad, type: command, command: "exit 7"}}
          - {{id: shot, type: command, command: "kill -9 $$"}}
          - {{id: slow, type: command, command: [sleep, "600"], timeout: 300ms}}
        """,
    )
    run = daemon.trigger("ends")
    want = {
        "good": {"cause": "exit", "exit_code": 0, "signal": None},
        "bad": {"cause": "exit", "exit_code": 7, "signal": None},
        "shot": {"cause": "signal", "exit_code": None, "signal": 9},
        "slow": {"cause": "timeout", "exit_code": None, "signal": 15},
    }
    for task, ended in want.items():
        same_end(end_event(daemon, run, task), task_of(run, task)["attempts"][0], **ended)


def test_event_of_a_death_is_told_live(daemon, folder):
    daemon.flow("gated", GATED.format(f=folder, gate="exec sleep 600"))
    run = daemon.post("/api/v1/flows/gated/runs")
    wait_until((folder / "began").exists, "the first task's start")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stream = pool.submit(watch, daemon, run["id"])
        (pid,) = [p for p, (parent, _) in processes().items() if parent == nursery(daemon) and b"sleep" in pathlib.Path(f"/proc/{p}/cmdline").read_bytes()]
        os.kill(pid, signal.SIGKILL)
        event = [e for e in stream.result(PATIENCE) if e["task"] == "first"][-1]
    same_end(event, task_of(daemon.run(run["id"]), "first")["attempts"][0], cause="signal", signal=9)


HOG = """\
import os, pathlib, sys
pathlib.Path("{group}/cgroup.procs").write_text(str(os.getpid()))
held = []
while True:
    held.append(bytearray(os.urandom(1 << 20)))
"""


def test_killed_for_lack_of_memory(daemon, folder):
    """The kernel kills it in a control group of 64 MB; a kill -9 of a person's, before and after, is none."""
    with control_group("memory", folder.name) as (group, file):
        file.write_text(str(64 << 20))
        (folder / "hog.py").write_text(HOG.format(group=group))
        daemon.flow("hog", f'id: hog\ntasks:\n  - {{id: a, type: command, command: ["{sys.executable}", "{folder}/hog.py"]}}\n')
        daemon.flow("shot", 'id: shot\ntasks:\n  - {id: a, type: command, command: "kill -9 $$"}\n')
        for flow, cause in (("shot", "signal"), ("hog", "oom"), ("shot", "signal"), ("hog", "oom")):
            run = daemon.trigger(flow)
            attempt = task_of(run, "a")["attempts"][0]
            assert (run["state"], attempt["cause"], attempt["signal"]) == ("failed", cause, 9), why(run)
            same_end(end_event(daemon, run, "a"), attempt, cause=cause, signal=9)
            if cause == "oom":
                assert "killed by the kernel for lack of memory; at its peak it held" in run["error"]
                assert 20 << 20 < attempt["max_rss_bytes"] < 128 << 20


def test_engine_runs_out_of_its_memory_limit(daemon, folder):
    daemon.flow(
        "tight",
        """\
        id: tight
        tasks:
          - id: sort
            type: validate
            sql: SELECT length(list(i)) AS l FROM range(100000000) t(i)
            engine_options: {memory_limit: 50MB}
            checks:
              - not_null: [l]
        """,
    )
    run = daemon.trigger("tight")
    attempt = task_of(run, "sort")["attempts"][0]
    assert run["state"] == "failed" and attempt["cause"] == "oom", why(run)
    assert "Out of Memory" in run["error"]
    assert end_event(daemon, run, "sort")["data"]["cause"] == "oom"


# ---- commits whose answer is lost ----


class Proxy:
    """Between a daemon and its PostgreSQL, over unix sockets. Armed, it meddles once with the exchange that makes a commit to a table."""

    def __init__(self, folder, server):
        self.server, self.mode, self.met = str(server), None, 0
        folder.mkdir()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(folder / ".s.PGSQL.5432"))
        self.listener.listen(16)
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(self.server)
            self.open += [client, server]
            threading.Thread(target=self.to_server, args=(client, server), daemon=True).start()
            threading.Thread(target=self.to_client, args=(client, server), daemon=True).start()

    def to_server(self, client, server):
        hole = False
        try:
            while data := client.recv(1 << 20):
                commit = b'"state":"private"' in data or (b'"new":"' in data and b"SELECT t.metadata_location" not in data)
                if self.mode and commit:
                    mode, self.mode = self.mode, None
                    hole = mode == "hole"
                    self.muted = client if mode in ("after", "silent") else None
                    self.met += 1
                    if mode == "before":  # it never arrives
                        break
                    if mode == "after":  # it is done, but the answer is lost
                        server.sendall(data)
                        self.answered.wait(PATIENCE)
                        break
                if not hole:  # "hole": it never arrives, and nobody says so; "silent": it is done, and nobody says so
                    server.sendall(data)
        except OSError:
            pass
        for s in (client, server):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def to_client(self, client, server):
        try:
            while data := server.recv(1 << 20):
                if self.muted is client:
                    if b"Z\0\0\0\5" in data:
                        self.answered.set()
                    continue
                client.sendall(data)
        except OSError:
            pass
        for s in (client, server):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    muted = None

    def arm(self, mode):
        self.answered = threading.Event()
        self.muted = None
        self.mode = mode

    def close(self):
        for s in [self.listener, *self.open]:
            with contextlib.suppress(OSError):
                s.close()


@pytest.fixture
def proxied(make_daemon, folder):
    """A daemon that reaches its PostgreSQL, that of another daemon, through a proxy."""
    owner = make_daemon(name="owner")
    with contextlib.closing(database(owner)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE lake")
    proxy = Proxy(folder / "px", next((owner.home / "pg.run").glob(".s.PGSQL.*[0-9]")))
    daemon = make_daemon(name="home", args=["--database", f"host={folder}/px port=5432 user=sluice dbname=lake"])
    yield daemon, proxy
    daemon.stop()
    proxy.close()


def table_of(daemon, name="t"):
    return daemon.get(f"/iceberg/v1/namespaces/lake/tables/{name}")


@pytest.mark.parametrize("mode", ["before", "after", "silent", "hole"])
def test_answer_to_a_commit_is_lost(proxied, mode):
    """The client hears the truth, and the commit is made exactly once."""
    daemon, proxy = proxied
    daemon.post("/iceberg/v1/namespaces", {"namespace": ["lake"], "properties": {}})
    schema = {"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "a", "required": False, "type": "int"}]}
    daemon.post("/iceberg/v1/namespaces/lake/tables", {"name": "t", "schema": schema})
    change = {"requirements": [], "updates": [{"action": "set-properties", "updates": {"n": "1"}}]}
    assert daemon.request("POST", "/iceberg/v1/namespaces/lake/tables/t", change).status == 200
    before = len(table_of(daemon)["metadata"]["metadata-log"])
    change["updates"][0]["updates"]["n"] = "2"
    proxy.arm(mode)
    answer = timed(daemon, "POST", "/iceberg/v1/namespaces/lake/tables/t", change)
    assert proxy.met == 1, "the proxy missed it"
    assert answer.status == 200, answer
    wait_until(lambda: ready(daemon), "the daemon's readiness")
    table = table_of(daemon)
    assert table["metadata-location"] == answer.json["metadata-location"]
    assert table["metadata"]["properties"]["n"] == "2" and len(table["metadata"]["metadata-log"]) == before + 1
    files = list(pathlib.Path(table["metadata"]["location"].removeprefix("file://")).glob("metadata/*.metadata.json"))
    assert len(files) == before + 2  # the one of the create, and one each change


def fixed_port(daemon):
    """Restarts come back at the same address, as with any real configuration."""
    daemon.args += ["--listen", daemon.url.removeprefix("http://")]


WRITES = """\
id: writes
tasks:
  - {{id: gate, type: command, command: "{gate}"}}
  - id: add
    type: curate
    depends_on: [gate]
    into: lake.added
    mode: append
    sql: SELECT 1 AS a
"""


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("mode", ["hole", "silent"])
def test_daemon_dies_during_a_commit(proxied, folder, mode, existing):
    """The attempt outlives the daemon: it waits for the next one, looks whether its commit was made, and makes it if not."""
    daemon, proxy = proxied
    fixed_port(daemon)
    daemon.flow("writes", WRITES.format(gate=until(folder / "go")))
    if existing:
        (folder / "go").touch()
        assert daemon.trigger("writes")["state"] == "success"
        (folder / "go").unlink()
    run = daemon.post("/api/v1/flows/writes/runs")
    wait_until(lambda: task_of(daemon.run(run["id"]), "gate")["state"] == "running", "the gate")
    proxy.arm(mode)
    (folder / "go").touch()
    wait_until(lambda: proxy.met == 1 and (mode == "hole" or proxy.answered.is_set()), "the commit")
    daemon.kill()
    time.sleep(1.5)  # the attempt meets nobody for a while
    daemon.start()
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    add = task_of(run, "add")
    assert [(a["n"], a["state"]) for a in add["attempts"]] == [(1, "success")]
    metadata = table_of(daemon, "added")["metadata"]
    ours = [s for s in metadata["snapshots"] if s["summary"]["sluice.run-id"] == run["id"]]
    assert len(ours) == 1 and str(ours[0]["snapshot-id"]) == add["outputs"]["snapshot_id"]
    assert daemon.sql("SELECT count(*) AS n FROM lake.added") == [{"n": 2 if existing else 1}]
    log = daemon.task_log(run["id"], "add")
    assert "waiting for it" in log and "the catalog answers again" in log
    assert ("the commit had been made" in log) == (mode == "silent")


class Pipe:
    """A file that the engine reads and that has its rows when we say so."""

    def __init__(self, folder):
        self.path, self.began, self.go = folder / "pipe", threading.Event(), threading.Event()
        os.mkfifo(self.path)
        threading.Thread(target=self.feed, daemon=True).start()

    def feed(self):  # as often as the engine opens it
        while True:
            with contextlib.suppress(OSError), open(self.path, "w") as file:
                self.began.set()
                self.go.wait(PATIENCE * 4)
                file.write("1\n2\n")

    @property
    def sql(self):
        return f"read_csv('{self.path}', header = false, auto_detect = false, columns = {{'x': 'INT'}})"


WAITS = """\
id: waits
tasks:
  - id: add
    type: curate
    into: lake.added
    mode: append
    sql: |
      {sql}
"""


def waited(daemon, run):
    wait_until(lambda: ready(daemon), "the daemon's readiness", PATIENCE * 2)
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert len(task_of(run, "add")["attempts"]) == 1
    assert "the catalog answers again" in daemon.task_log(run["id"], "add")


def test_attempt_asks_while_the_daemon_restarts(daemon, folder):
    """In the middle of its work it finds nobody: it waits."""
    fixed_port(daemon)
    pipe = Pipe(folder)
    daemon.flow("waits", WAITS.format(sql=f"SELECT count(*) AS a FROM {pipe.sql}"))
    run = daemon.post("/api/v1/flows/waits/runs")
    assert pipe.began.wait(PATIENCE)
    daemon.kill()
    pipe.go.set()
    log = daemon.home / "runs" / run["id"] / "add" / "1" / "log"
    wait_until(lambda: "waiting for it" in log.read_text(), "the attempt's word")
    daemon.start()
    waited(daemon, run)
    assert daemon.sql("SELECT count(*) AS n, min(a) > 0 AS read FROM lake.added") == [{"n": 1, "read": True}]


def test_attempt_asks_while_the_database_stands_still(daemon, folder):
    pipe = Pipe(folder)
    daemon.flow("waits", WAITS.format(sql=f"SELECT count(*) AS a FROM {pipe.sql}"))
    run = daemon.post("/api/v1/flows/waits/runs")
    assert pipe.began.wait(PATIENCE)
    log = daemon.home / "runs" / run["id"] / "add" / "1" / "log"
    with Frozen(daemon):
        pipe.go.set()
        wait_until(lambda: "waiting for it" in log.read_text(), "the attempt's word", PATIENCE * 2)
    waited(daemon, run)
    assert daemon.sql("SELECT count(*) AS n, min(a) > 0 AS read FROM lake.added") == [{"n": 1, "read": True}]


def test_engine_reads_while_the_daemon_restarts(daemon, folder):
    """The engine's own requests for a table meet nobody."""
    fixed_port(daemon)
    pipe = Pipe(folder)
    daemon.flow("make", "id: make\ntasks:\n  - {id: a, type: curate, into: lake.base, mode: append, sql: SELECT 5 AS v}\n")
    assert daemon.trigger("make")["state"] == "success"
    daemon.flow("waits", WAITS.format(sql=f"SELECT v FROM lake.base WHERE v > (SELECT count(*) - 10000000 FROM {pipe.sql})"))
    run = daemon.post("/api/v1/flows/waits/runs")
    assert pipe.began.wait(PATIENCE)
    daemon.kill()
    pipe.go.set()
    time.sleep(1.5)
    daemon.start()
    waited(daemon, run)
    assert daemon.sql("SELECT v FROM lake.added") == [{"v": 5}]


def test_command_line_waits_for_the_database(daemon, folder):
    daemon.flow("gated", GATED.format(f=folder, gate=until(folder / "go")))
    waiting = subprocess.Popen(
        [str(BINARY), "trigger", "gated", "--wait", "--home", str(daemon.home)], env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until((folder / "began").exists, "the first task's start")
        with Gone(daemon) as gone:
            wait_until(lambda: not ready(daemon), "the daemon's notice")
            (folder / "go").touch()
            time.sleep(2)
            assert waiting.poll() is None, waiting.stdout.read()
            gone.back()
        assert waiting.wait(PATIENCE * 2) == 0, waiting.stdout.read()
    finally:
        waiting.kill()
        waiting.wait()
        waiting.stdout.close()
    assert lines(folder / "second") == ["7"]


def test_report_cannot_be_written(make_daemon, folder):
    """The disk of the reports fills up while a task works: its commit is made but nobody hears of it, so it is taken back and made anew."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    daemon = make_daemon(start=False)
    disk = SmallDisk(daemon)
    daemon.start()
    pipe = Pipe(folder)
    daemon.flow("waits", WAITS.format(sql=f"SELECT count(*) AS a FROM {pipe.sql}") + "    retry: {max_attempts: 2, interval: 100ms}\n")
    run = daemon.post("/api/v1/flows/waits/runs")
    assert pipe.began.wait(PATIENCE)
    report = disk.path(f"{run['id']}/add/1/report")
    with open(report, "ab") as f:  # what it has told so far lies in a block that has room for more
        f.write(b"\n" * (4096 - report.stat().st_size % 4096))
    disk.fill()
    pipe.go.set()
    wait_until(lambda: "No space left on device" in held(daemon), "the end of the first attempt")
    disk.free()
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    first, second = task_of(run, "add")["attempts"]
    assert (first["state"], first["exit_code"]) == ("failed", 1) and "whether the disk is full" in first["error"]["message"]
    assert second["state"] == "success" and not second["tables"][0]["landed_before"]
    assert daemon.sql("SELECT count(*) AS n FROM lake.added") == [{"n": 1}]


def test_disk_of_everything_is_full(make_daemon, folder):
    """The state folder with its PostgreSQL has no byte left."""
    home = folder / "home"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m,mode=711", "tmpfs", str(home)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here (it takes root)")
    daemon = make_daemon(start=False)
    try:
        daemon.start()
        daemon.flow(
            "plain",
            f"""\
            id: plain
            tasks:
              - {{id: first, type: command, command: "touch {folder}/began; {until(folder / "go")}"}}
              - {{id: second, type: command, depends_on: [first], command: "echo $SLUICE_ATTEMPT >> {folder}/second"}}
            """,
        )
        run = daemon.post("/api/v1/flows/plain/runs")
        wait_until((folder / "began").exists, "the first task's start")
        began = len(daemon.log.splitlines())
        with open(home / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)

        def full():  # what PostgreSQL has allocated is used up first
            daemon.request("POST", "/api/v1/flows/plain/pause", {}, timeout=BOUND)
            return not ready(daemon)

        wait_until(full, "the trouble", PATIENCE * 2)
        (folder / "go").touch()
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            assert http("GET", daemon.url + "/healthz").status == 200
            time.sleep(0.1)
        news = daemon.log.splitlines()[began:]
        assert len([line for line in news if " warn " in line or " error " in line]) <= 3, "\n".join(news)
        (home / "fill").unlink()
        wait_until(lambda: ready(daemon), "the daemon's readiness", PATIENCE * 3)
        run = daemon.ended(run["id"])
        assert run["state"] == "success", why(run)
        assert lines(folder / "second") == ["1"]
        wait_until(lambda: troubles(daemon) == {}, "the end of all troubles")
    finally:
        daemon.clean_up()
        subprocess.run(["umount", "-l", str(home)], check=True)
