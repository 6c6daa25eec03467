"""Bad input: a clear error, nothing lost, nothing half visible. Each test reads the message that a person would see."""

import re
import socket
import subprocess
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import PATIENCE, sluice, task_of, why

GOOD_CSV = "id,name,department\n1,Ada,engineering\n2,Grace,sales\n3,Alan,sales\n"


@pytest.fixture
def shop(daemon):
    """A daemon whose flow `load` stages people.csv and publishes it as shop.people."""

    def load(csv, stage="", publish=""):
        (daemon.flows / "people.csv").write_text(csv)
        flow = textwrap.dedent(
            """\
            id: load
            tasks:
              - id: stage
                type: stage
                source: {format: csv, path: people.csv}
                target: {path: "out/${run.id}.parquet"}
            STAGE
              - id: publish
                type: publish
                depends_on: [stage]
                from: ${tasks.stage.outputs.path}
                into: shop.people
                mode: replace
            PUBLISH
            """
        )
        for word, keys in (("STAGE", stage), ("PUBLISH", publish)):
            flow = flow.replace(word + "\n", textwrap.indent(textwrap.dedent(keys).strip(), "    ") + "\n" if keys else "")
        daemon.flow("load", flow)
        return daemon.trigger("load")

    daemon.load = load
    return daemon


def people(daemon):
    return daemon.sql("SELECT count(*)::INT AS n FROM shop.people")[0]["n"]


def assert_failed(run, task, *words):
    assert run["state"] == "failed", why(run)
    told = task_of(run, task)
    assert told["state"] == "failed", why(run)
    message = told["error"]["message"] if isinstance(told["error"], dict) else told["error"]
    for word in words:
        assert word.lower() in message.lower(), f"{word!r} is not in: {message}"
    # One message for the task, the run and the CLI.
    assert "Traceback" not in message and not re.search(r"\b0x[0-9a-f]", message)
    return told


def test_no_file_matches_the_glob(daemon):
    daemon.flow(
        "load",
        """\
        id: load
        tasks:
          - id: stage
            type: stage
            source: {format: csv, path: "landing/2026-*/*.csv"}
            target: {path: "out.parquet"}
        """,
    )
    run = daemon.trigger("load")
    assert_failed(run, "stage", "landing/2026-*/*.csv", "no file")
    assert not (daemon.flows / "out.parquet").exists()
    shown = daemon.cli("show", run["id"])
    assert "landing/2026-*/*.csv" in shown.stdout + shown.stderr


def test_a_malformed_csv_line(shop):
    assert shop.load(GOOD_CSV)["state"] == "success"
    run = shop.load("id,name,department\n1,Ada,engineering\n2,Grace,sales,oops,more\n3,Alan,sales\n")
    assert_failed(run, "stage", "people.csv:3")
    assert task_of(run, "publish")["state"] == "upstream_failed"
    assert people(shop) == 3  # the good rows of before


def test_a_malformed_csv_line_can_be_quarantined(shop):
    run = shop.load("id,name,department\n1,Ada,engineering\n2,Grace,sales,oops,more\n3,Alan,sales\n", stage="on_reject: quarantine")
    assert run["state"] == "success", why(run)
    assert people(shop) == 2
    assert task_of(run, "stage")["attempts"][-1]["metrics"]["rows_rejected"] == 1


def test_a_missing_column(shop):
    run = shop.load(GOOD_CSV, stage="select: [id, nme]")
    assert_failed(run, "stage", "nme", "name")  # and the near one is suggested


def test_a_type_that_does_not_fit(shop):
    csv = GOOD_CSV + "four,Linus,support\n"
    run = shop.load(csv, stage="schema: {id: bigint not null, name: varchar, department: varchar}")
    assert_failed(run, "stage", "four", "id", "people.csv:5")
    run = shop.load(csv, stage="schema: {id: bigint not null, name: varchar, department: varchar}\non_reject: skip")
    assert run["state"] == "success", why(run)
    assert people(shop) == 3


def test_rows_that_do_not_fit_the_table(shop):
    assert shop.load(GOOD_CSV, stage="cast: {id: bigint}")["state"] == "success"
    (shop.flows / "more.csv").write_text("id,name,department\nx1,Ada,engineering\n")
    shop.flow(
        "more",
        """\
        id: more
        tasks:
          - id: stage
            type: stage
            source: {format: csv, path: more.csv}
            target: {path: more.parquet}
          - id: publish
            type: publish
            depends_on: [stage]
            from: ${tasks.stage.outputs.path}
            into: shop.people
            mode: append
        """,
    )
    assert_failed(shop.trigger("more"), "publish", "shop.people", "id")
    assert people(shop) == 3


