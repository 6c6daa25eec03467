"""Maintenance as it is asked for: POST /api/v1/maintenance and `sluice maintain`. What it does to tables is tested elsewhere."""

import json
import os
import re
import signal
import subprocess

import pytest

from conftest import BINARY, PATIENCE, clean_env, http, sluice, task_of, wait_until


def test_a_run_of_one_task(daemon):
    answer = daemon.request("POST", "/api/v1/maintenance?wait=30s", {"tables": "none.*", "dry_run": True})
    assert answer.status == 201, answer
    run = answer.json
    assert run["flow"] == "maintain" and [(t["id"], t["type"], t["engine"]) for t in run["tasks"]] == [("maintain", "maintain", "duckdb")]
    assert answer.headers["Location"] == f"/api/v1/runs/{run['id']}"


def test_what_is_refused(daemon):
    for body, word in (
        ({}, 'task "maintain" needs the key "tables"'),
        ({"tables": ["orders"]}, "must name tables, namespace.table, or globs"),
        ({"tables": "*", "expire_snapshots": {"older_than": 7}}, "must be a duration"),
        ({"tables": "*", "compct": True}, 'did you mean "compact"'),
        ({"tables": "*", "into": "a.b"}, "belongs to tasks of type publish"),
    ):
        answer = daemon.request("POST", "/api/v1/maintenance", body)
        assert answer.status == 422 and [set(e) for e in answer.json["errors"]] == [{"severity", "message"}], (body, answer)
        assert word in answer.json["errors"][0]["message"], (body, answer)
    assert daemon.request("POST", "/api/v1/maintenance", {"tables": "*", "id": "x"}).status == 400
    viewer = daemon.post("/api/v1/tokens", {"scope": "viewer"})["token"]
    assert http("POST", daemon.url + "/api/v1/maintenance", {"tables": "*"}, {"Authorization": f"Bearer {viewer}"}).status == 403
    assert daemon.get("/api/v1/runs")["items"] == []


def test_wrong_use_of_the_command_line(daemon):
    for args, word in (
        (("--older-than", "7d"), "goes with --expire or --orphans"),
        (("--expire", "--where", "n > 1"), "--where goes with --compact"),
        (("--orphans", "--max-bytes", "1GB"), "--max-bytes goes with --compact"),
        (("--compact", "--keep-last", "3"), "--keep-last goes with --expire"),
        (("--keep-last", "few"), "--keep-last few is not a whole number"),
        (("--when-health-below", "101"), "must be from 0 to 100"),
        (("--compact", "--max-bytes", "much"), "must be a size"),
        (("orders",), "must name tables"),
    ):
        done = daemon.cli("maintain", *args, check=False)
        assert done.returncode == 2 and word in done.stderr and done.stdout == "", (args, done)
    assert daemon.get("/api/v1/runs")["items"] == []


def test_no_daemon(folder):
    done = sluice("maintain", check=False, env={"SLUICE_HOME": folder / "none"})
    assert done.returncode == 2 and "no daemon answers" in done.stderr


FEED = """\
id: feed
concurrency: {max_active_runs: 1}
tasks:
  - {id: a, type: curate, into: m.a, sql: SELECT range AS n FROM range(10)}
  - {id: b, type: curate, into: m.b, sql: SELECT range AS n FROM range(10)}
"""


@pytest.fixture
def fed(daemon):
    daemon.flow("feed", FEED)
    for _ in range(6):
        assert daemon.trigger("feed")["state"] == "success"
    return daemon


def files(daemon):
    return {i["table"]: i.get("files") for i in daemon.get("/api/v1/tables/health")["items"]}


def test_the_command_line_tells_what_was_done(fed):
    dry = fed.cli("maintain", "--dry-run")
    assert "Dry run of maintenance of 2 tables" in dry.stdout and "m.b" in dry.stdout and "dry run of all tables" in dry.stderr
    assert files(fed) == {"m.a": 6, "m.b": 6}
    done = fed.cli("maintain", "m.a", "--compact", "--json")
    told = json.loads(done.stdout)
    assert [i["table"] for i in told["items"]] == ["m.a"] and [s["step"] for s in told["items"][0]["steps"]] == ["compact"]
    assert "success" in done.stderr and files(fed) == {"m.a": 1, "m.b": 6}
    done = fed.cli("maintain", "m.*", "--keep-last", "2", "--quiet")
    assert "Maintenance of 2 tables" in done.stdout and done.stderr == "" and files(fed) == {"m.a": 1, "m.b": 1}
    assert fed.sql("SELECT count(*)::INT AS n FROM m.a UNION ALL SELECT count(*)::INT FROM m.b") == [{"n": 60}, {"n": 60}]
    assert "may be what another engine is just writing" in fed.cli("maintain", "m.a", "--orphans", "--older-than", "1h").stderr
    # By need: nothing is needed any more.
    assert "Maintenance of 2 tables" in fed.cli("maintain", "--when-health-below", "80").stdout
    done = fed.cli("maintain", "none.*", check=False)
    assert done.returncode == 1 and re.search(r"(?m)^maintain: no table has such a name", done.stderr), done.stderr


def test_a_failure_is_the_exit_status(fed):
    location = next(i for i in fed.get("/api/v1/tables")["items"] if i["name"] == "m.a")["metadata_location"]
    os.unlink(location.removeprefix("file://"))
    done = fed.cli("maintain", check=False)
    assert done.returncode == 1 and "m.a" in done.stderr
    assert "m.a" in done.stdout and "1 failed" in done.stdout  # and the others were maintained
    assert files(fed)["m.b"] == 1


def test_an_interrupt_cancels(fed, folder):
    """Maintenance waits for who writes; a Ctrl-C ends it there."""
    gate = folder / "gate"
    fed.flow(
        "slow",
        f"id: slow\ntasks:\n  - {{id: a, type: curate, into: m.a, sql: SELECT 1 AS n}}\n"
        f'  - {{id: gate, type: command, depends_on: [a], command: "until [ -e {gate} ]; do sleep 0.05; done"}}\n',
    )
    run = fed.post("/api/v1/flows/slow/runs")
    wait_until(lambda: task_of(fed.run(run["id"]), "gate")["state"] == "running", "the gate")
    told = subprocess.Popen(
        [str(BINARY), "maintain", "m.a", "--compact"], env=clean_env(SLUICE_HOME=fed.home), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        keeper = wait_until(lambda: [r for r in fed.get("/api/v1/runs?flow=maintain&state=running")["items"]], "the maintenance")[0]
        wait_until(lambda: task_of(fed.run(keeper["id"]), "maintain")["state"] == "running", "its task")
        told.send_signal(signal.SIGINT)
        out, err = told.communicate(timeout=PATIENCE)
    finally:
        told.kill()
        gate.touch()
    assert told.returncode == 1 and "cancelling" in err, (out, err)
    assert fed.ended(keeper["id"])["state"] == "cancelled"
    assert fed.ended(run["id"])["state"] == "success"
