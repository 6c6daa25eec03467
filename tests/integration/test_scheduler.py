"""What runs when, what happens when it fails, and what is left when a process dies. Commands are gated by files, not by time."""

import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import psycopg2
import pytest
from conftest import BINARY, Daemon, alive, clean_env, http, new_folder, stopped, task_of, wait_until, why

SECRET = 'pa"ss\\word ä'


@pytest.fixture(scope="module")
def shared(binary):
    """One daemon for the tests that neither stop nor break it."""
    folder = new_folder()
    (folder / "flows").mkdir()
    daemon = Daemon(folder / "home", folder / "flows", env={"API_KEY": SECRET})
    try:
        yield daemon.start()
    finally:
        daemon.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


def until(path):
    """A shell command that waits for a file."""
    return f"until [ -e {path} ]; do sleep 0.02; done"


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def states(run):
    return {t["id"]: t["state"] for t in run["tasks"]}


def started(daemon, run, task):
    wait_until(lambda: task_of(daemon.run(run["id"]), task)["state"] == "running", f"the start of {task}")


def at(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def group(pgid):
    """The processes of a group that live."""
    out = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == pgid and fields[0] != "Z":
            out.append(int(stat.parent.name))
    return out


def database(daemon):
    sock = daemon.home / "pg.run"
    port = int(next(sock.glob(".s.PGSQL.*[0-9]")).name.rsplit(".", 1)[1])
    connection = psycopg2.connect(host=str(sock), port=port, user="sluice", dbname="postgres")
    connection.autocommit = True
    return connection


def postmaster(daemon):
    return int((daemon.home / "pg" / "postmaster.pid").read_text().split()[0])


def nursery(daemon):
    return int((daemon.home / "nursery.pid").read_text())


# ---- one run ----


def test_branches_overlap(shared, folder):
    """Each branch waits for the other: one after the other would never end."""
    shared.flow(
        "diamond",
        f"""\
        id: diamond
        timeout: 20s
        tasks:
          - {{id: top, type: command, command: "true"}}
          - {{id: left, type: command, depends_on: [top], command: "touch {folder}/l; {until(folder / "r")}"}}
          - {{id: right, type: command, depends_on: [top], command: "touch {folder}/r; {until(folder / "l")}"}}
          - {{id: bottom, type: command, depends_on: [left, right], command: "true"}}
        """,
    )
    run = shared.trigger("diamond")
    assert run["state"] == "success", why(run)
    top, left, right, bottom = (task_of(run, t) for t in ("top", "left", "right", "bottom"))
    assert max(at(left["started_at"]), at(right["started_at"])) < min(at(left["ended_at"]), at(right["ended_at"]))
    assert at(top["ended_at"]) <= at(left["started_at"]) and at(right["ended_at"]) <= at(bottom["started_at"])


def test_retries_until_it_works(shared, folder):
    count = folder / "count"
    shared.flow(
        "flaky",
        f"""\
        id: flaky
        tasks:
          - id: work
            type: command
            command: "echo $SLUICE_ATTEMPT >> {count}; [ $(wc -l < {count}) -ge 3 ]"
            retry: {{max_attempts: 5, interval: 150ms, backoff: exponential, factor: 2, jitter: 0%}}
        """,
    )
    run = shared.trigger("flaky")
    assert run["state"] == "success", why(run)
    assert lines(count) == ["1", "2", "3"]
    attempts = task_of(run, "work")["attempts"]
    assert [(a["n"], a["state"], a["exit_code"]) for a in attempts] == [(1, "failed", 1), (2, "failed", 1), (3, "success", 0)]
    pauses = [(at(b["started_at"]) - at(a["ended_at"])).total_seconds() for a, b in zip(attempts, attempts[1:])]
    assert pauses[0] >= 0.15 and pauses[1] >= 0.3


def test_retries_run_out(shared):
    shared.flow("hopeless", 'id: hopeless\ntasks:\n  - {id: a, type: command, command: "exit 7", retry: {max_attempts: 2, interval: 10ms}}\n')
    run = shared.trigger("hopeless")
    assert run["state"] == "failed" and "task a: exit status 7" in run["error"]
    assert [(a["state"], a["cause"], a["exit_code"]) for a in task_of(run, "a")["attempts"]] == [("failed", "exit", 7)] * 2


def test_timeout_ends_the_whole_group(shared, folder):
    """It ignores SIGTERM, and so does the child that it leaves behind."""
    pids = folder / "pids"
    shared.flow(
        "stubborn",
        f"""\
        id: stubborn
        tasks:
          - id: stay
            type: command
            command: "trap '' TERM; sleep 1000 & echo $$ $! > {pids}; while :; do sleep 0.05; done"
            timeout: 2s
            stop_grace: 200ms
          - {{id: after, type: command, depends_on: [stay], command: "true"}}
        """,
    )
    run = shared.trigger("stubborn")
    assert run["state"] == "failed" and states(run) == {"stay": "timed_out", "after": "upstream_failed"}
    (attempt,) = task_of(run, "stay")["attempts"]
    assert (attempt["state"], attempt["cause"], attempt["signal"]) == ("timed_out", "timeout", 9)
    assert "timeout of 2 s" in attempt["error"]["message"]
    assert at(attempt["ended_at"]) - at(attempt["started_at"]) >= datetime.timedelta(milliseconds=2200)
    leader, child = map(int, pids.read_text().split())
    wait_until(lambda: not alive(leader) and not alive(child) and not group(leader), "the end of its group", 5)


def test_what_a_task_leaves_behind_ends_with_it(shared, folder):
    shared.flow("litter", f'id: litter\ntasks:\n  - {{id: a, type: command, command: "sleep 1000 & echo $! > {folder}/pid"}}\n')
    run = shared.trigger("litter")
    assert run["state"] == "success", why(run)
    pid = int((folder / "pid").read_text())
    wait_until(lambda: not alive(pid), "the end of the process left behind", 5)


def test_stopped_process_is_ended(shared, folder):
    """A process that is stopped does not even see SIGTERM."""
    shared.flow("frozen", f'id: frozen\ntasks:\n  - {{id: a, type: command, command: "echo $$ > {folder}/pid; kill -STOP $$", stop_grace: 100ms}}\n')
    run = shared.post("/api/v1/flows/frozen/runs")
    wait_until(lambda: (folder / "pid").exists() and (pid := (folder / "pid").read_text().strip()) and stopped(pid), "its stop")
    shared.post(f"/api/v1/runs/{run['id']}/cancel")
    run = shared.ended(run["id"])
    assert states(run) == {"a": "cancelled"} and task_of(run, "a")["attempts"][0]["signal"] == 9


def test_timeout_of_a_run(shared):
    shared.flow("late", 'id: late\ntimeout: 200ms\ntasks:\n  - {id: a, type: command, command: "exec sleep 1000"}\n')
    run = shared.trigger("late")
    assert run["state"] == "failed" and "timeout" in run["error"] and states(run) == {"a": "cancelled"}


def test_cancel(shared, folder):
    pids = folder / "pids"
    shared.flow(
        "long",
        f"""\
        id: long
        concurrency: {{max_active_runs: 1}}
        tasks:
          - {{id: work, type: command, command: "sleep 1000 & sleep 1000 & echo $$ $! > {pids}; wait"}}
          - {{id: after, type: command, depends_on: [work], command: "true"}}
        """,
    )
    run, second = (shared.post("/api/v1/flows/long/runs") for _ in range(2))
    wait_until(lambda: len(lines(pids)) == 1, "the processes")
    leader, child = map(int, pids.read_text().split())
    assert len(group(leader)) == 3 and shared.run(second["id"])["state"] == "queued"

    shared.post(f"/api/v1/runs/{second['id']}/cancel")
    second = shared.ended(second["id"])
    assert second["state"] == "cancelled" and second["started_at"] is None and states(second) == {"work": "cancelled", "after": "cancelled"}
    assert task_of(second, "work")["attempts"] == [] and alive(leader)

    shared.post(f"/api/v1/runs/{run['id']}/cancel")
    run = shared.ended(run["id"])
    assert run["state"] == "cancelled" and states(run) == {"work": "cancelled", "after": "cancelled"}
    assert task_of(run, "work")["attempts"][0]["cause"] == "cancelled" and task_of(run, "after")["attempts"] == []
    wait_until(lambda: not group(leader) and not alive(child), "the end of its group", 5)

    assert shared.request("POST", f"/api/v1/runs/{run['id']}/cancel", {}).status == 409
    assert shared.request("POST", "/api/v1/runs/20200101-000000-aaaaaa/cancel", {}).status == 404


def test_cancelled_while_it_waits_to_retry(shared):
    shared.flow("patient", 'id: patient\ntasks:\n  - {id: a, type: command, command: "false", retry: {max_attempts: 2, interval: 1h}}\n')
    run = shared.post("/api/v1/flows/patient/runs")
    wait_until(lambda: states(shared.run(run["id"])) == {"a": "retry_wait"}, "the first failure")
    assert task_of(shared.run(run["id"]), "a")["next_attempt_at"]
    shared.post(f"/api/v1/runs/{run['id']}/cancel")
    run = shared.ended(run["id"])
    assert run["state"] == "cancelled" and states(run) == {"a": "cancelled"}


def test_rules_after_a_failure(shared):
    shared.flow(
        "rules",
        """\
        id: rules
        tasks:
          - {id: bad, type: command, command: "exit 3"}
          - {id: good, type: command, command: "true"}
          - {id: tolerated, type: command, command: "exit 3", allow_failure: true}
          - {id: after_tolerated, type: command, command: "true", depends_on: [tolerated]}
          - {id: both, type: command, command: "true", depends_on: [bad, good]}
          - {id: after_both, type: command, command: "true", depends_on: [both]}
          - {id: alarm, type: command, command: "true", depends_on: [bad, good], trigger_rule: one_failed}
          - {id: no_alarm, type: command, command: "true", depends_on: [good], trigger_rule: one_failed}
          - {id: always, type: command, command: "true", depends_on: [both, good], trigger_rule: all_done}
          - {id: off, type: command, command: "true", enabled: false}
          - {id: after_off, type: command, command: "true", depends_on: [off, good]}
          - {id: none_failed, type: command, command: "true", depends_on: [off, good], trigger_rule: none_failed}
        """,
    )
    run = shared.trigger("rules")
    assert run["state"] == "failed" and run["error"] == "task bad: exit status 3"
    assert states(run) == {
        "bad": "failed",
        "good": "success",
        "tolerated": "failed",
        "after_tolerated": "success",
        "both": "upstream_failed",
        "after_both": "upstream_failed",
        "alarm": "success",
        "no_alarm": "skipped",
        "always": "success",
        "off": "skipped",
        "after_off": "skipped",
        "none_failed": "success",
    }


def test_allowed_failure_alone_is_a_success(shared):
    shared.flow("lenient", 'id: lenient\ntasks:\n  - {id: a, type: command, command: "exit 3", allow_failure: true}\n')
    run = shared.trigger("lenient")
    assert run["state"] == "success" and states(run) == {"a": "failed"} and run["error"] is None


def test_conditions(shared):
    shared.flow(
        "choose",
        """\
        id: choose
        params: {mode: full}
        tasks:
          - {id: measure, type: command, outputs: {n: int}, command: "echo '{\\"outputs\\": {\\"n\\": 3}}' >&3"}
          - {id: full, type: command, command: "true", depends_on: [measure], when: "${params.mode} == 'full' and ${tasks.measure.outputs.n} > 2"}
          - {id: quick, type: command, command: "true", depends_on: [measure], when: "${params.mode} != 'full'"}
          - {id: after, type: command, command: "true", depends_on: [full, quick], trigger_rule: none_failed_min_one_success}
        """,
    )
    assert states(shared.trigger("choose")) == {"measure": "success", "full": "success", "quick": "skipped", "after": "success"}
    assert states(shared.trigger("choose", {"mode": "x"})) == {"measure": "success", "full": "skipped", "quick": "success", "after": "success"}


def test_outputs(shared):
    shared.flow(
        "pass_on",
        """\
        id: pass_on
        tasks:
          - id: make
            type: command
            outputs: {name: string, n: int, list: list}
            command: |
              echo '{"outputs": {"name": "a b", "n": 1}}' >> $SLUICE_REPORT
              echo 'this is no JSON' >> $SLUICE_REPORT
              echo '{"outputs": {"n": 2, "list": ["x", "y"]}}' >&3
          - id: use
            type: command
            depends_on: [make]
            env: {LIST: "${tasks.make.outputs.list | join(',')}"}
            command: [sh, -c, 'echo "$1/$2/$LIST"', sh, "${tasks.make.outputs.name}", "${tasks.make.outputs.n}"]
        """,
    )
    run = shared.trigger("pass_on")
    assert run["state"] == "success", why(run)
    assert task_of(run, "make")["outputs"] == {"name": "a b", "n": 2, "list": ["x", "y"]}
    assert shared.task_log(run["id"], "use") == "a b/2/x,y\n"


def test_output_that_is_missing(shared):
    shared.flow("forgets", 'id: forgets\ntasks:\n  - {id: a, type: command, command: "true", outputs: {path: string}}\n')
    run = shared.trigger("forgets")
    assert run["state"] == "failed"
    assert "\"path\"" in task_of(run, "a")["error"] and "SLUICE_REPORT" in task_of(run, "a")["error"]


def test_report_that_makes_no_sense(shared, folder):
    """Whatever a program writes there, the API's answer keeps its form."""
    script = folder / "odd"
    script.write_text(
        """echo '{"outputs": [1], "metrics": "m", "tables": 5, "checks": {"a": 1}, "progress": 3}' >&3
        echo '{"outputs": {"nul": "a\\u0000b"}}' >&3
        echo '{"outputs": {"surrogate": "\\ud800"}}' >&3
        head -c 100000 /dev/zero | tr '\\0' '[' >&3
        echo >&3
        echo '{"outputs": {"": 1, "good": 2}}' >&3
        printf '{"error": "half a reason"}' >&3
        exit 1
        """
    )
    shared.flow("odd", f"id: odd\ntasks:\n  - {{id: a, type: command, command: [sh, {script}]}}\n")
    run = shared.trigger("odd")
    (attempt,) = task_of(run, "a")["attempts"]
    assert run["error"] == "task a: half a reason" and attempt["error"] == {"message": "half a reason"}
    assert (attempt["metrics"], attempt["tables"], attempt["checks"]) == ({}, [], [])


def test_timed_out_is_tried_again(shared):
    shared.flow(
        "slow_once",
        "id: slow_once\ntasks:\n"
        '  - {id: a, type: command, command: "[ $SLUICE_ATTEMPT != 1 ] || exec sleep 1000", timeout: 300ms, retry: {max_attempts: 20, interval: 10ms}}\n',
    )
    run = shared.trigger("slow_once")
    assert run["state"] == "success", why(run)
    attempts = [a["state"] for a in task_of(run, "a")["attempts"]]
    assert (attempts[0], attempts[-1]) == ("timed_out", "success")


def test_what_a_command_inherits(shared):
    """Nothing of the daemon's secrets, and no descriptor but its own four."""
    shared.flow("inherit", 'id: inherit\nenv: {MINE: "1"}\ntasks:\n  - {id: a, type: command, command: "env; exec ls -m /proc/self/fd"}\n')
    run = shared.trigger("inherit")
    text = shared.task_log(run["id"], "a").splitlines()
    names = {line.split("=")[0] for line in text}
    assert "API_KEY" not in names and {"MINE", "PATH", "SLUICE_RUN_ID", "SLUICE_REPORT", "SLUICE_CATALOG_TOKEN"} <= names
    assert text[-1] == "0, 1, 2, 3, 4"  # the last is the folder that ls reads


def test_command_that_cannot_be_started(shared):
    shared.flow("typo", "id: typo\ntasks:\n  - {id: a, type: command, command: [no-such-program, x]}\n")
    run = shared.trigger("typo")
    assert run["state"] == "failed" and "cannot run no-such-program: No such file or directory" in why(run)


def test_secret_stays_out_of_everything(shared, folder):
    """Told in the log, as output, as progress and as error, in the way a program writes JSON."""
    script = folder / "tell.py"
    script.write_text(
        "import json, os, sys\n"
        "report = open(os.environ['SLUICE_REPORT'], 'a')\n"
        "key = os.environ['KEY']\n"
        "print('key', key)\n"
        "for ascii in (True, False):\n"
        "    print(json.dumps({'outputs': {'key': f'<{key}>', 'list': [key, {'deep': key}]}, 'rows': 7}, ensure_ascii=ascii), file=report)\n"
        "print(json.dumps({'error': {'message': 'no ' + key}, 'progress': {'done': 1, 'message': key}}), file=report)\n"
        "report.close()\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    shared.flow(
        "leak",
        f"""\
        id: leak
        secrets: [api_key]
        tasks:
          - {{id: tell, type: command, env: {{KEY: "${{secrets.api_key}}"}}, outputs: {{key: string}}, command: [{sys.executable}, {script}, "0"]}}
          - {{id: fail, type: command, env: {{KEY: "${{secrets.api_key}}"}}, command: [{sys.executable}, {script}, "1"], depends_on: [tell]}}
        """,
    )
    run = shared.trigger("leak")
    assert run["state"] == "failed" and task_of(run, "tell")["outputs"] == {"key": "<***>", "list": ["***", {"deep": "***"}]}
    assert run["error"] == "task fail: no ***"
    assert shared.task_log(run["id"], "tell") == "key ***\n"
    shapes = {SECRET, json.dumps(SECRET)[1:-1], json.dumps(SECRET, ensure_ascii=False)[1:-1]}
    texts = {"run": shared.request("GET", f"/api/v1/runs/{run['id']}").text, "daemon's log": shared.log}
    with database(shared) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'sluice'")
        for (table,) in cursor.fetchall():
            cursor.execute(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM sluice.{table} t")
            texts[table] = cursor.fetchone()[0]
        cursor.execute("SELECT report ->> 'rows' FROM sluice.attempts WHERE run_id = %s AND task_id = 'tell'", (run["id"],))
        assert cursor.fetchone()[0] == "7"
    connection.close()
    assert {"runs", "tasks", "attempts", "events"} <= set(texts)
    for where, text in texts.items():
        assert not [s for s in shapes if s in text or json.dumps(s)[1:-1] in text or s.replace('"', '""').replace("\\", "\\\\") in text], where


def test_secret_stays_out_of_the_schedulers_own_errors(shared):
    shared.flow("typo_leak", 'id: typo_leak\nsecrets: [api_key]\ntasks:\n  - {id: a, type: command, command: ["/no/${secrets.api_key}"]}\n')
    run = shared.trigger("typo_leak")
    assert run["error"] == "task a: cannot run /no/***: No such file or directory"
    assert SECRET not in shared.log


def test_given_up_attempt_cannot_commit(shared, folder):
    """It holds on to its token; on SIGTERM, the last thing that it may do, it tries to use it."""
    script = folder / "commit.py"
    script.write_text(
        "import json, os, signal, sys, urllib.error, urllib.request\n"
        "def post(name):\n"
        "    r = urllib.request.Request(os.environ['SLUICE_CATALOG_URI'] + '/v1/namespaces', json.dumps({'namespace': [name]}).encode(),\n"
        "        {'Authorization': 'Bearer ' + os.environ['SLUICE_CATALOG_TOKEN'], 'Content-Type': 'application/json'})\n"
        "    try:\n"
        "        status = urllib.request.urlopen(r).status\n"
        "    except urllib.error.HTTPError as e:\n"
        "        status = e.code\n"
        f"    print(name, status, file=open('{folder}/answers', 'a'), flush=True)\n"
        "def late(*_):\n"
        "    post('late')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, late)\n"
        "post('early')\n"
        "signal.pause()\n"
    )
    shared.flow("committer", f"id: committer\ntasks:\n  - {{id: a, type: command, command: [{sys.executable}, {script}]}}\n")
    run = shared.post("/api/v1/flows/committer/runs")
    wait_until(lambda: lines(folder / "answers"), "the first commit")
    shared.post(f"/api/v1/runs/{run['id']}/cancel")
    run = shared.ended(run["id"])
    assert run["state"] == "cancelled" and states(run) == {"a": "cancelled"}
    early, late = lines(folder / "answers")
    assert early == "early 200" and late in ("late 401", "late 403")
    found = shared.request("GET", "/iceberg/v1/namespaces").json["namespaces"]
    assert ["early"] in found and ["late"] not in found


# ---- many runs ----


def overlapping(daemon, folder, name, concurrency):
    daemon.flow(name, f"id: {name}\nconcurrency: {concurrency}\ntasks:\n  - {{id: a, type: command, command: \"{until(folder / 'go')}\"}}\n")
    return [daemon.request("POST", f"/api/v1/flows/{name}/runs", {}) for _ in range(3)]


def test_overlap_queue(shared, folder):
    runs = [a.json["id"] for a in overlapping(shared, folder, "in_line", "{max_active_runs: 1, overlap: queue}")]
    started(shared, {"id": runs[0]}, "a")
    assert [shared.run(r)["state"] for r in runs] == ["running", "queued", "queued"]
    (folder / "go").touch()
    first, second, third = (shared.ended(r) for r in runs)
    assert first["state"] == second["state"] == third["state"] == "success"
    assert at(first["ended_at"]) <= at(second["started_at"]) and at(second["ended_at"]) <= at(third["started_at"])


def test_overlap_two_at_a_time(shared, folder):
    runs = [a.json["id"] for a in overlapping(shared, folder, "two", "{max_active_runs: 2}")]
    started(shared, {"id": runs[1]}, "a")
    assert [shared.run(r)["state"] for r in runs] == ["running", "running", "queued"]
    (folder / "go").touch()
    assert {shared.ended(r)["state"] for r in runs} == {"success"}


def test_overlap_skip(shared, folder):
    answers = overlapping(shared, folder, "just_one", "{max_active_runs: 1, overlap: skip}")
    assert [a.status for a in answers] == [201, 409, 409] and "overlap is skip" in answers[1].json["detail"]
    (folder / "go").touch()
    assert shared.ended(answers[0].json["id"])["state"] == "success"
    assert shared.trigger("just_one")["state"] == "success"
    assert len(shared.get("/api/v1/runs?flow=just_one")["items"]) == 2


def test_overlap_skip_of_requests_with_keys(shared, folder):
    """One of many that come at the same moment makes a run, and who repeats it is told of that run."""
    shared.flow("keyed", f"id: keyed\nconcurrency: {{overlap: skip}}\ntasks:\n  - {{id: a, type: command, command: \"{until(folder / 'go')}\"}}\n")

    def ask(key):
        return key, shared.request("POST", "/api/v1/flows/keyed/runs", {}, headers={"Idempotency-Key": key})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, [f"of-keyed-{i}" for i in range(8)]))
    assert sorted(a.status for _, a in answers) == [201] + [409] * 7
    key, made = next((key, a) for key, a in answers if a.status == 201)
    again = ask(key)[1]
    assert again.status == 200 and again.json["id"] == made.json["id"]
    (folder / "go").touch()
    assert shared.ended(made.json["id"])["state"] == "success"


