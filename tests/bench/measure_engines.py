"""employees_pipeline on every engine that is installed, beside the same steps as a bare script and under Prefect, at 10 rows and at many."""
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request

from daemon import Daemon, Failed, read, write
from measure_tasks import moment
from programs import Employees
from results import HERE, ROOT

STEPS = ("stage", "publish", "curate", "validate")
# What is measured, the engine's name in flows, and whether Spark's tasks share a JVM.
ENGINES = (("DuckDB", "duckdb", True), ("Polars", "polars", True))
SPARKS = (("Spark, a JVM for each task", "spark", False), ("Spark Connect, warm", "spark", True))
SPARK_ROUNDS = 3  # at most
WARM_UP = 4  # rounds of Spark Connect, whose JVM is the faster the more it has done
POLL = 1  # seconds between two looks of Prefect's runner for work
READY, LONGEST = 120, 600  # seconds


def write_engine_flows(employees, flows, engines, csv, rows):
    """[(name, flow)]"""
    made = []
    for name, engine, shared in engines:
        flow = f"{name.lower()}_{rows}".replace(" ", "_").replace(",", "")
        text = employees.text.replace("id: employees_pipeline", f"id: {flow}").replace("engine: duckdb", f"engine: {engine}")
        text = text.replace("connect: true", f"connect: {str(shared).lower()}")
        for old, new in [("${config.paths.raw_employees}", csv), ("${config.paths.stage_root}", os.path.join(os.path.dirname(csv), flow)),
                         ("${config.tables.stg_active_employees}", f"local.stg.{flow}"), ("${config.tables.cur_employee_counts}", f"local.cur.{flow}")]:
            text = text.replace(old, new)
        write(os.path.join(flows, flow + ".yaml"), "".join(line for line in text.splitlines(True) if not line.startswith("schedule:")))
        made.append((name, flow))
    return made


