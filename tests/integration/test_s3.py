"""S3: the same verbs, flow and catalog on every store that is installed, and what goes wrong there."""

import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BINARY, link_engine, postgres, task_of, wait_until, why
from s3_stores import KEY, SECRET, STORES, running
from test_transactions import rows_of


@pytest.fixture(scope="module", params=STORES)
def store(request):
    with running(request.param, "storage-test") as made:
        for bucket in ("data-raw", "data-staging", "iceberg-warehouse"):
            made.make_bucket(bucket)
        yield made


def environment(store, **more):
    return {"S3_ENDPOINT": store.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, **more}


def lake(make_daemon, store, employees, **more):
    for file in (employees / "data" / "raw").glob("*.csv"):
        store.put("data-raw", f"employees/{file.name}", file.read_bytes())
    return make_daemon(flows=employees, config=employees / "sluice.s3.yaml", env=environment(store, **more))


def test_every_verb_and_odd_names(store):
    """Keys with blanks, = and beyond ASCII; 1,203 files in one list; conditional writes; 50 MB in parts: tests/unit/test_storage.c."""
    unit = BINARY.parent / "debug" / "unit" / "test_storage"
    if not unit.exists():
        pytest.skip("test_storage is not built: run make unit NAME=storage")
    env = dict(os.environ, **environment(store), SLUICE_TEST_S3=store.endpoint)
    done = subprocess.run([unit], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_employees_with_one_changed_config(make_daemon, store, employees):
    daemon = lake(make_daemon, store, employees)
    link_engine(daemon.home, "polars")
    for engine in ("duckdb", "polars"):
        run = json.loads(daemon.cli("trigger", "employees_pipeline", "--engine", engine, "--wait", "--json").stdout)
        assert run["state"] == "success", why(run)
    counted = daemon.sql("SELECT sum(cnt)::INT AS n FROM cur.employee_counts")
    assert counted == daemon.sql("SELECT count(*)::INT AS n FROM stg.active_employees") != [{"n": 0}]
    assert len([k for k in store.keys("data-staging", "intermediate/") if k.endswith(".parquet")]) == 2
    assert not (daemon.home / "warehouse").exists() or not list((daemon.home / "warehouse").rglob("*.*"))
    # PyIceberg knows the catalog alone: the endpoint, how to name buckets and the keys come with the table.
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("any", type="rest", uri=f"{daemon.url}/iceberg", token=daemon.token)
    table = catalog.load_table("cur.employee_counts")
    assert sum(table.scan().to_arrow()["cnt"].to_pylist()) == counted[0]["n"]

    # Dropped with its files.
    assert [k for k in store.keys("iceberg-warehouse", "tables/cur/employee_counts/")]
    catalog.purge_table("cur.employee_counts")
    assert daemon.request("GET", "/iceberg/v1/namespaces/cur/tables/employee_counts").status == 404


def test_keys_go_to_those_who_ask(make_daemon, store, employees):
    daemon = lake(make_daemon, store, employees)
    run = daemon.trigger("employees_pipeline")
    assert run["state"] == "success", why(run)
    table = "/iceberg/v1/namespaces/stg/tables/active_employees"
    plain = daemon.request("GET", table).json
    assert plain["config"]["s3.endpoint"] == store.endpoint and plain["config"]["s3.path-style-access"] == "true"
    assert SECRET not in str(plain) and "storage-credentials" not in plain
    vended = daemon.request("GET", table, headers={"X-Iceberg-Access-Delegation": "vended-credentials"}).json
    assert vended["storage-credentials"][0]["prefix"] == "s3://iceberg-warehouse"
    assert vended["storage-credentials"][0]["config"]["s3.secret-access-key"] == SECRET
    asked = daemon.request("GET", f"{table}/credentials").json
    assert asked["storage-credentials"][0]["config"]["s3.access-key-id"] == KEY

    # Nowhere else.
    texts = [p.read_text(errors="replace") for p in [daemon.log_path, *daemon.home.glob("runs/*/*/*/*")] if p.is_file()]
    with postgres(daemon) as db, db.cursor() as cursor:
        for name in ("runs", "tasks", "attempts", "events", "flow_versions"):
            cursor.execute(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM sluice.{name} t")
            texts.append(cursor.fetchone()[0])
    assert not [t for t in texts if SECRET in t]


ONE_STAGE = """
id: one
tasks:
  - id: s
    type: stage
    source: {format: csv, path: "s3://%s/employees/*.csv"}
    target: {path: s3://data-staging/x.parquet}
"""


def failure(make_daemon, env, bucket="data-raw", timeout="60s"):
    config = f"s3: {{endpoint: '{env['S3_ENDPOINT']}', timeout: {timeout}}}"
    daemon = make_daemon(config=config, env=env)
    daemon.flow("one", ONE_STAGE % bucket)
    run = daemon.trigger("one")
    assert run["state"] == "failed", run
    return task_of(run, "s")["attempts"][-1]["error"]["message"]


def test_appends_at_the_same_time(make_daemon, store, employees):
    """Runs that began from the same state of a table: their appends are put on top of each other."""
    daemon = lake(make_daemon, store, employees)
    daemon.flow("race", "id: race\nconcurrency: {max_active_runs: 4}\ntasks:\n  - {id: a, type: curate, into: stg.race, sql: SELECT 1 AS n}\n"
                "  - {id: b, type: command, depends_on: [a], command: [sleep, '0.3']}\n")
    assert (first := daemon.trigger("race"))["state"] == "success", why(first)
    with ThreadPoolExecutor(3) as pool:
        for run in pool.map(lambda _: daemon.trigger("race"), range(3)):
            assert run["state"] == "success", why(run)
    assert daemon.sql("SELECT count(*) AS n FROM stg.race") == [{"n": 4}]


def test_what_a_failed_run_left_is_removed(make_daemon, store, employees):
    config = employees / "sluice.s3.yaml"
    config.write_text(config.read_text().replace("catalog:\n", "catalog:\n  cleanup_after: 50ms\n"))
    daemon = lake(make_daemon, store, employees)
    daemon.flow("keep", "id: keep\ntasks:\n  - {id: a, type: curate, into: stg.left, sql: SELECT 1 AS n}\n")
    assert daemon.trigger("keep")["state"] == "success"
    wait_until(lambda: rows_of(daemon, "SELECT count(*) FROM sluice.cleanup") == [(0,)], "the cleanup of what is left", 30)
    before = set(store.keys("iceberg-warehouse", "tables/stg/left/"))
    daemon.flow("half", "id: half\ntasks:\n  - {id: a, type: curate, into: stg.left, sql: SELECT 2 AS n}\n  - {id: z, type: command, depends_on: [a], command: [/bin/false]}\n")
    assert daemon.trigger("half")["state"] == "failed"
    wait_until(lambda: set(store.keys("iceberg-warehouse", "tables/stg/left/")) == before, "the files to go", 30)
    assert daemon.sql("SELECT n FROM stg.left") == [{"n": 1}] and "stg.left: removed 4 files" in daemon.log


def test_wrong_keys(make_daemon, store):
    said = failure(make_daemon, environment(store, AWS_SECRET_ACCESS_KEY="wrong"))
    assert "SignatureDoesNotMatch" in said and "AWS_SECRET_ACCESS_KEY" in said and store.endpoint in said and "s3://data-raw/" in said
    said = failure(lambda **k: make_daemon(name="h2", **k), environment(store, AWS_ACCESS_KEY_ID="nobody"))
    assert "InvalidAccessKeyId" in said and "s3.access_key" in said


def test_no_such_bucket(make_daemon, store):
    said = failure(make_daemon, environment(store), bucket="not-there")
    assert "NoSuchBucket" in said and "s3://not-there/" in said and "make the bucket" in said


def test_a_store_that_never_answers(make_daemon):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"S3_ENDPOINT": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        said = failure(make_daemon, env, timeout="3s")
    assert endpoint in said and "does not answer" in said