def test_overlap_allow(shared, folder):
    runs = [a.json["id"] for a in overlapping(shared, folder, "all", "{max_active_runs: 1, overlap: allow}")]
    for run in runs:
        started(shared, {"id": run}, "a")
    (folder / "go").touch()
    assert {shared.ended(r)["state"] for r in runs} == {"success"}


def test_max_active_tasks(shared, folder):
    shared.flow(
        "narrow",
        f"""\
        id: narrow
        concurrency: {{max_active_tasks: 1}}
        tasks:
          - {{id: a, type: command, command: "echo a >> {folder}/order; {until(folder / "go")}; echo a >> {folder}/order"}}
          - {{id: b, type: command, command: "echo b >> {folder}/order; {until(folder / "go")}; echo b >> {folder}/order"}}
        """,
    )
    run = shared.post("/api/v1/flows/narrow/runs")
    wait_until(lambda: lines(folder / "order"), "the first task")
    assert sorted(states(shared.run(run["id"])).values()) == ["ready", "running"]
    (folder / "go").touch()
    assert shared.ended(run["id"])["state"] == "success"
    assert lines(folder / "order") in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


def test_idempotency_key(shared, folder):
    shared.flow("other", 'id: other\ntasks:\n  - {id: a, type: command, command: "true"}\n')
    shared.flow("once", f'id: once\ntasks:\n  - {{id: a, type: command, command: "echo x >> {folder}/runs"}}\n')
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ask = lambda _: shared.request("POST", "/api/v1/flows/once/runs", {}, headers={"Idempotency-Key": "k1"})
        answers = list(pool.map(ask, range(8)))
    assert sorted(a.status for a in answers) == [200] * 7 + [201] and len({a.json["id"] for a in answers}) == 1
    shared.ended(answers[0].json["id"])
    again = ask(0)  # after its end too
    assert again.status == 200 and again.json["id"] == answers[0].json["id"]
    assert shared.request("POST", "/api/v1/flows/once/runs", {}, headers={"Idempotency-Key": "k2"}).status == 201
    answer = shared.request("POST", "/api/v1/flows/other/runs", {}, headers={"Idempotency-Key": "k1"})
    assert answer.status == 409 and 'a run of flow "once"' in answer.json["detail"]
    wait_until(lambda: len(lines(folder / "runs")) == 2, "the second run")


