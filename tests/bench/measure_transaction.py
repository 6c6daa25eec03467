"""What it costs that a run's tables become visible all at once."""
import statistics
import time

from daemon import Failed
from measure_tasks import moment
from results import quantile


def tail(daemon, flow):
    """Milliseconds from the end of the run's last task to the client's answer."""
    run, _ = daemon.run(flow)
    answered = time.time()
    if run["state"] != "success":
        raise Failed(f"run {run['id']} of {flow} is {run['state']}: {run['error']}")
    return (answered - max(moment(a["ended_at"]) for t in run["tasks"] for a in t["attempts"])) * 1e3


def measure_transaction(daemon, count, results):
    without, writes = [], []
    for flow in ("four-commands", "four-tables"):
        tail(daemon, flow)
    for _ in range(count):  # in turns
        without.append(tail(daemon, "four-commands"))
        writes.append(tail(daemon, "four-tables"))
    base = results.add(f"run of four commands: end of the last task to the answer, p50 (of {count})", statistics.median(without), "ms")
    middle = results.add(f"run of four tasks that write a table each: the same, p50 (of {count})", statistics.median(writes), "ms")
    results.add("the same, p99", quantile(writes, 0.99), "ms")
    results.add("overhead of the run's transaction", middle - base, "ms", at_most=10)
