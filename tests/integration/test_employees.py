"""The main job, end to end: examples/employees, from a CSV to two Iceberg tables."""

import csv
import json
import re
from collections import Counter

import pytest

import examples
from conftest import link_engine, sluice, task_of, why

RUN_SECONDS = 30  # the aim is below one; this only catches a run that hangs


def expected(folder):
    rows = [r for r in csv.DictReader(open(next((folder / "data" / "raw").glob("*.csv")))) if r["status"] == "active"]
    return [{k: r[k] for k in ("id", "name", "department", "status")} for r in rows], Counter(r["department"] for r in rows)


def test_a_csv_becomes_two_tables(make_daemon, employees):
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    run = daemon.trigger("employees_pipeline")
    assert run["state"] == "success", why(run)
    staged, counted = expected(employees)

    assert daemon.sql("SELECT department, cnt FROM cur.employee_counts ORDER BY department") == [
        {"department": d, "cnt": n} for d, n in sorted(counted.items())
    ]
    rows = daemon.sql("SELECT CAST(id AS VARCHAR) AS id, name, department, status FROM stg.active_employees ORDER BY CAST(id AS BIGINT)")
    assert rows == staged

    # What a person asks afterwards: how many rows, which snapshot, how long.
    assert [t["id"] for t in run["tasks"]] == ["stage", "publish", "curate", "validate"]
    metrics = {t["id"]: t["attempts"][-1]["metrics"] for t in run["tasks"]}
    assert metrics["stage"]["rows_out"] == len(staged)
    for task, table, n in (("publish", "stg.active_employees", len(staged)), ("curate", "cur.employee_counts", len(counted))):
        written = task_of(run, task)["attempts"][-1]["tables"]
        assert [(t["table"], t["rows"]) for t in written] == [(table, n)]
        assert int(written[0]["snapshot_id"]) > 0
    checks = task_of(run, "validate")["attempts"][-1]["checks"]
    assert len(checks) == 4 and all(c["passed"] for c in checks)
    for task in run["tasks"]:
        attempt = task["attempts"][-1]
        assert attempt["state"] == "success" and attempt["exit_code"] == 0
        assert 0 < attempt["wall_us"] < RUN_SECONDS * 1e6 and attempt["max_rss_bytes"] > 0


def test_a_second_run_replaces_and_params_are_used(make_daemon, employees):
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    for _ in range(2):
        run = daemon.trigger("employees_pipeline")
        assert run["state"] == "success", why(run)
    _, counted = expected(employees)
    assert daemon.sql("SELECT sum(cnt)::INT AS n FROM cur.employee_counts") == [{"n": sum(counted.values())}]

    run = daemon.trigger("employees_pipeline", {"status": "inactive"})
    assert run["state"] == "success", why(run)
    assert daemon.sql("SELECT DISTINCT status FROM stg.active_employees") == [{"status": "inactive"}]
    # Replacing keeps the table and its history: three snapshots at least.
    runs = daemon.get("/api/v1/runs?flow=employees_pipeline")["items"]
    assert [r["state"] for r in runs] == ["success"] * 3


def test_the_cli_triggers_and_waits(make_daemon, employees):
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    done = daemon.cli("trigger", "employees_pipeline", "--wait", "--json")
    run = json.loads(done.stdout)
    assert run["state"] == "success" and run["flow"] == "employees_pipeline"
    shown = daemon.cli("sql", "SELECT * FROM cur.employee_counts ORDER BY department")
    assert "department" in shown.stdout and "sales" in shown.stdout
    assert "stg.active_employees" in daemon.cli("tables").stdout
    assert run["id"] in daemon.cli("runs").stdout


def test_without_a_daemon(binary, employees, folder):
    done = sluice("run", "employees.yaml", "--json", cwd=employees, env={"SLUICE_HOME": folder / "home"})
    run = json.loads(done.stdout)
    assert run["state"] == "success", why(run)


def test_an_empty_result_fails_validation_and_says_which_check(make_daemon, employees):
    flow = employees / "employees.yaml"
    flow.write_text(flow.read_text().replace("max_attempts: 3", "max_attempts: 1"))
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    run = daemon.trigger("employees_pipeline", {"status": "retired"})
    assert run["state"] == "failed", why(run)
    assert task_of(run, "validate")["state"] == "failed", why(run)
    assert "row_count" in why(run) and "cur.employee_counts" in why(run)


@pytest.mark.timeout(300)
def test_from_polars_to_spark_sql(employees):
    """The first and the last phase by their one command, with the same rows; and one engine for all tasks, another for some."""
    for engine in ("polars", "spark"):
        link_engine(employees / "data" / "home", engine)
    done = examples.run(employees / "phases", timeout=280, PHASES="1 4", ENGINES="duckdb,polars")
    _, counted = expected(employees)
    lines = "".join(rf"{d} +{n}\n" for d, n in sorted(counted.items()))
    assert len(re.findall(rf"department +cnt\n{lines}", done.stdout)) == 2, done.stdout
    with open(employees / "data" / "serve.log") as log:
        assert " error: " not in log.read()