# ---- schedules ----

SECONDLY = """\
    id: %s
    schedule: {cron: "* * * * * *", catchup: %s}
    concurrency: {overlap: allow}
    tasks:
      - {id: tell, type: command, command: "echo ${run.data_interval_start} ${run.data_interval_end}"}
    """


def planned(daemon, flow):
    """The runs of a schedule, oldest first."""
    runs = [r for r in daemon.get(f"/api/v1/runs?flow={flow}&limit=200")["items"] if r["trigger"] == "schedule"]
    return sorted(runs, key=lambda r: r["scheduled_for"])


def test_schedule_pause_and_resume(daemon):
    daemon.flow("tick", SECONDLY % ("tick", "none"))
    daemon.flow("clock", SECONDLY % ("clock", "none"))
    first, second = wait_until(lambda: len(r := planned(daemon, "tick")) >= 2 and r, "two runs")[:2]
    assert at(second["scheduled_for"]) - at(first["scheduled_for"]) == datetime.timedelta(seconds=1)
    assert second["interval_end"] == second["scheduled_for"] and second["interval_start"] == first["scheduled_for"]
    assert at(second["created_at"]) >= at(second["scheduled_for"])
    second = daemon.ended(second["id"])
    assert daemon.task_log(second["id"], "tell") == f"{second['interval_start']} {second['interval_end']}\n"
    assert daemon.get("/api/v1/flows/tick")["next"]

    answer = daemon.post("/api/v1/flows/tick/pause")
    assert answer["paused"] is True and answer["next"] is None
    last = planned(daemon, "tick")[-1]["scheduled_for"]
    clock = len(planned(daemon, "clock"))
    wait_until(lambda: len(planned(daemon, "clock")) >= clock + 2, "two more seconds")
    assert planned(daemon, "tick")[-1]["scheduled_for"] == last
    assert daemon.trigger("tick")["state"] == "success"  # by hand still
    daemon.kill()  # a pause outlives the daemon
    daemon.start()
    assert daemon.get("/api/v1/flows/tick")["paused"] is True
    resumed = time.time()
    daemon.post("/api/v1/flows/tick/resume")
    after = wait_until(lambda: [r for r in planned(daemon, "tick") if r["scheduled_for"] > last], "a run after the pause")
    assert at(after[0]["scheduled_for"]).timestamp() > resumed - 1  # none for the pause itself


