"""An attempt that was given up changes nothing, however late it wakes; and what it started ends."""

import json
import os
import pathlib
import signal
import sys

import pytest
from conftest import alive, stopped, task_of, wait_until, why

# A command that stops itself, and on waking does everything that only an attempt in office may do.
SLEEPER = """\
import json, os, signal, sys, urllib.error, urllib.request
folder, name = sys.argv[1:3]
env = {k: v for k, v in os.environ.items() if k.startswith('SLUICE_')}
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[3:] == ['hide']:
    if os.environ['SLUICE_ATTEMPT'] == '2':
        print(json.dumps({'outputs': {'word': 'second'}}), file=open(os.environ['SLUICE_REPORT'], 'a'))
        sys.exit(0)
    if os.fork():
        signal.pause()
    os.setsid()  # no signal to the attempt's group reaches it, and nothing in its environment tells whose it was
    os.execve(sys.executable, [*sys.orig_argv, json.dumps(env)], {})
if len(sys.argv) > 4:
    env = json.loads(sys.argv[4])
def ask(method, path, body=None):
    r = urllib.request.Request(env['SLUICE_CATALOG_URI'] + path, body and json.dumps(body).encode(), method=method,
        headers={'Authorization': 'Bearer ' + env['SLUICE_CATALOG_TOKEN'], 'Content-Type': 'application/json'})
    try:
        return urllib.request.urlopen(r).status
    except urllib.error.HTTPError as e:
        return e.code
def create(table):
    return ask('POST', '/v1/namespaces/w/tables', {'name': table, 'schema': {'type': 'struct', 'fields': [{'id': 1, 'name': 'a', 'type': 'int', 'required': False}]}})
ask('POST', '/v1/namespaces', {'namespace': ['w']})
early = create(name + '_early')
with open(f'{folder}/{name}.pid', 'a') as f:
    print(os.getpid(), file=f)
os.kill(os.getpid(), signal.SIGSTOP)
late = create(name + '_late')
for report in (env['SLUICE_REPORT'], '/dev/fd/3'):
    try:
        with open(report, 'a') as f:
            print(json.dumps({'outputs': {'word': 'late'}}), file=f)
    except OSError:
        pass
with open(f'{folder}/{name}.answers', 'w') as f:
    print(early, late, file=f)
"""


def sleeper(daemon, folder, name, *args, **keys):
    """A run whose task has committed once and stopped itself; the run and the process."""
    script = folder / "sleeper.py"
    script.write_text(SLEEPER)
    extra = "".join(f"    {k}: {v}\n" for k, v in keys.items())
    daemon.flow(
        name,
        f"id: {name}\ntasks:\n  - id: work\n    type: command\n    command: {json.dumps([sys.executable, str(script), str(folder), name, *args])}\n"
        f"    outputs: {{word: string}}\n    stop_grace: 1h\n{extra}"
        f"  - {{id: after, type: command, depends_on: [work], command: \"touch {folder}/{name}.after\"}}\n",
    )
    run = daemon.post(f"/api/v1/flows/{name}/runs")
    pids = folder / f"{name}.pid"
    pid = wait_until(lambda: pids.exists() and pids.read_text().strip() and int(pids.read_text()), "the process")
    wait_until(lambda: stopped(pid), "the process's standstill")
    return run, pid


def tables(daemon):
    return {i["name"] for i in daemon.get("/api/v1/tables")["items"]}


def stopping(daemon, run):
    """Until the scheduler has given the attempt up: from then on SIGTERM is on its way."""
    wait_until(lambda: task_of(daemon.run(run["id"]), "work")["attempts"][0]["state"] == "stopping", "the end of its office")


def nothing_came_of_it(daemon, folder, run, name, state):
    early, late = (folder / f"{name}.answers").read_text().split()
    assert early == "200" and late in ("401", "403")
    assert not [t for t in tables(daemon) if t.startswith(f"w.{name}")]
    task = task_of(run, "work")
    assert task["state"] == state and not task["outputs"] and not (folder / f"{name}.after").exists()


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_given_up_attempt_wakes_late(daemon, folder, how):
    run, pid = sleeper(daemon, folder, how, **({"timeout": "2s"} if how == "timeout" else {}))
    if how == "cancel":
        daemon.post(f"/api/v1/runs/{run['id']}/cancel")
    stopping(daemon, run)
    os.kill(pid, signal.SIGCONT)
    run = daemon.ended(run["id"])  # with exit status 0 and every output reported
    nothing_came_of_it(daemon, folder, run, how, "timed_out" if how == "timeout" else "cancelled")