def test_a_typo_in_sql_points_into_the_yaml(shop):
    assert shop.load(GOOD_CSV)["state"] == "success"
    path = shop.write(
        "count.yaml",
        """\
        id: count
        tasks:
          - id: curate
            type: curate
            into: shop.counts
            mode: overwrite
            sql: |
              SELECT department, count(*) AS n
              FROM shop.people
              GRUOP BY department
        """,
    )
    shop.flow("count", path.read_text())
    run = shop.trigger("count")
    told = assert_failed(run, "curate", "syntax error")
    line = 1 + next(i for i, text in enumerate(path.read_text().split("\n")) if "GRUOP" in text)  # where the parser stumbles: at BY, in the same line
    error = told["attempts"][-1]["error"]
    assert error["file"].endswith("count.yaml") and error["line"] == line, error
    logs = shop.cli("logs", run["id"], "curate")
    assert f"count.yaml:{line}" in logs.stdout + logs.stderr or f"count.yaml:{line}" in why(run)
    assert "shop.counts" not in [t["name"] for t in shop.get("/api/v1/tables")["items"]]


def test_a_table_that_does_not_exist(daemon):
    daemon.flow(
        "count",
        """\
        id: count
        tasks:
          - id: curate
            type: curate
            into: shop.counts
            sql: SELECT count(*) AS n FROM shop.peeple
        """,
    )
    assert_failed(daemon.trigger("count"), "curate", "peeple", "not exist")
    shown = daemon.cli("sql", "SELECT * FROM shop.peeple", check=False)
    assert shown.returncode != 0 and "peeple" in shown.stderr


def test_two_writers_on_one_table(daemon):
    (daemon.flows / "people.csv").write_text(GOOD_CSV)
    daemon.flow(
        "append",
        """\
        id: append
        concurrency: {max_active_runs: 8, overlap: queue}
        tasks:
          - id: stage
            type: stage
            source: {format: csv, path: people.csv}
            target: {path: "out/${run.id}.parquet"}
          - id: publish
            type: publish
            depends_on: [stage]
            from: ${tasks.stage.outputs.path}
            into: shop.people
            mode: append
        """,
    )
    first = daemon.trigger("append")
    assert first["state"] == "success", why(first)
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda _: daemon.trigger("append"), range(6)))
    good = [r for r in runs if r["state"] == "success"]
    assert good, [why(r) for r in runs]
    # Every run's rows are there whole or not at all.
    assert people(daemon) == 3 * (1 + len(good))
    for run in runs:
        if run["state"] != "success":
            assert_failed(run, "publish", "shop.people", "another")


