"""Rehearsals: runs whose commits nobody ever sees; and whether several runs wrote the same."""

import json

import pytest
from conftest import task_of, wait_until, why
from lake_files import catalog_of, missing_and_spare
from test_transactions import lineage, names, rows_of

FLOW = """\
id: two
params: {n: 1}
tasks:
  - {id: a, type: curate, into: x.a, mode: replace, sql: "SELECT range AS id, range % 2 AS p, 'v' || (range * ${params.n}) AS v FROM range(10)"}
  - {id: b, type: curate, depends_on: [a], into: x.b, mode: overwrite, partition_by: [p], sql: "SELECT p, count(*) AS n FROM x.a GROUP BY p"}
  - {id: look, type: validate, depends_on: [b], table: x.b, checks: [{row_count: {equals: 2}}]}
"""


@pytest.fixture
def daemon(make_daemon):
    daemon = make_daemon(config="catalog: {cleanup_after: 1h}\n")
    daemon.flow("two", FLOW)
    return daemon


def rehearse(daemon, flow="two", **more):
    run = daemon.ended(daemon.post(f"/api/v1/flows/{flow}/runs", {"rehearsal": True, **more})["id"])
    assert run["state"] == "success" and run["rehearsal"] is True, why(run)
    return run["id"]


def compare(daemon, *runs, **more):
    return daemon.post("/api/v1/compare", {"runs": list(runs), **more})


def test_nobody_sees_a_rehearsal(daemon):
    run = rehearse(daemon)
    assert names(daemon) == [] and {c[3] for c in lineage(daemon, run)} == {"rehearsed"}
    shown = daemon.cli("show", run).stdout
    assert "a rehearsal: nothing that it writes to tables becomes visible" in shown and shown.count("rehearsed, nobody sees it") == 2
    real = daemon.trigger("two")
    assert real["state"] == "success" and real["rehearsal"] is False and names(daemon) == ["x.a", "x.b"]
    before = daemon.sql("SELECT * FROM x.a ORDER BY id")
    rehearse(daemon, params={"n": 7})
    assert daemon.sql("SELECT * FROM x.a ORDER BY id") == before and len(catalog_of(daemon).load_table("x.b").snapshots()) == 1
    refused = daemon.request("POST", f"/api/v1/runs/{run}/undo", {})
    assert refused.status == 409 and "made nothing visible" in refused.json["detail"]


def test_its_files_are_removed(make_daemon):
    daemon = make_daemon(config="catalog: {cleanup_after: 50ms}\n")
    daemon.flow("two", FLOW)
    assert daemon.trigger("two")["state"] == "success"
    rehearse(daemon, params={"n": 2})
    wait_until(lambda: rows_of(daemon, "SELECT count(*) FROM sluice.cleanup") == [(0,)], "the cleanup")
    # What is younger than a quarter of an hour is looked at again then.
    assert missing_and_spare(daemon)[0] == set()


def test_tasks_that_are_transactions_are_rehearsed_together(daemon):
    daemon.flow("each", FLOW.replace("id: two", "id: each\nisolation: task"))
    rehearse(daemon, "each")
    assert names(daemon) == []


def test_maintenance_is_only_planned(daemon):
    for n in range(3):
        daemon.flow("more", "id: more\ntasks:\n  - {id: a, type: curate, into: x.m, sql: SELECT 1 AS n}\n")
        assert daemon.trigger("more")["state"] == "success"
    daemon.flow("keep", "id: keep\ntasks:\n  - {id: keep, type: maintain, tables: x.*, compact: {min_input_files: 2}}\n")
    run = rehearse(daemon, "keep")
    report = daemon.get(f"/api/v1/runs/{run}/tasks/keep/artifacts/maintenance.json")
    assert report["dry_run"] and report["items"][0]["steps"][0]["state"] == "planned"
    assert len(catalog_of(daemon).load_table("x.m").inspect.files()) == 3


def test_exports_go_nowhere(daemon, folder):
    tasks = FLOW.replace("id: two", "id: out") + f'  - {{id: csv, type: export, depends_on: [look], from: {{table: x.a}}, to: {{format: csv, path: {folder}/a.csv}}}}\n'
    daemon.flow("out", tasks)
    run = rehearse(daemon, "out")
    assert not (folder / "a.csv").exists() and task_of(daemon.run(run), "csv")["attempts"][0]["metrics"]["rows_in"] == 10
    assert daemon.trigger("out")["state"] == "success" and (folder / "a.csv").exists()


def test_a_rehearsal_survives_the_daemon(make_daemon, folder):
    fault = folder / "fault"
    fault.write_text("attempt.exit.heard:2=kill\n")
    daemon = make_daemon(env={"SLUICE_FAULT": str(fault)})
    daemon.flow("two", FLOW)
    run = daemon.post("/api/v1/flows/two/runs", {"rehearsal": True})["id"]
    wait_until(lambda: daemon.process.poll() is not None, "the daemon's end")
    daemon.start()
    assert daemon.ended(run)["state"] == "success" and names(daemon) == []
    assert {c[3] for c in lineage(daemon, run)} == {"rehearsed"}


