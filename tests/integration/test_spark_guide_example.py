"""examples/spark-guide by its one command: the rows that it writes, and what it tells of them."""

import json

import duckdb
import examples
import pytest
from conftest import link_engine
from deltalake import DeltaTable

STAFF = "read_csv('data/raw/employees.csv')"
RAISED = f"SELECT id, name, department, salary, CASE WHEN department = 'Engineering' THEN salary * 1.1::DOUBLE ELSE salary END AS new_salary FROM {STAFF}"


@pytest.mark.timeout(600)  # a JVM on a machine with other work takes its time
def test_its_one_command(binary, folder, monkeypatch):
    example = examples.copied(folder, "spark-guide")
    link_engine(example / "data" / "home", "spark")
    done = examples.run(example / "run", timeout=500)
    monkeypatch.chdir(example)
    tasks = {t["id"]: t for flow in ("files", "delta") for t in json.loads((example / "data" / f"{flow}.json").read_text())["tasks"]}
    metrics = {i: t["attempts"][-1]["metrics"] for i, t in tasks.items()}

    def same(have, want):
        for one, other in ((have, want), (want, have)):
            assert duckdb.sql(f"SELECT count(*) FROM (({one}) EXCEPT ({other}))").fetchone() == (0,), (have, duckdb.sql(f"({one}) EXCEPT ({other}) LIMIT 3"))

    same("SELECT id, name, age, department, salary, hired_on FROM 'data/employees.parquet'", f"SELECT id, name, age, department, salary::DOUBLE, hired_on FROM {STAFF}")
    assert duckdb.sql("SELECT count(*), min(age) > 60 FROM 'data/older.parquet'").fetchone() == (100, True)
    assert metrics["older"]["bytes_read"] < metrics["raise"]["bytes_read"] < metrics["older"]["bytes_in"]
    levels = "CASE WHEN new_salary >= 70000 THEN 'senior' WHEN new_salary >= 45000 THEN 'mid' ELSE 'junior' END AS level"
    raised = f"SELECT id, department, round(new_salary, 2) AS new_salary, {levels} FROM ({RAISED})"
    same("SELECT id, department, round(new_salary, 2), level FROM read_parquet('data/raised/**/*.parquet', hive_partitioning = false)", raised)
    assert sorted(p.name for p in (example / "data" / "raised").iterdir()) == [f"department={d}" for d in ("Engineering", "Finance", "Sales", "Support")]
    same("FROM 'data/pay-2024-q1.parquet'", "SELECT employee_id, max(month), arg_max(salary, month) FROM read_json('data/raw/pay-2024-*.json') GROUP BY ALL")
    assert (metrics["quarter"]["files_in"], metrics["quarter"]["rows_in"], metrics["quarter"]["rows_out"], metrics["quarter"]["files_out"]) == (3, 900, 400, 1)

    session = tasks["departments"]["outputs"]["session"]
    assert session["active"] and session["spark_version"].startswith("4.1") and session["master"] == "local[2]" and session["default_parallelism"] == 4, session
    assert session["ui_web_url"].startswith("http://127.0.0.1:") and session["app_name"], session

    staff = {r["id"]: r for r in DeltaTable("data/delta/staff").to_pyarrow_table().to_pylist()}
    levels_of = dict(duckdb.sql(f"SELECT id, level FROM ({raised})").fetchall())
    people = duckdb.sql(f"SELECT id, department, salary FROM {STAFF}").fetchall()
    want = {i: salary * 1.1 if department == "Sales" else salary for i, department, salary in people if levels_of[i] != "junior"}
    want.update({1: 99000.0, 1000001: 70000.0})
    assert {i: r["salary"] for i, r in staff.items()} == pytest.approx(want)
    same("SELECT id, salary FROM 'data/staff-then.parquet'", f"SELECT id, salary::DOUBLE FROM {STAFF}")
    assert duckdb.sql("SELECT count(*) FROM 'data/staff-now.parquet'").fetchone() == (len(want),)
    assert [h["operation"] for h in reversed(DeltaTable("data/delta/staff").history())][1:] == ["UPDATE", "DELETE", "MERGE"]
    assert "Engineering" in done.stdout
