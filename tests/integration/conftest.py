"""The real program, a real PostgreSQL, a state folder of its own a test; no mocks and no fixed ports."""

import atexit
import ctypes
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request

import psycopg2
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SLUICE_BINARY") or ROOT / "build" / "sluice")
# A sanitized program is several times slower.
PATIENCE = float(os.environ.get("SLUICE_TEST_PATIENCE", "30"))


def pytest_configure(config):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is not there: make builds it", returncode=3)


def wait_until(condition, what="the condition", timeout=None):
    """Asks again and again until the answer is true, and returns it; the only place that sleeps."""
    deadline = time.monotonic() + (timeout or PATIENCE)
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout or PATIENCE:.0f} s"
        time.sleep(0.02)


def state_of(pid):
    """A letter: R, S, T (stopped), Z …; "": it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def alive(pid):
    return state_of(pid) not in ("", "Z")


def stopped(pid):
    return state_of(pid) == "T"


def pending(pid, sig):
    """Is the signal on its way to the process, which does not take it yet?"""
    line = next(x for x in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("ShdPnd:"))
    return int(line.split()[1], 16) >> (sig - 1) & 1


def clean_env(**extra):
    """An environment without what the caller's own Sluice may have set."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_") or k == "SLUICE_LIB"}
    env.update({"NO_COLOR": "1", "LC_ALL": "C.UTF-8", **{k: str(v) for k, v in extra.items()}})
    return env


def die_with_parent():
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self):
        return self.body.decode()

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.body[:2000]!r}>"


