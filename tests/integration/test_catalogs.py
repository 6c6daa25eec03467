"""Flows on the tables of a Hive metastore and of Glue: engines polars and spark reach them, and whoever does not says so at once."""

import json
import pathlib
import subprocess
from collections import Counter

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, clean_env, link_engine, sluice, task_of, why
from services import needs, running
from test_employees import expected

SECRET = "a-secret-9f2e"  # the store's


@pytest.fixture(scope="module")
def hive(tmp_path_factory):
    needs("hive-metastore", "org.apache.hive:hive-standalone-metastore")
    with running("hive-metastore") as address:
        yield {"catalog": {"name": "local", "type": "hive", "uri": address, "warehouse": f"file://{tmp_path_factory.mktemp('tables')}"}}


@pytest.fixture(scope="module")
def glue():
    needs("glue", "moto")
    with running("glue") as address:
        yield {
            "catalog": {"name": "local", "type": "glue", "endpoint": address, "region": "us-east-1", "warehouse": "s3://lake/tables"},
            "s3": {"endpoint": address, "access_key": "tester", "secret_key": SECRET, "region": "us-east-1", "path_style": True},
        }


@pytest.fixture(params=["hive", "glue"])
def config(request):
    return request.getfixturevalue(request.param)


def asked(daemon, code):
    """What the engine's own interpreter prints as JSON, with `catalog` at hand."""
    done = subprocess.run(
        [daemon.home / "engines" / "polars" / "bin" / "python", "-c", f"import json, sys\nfrom sluice.engines.catalogs import catalog_of\ncatalog = catalog_of(**json.load(sys.stdin))\n{code}"],
        input=json.dumps(daemon.settings), env={**clean_env(), "PYTHONPATH": str(ROOT / "tasks" / "engines" / "python")}, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(daemon, table):
    return asked(daemon, f"print(json.dumps(catalog.load_table('{table}').scan().to_arrow().to_pylist()))")


@pytest.fixture
def daemon(make_daemon, employees, config):
    text = (employees / "employees.yaml").read_text()
    (employees / "employees.yaml").write_text(text.replace("engine: duckdb", "engine: polars"))
    (employees / "sluice.yaml").write_text("".join(f"{k}: {json.dumps(v)}\n" for k, v in config.items()) + (employees / "sluice.yaml").read_text())
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml", start=False)
    link_engine(daemon.home, "polars")
    daemon.settings = {"given": config["catalog"], "s3": config.get("s3")}
    if config["catalog"]["type"] == "glue":
        make_bucket(daemon)
    return daemon.start()


def make_bucket(daemon):
    s3 = daemon.settings["s3"]
    code = f"import boto3\nboto3.client('s3', endpoint_url={s3['endpoint']!r}, aws_access_key_id='tester', aws_secret_access_key={SECRET!r}, region_name='us-east-1').create_bucket(Bucket='lake')"
    subprocess.run([daemon.home / "engines" / "polars" / "bin" / "python", "-c", code], check=True)


def test_employees(daemon, employees):
    for status in ("active", "active", "inactive"):
        run = daemon.trigger("employees_pipeline", {"status": status})
        assert run["state"] == "success", why(run)
    daemon.trigger("employees_pipeline")
    staged, counted = expected(employees)
    assert Counter({r["department"]: r["cnt"] for r in rows(daemon, "cur.employee_counts")}) == counted
    assert sorted(rows(daemon, "stg.active_employees"), key=lambda r: int(r["id"])) == staged
    assert task_of(run, "publish")["attempts"][-1]["tables"][0]["snapshot_id"]
    # Each write is visible at once, so its history is that of all runs.
    assert asked(daemon, "print(len(catalog.load_table('stg.active_employees').snapshots()))") >= 4


# Into one table, by turns on both engines of Spark.
WRITES = [
    {"sql": "SELECT 1 AS id, 'a' AS x, DATE '2024-01-02' AS d UNION ALL SELECT 2, 'b', DATE '2024-02-03'", "partition_by": ["month(d)"], "properties": {"owner": "me"}},
    {"sql": "SELECT 3 AS id, 'c' AS x, DATE '2024-02-04' AS d", "mode": "append"},
    {"sql": "SELECT 3 AS id, 'C' AS x, DATE '2024-02-04' AS d UNION ALL SELECT 4, 'd', DATE '2024-03-01'", "mode": "upsert", "key": ["id"]},
    {"sql": "SELECT 9 AS id, 'z' AS x, DATE '2024-02-09' AS d", "mode": "overwrite_partitions"},
    {"sql": "SELECT 10 AS id, 'n' AS x, DATE '2024-05-05' AS d, 1.5::DOUBLE AS added", "mode": "append", "schema_evolution": "add_columns"},
]


@pytest.mark.timeout(600)
def test_spark(daemon, employees, config, folder):
    """Every mode in one session, what polars reads of it, and what Spark reads of polars' table."""
    link_engine(daemon.home, "spark")
    assert daemon.trigger("employees_pipeline")["state"] == "success"
    each = len(rows(daemon, "stg.active_employees"))
    tasks = [{"type": "curate", "engine": ("spark", "spark_sql")[n % 2], "spec": {"into": "sp.t", **w}} for n, w in enumerate(WRITES)]
    tasks.append({"type": "curate", "engine": "spark", "spec": {"into": "sp.t", "mode": "replace", "partition_by": [], "sql": "SELECT 'one' AS only"}})
    tasks.append({"type": "stage", "engine": "spark", "spec": {"source": {"format": "iceberg", "table": "sp.t", "at": "previous"}, "target": {"path": f"{folder}/before.parquet"}}})
    given = {"catalog": config["catalog"], "s3": config.get("s3"), "scratch": str(folder), "tasks": tasks, "queries": ["SELECT count(*) AS n FROM stg.active_employees"]}
    script = pathlib.Path(__file__).with_name("spark_tasks.py")
    python = daemon.home / "engines" / "spark" / "bin" / "python"
    done = subprocess.run([python, script, ROOT / "tasks" / "engines" / "python"], input=json.dumps(given), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    told = json.loads(done.stdout)
    assert [t["error"] for t in told["tasks"]] == [None] * len(tasks), told["tasks"]
    assert told["queries"][0]["rows"] == [f"({each},)"], told["queries"]
    assert SECRET not in done.stderr + json.dumps(told)
    kept = pq.read_table(folder / "before.parquet").to_pylist()
    assert sorted((r["id"], r["x"], r["added"]) for r in kept) == [(1, "a", None), (4, "d", None), (9, "z", None), (10, "n", 1.5)]
    assert rows(daemon, "sp.t") == [{"only": "one"}]
    looked = asked(daemon, "t = catalog.load_table('sp.t'); print(json.dumps([t.properties.get('owner'), t.current_snapshot().summary['sluice.task-id'], t.metadata.location]))")
    assert looked[:2] == ["me", "t"] and looked[2].replace("file:/", "file:///") == f"{config['catalog']['warehouse']}/sp.db/t", looked


@pytest.mark.parametrize("config", ["hive"], indirect=True)
def test_append_and_conflict_with_nothing_lost(daemon):
    """Several writers of one table at once: an append is put on top of what came meanwhile. (moto's Glue does not look at the version that a change is made to.)"""
    text = "id: {0}\nconcurrency: {{max_active_runs: 4}}\ndefaults: {{engine: polars, retry: {{max_attempts: 6, interval: 200ms}}}}\ntasks:\n  - {{id: w, type: curate, into: many.t, sql: SELECT department FROM cur.employee_counts}}\n"
    run = daemon.trigger("employees_pipeline")
    assert run["state"] == "success", why(run)
    each = len(rows(daemon, "cur.employee_counts"))
    daemon.flow("many", text.format("many"))
    before = len(rows(daemon, "many.t")) if daemon.trigger("many")["state"] == "success" else 0
    runs = [daemon.post("/api/v1/flows/many/runs")["id"] for _ in range(3)]
    assert [daemon.ended(r)["state"] for r in runs] == ["success"] * 3, [why(daemon.run(r)) for r in runs]
    assert len(rows(daemon, "many.t")) == before + 3 * each


def test_what_cannot_be_is_said(daemon, employees, config):
    kind = config["catalog"]["type"]
    (employees / "bad.yaml").write_text("id: bad\nisolation: run\ntasks:\n  - {id: t, type: curate, into: x.t, engine: duckdb, sql: SELECT 1 AS n}\n")
    done = sluice("validate", "--config", employees / "sluice.yaml", employees / "bad.yaml", check=False)
    assert done.returncode == 1
    assert f'bad.yaml:4:46: error: task "t" works on tables of catalog "local": engine "duckdb" does not reach catalogs of type {kind}; these do: polars, spark, spark_sql' in done.stdout
    assert "bad.yaml:2:12: error: isolation: run is not possible" in done.stdout
    (employees / "bad.yaml").unlink()
    refused = daemon.request("POST", "/api/v1/flows/employees_pipeline/runs", {"engine": "duckdb"})
    assert refused.status == 422 and f'engine "duckdb" does not reach catalogs of type {kind}' in refused.json["detail"]
    refused = daemon.request("POST", "/api/v1/flows/employees_pipeline/runs", {"rehearsal": True})
    assert refused.status == 422 and "a rehearsal is not possible" in refused.json["detail"]
    for args in (["tables"], ["tables", "show", "stg.t"], ["sql", "SELECT 1"], ["rollback", "stg.t", "--to", "previous"], ["tables", "health"]):
        done = daemon.cli(*args, check=False)
        assert done.returncode != 0 and ("does not reach a catalog of type" in done.stderr or "another server" in done.stderr), (args, done.stderr)
    assert SECRET not in daemon.log


def test_doctor(daemon, employees, config):
    done = daemon.cli("doctor", "--config", employees / "sluice.yaml", check=False)
    kind = config["catalog"]["type"]
    line = next(x for x in done.stdout.splitlines() if " catalog " in x)
    assert line.startswith("✓") and f"{kind}, " in line and "namespace" in line
    text = (employees / "sluice.yaml").read_text()
    where = config["catalog"].get("uri") or config["catalog"]["endpoint"]
    (employees / "sluice.yaml").write_text(text.replace(where, where.rsplit(":", 1)[0] + ":9"))
    done = daemon.cli("doctor", "--config", employees / "sluice.yaml", check=False)
    line = next(x for x in done.stdout.splitlines() if " catalog " in x)
    assert line.startswith("✗") and done.returncode == 1 and SECRET not in done.stdout + done.stderr


def test_a_server_that_is_away(make_daemon, employees):
    (employees / "employees.yaml").write_text((employees / "employees.yaml").read_text().replace("engine: duckdb", "engine: polars").replace("max_attempts: 3", "max_attempts: 1"))
    (employees / "sluice.yaml").write_text("catalog: {name: local, type: hive, uri: 'thrift://127.0.0.1:9', warehouse: 'file:///tmp/none'}\n" + (employees / "sluice.yaml").read_text())
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml", start=False)
    link_engine(daemon.home, "polars")
    run = daemon.start().trigger("employees_pipeline")
    task = task_of(run, "publish")
    assert run["state"] == "failed" and "the catalog (hive, thrift://127.0.0.1:9) cannot be asked: Could not connect" in task["error"], task["error"]