def test_given_up_attempt_wakes_under_a_new_daemon(daemon, folder):
    run, pid = sleeper(daemon, folder, "cancel")
    daemon.post(f"/api/v1/runs/{run['id']}/cancel")
    stopping(daemon, run)
    daemon.kill()
    daemon.args = ["--listen", daemon.url.removeprefix("http://")]  # it knows this address
    daemon.start()
    assert stopped(pid)
    os.kill(pid, signal.SIGCONT)
    nothing_came_of_it(daemon, folder, daemon.ended(run["id"]), "cancel", "cancelled")


def test_native_attempt_wakes_after_its_timeout(make_daemon, folder):
    """It stops just before it asks for its commit; a stopped process does not end by SIGTERM."""
    fault = folder / "fault"
    fault.write_text("write.commit.before=stop\n")
    (folder / "in.csv").write_text("a\n1\n2\n")
    daemon = make_daemon(env={"SLUICE_FAULT": fault})
    daemon.flow(
        "native",
        f"""\
        id: native
        tasks:
          - {{id: stage, type: stage, source: {{format: csv, path: {folder}/in.csv}}, target: {{path: {folder}/out.parquet}}}}
          - {{id: work, type: publish, depends_on: [stage], from: {folder}/out.parquet, into: w.t, timeout: 2s, stop_grace: 1h}}
        """,
    )
    run = daemon.post("/api/v1/flows/native/runs")
    wait_until(lambda: fault.read_text() == "", "the fault point")
    wait_until(lambda: (a := task_of(daemon.run(run["id"]), "work")["attempts"]) and a[0]["state"] == "stopping", "the end of its office")
    (pid,) = wait_until(lambda: [int(p.name) for p in pathlib.Path("/proc").glob("[0-9]*") if child_of(p.name, daemon) and stopped(p.name)], "its process")
    os.kill(pid, signal.SIGCONT)
    run = daemon.ended(run["id"])
    assert run["state"] == "failed" and task_of(run, "work")["state"] == "timed_out"
    assert "w.t" not in tables(daemon) and not list((daemon.home / "warehouse").rglob("*metadata.json"))
    run = daemon.trigger("native")
    assert run["state"] == "success", why(run)
    assert daemon.sql("SELECT count(*) AS n FROM w.t") == [{"n": 2}]


def child_of(pid, daemon):
    try:
        parent = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        return parent == int((daemon.home / "nursery.pid").read_text())
    except OSError:
        return False


def test_what_a_lost_attempt_started_cannot_commit(daemon, folder):
    """The nursery dies and its children with it, stopped or not. What lives on is a process that hid, with the attempt's token and report."""
    run, pid = sleeper(daemon, folder, "lost", "hide", retry="{max_attempts: 2, interval: 10ms}")
    os.kill(int((daemon.home / "nursery.pid").read_text()), signal.SIGKILL)
    run = daemon.ended(run["id"])
    assert run["state"] == "success" and [a["state"] for a in task_of(run, "work")["attempts"]] == ["lost", "success"], why(run)
    assert stopped(pid)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not alive(pid), "its end")
    assert (folder / "lost.answers").read_text().split()[0] == "200" and (folder / "lost.answers").read_text().split()[1] in ("401", "403")
    assert "w.lost_late" not in tables(daemon)
    assert daemon.run(run["id"]) == run and task_of(run, "work")["outputs"] == {"word": "second"}


def test_nothing_outlives_nursery_and_daemon(daemon, folder):
    """Who knew the process groups is dead: what commands had started is found by its environment."""
    pids = folder / "pids"
    daemon.flow(
        "orphans",
        f"""\
        id: orphans
        tasks:
          - id: a
            type: command
            command: "sleep 1000 & echo $! >> {pids}; setsid sleep 1000 & echo $! >> {pids}; wait"
            retry: {{max_attempts: 2, interval: 10ms}}
        """,
    )
    run = daemon.post("/api/v1/flows/orphans/runs")
    first = wait_until(lambda: pids.exists() and len(p := pids.read_text().split()) == 2 and [int(x) for x in p], "its processes")
    daemon.kill()
    os.kill(int((daemon.home / "nursery.pid").read_text()), signal.SIGKILL)
    daemon.start()
    wait_until(lambda: len(pids.read_text().split()) == 4, "the second attempt")
    assert not any(alive(p) for p in first)
    daemon.post(f"/api/v1/runs/{run['id']}/cancel")
    daemon.ended(run["id"])