class Prefect:
    """Its server with a runner that serves the flow, all on loopback."""

    def __init__(self, python, folder, arguments):
        self.folder = os.path.join(folder, "prefect")
        os.makedirs(self.folder)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        env = {**os.environ, "PREFECT_HOME": self.folder, "PREFECT_API_URL": self.url, "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL), "PREFECT_LOGGING_LEVEL": "ERROR",
               "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
        self.log = open(os.path.join(self.folder, "log"), "wb")
        self.processes = []
        try:
            self.start([python, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"], env)
            self.wait("/health")
            self.start([python, os.path.join(HERE, "prefect_employees.py"), *arguments], env)
            self.deployment = self.wait("/deployments/name/employees-pipeline/bench")["id"]
        except BaseException:
            self.stop()
            raise

    def start(self, argv, env):
        self.processes.append(subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True))

    def request(self, path, body=None):
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    def wait(self, path, body=None):
        """The answer, as soon as there is one: its server says 503 while its database is locked."""
        until = time.monotonic() + READY
        while time.monotonic() < until:
            try:
                return self.request(path, body)
            except OSError:
                time.sleep(0.2)
            if any(process.poll() is not None for process in self.processes):
                break
        raise Failed(f"Prefect does not answer {path} (in {READY} s at most):\n{read(self.log.name)[-3000:]}")

    def run(self):
        """Seconds from the trigger to its end, and from its start to its end."""
        until = time.monotonic() + LONGEST
        made = self.wait(f"/deployments/{self.deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
        triggered = time.time()
        while (run := self.wait(f"/flow_runs/{made['id']}"))["state_type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            if time.monotonic() > until:
                raise Failed(f"Prefect's run does not end:\n{read(self.log.name)[-3000:]}")
            time.sleep(0.02)
        if run["state_type"] != "COMPLETED":
            raise Failed(f"Prefect's run is {run['state_type']}:\n{read(self.log.name)[-3000:]}")
        ended = moment(run["end_time"])
        return ended - triggered, ended - moment(run["start_time"])

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()


def prefect_python(built):
    """An interpreter with prefect.txt, made on first use; None, and a line that says why, where it cannot be."""
    venv, wanted = os.path.join(built, "bench-prefect"), os.path.join(HERE, "prefect.txt")
    python, mark = os.path.join(venv, "bin", "python"), os.path.join(venv, ".made")
    if not os.path.exists(mark) or read(mark) != read(wanted):
        shutil.rmtree(venv, ignore_errors=True)
        for argv in (["python3", "-m", "venv", venv], [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes", "-r", wanted]):
            done = subprocess.run(argv, capture_output=True, text=True)
            if done.returncode != 0:
                print(f"bench: Prefect is left out, it could not be installed: {done.stderr.strip()[-300:]}")
                return None
        write(mark, read(wanted))
    return python


def with_prefect(python, daemon, folder, csv, rounds):
    """[(total, run)] in seconds, beginning with the second run."""
    where = os.path.join(folder, f"prefect-{os.path.basename(os.path.dirname(csv))}")
    os.makedirs(os.path.join(where, "warehouse"))
    database, sock = f"prefect_{os.path.basename(os.path.dirname(csv))}", os.path.realpath(os.path.join(daemon.home, "pg.run"))
    port = next(name.rsplit(".", 1)[1] for name in os.listdir(sock) if name.startswith(".s.PGSQL.") and name[-1].isdigit())
    subprocess.run(["psql", "-qX", f"host={sock} port={port} user=sluice dbname=postgres", "-c", f"CREATE DATABASE {database}"], check=True)
    prefect = Prefect(python, where, [f"postgresql+psycopg2://sluice@/{database}?host={sock}&port={port}", os.path.join(where, "warehouse"), csv,
                                      os.path.join(where, "part.parquet")])
    try:
        return [prefect.run() for _ in range(rounds + 1)][1:]
    finally:
        prefect.stop()


def script(engine, daemon, csv, n, *first, steps=()):
    """Seconds of each step of the engine's bare script."""
    name = f"{engine}_script.py"
    argv = [os.path.join(daemon.home, "engines", engine, "bin", "python"), os.path.join(HERE, name), *first, f"http://{':'.join(daemon.address())}/iceberg",
            read(os.path.join(daemon.home, "token")).strip(), csv, f"{csv}.{engine}.parquet", f"_{engine}_{os.path.basename(os.path.dirname(csv))}_{n % 2}", *steps]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def add_script(results, name, rows, runs, bare):
    """The script itself, and what Sluice adds to it."""
    results.add(f"{name}, {rows:,} rows: the bare script, imports not counted", [sum(b.values()) for b in bare])
    more = {step: [1e3 * (wall(run, step) - b[step]) for (run, _), b in zip(runs, bare)] for step in STEPS}
    results.add(f"{name}, {rows:,} rows: what Sluice adds to the script, a task", [sum(m) / len(STEPS) for m in zip(*more.values())], "ms", at_most=50)
    for step in STEPS:
        results.add(f"- {name}, {step}: more than the script's", more[step], "ms")


def wall(run, task):
    return next(t for t in run["tasks"] if t["id"] == task)["attempts"][-1]["wall_us"] / 1e6


def add_engine(results, name, rows, ran, peers):
    attempts = [[t["attempts"][-1] for t in run["tasks"]] for run, _ in ran]
    took = results.add(f"{name}, {rows:,} rows: trigger to answer", [seconds for _, seconds in ran])
    results.add(f"- {name}: publish of what was staged, in it", [wall(run, "publish") for run, _ in ran])
    results.add(f"- {name}: processor time of its tasks", [sum(a["user_us"] + a["system_us"] for a in run) / 1e6 for run in attempts])
    results.add(f"- {name}: most memory of a task", [max(a["max_rss_bytes"] for a in run) / 1e6 for run in attempts], "MB")
    for peer, seconds, bar in peers:
        results.add(f"{name}, {rows:,} rows, against {peer}", seconds / took, "x", at_least=bar, digits=1)


def measure_rows(daemon, folder, flows, csv, rows, rounds, prefect, results):
    small = rows == 10
    ran, bare = {name: [] for name, _ in flows}, []
    for i in range(rounds + 1):
        for name, flow in flows:
            ran[name].append(daemon.run(flow))
        bare.append(script("polars", daemon, csv, i))
    theirs = sorted(with_prefect(prefect, daemon, folder, csv, rounds)) if prefect else []
    peers = []
    if theirs:
        total = results.add(f"Prefect 3, Polars and PyIceberg, {rows:,} rows: trigger to end (its runner looks every {POLL} s)", [t for t, _ in theirs])
        results.add(f"Prefect 3, Polars and PyIceberg, {rows:,} rows: start to end", [r for _, r in theirs])
        peers = {"DuckDB": [("Prefect", total, 13 if small else 2.4)], "Polars": [("Prefect", total, 4 if small else 1.3)]}
    for name, _ in flows:
        add_engine(results, name, rows, ran[name][1:], dict(peers).get(name, []))
    add_script(results, "Polars", rows, ran["Polars"][1:], bare[1:])


class SparkServer:
    """The JVM of Spark Connect that the daemon's tasks share: its keeper tells who it is."""

    def __init__(self, daemon):
        self.lease = socket.socket(socket.AF_UNIX)
        (at,) = glob.glob(os.path.join(daemon.home, "spark", "*", "socket"))
        self.lease.connect(os.path.relpath(at))  # the path of a socket may have 107 bytes only
        told = json.loads(self.lease.makefile().readline())
        self.pid, self.remote = told["jvm"], f"sc://localhost:{told['port']}/;token={told['token']}"

    def seconds(self):
        fields = read(f"/proc/{self.pid}/stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self):
        return int(re.search(r"VmHWM:\s+(\d+) kB", read(f"/proc/{self.pid}/status"))[1]) * 1024 / 1e6


def measure_spark(daemon, flows, csv, rows, rounds, results):
    """After the others, not in turns with them: what is warm of theirs ends while Spark takes its time."""
    (cold, cold_flow), (warm, warm_flow) = flows
    ran, bare, jars = [], [], os.path.join(daemon.home, "engines", "spark", "jars", "*")
    for i in range(rounds):
        ran.append(daemon.run(cold_flow))
        bare.append({step: script("spark", daemon, csv, i, jars, steps=[step])[step] for step in STEPS})
    add_engine(results, cold, rows, ran, [])
    add_script(results, cold, rows, ran, bare)
    daemon.run(warm_flow)
    server = SparkServer(daemon)
    for i in range(WARM_UP):
        daemon.run(warm_flow)
        script("spark", daemon, csv, i, server.remote)
    ran, bare, took = [], [], 0
    for i in range(rounds):
        began = server.seconds()
        ran.append(daemon.run(warm_flow))
        took += server.seconds() - began
        bare.append(script("spark", daemon, csv, WARM_UP + i, server.remote))
    add_engine(results, warm, rows, ran, [])
    add_script(results, warm, rows, ran, bare)
    results.add(f"- {warm}: processor time of the server, a run", [took / rounds])
    results.add(f"- {warm}: most memory of the server", [server.megabytes()], "MB")
    server.lease.close()


def measure_engines(binary, folder, rows, rounds, results):
    built = os.path.dirname(binary)
    done = subprocess.run([os.path.join(ROOT, "tools", "engines"), built], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"tools/engines {built}: {done.stderr[-2000:]}")
    prefect = prefect_python(built)
    folder = os.path.join(folder, "engines")
    os.makedirs(os.path.join(folder, "flows"))
    os.chmod(folder, 0o755)
    os.makedirs(os.path.join(folder, "home"))
    os.symlink(os.path.join(built, "engines-home", "engines"), os.path.join(folder, "home", "engines"))
    employees = Employees(folder, os.path.join(folder, "flows"))
    employees.make_big(rows)
    sizes = [(csv, n, [write_engine_flows(employees, employees.flows, engines, csv, n) for engines in (ENGINES, SPARKS)])
             for csv, n in ((employees.csv, 10), (employees.big_csv, rows))]
    daemon = Daemon(binary, folder, employees.config)
    try:
        for csv, n, (flows, _) in sizes:
            measure_rows(daemon, folder, flows, csv, n, rounds, prefect, results)
        for csv, n, (_, flows) in sizes:
            measure_spark(daemon, flows, csv, n, min(rounds, SPARK_ROUNDS), results)
    finally:
        daemon.stop()
