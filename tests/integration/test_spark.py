"""The engines spark and spark_sql beside duckdb: the same flow gives the same rows, columns, reports and errors. JVMs start slowly: few runs, much in each."""

import json
import os
import pathlib
import re
import subprocess

import csv_cases
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, link_engine, task_of, wait_until, why
from pyiceberg.catalog.rest import RestCatalog
from test_polars import CSV, JSON, columns_and_rows

pytestmark = pytest.mark.timeout(600)  # a JVM on a machine with other work takes its time
ENGINES = ("duckdb", "polars", "spark", "spark_sql")


def test_employees_are_equal_on_all_engines(make_daemon, employees):
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    for engine in ("polars", "spark"):
        link_engine(daemon.home, engine)
    done = daemon.cli("compare", "employees_pipeline", "--engines", ",".join(ENGINES), "--json", check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = {}
    for run_id in {r["id"] for r in daemon.get("/api/v1/runs")["items"]}:
        run = daemon.run(run_id)
        assert run["state"] == "success", why(run)
        attempts = {t["id"]: t["attempts"][-1] for t in run["tasks"]}
        checks = [{k: json.dumps(v).replace(run_id, "RUN") for k, v in c.items()} for c in attempts["validate"]["checks"]]
        tables = [{k: v for k, v in t.items() if k not in ("snapshot_id", "bytes")} for i in ("publish", "curate") for t in attempts[i]["tables"]]
        outputs = {i: sorted(set(task_of(run, i)["outputs"]) - {"session"}) for i in attempts}
        engine = run["tasks"][0]["engine"]
        seen[engine] = checks, tables, outputs
        assert {"rows_in", "rows_out", "files_in", "files_out", "files_read", "bytes_in", "bytes_out"} <= set(attempts["stage"]["metrics"])
        for commit in daemon.get(f"/api/v1/runs/{run_id}/tables")["items"]:
            assert commit["attempt"] == 1 and commit["state"] == "rehearsed", commit
        if engine.startswith("spark"):
            session = task_of(run, "curate")["outputs"]["session"]
            assert session["active"] and session["spark_version"].startswith("4.1") and session["default_parallelism"] >= 1, session
            assert 0 < attempts["stage"]["metrics"]["bytes_read"], attempts["stage"]["metrics"]
            log = daemon.task_log(run_id, "curate")
            assert daemon.token not in log and "Spark 4.1" in log, log
            assert ("INSERT OVERWRITE" in log) == (engine == "spark_sql"), log
    for engine in ENGINES[1:]:
        assert seen[engine] == seen["duckdb"], engine


# ---- many tasks and statements in one session ----

STATEMENTS = re.search(r'SAME = """\n(.*?)"""', pathlib.Path(__file__).with_name("polars_sql_cases.py").read_text(), re.S).group(1).splitlines()
STATEMENTS += [
    "SELECT sum(v) OVER (PARTITION BY dep ORDER BY id) AS a, id FROM s.t",
    "SELECT CAST(f AS INTEGER) AS a, CAST(f * 3 AS BIGINT) AS b FROM s.t",
    "SELECT id // 0 AS a, id % 0 AS b, 0 / 0 AS c, -1 / 0 AS d FROM s.t",
    "SELECT 'a\\b' AS a, 'it''s' AS b, concat(name, NULL, 'x') AS c FROM s.t",
]
REFUSED = [
    "SELECT TRY_CAST(name AS INTEGER) AS a FROM s.t",
    "SELECT id || 'x' AS a FROM s.t",
    "SELECT CAST(f AS VARCHAR) AS a FROM s.t",
    "SELECT day + INTERVAL 1 DAY AS a FROM s.t",
    "SELECT regexp_matches(name, 'A.*') AS a FROM s.t",
    "SELECT id FROM s.t WHERE name LIKE 'a\\%'",
    "SELECT * FROM range(3)",
    "SELECT DISTINCT ON (dep) id FROM s.t ORDER BY dep LIMIT 1",
]
STAFF = """SELECT * FROM (VALUES
    (1::BIGINT, 'a', 'x', 1, 1.5::DOUBLE, DATE '2024-01-28', TIMESTAMP '2024-02-29 00:59:59.999999', 1.25::DECIMAL(10,2), true),
    (2, 'b', 'y', -7, 2.5, DATE '2024-02-28', TIMESTAMP '2024-02-29 01:59:59.999999', -2.75, false),
    (3, 'Ann', 'x', 3, -3.5, DATE '2024-03-28', TIMESTAMP '2024-02-29 02:59:59.999999', NULL, NULL),
    (4, NULL, NULL, NULL, NULL, DATE '2024-04-28', TIMESTAMP '2024-02-29 03:59:59.999999', 0.05, true),
    (5, 'ü''"', 'x', 2000000000, 0.125, DATE '2024-05-28', TIMESTAMP '2024-02-29 04:59:59.999999', 100.00, true)
    ) t("Id", name, dep, v, f, day, ts, price, ok)"""
BOSSES = "SELECT * FROM (VALUES ('x', 'B'), ('z', 'C')) t(dep, boss)"

# Into one table each, one after the other: the task's keys.
WRITES = [
    {"sql": "SELECT 1 AS id, 'a' AS x, DATE '2024-01-02' AS d UNION ALL SELECT 2, 'b', DATE '2024-02-03'", "partition_by": ["month(d)"], "sort_by": ["id desc"], "properties": {"owner": "me"}},
    {"sql": "SELECT 3 AS id, 'c' AS x, DATE '2024-02-04' AS d", "mode": "append"},
    {"sql": "SELECT 3 AS id, 'C' AS x, DATE '2024-02-04' AS d UNION ALL SELECT 4, 'd', DATE '2024-03-01'", "mode": "upsert", "key": ["id"]},
    {"sql": "SELECT 9 AS id, 'z' AS x, DATE '2024-02-09' AS d", "mode": "overwrite_partitions"},
    {"sql": "SELECT 10 AS id, 'n' AS x, DATE '2024-05-05' AS d, 1.5::DOUBLE AS added", "mode": "append", "schema_evolution": "add_columns"},
    {"sql": "SELECT 10000000000 AS id, 'w' AS x, DATE '2024-05-05' AS d, 2.5::DOUBLE AS added", "mode": "append", "schema_evolution": "widen"},
    {"sql": "SELECT 5 AS id, 'o' AS x, DATE '2024-06-06' AS d, NULL::DOUBLE AS added", "mode": "overwrite", "compression": "gzip", "target_file_size": 1 << 20},
    {"sql": "SELECT 'text' AS id, 1 AS other", "mode": "replace", "partition_by": ["other"]},
]
WRONG = [
    ({"sql": "SELECT 1 AS id, 'a' AS idd", "into": "s.u"}, None, 'has no column "id"'),
    ({"sql": "SELECT dep, 'a' AS boss FROM s.t", "into": "s.u", "mode": "upsert", "key": ["dep"]}, 13, "rows have the key dep = x"),
    ({"sql": "SELECT CAST(name AS INTEGER) AS v FROM s.t", "into": "s.n"}, None, "The value 'a'"),
    ({"sql": "SELECT xx FROM s.t", "into": "s.n"}, 10, '"xx" not found'),
]


def rows_of(catalog, name):
    table = catalog.load_table(name)
    fields = [(f.field_id, f.name, str(f.field_type)) for f in table.schema().fields]
    files = [[pq.ParquetFile(t.file.file_path.removeprefix("file://")) for t in table.scan(snapshot_id=s.snapshot_id).plan_files()] for s in table.snapshots()]
    codecs = [{f.metadata.row_group(0).column(0).compression for f in those} for those in files]
    return fields, str(table.spec()), str(table.sort_order()), sorted(table.scan().to_arrow().to_pylist(), key=repr), table.properties.get("owner"), codecs


def test_tasks_and_statements_in_one_session(make_daemon, folder):
    daemon = make_daemon()
    link_engine(daemon.home, "spark")
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    catalog.create_namespace("s")
    db = duckdb.connect()
    db.execute("ATTACH ':memory:' AS local; CREATE SCHEMA local.s; USE local")
    for name, sql in (("t", STAFF), ("u", BOSSES)):
        db.execute(f"CREATE TABLE s.{name} AS {sql}")
        arrow = db.execute(f"FROM s.{name}").to_arrow_table()
        catalog.create_table(f"s.{name}", arrow.schema).append(arrow)

    (folder / "in.csv").write_text(CSV)
    (folder / "plain.csv").write_text("id,name,n\n1,a,10\n2,,20\n3,c,\n")
    (folder / "in.json").write_text(JSON)
    (folder / "bad.csv").write_text("id,n,m\n1,10,a\n2,x,b\n3,30\n,40,c\n5,50,e,f\n6, 60 ,\n")
    for i in range(2):
        pq.write_table(pa.table({"id": pa.array([i, i + 2], pa.int64()), "x": pa.array([1, None], pa.int64())}), folder / f"in-{i}.parquet")
    source = {"format": "csv", "path": f"{folder}/in.csv"}
    stages = {
        "csv as text": {"source": source},
        "csv with types": {"source": source, "schema": {"id": "bigint", "name": "varchar", "day": "date", "at": "timestamp", "price": "decimal(8,2)", "ok": "boolean"}},
        "where, select, rename": {"source": source, "cast": {"price": "double"}, "select": ["name", "price * 2 AS twice", "day"], "where": "price > 0 AND id <> '9'", "rename": {"name": "who"}},
        "sql and limit": {"source": source, "cast": {"price": "double"}, "sql": "SELECT ok, sum(price) AS total FROM this GROUP BY ok ORDER BY total DESC", "limit": 1},
        "json": {"source": {"format": "json", "path": f"{folder}/in.json"}},
        "parquet": {"source": {"format": "parquet", "path": f"{folder}/in-*.parquet"}, "cast": {"id": "integer", "x": "varchar"}, "where": "id < 3"},
        "partitions": {"source": source},
        "table": {"source": {"format": "iceberg", "table": "s.u"}, "select": ["dep", "upper(boss) AS b"]},
    }
    stages["plain"] = {"source": {"format": "csv", "path": f"{folder}/plain.csv"}, "cast": {"id": "int", "n": "bigint"}}
    # Large enough to be written by several tasks, in its order; one value is no UTF-8, which only the last row of the second shows.
    long = "".join(f"{i},{i * 7},{'x' * 2000}\n" for i in range(35_000))
    (folder / "large.csv").write_text("id,n,text\n" + long)
    (folder / "large-bytes.csv").write_bytes(b"id,n,text\n" + long.encode() + b"35000,1,\xff\n")
    stages["large"] = {"source": {"format": "csv", "path": f"{folder}/large.csv"}, "cast": {"n": "bigint"}, "select": ["id", "n"], "where": "n % 2 = 0"}
    stages["large, not utf"] = {"source": {"format": "csv", "path": f"{folder}/large-bytes.csv"}, "on_reject": "skip"}
    (folder / "unnamed.csv").write_text(",n,\n0,a,x\n")
    stages["unnamed"] = {"source": {"format": "csv", "path": f"{folder}/unnamed.csv"}}
    # What is no row, and rows that do not fit: no condition gets by them.
    (folder / "lines.csv").write_bytes("id,n\r\n1,10\r\n\r\n2,ü\r\n3,30".encode())
    stages["lines"] = {"source": {"format": "csv", "path": f"{folder}/lines.csv"}, "where": "id <> '1'"}
    for what, source in csv_cases.write(folder):
        stages[f"csv: {what}"] = {"source": source, "on_reject": "skip"}
    for what, where in (("where", "n > 10"), ("where null", "n IS NOT NULL AND id > 100")):
        stages[f"rejects {what}"] = {"source": {"format": "csv", "path": f"{folder}/bad.csv"}, "schema": {"id": "bigint not null", "n": "bigint", "m": "varchar"}, "where": where, "on_reject": "skip"}
    for how in ("skip", "quarantine", "fail"):
        stages[f"rejects {how}"] = {"source": {"format": "csv", "path": f"{folder}/bad.csv"}, "schema": {"id": "bigint not null", "n": "bigint", "m": "varchar"}, "on_reject": how}

    def staged(engine, what):
        out = folder / f"{engine}-{re.sub('[^a-z]', '-', what)}"
        return {**stages[what], "target": {"path": str(out), "partition_by": ["ok"]} if what == "partitions" else {"path": f"{out}.parquet"}}

    tasks = [("stage", "spark", staged("spark", what)) for what in stages]
    tasks += [("curate", engine, {"into": f"s.{engine}_w", **keys}) for engine in ("spark", "spark_sql") for keys in WRITES]
    tasks += [("curate", "spark", keys) for keys, _, _ in WRONG]
    given = {
        "catalog": {"name": "local", "uri": daemon.url + "/iceberg", "token": daemon.token},
        "scratch": str(folder),
        "tasks": [{"type": t, "engine": e, "spec": s} for t, e, s in tasks],
        "queries": STATEMENTS + REFUSED,
    }
    script = pathlib.Path(__file__).with_name("spark_tasks.py")
    python = daemon.home / "engines" / "spark" / "bin" / "python"
    done = subprocess.run([python, script, ROOT / "tasks" / "engines" / "python"], input=json.dumps(given), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)

    wrong = []
    for sql, got in zip(STATEMENTS, answer["queries"]):
        ordered = re.search("ORDER BY [^)]*$", sql) and "DISTINCT ON" not in sql
        want = [repr(row) for row in db.execute(sql).fetchall()]
        if got.get("rows") is None or (want if ordered else sorted(want)) != (got["rows"] if ordered else sorted(got["rows"])):
            wrong.append((sql, want, got))
    for sql, got in zip(REFUSED, answer["queries"][len(STATEMENTS) :]):
        if "engines that can: duckdb" not in got.get("refused", "") or got["line"] != 10:
            wrong.append((sql, got))

    results = dict(zip(stages, answer["tasks"]))
    for i, what in enumerate(stages):
        text = json.dumps({"id": f"d{i}", "tasks": [{"id": "t", "type": "stage", **staged("duckdb", what)}]})
        daemon.flow(f"d{i}", text)
        run = daemon.trigger(f"d{i}")
        attempt = task_of(run, "t")["attempts"][-1]
        if what.endswith("fail"):
            assert results[what]["error"]["message"] == attempt["error"]["message"]
            continue
        assert run["state"] == "success", why(run)
        if results[what]["error"]:
            wrong.append((what, results[what]["error"]))
            continue
        metrics = {k: v for line in results[what]["lines"] for k, v in line.get("metrics", {}).items()}
        path = "{}-" + re.sub("[^a-z]", "-", what) + ("/*/*.parquet" if what == "partitions" else ".parquet")
        counted = what in ("where, select, rename", "sql and limit", "lines", "large") or what.startswith("csv: ")  # where it is not what an engine's scan hands on
        pairs = [(columns_and_rows(folder / path.format(e)), [m.get(k) for k in (*["rows_in"] * counted, "rows_out", "rows_rejected", "files_out", "files_in", "bytes_in")]) for e, m in (("spark", metrics), ("duckdb", attempt["metrics"]))]
        if pairs[0] != pairs[1]:
            wrong.append((what, pairs))

    large = pq.ParquetFile(folder / "spark-large.parquet")
    ids = large.read(["id"])["id"].to_pylist()
    assert large.metadata.num_row_groups > 1 and ids == sorted(ids, key=int)

    written = answer["tasks"][len(stages) :]
    for n, keys in enumerate(WRITES):
        daemon.flow(f"w{n}", json.dumps({"id": f"w{n}", "tasks": [{"id": "t", "type": "curate", "into": "s.duckdb_w", **keys}]}))
        assert daemon.trigger(f"w{n}")["state"] == "success"
    for engine, results in (("spark", written), ("spark_sql", written[len(WRITES) :])):
        wrong += [(engine, keys, r["error"]) for keys, r in zip(WRITES, results) if r["error"]]
        if rows_of(catalog, f"s.{engine}_w") != rows_of(catalog, "s.duckdb_w"):
            wrong.append((engine, rows_of(catalog, f"s.{engine}_w"), rows_of(catalog, "s.duckdb_w")))
    summaries = [{k: v for k, v in s.summary.additional_properties.items() if k.startswith("sluice.")} for s in catalog.load_table("s.spark_w").snapshots()]
    assert {"sluice.flow": "f", "sluice.run-id": f"r{len(stages) + 2}", "sluice.task-id": "t", "sluice.attempt": "1", "sluice.mode": "upsert"} in summaries, summaries
    for (keys, line, says), result in zip(WRONG, written[2 * len(WRITES) :]):
        error = result["error"] or {"message": ""}
        if says not in error["message"] or "\tat " in error["message"] or (line and error.get("line") != line):
            wrong.append((keys, says, error))

    # Nothing secret where others look.
    assert daemon.token not in json.dumps(answer["conf"]) and daemon.token not in json.dumps(answer["jvm"])
    assert answer["conf"]["spark.driver.bindAddress"] == "127.0.0.1"
    assert wrong == [], "\n".join(map(str, wrong))


# ---- an end before its time ----


def test_cancel_ends_the_job_and_the_jvm(make_daemon, folder):
    daemon = make_daemon()
    link_engine(daemon.home, "spark")
    text = "id: c\ntasks:\n  - id: t\n    type: curate\n    engine: spark\n    engine_options: {threads: 1}\n    into: s.big\n    sql: SELECT count(*) AS n FROM s.t a, s.t b, s.t c WHERE a.id + b.id + c.id < 0\n"
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    catalog.create_namespace("s")
    rows = pa.table({"id": pa.array(range(20_000), pa.int64())})
    catalog.create_table("s.t", rows.schema).append(rows)
    daemon.flow("c", text)
    run = daemon.post("/api/v1/flows/c/runs", {})

    def message():
        return (daemon.run(run["id"])["tasks"][0].get("progress") or {}).get("message") or ""

    def works():
        told = re.match(r"stages (\d+) of (\d+), tasks (\d+) of (\d+), ", message())
        return told and int(told[1]) < int(told[2]) and int(told[3]) < int(told[4])

    wait_until(works, "a stage of Spark's at work in the progress", 240)
    assert "http://127.0.0.1:" in message() and "local-" in message()
    jvms = [p for p in os.listdir("/proc") if p.isdigit() and _is_jvm_of(p, run["id"])]
    assert jvms
    daemon.post(f"/api/v1/runs/{run['id']}/cancel", {})
    ended = daemon.ended(run["id"])
    assert ended["state"] == "cancelled", why(ended)
    assert task_of(ended, "t")["attempts"][0]["max_rss_bytes"] > 200 << 20, "the JVM's memory is the attempt's"
    wait_until(lambda: not any(_is_jvm_of(p, run["id"]) for p in jvms), "the end of the JVM", 60)
    assert [t["name"] for t in daemon.get("/api/v1/tables")["items"]] == ["s.t"]


def _is_jvm_of(pid, run):
    try:
        command = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return run in command and "PythonGatewayServer" in command
