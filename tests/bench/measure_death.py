"""How soon a killed attempt's end is told, and with what."""
import json
import os
import signal
import statistics
import time

from daemon import Failed, UnixConnection, command, parents
from results import quantile

PATIENCE = 10


def victim(daemon):
    """The process of the attempt that has just been started."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        nursery = daemon.pid_of("nursery.pid")
        found = [pid for pid, parent in parents().items() if parent == nursery and command(pid) == "sleep"]
        if found:
            return found[0]
        time.sleep(0.002)
    raise Failed("the attempt to be killed did not start")


def heard(stream, kind, state):
    """Reads server-sent events up to the one of that state; its data."""
    for line in stream:
        if line.startswith(b"data:"):
            event = json.loads(line[5:])
            if event.get("kind") == kind and event.get("state") == state:
                return event
    raise Failed("the events ended")


def measure_death(daemon, count, results):
    told, asked = [], []
    for _ in range(count):
        status, text = daemon.request("POST", "/api/v1/flows/victim/runs", {})
        run, connection = json.loads(text), UnixConnection(os.path.join(daemon.home, "api.sock"))
        try:
            connection.request("GET", f"/api/v1/events?run={run['id']}&after=0", headers={"Accept": "text/event-stream"})
            stream = connection.getresponse()
            heard(stream, "task", "running")
            pid = victim(daemon)
            before = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            event = heard(stream, "task", "failed")
            told.append((time.perf_counter() - before) * 1000)
            attempt = json.loads(daemon.request("GET", f"/api/v1/runs/{run['id']}")[1])["tasks"][0]["attempts"][0]
            asked.append((time.perf_counter() - before) * 1000)
        finally:
            connection.close()
        if (attempt["cause"], attempt["signal"]) != ("signal", 9) or not attempt["max_rss_bytes"]:
            raise Failed(f"a killed attempt is told as {attempt}")
        if event["data"].get("cause") != "signal":
            raise Failed(f"the event does not tell the cause: {event}")
    results.add(f"SIGKILL of an attempt to its event with cause and usage, p50 (of {count})", statistics.median(told), "ms")
    results.add(f"SIGKILL of an attempt to its event, p99 (of {count})", quantile(told, 0.99), "ms", at_most=50)
    results.add(f"SIGKILL of an attempt to the API's answer with them, p99 (of {count})", quantile(asked, 0.99), "ms", at_most=50)