def test_catchup_after_the_daemon_was_down(daemon):
    for mode in ("all", "last", "none"):
        daemon.flow(mode, SECONDLY % (mode, mode))
    wait_until(lambda: all(planned(daemon, m) for m in ("all", "last", "none")), "the first runs")
    daemon.kill()
    down = time.time()
    wait_until(lambda: time.time() > down + 2.1, "two missed seconds")
    daemon.start()
    up = time.time()
    for mode in ("all", "last", "none"):
        late = lambda: [r for r in planned(daemon, mode) if at(r["scheduled_for"]).timestamp() > up]
        wait_until(late, f"{mode}'s next run")
    for mode in ("all", "last", "none"):
        times = [at(r["scheduled_for"]).timestamp() for r in planned(daemon, mode)]
        gaps = {b - a for a, b in zip(times, times[1:])}
        if mode == "all":
            assert gaps == {1}  # every second has its run, and only one
        else:
            assert 0 not in gaps and max(gaps) >= 2
    daemon.stop()


# ---- flow files ----


def test_flow_files_are_live(shared):
    good = 'id: live\ntasks:\n  - {id: a, type: command, command: "echo one"}\n'
    shared.flow("live", good)
    path = shared.write("live.yaml", good.replace("command: ", "comand: ", 1).replace("one", "broken"))

    def problems():
        return next(f for f in shared.get("/api/v1/flows")["items"] if f["id"] == "live")["problems"]

    found = wait_until(problems, "the problem", 5)
    assert any(p["line"] == 3 and "comand" in p["message"] and p["file"].endswith("live.yaml") for p in found)
    run = shared.trigger("live")
    assert run["state"] == "success" and shared.task_log(run["id"], "a") == "one\n"
    assert shared.get("/api/v1/status")["flows"]["broken"] == 1

    shared.flow("live", good.replace("one", "two"))
    wait_until(lambda: problems() == [], "the problem's end", 5)
    assert shared.task_log(shared.trigger("live")["id"], "a") == "two\n"
    path.unlink()
    wait_until(lambda: shared.request("GET", "/api/v1/flows/live").status == 404, "the flow's end", 5)


