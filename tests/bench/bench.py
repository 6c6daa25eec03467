#!/usr/bin/env python3
"""Measures a real daemon on a temporary state folder and writes the results into tests/bench/README.md.

Only the standard library. What is measured, and why so, stands in that README.
"""
import argparse
import datetime
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
CHAIN = 40
WIDTH = 200
SLOTS = 4


class Failed(Exception):
    pass


def failures(run):
    """Why: a line for each attempt that did not end well."""
    return "\n".join(f"  {task['id']} attempt {a['n']}: {a['state']} ({a['cause']}): {(a['error'] or {}).get('message')}"
                     for task in run.get("tasks", []) for a in task["attempts"] if a["state"] != "success")


class UnixConnection(http.client.HTTPConnection):
    """The API over HOME/api.sock, which needs no token."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def parents():
    """Every process of the machine: {pid: parent}."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = read(f"/proc/{name}/stat")
            except OSError:
                continue
            found[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def command(pid):
    try:
        return read(f"/proc/{pid}/comm").strip()
    except OSError:
        return ""


def pss_kb(pid):
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise Failed(f"no Pss in /proc/{pid}/smaps_rollup")


def cpu_seconds(pid):
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Daemon:
    """`sluice serve` from its start to its end, everything it made removed."""

    def __init__(self, binary, folder, config=None):
        self.home = os.path.join(folder, "home")
        self.log = os.path.join(folder, "serve.log")
        self.flows = os.path.join(folder, "flows")
        argv = [binary, "serve", "--home", self.home, "--flows", self.flows, "--listen", "127.0.0.1:0"]
        if config:
            argv += ["--config", config]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "PG")) or k == "SLUICE_PG_BIN"}
        started = time.perf_counter()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=folder)
        try:
            self.wait_ready(120)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - started

    def wait_ready(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failed(f"the daemon ended with status {self.process.returncode}:\n{read(self.log)}")
            if os.path.exists(os.path.join(self.home, "url")):
                try:
                    if self.request("GET", "/readyz")[0] == 200:
                        return
                except OSError:
                    pass
            time.sleep(0.01)
        raise Failed(f"the daemon was not ready in {seconds} s:\n{read(self.log)}")

    def request(self, method, path, body=None):
        connection = UnixConnection(os.path.join(self.home, "api.sock"))
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def run(self, flow):
        """Triggers a flow and waits; (the run, seconds from the request to the answer that it ended)."""
        started = time.perf_counter()
        status, text = self.request("POST", f"/api/v1/flows/{flow}/runs?wait=60s", {})
        seconds = time.perf_counter() - started
        if status not in (200, 201):
            raise Failed(f"trigger of {flow}: HTTP {status}: {text}")
        run = json.loads(text)
        if run["state"] != "success":
            raise Failed(f"{flow}: run {run['id']} is {run['state']}: {run.get('error')}\n{failures(run)}")
        return run, seconds

    def pid_of(self, *names):
        try:
            return int(read(os.path.join(self.home, *names)).split()[0])
        except (OSError, IndexError, ValueError):
            return None

    def roots(self):
        found = {"daemon": self.process.pid, "nursery": self.pid_of("nursery.pid"), "PostgreSQL": self.pid_of("pg", "postmaster.pid")}
        return {name: pid for name, pid in found.items() if pid}

    def processes(self):
        """{name: [pids]}: each root with its descendants; the nursery and PostgreSQL may be children of the daemon."""
        roots, parent = self.roots(), parents()
        owner = {pid: name for name, pid in roots.items()}
        found = {name: [] for name in roots}
        for pid in parent:
            at = pid
            while at and at not in owner:
                at = parent.get(at, 0)
            if at:
                found[owner[at]].append(pid)
        return found

    def dsn(self):
        return f"host={self.home}/pg.run user=sluice dbname=postgres connect_timeout=10"

    def stop(self):
        leftovers = self.roots()
        elsewhere = os.path.realpath(os.path.join(self.home, "pg"))
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        leftovers.pop("daemon", None)
        for name, pid in leftovers.items():
            self.end_leftover(name, pid)
        # Where the server's user cannot reach the state folder, the cluster lies outside it.
        if os.path.exists(elsewhere) and not elsewhere.startswith(os.path.realpath(self.home) + os.sep):
            shutil.rmtree(os.path.dirname(elsewhere), ignore_errors=True)

    @staticmethod
    def end_leftover(name, pid):
        """A daemon that ended in order leaves nothing; one that was killed leaves its nursery and its PostgreSQL."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for _ in range(100):
                try:
                    os.kill(pid, 0)
                except OSError:
                    return
                time.sleep(0.05)
            print(f"bench: {name} (process {pid}) still runs; sending {sig.name}", file=sys.stderr)
            os.kill(pid, sig)


# The flows


def task(name, depends_on=(), command="/bin/true"):
    line = f"  - {{id: {name}, type: command, command: [{command}]"
    return line + (f", depends_on: [{', '.join(depends_on)}]}}" if depends_on else "}") + "\n"


def write_flows(folder):
    os.makedirs(folder)
    names = [f"t{i:02}" for i in range(1, CHAIN + 1)]
    text = "id: chain\ntasks:\n"
    for before, name in zip([None] + names, names):
        text += task(name, [before] if before else [])
    write(os.path.join(folder, "chain.yaml"), text)

    middle = [f"m{i:03}" for i in range(1, WIDTH + 1)]
    text = f"id: fan\nconcurrency: {{max_active_tasks: {SLOTS}}}\ntasks:\n" + task("first")
    text += "".join(task(name, ["first"]) for name in middle) + task("last", middle)
    write(os.path.join(folder, "fan.yaml"), text)

    # The process itself says when it started.
    write(os.path.join(folder, "one.yaml"), "id: one\ntasks:\n" + task("only", command="/bin/date, +%s%N"))


# The measurements


def moment(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def in_run(run):
    return moment(run["ended_at"]) - moment(run["started_at"])


class Results:
    def __init__(self):
        self.rows = []

    def add(self, what, values, unit="s", ratio=""):
        digits = 1 if unit in ("ms", "MB") else 3
        cells = [f"{f(values):.{digits}f}" for f in (min, statistics.median, max)]
        self.note(what, *cells, unit, ratio)
        return statistics.median(values)

    def note(self, what, low, middle, high, unit, ratio=""):
        self.rows.append((what, low, middle, high, unit, ratio))
        print(f"{what:58} {low:>8} {middle:>8} {high:>8} {unit:4} {ratio}", flush=True)

    def markdown(self):
        text = "| what | min | median | max | unit | against the floor |\n| --- | ---: | ---: | ---: | --- | --- |\n"
        return text + "".join("| " + " | ".join(row) + " |\n" for row in self.rows)


def run_floor(floor, count, dsn=None):
    out = subprocess.run([floor, str(count)] + ([dsn] if dsn else []), capture_output=True, text=True)
    if out.returncode != 0:
        raise Failed(out.stderr.strip())
    return float(out.stdout)


def measure_chain(daemon, floor, rounds, results):
    bare, commits, inside, total = [], [], [], []
    daemon.run("chain")  # first use of everything
    run_floor(floor, CHAIN, daemon.dsn())
    for _ in range(rounds):  # in turns, so that a busy machine disturbs both alike
        bare.append(run_floor(floor, CHAIN))
        commits.append(run_floor(floor, CHAIN, daemon.dsn()))
        run, seconds = daemon.run("chain")
        inside.append(in_run(run))
        total.append(seconds)
    results.add(f"floor: {CHAIN} x /bin/true", bare)
    base = results.add(f"floor: {CHAIN} x /bin/true and two commits each", commits)
    results.add(f"chain of {CHAIN} x /bin/true: started to ended", inside, ratio=f"{statistics.median(inside) / base:.2f} x")
    results.add(f"chain of {CHAIN} x /bin/true: trigger to answer", total, ratio=f"{statistics.median(total) / base:.2f} x")


def measure_fan(daemon, rounds, results):
    inside, total = [], []
    for _ in range(rounds):
        run, seconds = daemon.run("fan")
        inside.append(in_run(run))
        total.append(seconds)
    results.add(f"fan 1 + {WIDTH} + 1 x /bin/true, {SLOTS} slots: started to ended", inside)
    results.add(f"fan 1 + {WIDTH} + 1 x /bin/true, {SLOTS} slots: trigger to answer", total)


def measure_start(daemon, count, results):
    delays = []
    for i in range(count + 3):
        before = time.time_ns()
        run, _ = daemon.run("one")
        status, log = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/only/logs")
        if status != 200 or not log.strip().isdigit():
            raise Failed(f"log of {run['id']}: HTTP {status}: {log}")
        if i >= 3:
            delays.append((int(log) - before) / 1e6)
    delays.sort()
    p99 = delays[min(len(delays) - 1, int(len(delays) * 0.99))]
    results.note(f"trigger to the process's first clock reading, p50 (of {count})", "", f"{statistics.median(delays):.1f}", "", "ms")
    results.note(f"trigger to the process's first clock reading, p99 (of {count})", "", f"{p99:.1f}", "", "ms")


def measure_employees(daemon, rounds, results):
    total, inside = [], []
    daemon.run("employees_pipeline")
    for _ in range(rounds):
        run, seconds = daemon.run("employees_pipeline")
        inside.append(in_run(run))
        total.append(seconds)
    results.add("employees, 10 rows: started to ended", inside)
    results.add("employees, 10 rows: trigger to answer", total)


def measure_idle(daemon, seconds, when, results):
    groups = daemon.processes()
    pids = [pid for group in groups.values() for pid in group]
    before = sum(cpu_seconds(pid) for pid in pids)
    time.sleep(seconds)
    cpu = (sum(cpu_seconds(pid) for pid in pids if os.path.exists(f"/proc/{pid}")) - before) / seconds
    try:
        sizes = {name: sum(pss_kb(pid) for pid in group) / 1024 for name, group in groups.items()}
    except OSError as e:
        print(f"bench: idle memory is not measured: {e}", file=sys.stderr)
        return
    parts = ", ".join(f"{name} {size:.1f} in {len(groups[name])}" for name, size in sizes.items())
    others = [pid for pid in parents() if pid not in pids and command(pid) in ("postgres", "sluice")]
    if others:  # they share program pages with ours, which makes our PSS look smaller than it is
        parts += f"; too low, as {len(others)} processes of other daemons share pages"
    results.note(f"idle PSS {when} ({parts})", "", f"{sum(sizes.values()):.1f}", "", "MB")
    results.note(f"idle processes {when}", "", str(len(pids)), "", "")
    results.note(f"idle CPU {when}, of one core", "", f"{cpu * 100:.2f}", "", "%")


# The frame


def build_floor(folder):
    flags = []
    for tool in (["pkg-config", "--cflags", "--libs", "libpq"], ["pg_config", "--includedir"]):
        if shutil.which(tool[0]):
            out = subprocess.run(tool, capture_output=True, text=True)
            if out.returncode == 0:
                flags = out.stdout.split() if tool[0] == "pkg-config" else ["-I" + out.stdout.strip(), "-lpq"]
                break
    path = os.path.join(folder, "floor")
    cc = os.environ.get("CC", "cc")
    out = subprocess.run([cc, "-std=c17", "-D_GNU_SOURCE", "-O2", os.path.join(HERE, "floor.c"), "-o", path] + flags,
                         capture_output=True, text=True)
    if out.returncode != 0:
        raise Failed(f"floor.c does not compile:\n{out.stderr}")
    return path


def copy_employees(folder, flows):
    """The example with its 10 rows, its flow beside ours; its config, or None when there is no example."""
    source = os.path.join(ROOT, "examples", "employees")
    if not os.path.isdir(source):
        return None
    target = os.path.join(folder, "employees")
    shutil.copytree(source, target, symlinks=True)
    found = [name for name in os.listdir(target) if name.endswith((".yaml", ".yml")) and
             re.search(r"^id:\s*employees_pipeline\b", read(os.path.join(target, name)), re.M)]
    config = os.path.join(target, "sluice.yaml")
    if not found or not os.path.exists(config):
        raise Failed(f"{source} has no flow employees_pipeline beside a sluice.yaml")
    for name in found:
        shutil.copy(os.path.join(target, name), flows)
    return config


def machine():
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", read("/proc/cpuinfo"), re.M)
    memory = int(re.search(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"), re.M).group(1)) / 1048576
    return (f"{model.group(1) if model else os.uname().machine}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GB, "
            f"Linux {os.uname().release.split('-')[0]}")


def commit():
    def git(*args):
        out = subprocess.run(["git", "-C", ROOT] + list(args), capture_output=True, text=True)
        return out.stdout.strip() if out.returncode == 0 else ""

    name = git("rev-parse", "--short=10", "HEAD")
    dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/bench/README.md")
    return (name or "unknown") + (" with changes" if dirty else "")


def write_readme(results, load):
    path = os.path.join(HERE, "README.md")
    text = read(path)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    part = f"{BEGIN}\n{now}, commit {commit()}; {machine()}; load average {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after.\n\n"
    part += results.markdown() + END
    if BEGIN not in text or END not in text:
        raise Failed(f"{path} lacks the marks {BEGIN} and {END}")
    head, _, rest = text.partition(BEGIN)
    write(path, head + part + rest.partition(END)[2])


def measure(args, folder, results):
    os.chmod(folder, 0o755)  # the private PostgreSQL of a daemon started by root runs as another user
    flows = os.path.join(folder, "flows")
    write_flows(flows)
    config = copy_employees(folder, flows) if "employees" in args.only else None
    floor = build_floor(folder)
    daemon = Daemon(args.binary, folder, config)
    try:
        results.note("start: first `serve` (new cluster) to ready", "", f"{daemon.start_seconds:.3f}", "", "s")
        if "idle" in args.only:
            measure_idle(daemon, args.idle, "after the start", results)
        if "chain" in args.only:
            measure_chain(daemon, floor, args.rounds, results)
        if "fan" in args.only:
            measure_fan(daemon, args.rounds, results)
        if "start" in args.only:
            measure_start(daemon, args.starts, results)
        if config:
            measure_employees(daemon, args.rounds, results)
        if "idle" in args.only:
            measure_idle(daemon, args.idle, "after all runs", results)
    except BaseException:
        print(f"bench: the end of the daemon's log:\n{read(daemon.log)[-3000:]}", file=sys.stderr)
        raise
    finally:
        daemon.stop()


def main():
    parts = ["idle", "chain", "fan", "start", "employees"]
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--binary", default=os.path.join(ROOT, "build", "sluice"), help="default: build/sluice")
    p.add_argument("--rounds", type=int, default=5, help="of each measurement (5)")
    p.add_argument("--starts", type=int, default=50, help="runs for the start delay (50)")
    p.add_argument("--idle", type=float, default=5, help="seconds of each look at the idle daemon (5)")
    p.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=" ".join(parts))
    p.add_argument("--no-write", action="store_true", help="leave README.md as it is")
    args = p.parse_args()
    args.binary = os.path.abspath(args.binary)
    if not os.access(args.binary, os.X_OK):
        sys.exit(f"bench: there is no {args.binary}; run make first")
    load, results = os.getloadavg(), Results()
    folder = tempfile.mkdtemp(prefix="sluice-bench-")
    try:
        measure(args, folder, results)
        if not args.no_write:
            write_readme(results, load)
    except Failed as e:
        sys.exit(f"bench: {e}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