def http(method, url, body=None, headers=None, timeout=None):
    """One request; an error status is an answer too."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
    if data is not None and not request.has_header("Content-type"):
        request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout or PATIENCE * 2) as reply:
            return Answer(reply.status, reply.headers, reply.read())
    except urllib.error.HTTPError as reply:
        return Answer(reply.code, reply.headers, reply.read())


def new_folder(prefix="sl-"):
    """It can be reached by the user that PostgreSQL runs as."""
    path = pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    return path


@functools.lru_cache(None)
def first_cluster():
    """A private PostgreSQL as a daemon has made it at its first start: to copy one takes a tenth of the time. None where it lies elsewhere."""
    folder = new_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "flows").mkdir()
    daemon = Daemon(folder / "home", folder / "flows")
    daemon.start(first=True)
    (daemon.home / "pg.log").unlink()
    daemon.clean_up()
    return None if (daemon.home / "pg").is_symlink() else daemon.home / "pg"


class Daemon:
    """`sluice serve` on a free port with its own home and flows folder."""

    def __init__(self, home, flows, config=None, env=None, args=()):
        self.home, self.flows = pathlib.Path(home), pathlib.Path(flows)
        self.config, self.args = config, [str(a) for a in args]
        self.env = clean_env(**(env or {}))
        self.process, self.binary = None, BINARY
        self.log_path = self.home.parent / f"{self.home.name}.log"

    # ---- life ----

    def command(self):
        out = [str(self.binary), "serve", "--home", str(self.home), "--flows", str(self.flows)]
        if "--listen" not in self.args:
            out += ["--listen", "127.0.0.1:0"]
        if self.config:
            out += ["--config", str(self.config)]
        return out + self.args

    def start(self, first=False):
        """`first`: the daemon makes its PostgreSQL itself."""
        assert self.process is None or self.process.poll() is not None
        if not first and not os.path.lexists(self.home / "pg") and not self.other_database() and (cluster := first_cluster()):
            self.home.mkdir(mode=0o711, exist_ok=True)
            subprocess.run(["cp", "-a", cluster, self.home], check=True)
        (self.home / "url").unlink(missing_ok=True)
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.env, cwd=self.flows, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        wait_until(self._ready, "the daemon's readiness", PATIENCE * 2)
        return self

    def other_database(self):
        return "SLUICE_DATABASE" in self.env or "--database" in self.args or (self.config and "database:" in pathlib.Path(self.config).read_text())

    def _ready(self):
        assert self.process.poll() is None, f"the daemon ended with status {self.process.returncode} while starting:\n{self.log}"
        try:
            return http("GET", self.url + "/readyz", timeout=5).status == 200
        except OSError:  # not bound yet, or no url file yet
            return False

    def stop(self, sig=signal.SIGTERM):
        """An orderly end; returns the exit status."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
        return self.process.returncode if self.process else None

    def kill(self):
        """kill -9: no chance to tidy up."""
        self.process.kill()
        self.process.wait()

    def clean_up(self):
        self.stop()
        for name, sig in (("nursery.pid", signal.SIGKILL), ("pg/postmaster.pid", signal.SIGINT)):
            try:
                pid = int((self.home / name).read_text().split()[0])
                exe = os.readlink(f"/proc/{pid}/exe")
            except (OSError, ValueError, IndexError):
                continue
            # A left-over file may name a process that is something else by now.
            if exe.split(" ")[0] in (str(BINARY.resolve()), str(self.binary), exe if "postgres" in exe else ""):
                os.kill(pid, sig)
                wait_until(lambda: not alive(pid), f"the end of process {pid}")
        link = self.home / "pg"
        if link.is_symlink():  # as root, where the cluster's user cannot reach the home
            shutil.rmtree(link.resolve().parent, ignore_errors=True)

    @property
    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def url(self):
        return (self.home / "url").read_text().strip()

    @property
    def token(self):
        return (self.home / "token").read_text().strip()

    # ---- HTTP ----

    def request(self, method, path, body=None, headers=None, timeout=None):
        return http(method, self.url + path, body, {"Authorization": f"Bearer {self.token}", **(headers or {})}, timeout)

    def get(self, path, **kw):
        """The JSON of a GET that must succeed."""
        answer = self.request("GET", path, **kw)
        assert answer.status == 200, answer
        return answer.json

    def post(self, path, body=None, **kw):
        answer = self.request("POST", path, {} if body is None else body, **kw)
        assert answer.status in (200, 201, 202), answer
        return answer.json

    # ---- flows and runs ----

    def write(self, name, text):
        """A file in the flows folder, put there whole, as an editor does."""
        path = self.flows / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.new")
        new.write_text(textwrap.dedent(text))
        new.rename(path)
        return path

    def flow(self, name, text):
        """Writes flow `name` and waits until the daemon has this very text in force."""
        path = self.write(f"{name}.yaml", text)
        want = path.read_text()

        def live():
            answer = self.request("GET", f"/api/v1/flows/{name}")
            return answer.status == 200 and answer.json.get("source") == want and answer.json

        return wait_until(live, f"flow {name}")

    def trigger(self, flow, params=None, **kw):
        """A run, from trigger to its end."""
        run = self.post(f"/api/v1/flows/{flow}/runs?wait=30s", {"params": params or {}, **kw})
        return self.ended(run["id"]) if run["state"] in ("queued", "running", "publishing") else self.run(run["id"])

    def run(self, run_id):
        return self.get(f"/api/v1/runs/{run_id}")

    def ended(self, run_id):
        """It may be one of several JVMs; a test of less is ended by its own limit before."""
        return wait_until(lambda: (r := self.run(run_id))["state"] not in ("queued", "running", "publishing") and r, f"the end of run {run_id}", PATIENCE * 10)

    def task_log(self, run_id, task):
        return self.request("GET", f"/api/v1/runs/{run_id}/tasks/{task}/logs").text

    def sql(self, query):
        return json.loads(self.cli("sql", query, "--json").stdout)

    def cli(self, *args, check=True, env=None, **kw):
        """The program as a person would run it beside this daemon."""
        return sluice(*args, check=check, env={"SLUICE_HOME": self.home, **(env or {})}, **kw)