def test_a_run_keeps_the_version_it_began_with(shared, folder):
    text = f'id: versions\ntasks:\n  - {{id: a, type: command, command: "{until(folder / "go")}"}}\n  - {{id: b, type: command, depends_on: [a], command: "echo old"}}\n'
    shared.flow("versions", text)
    run = shared.post("/api/v1/flows/versions/runs")
    started(shared, run, "a")
    shared.flow("versions", text.replace("echo old", "echo new"))
    (folder / "go").touch()
    assert shared.ended(run["id"])["state"] == "success" and shared.task_log(run["id"], "b") == "old\n"


def test_flow_files_in_folders(shared):
    shared.write("a/b/deep.yaml", 'id: deep\ntasks:\n  - {id: a, type: command, command: "true"}\n')
    wait_until(lambda: shared.request("GET", "/api/v1/flows/deep").status == 200, "the flow", 5)
    (shared.flows / "a").rename(shared.flows / "z")
    wait_until(lambda: shared.get("/api/v1/flows/deep")["file"].endswith("/z/b/deep.yaml"), "its new place", 5)
    shutil.rmtree(shared.flows / "z")
    wait_until(lambda: shared.request("GET", "/api/v1/flows/deep").status == 404, "its end", 5)


# ---- processes that die ----


def working(daemon, folder, name="work", **keys):
    """A run whose task has noted its process and waits for a file; and that process."""
    pids = folder / f"{name}.pids"
    extra = "".join(f"    {k}: {v}\n" for k, v in keys.items())
    daemon.flow(
        name,
        f"id: {name}\ntasks:\n  - id: work\n    type: command\n    command: \"echo $$ >> {pids}; {until(folder / 'go')}\"\n{extra}"
        f"  - {{id: after, type: command, depends_on: [work], command: \"echo x >> {folder}/{name}.after\"}}\n",
    )
    run = daemon.post(f"/api/v1/flows/{name}/runs")
    wait_until(lambda: len(lines(pids)) == 1, "the task's process")
    started(daemon, run, "work")
    return run, int(pids.read_text())


