"""Maintenance as it is asked for: POST /api/v1/maintenance and `sluice maintain`. What it does to tables is tested elsewhere."""

from conftest import http, sluice


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
