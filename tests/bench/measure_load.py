"""Many runs at once over HTTP: how many a second, and how long the daemon's loop keeps others waiting meanwhile."""
import json
import os
import re
import subprocess
import time

from daemon import Failed
from programs import WIDE

IN_FLIGHT = 200
TASKS_A_SECOND = 500
PROBES_A_SECOND = 250
WARM = 2


def start_load(load, daemon, method, path, *options):
    argv = [load, "-m", method, "-w", str(WARM), "-t", os.path.join(daemon.home, "token"), *options, *daemon.address(), path]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end_load(process):
    out, errors = process.communicate(timeout=180)
    if process.returncode != 0:
        raise Failed(f"load: {errors}")
    got = json.loads(out)
    if got["bad"]:
        raise Failed(f"{got['bad']} answers were not what was asked for\n{errors}")
    return got


def shares(daemon, before, seconds, generator):
    """Who took how much of one core."""
    taken = {name: (after - before[name]) / seconds for name, after in daemon.cpu().items()}
    return ", ".join(f"{name} {share * 100:.0f} %" for name, share in {**taken, "generator": generator}.items())


def measure_load(daemon, load, rounds, seconds, results):
    rates, p50, p99, parts = [], [], [], ""
    for _ in range(rounds):
        before, began = daemon.cpu(), time.monotonic()
        got = end_load(start_load(load, daemon, "POST", "/api/v1/flows/single/runs?wait=60s", "-c", str(IN_FLIGHT), "-s", str(seconds),
                                  "-x", "success"))
        parts = shares(daemon, before, time.monotonic() - began, got["cpu_share"])
        rates.append(got["rate"])
        p50.append(got["p50_s"] * 1e3)
        p99.append(got["p99_s"] * 1e3)
    results.add(f"runs of 1 x /bin/true over HTTP, {IN_FLIGHT} in flight ({parts} of a core)", rates, "runs/s", at_least=400)
    results.add("the same: trigger to answer, p50", p50, "ms")
    results.add("the same: trigger to answer, p99", p99, "ms")


def turns(daemon):
    """The histogram of the loop's turns: ([(upper bound in s, how many are below)], seconds in all)."""
    text = daemon.request("GET", "/metrics")[1]
    found = re.findall(r'^sluice_loop_turn_seconds_bucket\{le="([^"]+)"\} (\d+)$', text, re.M)
    total = float(re.search(r"^sluice_loop_turn_seconds_sum (\S+)$", text, re.M)[1])
    succeeded = re.search(r'^sluice_task_transitions_total\{state="success"\} (\d+)$', text, re.M)
    return [(float(bound), int(n)) for bound, n in found], total, int(succeeded[1]) if succeeded else 0


def from_histogram(buckets, share):
    """As Prometheus' histogram_quantile does: straight between a bucket's bounds."""
    want, low, below = buckets[-1][1] * share, 0.0, 0
    for bound, n in buckets:
        if n >= want:
            return low if bound == float("inf") else low + (bound - low) * (want - below) / max(n - below, 1)
        low, below = bound, n
    return low


def measure_loop(daemon, load, rounds, seconds, results):
    """500 tasks a second, as runs of 50 at fixed times; beside it somebody who asks for the daemon's health all the time."""
    p50, p99, outside50, outside99, rates, work, parts = [], [], [], [], [], [], ""
    for _ in range(rounds):
        runs = start_load(load, daemon, "POST", "/api/v1/flows/wide/runs?wait=60s", "-c", "64", "-r", str(TASKS_A_SECOND / WIDE), "-s",
                          str(seconds), "-x", "success")
        probe = start_load(load, daemon, "GET", "/healthz", "-c", "1", "-r", str(PROBES_A_SECOND), "-s", str(seconds))
        time.sleep(WARM)
        before, cpu, began = turns(daemon), daemon.cpu(), time.monotonic()
        time.sleep(max(0.1, seconds - 0.5))
        after, took = turns(daemon), time.monotonic() - began
        parts = shares(daemon, cpu, took, 0).rpartition(",")[0]
        probe, runs = end_load(probe), end_load(runs)
        buckets = [(bound, n - m) for (bound, n), (_, m) in zip(after[0], before[0])]
        rates.append((after[2] - before[2]) / took)
        work.append((after[1] - before[1]) / took * 100)
        p50.append(from_histogram(buckets, 0.5) * 1e3)
        p99.append(from_histogram(buckets, 0.99) * 1e3)
        outside50.append(probe["p50_s"] * 1e3)
        outside99.append(probe["p99_s"] * 1e3)
    results.add(f"tasks that ended in runs of {WIDE} x /bin/true ({parts} of a core)", rates, "tasks/s")
    results.add("the same: the loop's turns, p50", p50, "ms", digits=2)
    results.add("the same: the loop's turns, p99", p99, "ms", at_most=5, digits=2)
    results.add("the same: the loop awake", work, "%")
    results.add(f"the same: GET /healthz from outside, {PROBES_A_SECOND}/s, p50", outside50, "ms", digits=2)
    results.add(f"the same: GET /healthz from outside, {PROBES_A_SECOND}/s, p99", outside99, "ms", at_most=5, digits=2)