def sluice(*args, check=True, env=None, cwd=None, timeout=None, input=None):
    done = subprocess.run(
        [str(BINARY), *map(str, args)], env=clean_env(**(env or {})), cwd=cwd, input=input, capture_output=True, text=True, timeout=timeout or PATIENCE * 4
    )
    assert not check or done.returncode == 0, f"sluice {' '.join(map(str, args))} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def postgres(daemon):
    """The private cluster, beside the daemon."""
    sock = (daemon.home / "pg.run").resolve()
    port = next(sock.glob(".s.PGSQL.*[0-9]")).name.rsplit(".", 1)[1]
    connection = psycopg2.connect(host=str(sock), port=port, user="sluice", dbname="postgres")
    connection.autocommit = True
    return connection


def link_engine(home, name):
    """Has the daemon of `home` find the engine that tools/engines has made; skips the test where it could not."""
    name = "spark" if name == "spark_sql" else name
    made = pathlib.Path(os.environ.get("SLUICE_BUILD") or ROOT / "build") / "engines-home" / "engines" / name
    if not made.exists():
        pytest.skip(f"the engine {name} is not installed: tools/engines BUILD {name}")
    link = pathlib.Path(home) / "engines" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(made.resolve())


def task_of(run, task_id):
    return next(t for t in run["tasks"] if t["id"] == task_id)


def why(run):
    """Everything a person is told about a run's failure, in one text."""
    parts = [json.dumps(run.get("error"))]
    for task in run["tasks"]:
        parts.append(f"{task['id']} {task['state']}: {json.dumps(task.get('error'))}")
        parts += [json.dumps(a.get("error")) for a in task.get("attempts", [])]
    return "\n".join(parts)


@pytest.fixture(scope="session")
def binary():
    return BINARY


@pytest.fixture
def folder():
    path = new_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, f"report_{call.when}", outcome.get_result())


@pytest.fixture(scope="module")
def shared(binary):
    """One daemon for the tests of a file that neither stop nor break it, and use names of their own."""
    folder = new_folder()
    (folder / "flows").mkdir()
    daemon = Daemon(folder / "home", folder / "flows")
    try:
        yield daemon.start()
    finally:
        daemon.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def make_daemon(request, binary, folder):
    """Makes daemons: make_daemon(name="a", config=…, env={…}, args=[…], start=True)."""
    made = []

    def make(name="home", flows=None, config=None, env=None, args=(), start=True):
        flows_dir = pathlib.Path(flows) if flows else folder / "flows"
        flows_dir.mkdir(exist_ok=True)
        if isinstance(config, str):
            path = flows_dir / "sluice.yaml"
            path.write_text(textwrap.dedent(config))
            config = path
        daemon = Daemon(folder / name, flows_dir, config, env, args)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    for daemon in reversed(made):
        daemon.clean_up()
    complaints = [
        f"{log}:\n{text[-4000:]}"
        for daemon in made
        for log in (daemon.log_path, daemon.home / "nursery.log", *daemon.home.glob("runs/*/*/*/log"))
        if log.exists() and re.search(r"Sanitizer|runtime error: ", text := log.read_text(errors="replace"))
    ]
    if getattr(request.node, "report_call", None) is None or request.node.report_call.failed:
        for daemon in made:
            print(f"---- {daemon.log_path.name} ----\n{daemon.log[-8000:]}")
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def daemon(make_daemon):
    """A fresh daemon with an empty flows folder."""
    return make_daemon()


@pytest.fixture
def engine(request):
    """What tasks run on: "duckdb", unless the test says `@both`."""
    return getattr(request, "param", "duckdb")


#: A test of what every engine does alike.
both = pytest.mark.parametrize("engine", ["duckdb", "polars"], indirect=True)


@pytest.fixture
def employees(folder):
    """A copy of examples/employees with its ten rows; its schedule comes on no day of a test."""
    target = folder / "employees"
    shutil.copytree(ROOT / "examples" / "employees", target, ignore=shutil.ignore_patterns("data"))
    subprocess.run([str(target / "generate")], check=True, capture_output=True)
    flow = target / "employees.yaml"
    flow.write_text(flow.read_text().replace('cron: "0 6 * * *"', 'cron: "0 6 29 2 *"'))
    return target