def test_an_unknown_engine(daemon):
    path = daemon.write("odd.yaml", "id: odd\ndefaults: {engine: dukdb}\ntasks:\n  - {id: a, type: curate, into: x.y, sql: SELECT 1 AS n}\n")
    done = sluice("validate", path, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 1 and "dukdb" in told and 'did you mean "duckdb"' in told and "odd.yaml:2:" in told

    daemon.flow("good", "id: good\ntasks:\n  - {id: a, type: curate, into: x.y, sql: SELECT 1 AS n}\n")
    answer = daemon.request("POST", "/api/v1/flows/good/runs", {"engine": "dukdb"})
    assert answer.status in (400, 422) and "dukdb" in answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    done = daemon.cli("trigger", "good", "--engine", "dukdb", check=False)
    assert done.returncode == 2 and "dukdb" in done.stderr


def test_a_flow_with_a_cycle(daemon):
    path = daemon.write(
        "ring.yaml",
        """\
        id: ring
        tasks:
          - {id: a, type: command, command: "true", depends_on: [c]}
          - {id: b, type: command, command: "true", depends_on: [a]}
          - {id: c, type: command, command: "true", depends_on: [b]}
        """,
    )
    done = sluice("validate", path, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 1 and "circle" in told and re.search(r"ring\.yaml:\d+:\d+: error", told)
    for task in "abc":
        assert re.search(rf"\b{task}\b", told.split("circle", 1)[1])
    assert daemon.request("POST", "/api/v1/flows/ring/runs", {}).status in (404, 409, 422)


def test_a_yaml_of_ten_megabytes(folder):
    path = folder / "big.yaml"
    path.write_text("id: big\ndescription: |\n" + "  all work and no play\n" * 500_000 + "tasks: []\n")
    assert path.stat().st_size > 10_000_000
    started = time.monotonic()
    done = sluice("validate", path, check=False)
    told = done.stdout + done.stderr
    assert done.returncode in (1, 2) and "big.yaml" in told
    assert re.search(r"(MB|MiB|bytes)", told) and len(told) < 2000
    assert time.monotonic() - started < PATIENCE


def test_a_yaml_bomb(daemon):
    bomb = "id: bomb\nvars:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(1, 12):
        bomb += f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n"
    bomb += 'tasks:\n  - {id: a, type: command, command: "true"}\n'
    path = daemon.write("bomb.yaml", bomb)
    started = time.monotonic()
    done = sluice("validate", path, check=False)
    told = done.stdout + done.stderr
    assert done.returncode == 1 and "bomb.yaml:" in told and "alias" in told and len(told) < 4000
    assert time.monotonic() - started < PATIENCE
    assert daemon.request("GET", "/readyz").status == 200  # the watching daemon is not harmed


def test_an_unreadable_secret(make_daemon, folder):
    config = "secrets:\n  api_key: {file: /nonexistent/api_key}\n"
    daemon = make_daemon(config=config)
    daemon.flow("use", 'id: use\nsecrets: [api_key]\ntasks:\n  - {id: a, type: command, command: "true", env: {KEY: "${secrets.api_key}"}}\n')
    answer = daemon.request("POST", "/api/v1/flows/use/runs?wait=30s", {})
    if answer.status in (200, 201):
        run = daemon.ended(answer.json["id"])
        assert run["state"] == "failed"
        told = why(run)
    else:
        told = answer.text
    assert "api_key" in told and "/nonexistent/api_key" in told and "No such file" in told


def test_a_secret_is_masked(make_daemon, folder):
    (folder / "key").write_text("hunter2-very-secret\n")
    (folder / "key").chmod(0o600)
    daemon = make_daemon(config=f"secrets:\n  api_key: {{file: {folder}/key}}\n")
    daemon.flow("use", 'id: use\nsecrets: [api_key]\ntasks:\n  - {id: a, type: command, command: "echo key is $KEY", env: {KEY: "${secrets.api_key}"}}\n')
    run = daemon.trigger("use")
    assert run["state"] == "success", why(run)
    logs = daemon.cli("logs", run["id"], "a")
    assert "key is ***" in logs.stdout and "hunter2" not in logs.stdout + daemon.task_log(run["id"], "a")
    assert "hunter2" not in daemon.log and "hunter2" not in daemon.request("GET", f"/api/v1/runs/{run['id']}").text


def refused(daemon):
    """A daemon that must not start: its exit status and what it said."""
    done = subprocess.run(daemon.command(), env=daemon.env, cwd=daemon.flows, capture_output=True, text=True, timeout=PATIENCE * 2)
    assert done.returncode not in (0, -6, -11), done
    return done.stderr + done.stdout


def test_the_port_is_taken(make_daemon):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        daemon = make_daemon(args=["--listen", f"127.0.0.1:{port}"], start=False)
        told = refused(daemon)
    assert str(port) in told and "taken" in told and "--listen" in told
    assert not (daemon.home / "url").exists()


def test_the_state_folder_belongs_to_another_daemon(daemon, make_daemon):
    second = make_daemon(name=daemon.home.name, start=False)
    told = refused(second)
    assert str(daemon.home) in told and str(daemon.process.pid) in told and "--home" in told
    assert daemon.request("GET", "/readyz").status == 200


def test_postgresql_is_missing(make_daemon, folder):
    (folder / "empty").mkdir()
    daemon = make_daemon(env={"SLUICE_PG_BIN": folder / "empty"}, start=False)
    told = refused(daemon)
    assert "postgres" in told and str(folder / "empty") in told


def test_postgresql_of_an_unsupported_version(make_daemon, folder):
    old = folder / "old"
    old.mkdir()
    (old / "postgres").write_text('#!/bin/sh\necho "postgres (PostgreSQL) 9.6.24"\n')
    (old / "postgres").chmod(0o755)
    told = refused(make_daemon(env={"SLUICE_PG_BIN": old}, start=False))
    assert "PostgreSQL 9" in told and "not supported" in told and "13" in told


def test_a_database_that_does_not_answer(make_daemon, folder):
    daemon = make_daemon(args=["--database", f"host={folder}/nowhere dbname=sluice password=hunter2"], start=False)
    told = refused(daemon)
    assert "nowhere" in told and "hunter2" not in told
