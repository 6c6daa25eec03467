"""Small commands one by one, side by side and alone; and the daemon when it has nothing to do."""
import datetime
import os
import shutil
import statistics
import subprocess
import sys
import time

from daemon import Failed, command, cpu_seconds, parents, pss_kb
from programs import CHAIN, FAN, FIB, FAN_SLOTS, number_of
from results import quantile


def moment(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def in_run(run):
    return moment(run["ended_at"]) - moment(run["started_at"])


def measure_chain(daemon, floor, rounds, results):
    bare, commits, inside, total = [], [], [], []
    daemon.run("chain")  # first use of everything
    number_of([floor, str(CHAIN), daemon.dsn()])
    for _ in range(rounds):  # in turns, so that a busy machine disturbs both alike
        bare.append(number_of([floor, str(CHAIN)]))
        commits.append(number_of([floor, str(CHAIN), daemon.dsn()]))
        run, seconds = daemon.run("chain")
        inside.append(in_run(run))
        total.append(seconds)
    results.add(f"floor: {CHAIN} x /bin/true", bare)
    base = results.add(f"floor: {CHAIN} x /bin/true and two commits each", commits)
    results.add(f"chain of {CHAIN} x /bin/true: started to ended", inside, floor=base)
    results.add(f"chain of {CHAIN} x /bin/true: trigger to answer", total, floor=base, ratio_at_most=1.5)


def cold_interpreters():
    """Seconds of as many interpreters, one after the other, that do what the tasks do and write nothing down."""
    began = time.perf_counter()
    for _ in range(CHAIN):
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", f"{FIB}\nfib(10)"], os.environ)
        if os.waitpid(pid, 0)[1] != 0:
            raise Failed(f"{sys.executable} cannot compute fib(10)")
    return time.perf_counter() - began


def measure_python(daemon, rounds, results):
    cold, inside, total = [], [], []
    results.add(f"{CHAIN} x python fib(10), the first time", daemon.run("fibs")[1])
    for _ in range(rounds):
        cold.append(cold_interpreters())
        run, seconds = daemon.run("fibs")
        if any(task["outputs"] != {"fib": 55} for task in run["tasks"]):
            raise Failed(f"run {run['id']}: fib(10) is not 55 everywhere")
        inside.append(in_run(run))
        total.append(seconds)
    base = results.add(f"floor: {CHAIN} cold interpreters, fib(10) each, nothing kept", cold)
    results.add(f"{CHAIN} x python fib(10) in a row: started to ended", inside, floor=base)
    results.add(f"{CHAIN} x python fib(10) in a row: trigger to answer", total, floor=base, at_most=0.4)


def measure_fan(daemon, rounds, results):
    inside, total = [], []
    daemon.run("fan")
    for _ in range(rounds):
        run, seconds = daemon.run("fan")
        inside.append(in_run(run))
        total.append(seconds)
    results.add(f"fan 1 + {FAN} + 1 x /bin/true, {FAN_SLOTS} slots: started to ended", inside)
    results.add(f"fan 1 + {FAN} + 1 x /bin/true, {FAN_SLOTS} slots: trigger to answer", total, at_most=0.25)


def measure_start(daemon, count, results):
    delays = []
    for i in range(count + 3):
        before = time.time_ns()
        run, _ = daemon.run("clock")
        status, log = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/only/logs")
        if status != 200 or not log.strip().isdigit():
            raise Failed(f"log of {run['id']}: HTTP {status}: {log}")
        if i >= 3:
            delays.append((int(log) - before) / 1e6)
    results.add(f"trigger to the process's first clock reading, p50 (of {count})", statistics.median(delays), "ms", at_most=5)
    results.add(f"trigger to the process's first clock reading, p99 (of {count})", quantile(delays, 0.99), "ms", at_most=25)


def transactions(daemon):
    psql = shutil.which("psql")
    if not psql:
        raise Failed("there is no psql to count the database's transactions with")
    out = subprocess.run([psql, "-XqAtd", daemon.dsn(), "-c", "SELECT xact_commit + xact_rollback FROM pg_stat_database "
                          "WHERE datname = current_database()"], capture_output=True, text=True)
    if out.returncode != 0:
        raise Failed(out.stderr.strip())
    return int(out.stdout)


def measure_idle(daemon, seconds, when, results):
    groups = daemon.processes()
    pids = [pid for group in groups.values() for pid in group]
    if seconds >= 30:  # PostgreSQL's sessions tell of their last transactions when they have been idle for ten seconds
        time.sleep(11)
        first = transactions(daemon)
        own = transactions(daemon) - first  # what looking costs
    before = sum(cpu_seconds(pid) for pid in pids)
    time.sleep(seconds)
    cpu = (sum(cpu_seconds(pid) for pid in pids if os.path.exists(f"/proc/{pid}")) - before) / seconds
    try:
        sizes = {name: sum(pss_kb(pid) for pid in group) / 1024 for name, group in groups.items()}
    except OSError as e:
        print(f"bench: idle memory is not measured: {e}", file=sys.stderr)
        sizes = {}
    if sizes:
        parts = ", ".join(f"{name} {size:.1f} in {len(groups[name])}" for name, size in sizes.items())
        others = [pid for pid in parents() if pid not in pids and command(pid) in ("postgres", "sluice")]
        if others:  # they share program pages with ours, which makes our PSS look smaller than it is
            parts += f"; too low, as {len(others)} processes of other daemons share pages"
        results.add(f"idle PSS {when}: daemon and nursery", sizes["daemon"] + sizes["nursery"], "MB", at_most=25)
        results.add(f"idle PSS {when}: all ({parts})", sum(sizes.values()), "MB", at_most=60)
    results.add(f"idle CPU {when}, of one core, over {seconds:.0f} s", cpu * 100, "%", at_most=0.2, digits=2)
    if seconds >= 30:
        asked = transactions(daemon) - first - 2 * own
        results.add(f"idle queries a minute {when}, over {seconds:.0f} s", asked * 60 / seconds, "", at_most=1)