def ran_once(daemon, folder, run, name="work"):
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert len(lines(folder / f"{name}.pids")) == 1 and lines(folder / f"{name}.after") == ["x"]
    assert [len(t["attempts"]) for t in run["tasks"]] == [1, 1]


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGUSR2], ids=["kill", "usr2"])
def test_task_outlives_the_daemon(daemon, folder, sig):
    run, pid = working(daemon, folder)
    waiting = daemon.flow("patient", 'id: patient\ntasks:\n  - {id: a, type: command, command: "[ $SLUICE_ATTEMPT = 2 ]", retry: {max_attempts: 2, interval: 1s}}\n')
    waiting = daemon.post("/api/v1/flows/patient/runs")
    wait_until(lambda: states(daemon.run(waiting["id"])) == {"a": "retry_wait"}, "the pause before a retry")
    first = daemon.process.pid
    assert daemon.stop(sig) == (-9 if sig == signal.SIGKILL else 0)
    assert alive(pid)
    daemon.start()
    assert daemon.process.pid != first and alive(pid)
    wait_until(lambda: f"(process {pid}) is still running: adopted" in daemon.log, "the word of it in the log")
    assert states(daemon.run(run["id"])) == {"work": "running", "after": "waiting"}
    (folder / "go").touch()
    ran_once(daemon, folder, run)
    assert daemon.ended(waiting["id"])["state"] == "success"


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGUSR2], ids=["kill", "usr2"])
def test_two_hundred_tasks_outlive_an_upgrade(make_daemon, folder, sig):
    """What runs goes on under a daemon started from another file; each ends once, with its output, log and successor."""
    daemon = make_daemon(config="server: {max_active_tasks: 200}\n", start=False)
    daemon.binary = pathlib.Path(shutil.copy(BINARY, folder / "old"))
    daemon.start()
    daemon.binary = BINARY
    os.mkfifo(folder / "gate")
    tasks = [f"t{i:03}" for i in range(200)]
    work = f"echo begin; echo $SLUICE_TASK_ID $$ >> {folder}/pids; read x < {folder}/gate; echo end; " 'echo \'{\"outputs\": {\"n\": 7}}\' >> $SLUICE_REPORT'
    text = "id: wide\nconcurrency: {max_active_tasks: 200}\ntasks:\n"
    text += "".join(f"  - {{id: {t}, type: command, command: {json.dumps(work)}, outputs: {{n: int}}}}\n" for t in tasks)
    text += f"  - {{id: last, type: command, depends_on: [{', '.join(tasks)}], command: \"echo last ${{tasks.t000.outputs.n}} >> {folder}/pids\"}}\n"
    daemon.flow("wide", text)
    daemon.flow("small", "id: small\ntasks:\n  - {id: a, type: command, command: [/bin/true]}\n")
    run = daemon.post("/api/v1/flows/wide/runs")
    wait_until(lambda: len(lines(folder / "pids")) == 200, "200 processes")
    daemon.stop(sig)
    pids = [int(line.split()[1]) for line in lines(folder / "pids")]
    assert all(alive(pid) for pid in pids)
    daemon.start()
    assert daemon.get("/api/v1/status")["slots"] == {"used": 200, "total": 200}
    wait_until(lambda: daemon.log.count("is still running: adopted") == 200, "the log, which is written after what is urgent")

    def opened():  # each opening lets those go that wait at the gate by then
        try:
            os.close(os.open(folder / "gate", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody waits
            pass
        return daemon.run(run["id"])["state"] not in ("queued", "running", "publishing")

    wait_until(opened, "the end of the run")
    run = daemon.run(run["id"])
    assert run["state"] == "success", why(run)
    assert {len(t["attempts"]) for t in run["tasks"]} == {1} and {t["outputs"].get("n") for t in run["tasks"][:200]} == {7}
    assert len(lines(folder / "pids")) == 201 and lines(folder / "pids")[-1] == "last 7"
    assert daemon.task_log(run["id"], "t123") == "begin\nend\n"
    assert daemon.get("/api/v1/status")["slots"]["used"] == 0
    wait_until(lambda: os.listdir(daemon.home / "scratch") == [], "the removal of the scratch folders")
    # Native tasks run the nursery's program: with nothing running, the new one takes over.
    wait_until(lambda: nursery_program(daemon) == BINARY.resolve(), "the new nursery")
    assert daemon.ended(daemon.post("/api/v1/flows/small/runs")["id"])["state"] == "success"


def nursery_program(daemon):
    try:
        return pathlib.Path(os.readlink(f"/proc/{int((daemon.home / 'nursery.pid').read_text())}/exe"))
    except (OSError, ValueError):
        return None


def test_nursery_that_speaks_another_language(make_daemon, folder):
    """Its children are adopted; nothing new is given to it, and once they have ended one of ours takes over."""
    daemon = make_daemon(start=False)
    program = BINARY.read_bytes()
    (spoken,) = re.findall(rb"sluice-nursery/\d", program)
    daemon.binary = folder / "old"
    daemon.binary.write_bytes(program.replace(spoken, b"sluice-nursery/1"))
    daemon.binary.chmod(0o755)
    daemon.start()
    run, pid = working(daemon, folder)
    daemon.binary = BINARY
    daemon.stop(signal.SIGUSR2)
    daemon.start()
    assert alive(pid) and "the nursery is of another version" in daemon.log
    daemon.flow("small", "id: small\ntasks:\n  - {id: a, type: command, command: [/bin/true]}\n")
    small = daemon.post("/api/v1/flows/small/runs")
    assert states(daemon.run(small["id"])) == {"a": "ready"}
    (folder / "go").touch()
    ran_once(daemon, folder, run)
    assert daemon.ended(small["id"])["state"] == "success" and nursery_program(daemon) == BINARY.resolve()


def test_task_that_ends_while_no_daemon_is_there(daemon, folder):
    run, pid = working(daemon, folder)
    daemon.kill()
    (folder / "go").touch()
    wait_until(lambda: not alive(pid), "the task's end")
    daemon.start()
    ran_once(daemon, folder, run)


def test_timeout_holds_after_a_restart(daemon, folder):
    run, pid = working(daemon, folder, timeout="1s", stop_grace="200ms")
    daemon.kill()
    daemon.start()
    run = daemon.ended(run["id"])
    assert states(run) == {"work": "timed_out", "after": "upstream_failed"}
    wait_until(lambda: not group(pid), "the end of its group", 5)


def test_what_was_cancelled_stays_cancelled_after_a_restart(daemon, folder):
    pids = folder / "pids"
    text = f"""\
        id: %s
        timeout: %s
        tasks:
          - id: stay
            type: command
            command: "trap '' TERM; echo $$ >> {pids}; while :; do sleep 0.05; done"
            stop_grace: 1s
            retry: {{max_attempts: 3, interval: 10ms}}
          - {{id: after, type: command, depends_on: [stay], command: "true", trigger_rule: all_done}}
        """
    for flow, timeout in (("asked", "1h"), ("timed", "2s")):
        daemon.flow(flow, text % (flow, timeout))
    asked, timed = (daemon.post(f"/api/v1/flows/{flow}/runs") for flow in ("asked", "timed"))
    wait_until(lambda: len(lines(pids)) == 2, "the processes")
    daemon.post(f"/api/v1/runs/{asked['id']}/cancel")
    wait_until(lambda: daemon.run(timed["id"])["error"], "the run's timeout")
    daemon.kill()  # between SIGTERM and SIGKILL
    daemon.start()
    asked, timed = daemon.ended(asked["id"]), daemon.ended(timed["id"])
    assert asked["state"] == "cancelled" and timed["state"] == "failed" and "timeout of 2 s" in timed["error"]
    assert states(asked) == states(timed) == {"stay": "cancelled", "after": "cancelled"}
    assert len(lines(pids)) == 2 and not any(group(int(p)) for p in lines(pids))


def test_nursery_dies(daemon, folder):
    daemon.flow("nest", f'id: nest\ntasks:\n  - {{id: a, type: command, command: "sleep 1000 & echo $$ > {folder}/nest; wait"}}\n')
    nest = daemon.post("/api/v1/flows/nest/runs")
    wait_until(lambda: lines(folder / "nest"), "a task with a child")
    leader = int((folder / "nest").read_text())
    again, pid = working(daemon, folder, "again", retry="{max_attempts: 2, interval: 100ms}")
    never, other = working(daemon, folder, "never")
    old = nursery(daemon)
    os.kill(old, signal.SIGKILL)
    never = daemon.ended(never["id"])
    assert never["state"] == "failed" and states(never) == {"work": "lost", "after": "upstream_failed"} and "nursery" in why(never)
    wait_until(lambda: not group(pid) and not group(other) and not group(leader), "the end of its children and theirs", 5)
    assert daemon.ended(nest["id"])["state"] == "failed"
    wait_until(lambda: len(lines(folder / "again.pids")) == 2, "the second attempt")
    assert nursery(daemon) != old
    (folder / "go").touch()
    again = daemon.ended(again["id"])
    assert again["state"] == "success", why(again)
    assert [(a["state"], a["cause"]) for a in task_of(again, "work")["attempts"]] == [("lost", "lost"), ("success", "exit")]


def test_everything_dies(daemon, folder):
    """As when the machine goes down."""
    run, pid = working(daemon, folder, retry="{max_attempts: 2, interval: 100ms}")
    os.kill(nursery(daemon), signal.SIGKILL)
    daemon.kill()
    os.kill(postmaster(daemon), signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the task's end")
    daemon.start()
    wait_until(lambda: len(lines(folder / "work.pids")) == 2, "the second attempt")
    (folder / "go").touch()
    run = daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert [a["state"] for a in task_of(run, "work")["attempts"]] == ["lost", "success"] and lines(folder / "work.after") == ["x"]


def test_database_dies(daemon, folder):
    run, pid = working(daemon, folder)
    old = postmaster(daemon)
    os.kill(old, signal.SIGQUIT)
    (folder / "go").touch()  # it ends while there is no database to note it in
    wait_until(lambda: not alive(old) and not alive(pid), "the ends of the database and of the task")
    wait_until(lambda: daemon.request("GET", "/readyz").status == 200 and postmaster(daemon) != old, "the database")
    ran_once(daemon, folder, run)
    assert daemon.trigger("work")["state"] == "success"


def test_database_that_died_while_it_made_its_lock_files(daemon):
    """PostgreSQL itself never starts again over an empty lock file."""
    old = postmaster(daemon)
    daemon.process.send_signal(signal.SIGSTOP)
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: not alive(old), "its end")
    for name in ("pg/postmaster.pid", "pg.run/.s.PGSQL.5432.lock"):
        os.truncate(daemon.home / name, 0)
    daemon.process.send_signal(signal.SIGCONT)
    wait_until(lambda: "removed it" in daemon.log and daemon.request("GET", "/readyz").status == 200, "the database")
    daemon.flow("quick", "id: quick\ntasks: [{id: a, type: command, command: [/bin/true]}]\n")
    assert daemon.trigger("quick")["state"] == "success"


# ---- stopping ----


def test_sigterm_drains(daemon, folder):
    run, pid = working(daemon, folder)
    held, db = nursery(daemon), postmaster(daemon)
    daemon.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "nothing new starts" in daemon.log, "the signal's arrival")
    assert daemon.request("POST", "/api/v1/flows/work/runs", {}).status == 503
    assert alive(pid) and daemon.process.poll() is None
    (folder / "go").touch()
    assert daemon.process.wait(30) == 0
    wait_until(lambda: not alive(held) and not alive(db), "the ends of the nursery and the database")
    assert lines(folder / "work.after") == [] and not (daemon.home / "url").exists()
    daemon.start()  # what had not begun goes on
    ran_once(daemon, folder, run)


def test_second_sigterm_cancels(daemon, folder):
    run, pid = working(daemon, folder)
    daemon.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "a second signal cancels" in daemon.log, "the first signal")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(30) == 0 and not group(pid)
    daemon.start()
    run = daemon.run(run["id"])
    assert run["state"] == "cancelled" and states(run) == {"work": "cancelled", "after": "cancelled"}


def test_one_daemon_a_home(shared):
    done = subprocess.run(
        [str(BINARY), "serve", "--home", str(shared.home), "--listen", "127.0.0.1:0"], env=clean_env(), capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert f"{shared.home} is in use by another daemon (process {shared.process.pid})" in done.stderr and "--home" in done.stderr
    assert http("GET", shared.url + "/readyz").status == 200