def test_same_and_different(daemon):
    same = compare(daemon, rehearse(daemon), rehearse(daemon), rehearse(daemon))
    assert same["equal"] and [t["table"] for t in same["tables"]] == ["x.a", "x.b"]
    assert all(r["equal"] and r["rows"] for t in same["tables"] for r in t["runs"])
    answer = compare(daemon, same["runs"][0], rehearse(daemon, params={"n": 3}), limit=4)
    a, b = answer["tables"]
    assert not answer["equal"] and b["runs"][1]["equal"] and a["runs"][0]["equal"]
    side = a["runs"][1]
    assert (side["missing"], side["extra"], side["schema"], side["equal"]) == (9, 9, [], False)
    assert len(side["differing"]) == 4 and {"row": {"id": 1, "p": 1, "v": "v1"}, "times": -1} in side["differing"]


def test_other_columns(daemon):
    runs = []
    for sql in ("SELECT 1::INT AS a, 'x' AS b", "SELECT 1::BIGINT AS a, 2 AS c", "SELECT 'x' AS b, 1::INT AS a"):
        daemon.flow("one", json.dumps({"id": "one", "tasks": [{"id": "t", "type": "curate", "into": "x.t", "mode": "replace", "sql": sql}]}))
        runs.append(rehearse(daemon, "one"))
    daemon.flow("none", "id: none\ntasks:\n  - {id: t, type: command, command: [/bin/true]}\n")
    runs.append(rehearse(daemon, "none"))
    _, other, order, none = compare(daemon, *runs)["tables"][0]["runs"]
    assert other["schema"] == ["column a is BIGINT, not INTEGER", "there is no column b", "there is a column c"] and not other["equal"]
    assert order["schema"] == ["the columns are in another order"] and order["missing"] == order["extra"] == 0 and not order["equal"]
    assert none == {"written": False, "equal": False}


def test_what_cannot_be_compared(daemon):
    daemon.flow("bad", "id: bad\ntasks:\n  - {id: t, type: command, command: [/bin/false]}\n")
    good, bad = rehearse(daemon), daemon.trigger("bad")["id"]
    for body, status, words in (
        ({"runs": [good]}, 400, "2 to 16"),
        ({"runs": [good, 7]}, 400, "2 to 16"),
        ({"runs": [good, "20200101-000000-aaaaaa"]}, 404, "no run"),
        ({"runs": [good, bad]}, 409, "is failed"),
        ({"runs": [good, good], "limit": -1}, 400, "limit"),
    ):
        answer = daemon.request("POST", "/api/v1/compare", body)
        assert answer.status == status and words in answer.json["detail"], answer
    for key in ("rehearsal", "check"):
        refused = daemon.request("POST", "/api/v1/flows/two/runs", {key: "yes"})
        assert refused.status == 400 and key in refused.json["detail"]


def test_a_trigger_that_is_only_checked(daemon):
    before = len(daemon.get("/api/v1/runs")["items"])
    for body, status, words in (({}, 204, ""), ({"engine": "dukdb"}, 422, "dukdb"), ({"engine": "polars"}, 422, "engines install polars"), ({"params": {"m": 1}}, 422, "m")):
        answer = daemon.request("POST", "/api/v1/flows/two/runs", {"check": True, "rehearsal": True, **body})
        assert answer.status == status and words in answer.text, answer
    done = daemon.cli("compare", "two", "--engines", "duckdb,polars", check=False)
    assert done.returncode == 2 and "engines install polars" in done.stderr and done.stdout == "", "before the first engine's run"
    assert len(daemon.get("/api/v1/runs")["items"]) == before


def test_the_command(daemon):
    done = daemon.cli("compare", "two", "--engines", "duckdb,duckdb")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["ENGINE", "ELAPSED", "CPU", "MEMORY", "ROWS", "FILES", "RESULT", "RUN"] and max(map(len, lines)) <= 100
    assert "reference" in lines[1] and "equal" in lines[2] and names(daemon) == []
    answer = json.loads(daemon.cli("compare", "two", "--engines", "duckdb,duckdb", "--json").stdout)
    assert answer["equal"] and [r["engine"] for r in answer["runs"]] == ["duckdb", "duckdb"] and answer["runs"][0]["run"]["rehearsal"]
    daemon.flow("chance", "id: chance\ntasks:\n  - {id: t, type: curate, into: x.t, sql: SELECT random() AS r}\n")
    done = daemon.cli("compare", "chance", "--engines", "duckdb,duckdb", check=False)
    assert done.returncode == 1 and "differs" in done.stdout and "1 row is missing" in done.stdout and "\n  - {" in done.stdout
    for args, words in (
        (["--engines", "duckdb"], "2 to 16 names"),
        (["--engines", "duckdb,dukdb"], "dukdb"),
        ([], "--engines"),
    ):
        done = daemon.cli("compare", "two", *args, check=False)
        assert done.returncode == 2 and words in done.stderr, done.stderr
    run = daemon.cli("trigger", "two", "--rehearse", "--wait").stdout.split()[0]
    assert daemon.run(run)["rehearsal"] and task_of(daemon.run(run), "a")["state"] == "success"
