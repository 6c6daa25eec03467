"""The engine polars beside duckdb: the same flow gives the same rows, columns, reports and errors."""

import gzip
import json
import os
import pathlib
import signal
import subprocess

import csv_cases
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.rest import RestCatalog

from conftest import ROOT, link_engine, task_of, wait_until, why

ENGINES = ("duckdb", "polars")


@pytest.fixture
def lake(make_daemon, folder):
    daemon = make_daemon()
    link_engine(daemon.home, "polars")
    daemon.folder, daemon.count = folder, 0
    daemon.catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    return daemon


def attempt_on(daemon, engine, tasks):
    """The last attempt of task `t` of a flow of these tasks, each on the engine. ENGINE in the text is its name."""
    daemon.count += 1
    name = f"f{daemon.count}"
    body = "".join(f"    {line}\n" for line in tasks.replace("ENGINE", engine).strip("\n").splitlines())
    daemon.flow(name, f"id: {name}\ndefaults: {{engine: {engine}}}\ntasks:\n  - id: t\n{body}")
    run = daemon.trigger(name)
    return run, task_of(run, "t")["attempts"][-1]


def columns_and_rows(path):
    table = duckdb.sql(f"FROM read_parquet('{path}', hive_partitioning = false)")
    return list(zip(table.columns, map(str, table.types))), sorted(table.fetchall(), key=repr)


# ---- employees ----


def test_employees_on_polars(make_daemon, employees):
    seen = {}
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    link_engine(daemon.home, "polars")
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    for engine in ENGINES:
        run = json.loads(daemon.cli("trigger", "employees_pipeline", "--engine", engine, "--wait", "--json").stdout)
        assert run["state"] == "success", why(run)
        assert {t["engine"] for t in run["tasks"]} == {engine}
        seen[engine] = {}
        for name in ("stg.active_employees", "cur.employee_counts"):
            table = catalog.load_table(name)
            rows = sorted(table.scan().to_arrow().to_pylist(), key=repr)
            seen[engine][name] = [(f.name, str(f.field_type), f.required) for f in table.schema().fields], rows
            assert table.current_snapshot().summary["sluice.run-id"] == run["id"]
        attempts = {t["id"]: t["attempts"][-1] for t in run["tasks"]}
        seen[engine]["checks"] = attempts["validate"]["checks"]
        seen[engine]["outputs"] = sorted(task_of(run, "stage")["outputs"]), {k: v for k, v in task_of(run, "publish")["outputs"].items() if k != "snapshot_id"}
        seen[engine]["tables"] = [{k: v for k, v in t.items() if k not in ("snapshot_id", "bytes")} for i in ("publish", "curate") for t in attempts[i]["tables"]]
        for check in seen[engine]["checks"]:  # the staged file's path has the run in it
            check["message"], check["argument"] = check["message"].replace(run["id"], "RUN"), json.dumps(check["argument"]).replace(run["id"], "RUN")
        for task, keys in (("stage", {"rows_in", "rows_out", "files_in", "files_out", "files_read", "bytes_in", "bytes_out"}), ("publish", {"rows_out", "files_out", "bytes_out"})):
            assert keys <= set(attempts[task]["metrics"]), (engine, task)
        assert attempts["stage"]["metrics"]["rows_in"] >= attempts["stage"]["metrics"]["rows_out"] > 0
    # What the second engine replaced and overwrote, the first had made.
    for table in seen["polars"]["tables"]:
        assert table["removed_rows"] == table["rows"]
    for engine in ENGINES:
        for table in seen[engine]["tables"]:
            del table["removed_rows"], table["removed_files"]
    assert seen["polars"] == seen["duckdb"]
    # Its imports are done once, and forked.
    assert "begun threads" not in (daemon.home / "nursery.log").read_text()


# ---- SQL ----


def test_statements_mean_the_same(folder):
    link_engine(folder, "polars")
    python = folder / "engines" / "polars" / "bin" / "python"
    done = subprocess.run(
        [python, pathlib.Path(__file__).with_name("polars_sql_cases.py"), ROOT / "tasks" / "engines" / "python"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


# ---- stage ----

CSV = 'id,name,day,at,price,ok\n1,"a ""q"", b",2024-01-02,2024-01-02 03:04:05,1.25,true\n2,,2024-02-29,2024-02-29T23:59:59.5,-3,false\n 3,x,2024-03-01,2024-03-01 00:00:00,0.5,true\n'
JSON = '{"id": 1, "tags": ["a"], "s": {"x": 1.5}, "d": "2024-01-02"}\n{"id": 2, "tags": [], "s": null, "d": "2024-02-29"}\n'
STAGES = {
    "unnamed": "type: stage\nsource: {format: csv, path: FOLDER/unnamed.csv}\n",
    "csv as text": "type: stage\nsource: {format: csv, path: FOLDER/in.csv}\n",
    "csv with types": "type: stage\nsource: {format: csv, path: FOLDER/in.csv}\nschema: {id: bigint, name: varchar, day: date, at: timestamp, price: 'decimal(8,2)', ok: boolean}\n",
    "where, select, rename": 'type: stage\nsource: {format: csv, path: FOLDER/in.csv}\ncast: {price: double}\nselect: [name, "price * 2 AS twice", day]\nwhere: price > 0 AND id <> \'9\'\nrename: {name: who}\n',
    "sql and limit": "type: stage\nsource: {format: csv, path: FOLDER/in.csv}\ncast: {price: double}\nsql: SELECT ok, sum(price) AS total FROM this GROUP BY ok ORDER BY total DESC\nlimit: 1\n",
    "json": "type: stage\nsource: {format: json, path: FOLDER/in.json}\n",
    "parquet": "type: stage\nsource: {format: parquet, path: FOLDER/*.parquet}\ncast: {id: integer, x: varchar}\nwhere: id < 3\n",
    "partitions": "type: stage\nsource: {format: csv, path: FOLDER/in.csv}\n",
    "table": "type: stage\nsource: {format: iceberg, table: a.t}\nselect: [id, upper(x) AS x]\n",
}


@pytest.fixture
def sources(lake):
    folder = lake.folder / "sources"
    folder.mkdir()
    (folder / "in.csv").write_text(CSV)
    (folder / "unnamed.csv").write_text(",n,\n0,a,x\n")
    (folder / "in.json").write_text(JSON)
    for i in range(2):
        pq.write_table(pa.table({"id": pa.array([i, i + 2], pa.int64()), "x": pa.array([1, None], pa.int64())}), folder / f"in-{i}.parquet")
    lake.catalog.create_namespace("a")
    table = lake.catalog.create_table("a.t", pa.schema([("id", pa.int64()), ("x", pa.string())]))
    table.append(pa.table({"id": [1, 2], "x": ["a", None]}))
    return folder


def test_stages_write_the_same_files(lake, sources):
    for what, text in STAGES.items():
        seen = {}
        for engine in ENGINES:
            out = lake.folder / f"{engine}-{what.replace(' ', '-').replace(',', '')}"
            target = f"{{path: {out}, partition_by: [ok]}}" if what == "partitions" else f"{{path: {out}.parquet}}"
            run, attempt = attempt_on(lake, engine, text.replace("FOLDER", str(sources)) + f"target: {target}\n")
            assert run["state"] == "success", (what, engine, why(run))
            glob = f"{out}/*/*.parquet" if what == "partitions" else f"{out}.parquet"
            metrics = attempt["metrics"]
            seen[engine] = *columns_and_rows(glob), *(metrics.get(k) for k in ("rows_out", "files_out", "files_in", "bytes_in")), run["tasks"][0]["outputs"]["rows"]
        assert seen["polars"] == seen["duckdb"], what


def test_odd_csv_files_have_the_same_rows(lake):
    wrong = []
    for n, (what, source) in enumerate(csv_cases.write(lake.folder)):
        seen = {}
        for engine in ENGINES:
            out = lake.folder / f"{engine}-{n}.parquet"
            run, attempt = attempt_on(lake, engine, f"type: stage\nsource: {json.dumps(source)}\non_reject: skip\ntarget: {{path: {out}}}\n")
            good = run["state"] == "success"
            seen[engine] = (*columns_and_rows(out), attempt["metrics"].get("rows_rejected")) if good else why(run)
        if what == "returns":
            assert "carriage return" in seen["polars"]
            continue
        if what == "a blank, then quotes":  # known to differ
            assert ("1", ' "a"') in seen["polars"][1]
            continue
        if seen["polars"] != seen["duckdb"]:
            wrong.append((what, seen))
    assert wrong == [], "\n".join(map(str, wrong))


def test_the_header_of_a_large_file(lake, sources):
    rows = "".join(f"{i},{i * 7},{'x' * 50}\n" for i in range(3000))
    (sources / "quoted.csv").write_text('id,"a ""b""\nc",x\n' + rows)
    (sources / "quoted.csv.gz").write_bytes(gzip.compress((sources / "quoted.csv").read_bytes()))
    (sources / "packed.csv.gz").write_bytes(gzip.compress(os.urandom(70_000).hex().join(["id,n,", "\n"]).encode() + rows.encode()))
    (sources / "wide.csv").write_text(",".join(f"c{i}_{'y' * 60}" for i in range(1500)) + "\n" + ",".join(map(str, range(1500))) + "\n")
    for name in ("quoted.csv", "quoted.csv.gz", "packed.csv.gz", "wide.csv"):
        seen = {}
        for engine in ENGINES:
            out = lake.folder / f"{engine}-{name}.parquet"
            run, _ = attempt_on(lake, engine, f"type: stage\nsource: {{format: csv, path: {sources / name}}}\ntarget: {{path: {out}}}\n")
            assert run["state"] == "success", (name, engine, why(run))
            seen[engine] = columns_and_rows(out)
        assert seen["polars"] == seen["duckdb"], name


def test_rejects_are_the_same_rows(lake, sources):
    (sources / "bad.csv").write_text('id,n,m\n1,10,a\n2,x,b\n3,30\n,40,c\n5,50,e,f\n6, 60 ,\n')
    pq.write_table(pa.table({"id": pa.array([1, None, 3], pa.int64()), "n": ["1", "2", "x"]}), sources / "bad.pq")
    for source, keys in (("{format: csv, path: FOLDER/bad.csv}", "schema: {id: bigint not null, n: bigint, m: varchar}"), ("{format: parquet, path: FOLDER/bad.pq}", "schema: {id: bigint not null, n: int}")):
        for on_reject in ("skip", "quarantine", "fail"):
            seen = {}
            for engine in ENGINES:
                out = lake.folder / f"{engine}-rejects.parquet"
                task = f"type: stage\nsource: {source}\n{keys}\non_reject: {on_reject}\ntarget: {{path: {out}}}\n".replace("FOLDER", str(sources))
                run, attempt = attempt_on(lake, engine, task)
                if on_reject == "fail":
                    seen[engine] = run["state"], attempt["error"]["message"]
                    continue
                assert run["state"] == "success", why(run)
                rejects = pathlib.Path(f"{out}.rejects.parquet")
                seen[engine] = columns_and_rows(out), attempt["metrics"]["rows_rejected"], rejects.exists() and columns_and_rows(rejects)
                rejects.unlink(missing_ok=True)
            assert seen["polars"] == seen["duckdb"], (source, on_reject)


# Between reading the count and writing it, other threads get to run, as they may at any time.
COUNTED_BY_THREADS = """
import os
import sys
import time

import polars as pl
from sluice.engines.polars_stage import Stage


class Counts:
    counted = Stage.counted
    rows_in = seen = 0

    @property
    def odd(self):
        seen = self.seen
        time.sleep(0)
        return seen

    @odd.setter
    def odd(self, seen):
        self.seen = seen


frame = pl.LazyFrame({"id": range(1_000_000)}).with_columns((pl.col("id") % 2 == 0).alias("sluice_odd"))
for _ in range(10):
    counts = Counts()
    counts.counted(frame, True).sink_parquet(os.devnull, engine="streaming")
    print(counts.rows_in, counts.odd)
"""


def test_no_reject_is_missed_when_threads_count_them(folder):
    link_engine(folder, "polars")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tasks/engines/python")}
    told = subprocess.run([folder / "engines/polars/bin/python", "-c", COUNTED_BY_THREADS], env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert set(told.stdout.splitlines()) == {"1000000 500000"}


# ---- validate ----

CHECKS = """
type: validate
table: a.t
on_fail: warn
checks:
  - row_count: {min: 1, max: 5}
  - row_count: {equals: 7}
  - not_null: [id, x]
  - unique: [id]
  - unique: [n]
  - accepted_values: {column: x, values: [a, b]}
  - range: {column: n, min: 1, max: 2}
  - range: {column: day, min: "2024-01-02"}
  - schema: {id: long, x: varchar not null, m: int}
  - sql: SELECT count(*) = 4 FROM this
  - sql: SELECT id FROM this WHERE n > 1 ORDER BY id
  - same_rows: {count_of: a.t}
  - same_rows: {count_of: a.t, as: SELECT sum(n) FROM this}
"""


def test_checks_find_the_same(lake):
    lake.catalog.create_namespace("a")
    table = duckdb.sql("SELECT * FROM (VALUES (1, 'a', 1, DATE '2024-01-01'), (2, 'b', 1, DATE '2024-01-02'), (3, NULL, 3, NULL), (4, 'c', NULL, DATE '2024-01-03')) t(id, x, n, day)").to_arrow_table()
    lake.catalog.create_table("a.t", table.schema).append(table)
    seen = {}
    for engine in ENGINES:
        run, attempt = attempt_on(lake, engine, CHECKS)
        assert run["state"] == "success", why(run)
        seen[engine] = attempt["checks"]
    assert len(seen["polars"]) == 13
    assert seen["polars"] == seen["duckdb"]


# ---- what goes wrong ----


@pytest.mark.parametrize(
    "task, place, words",
    [
        ("type: curate\ninto: a.o\nsql: |\n  SELECT id,\n    xx FROM a.t\n", (9, 9), ['"xx" not found', 'Candidate bindings: "x"']),
        ("type: curate\ninto: a.o\nsql: SELECT regexp_matches(x, 'a') AS m FROM a.t\n", (7, 17), ["polars engine does not do", "REGEXP_MATCHES", "engines that can: duckdb"]),
        ("type: curate\ninto: a.o\nsql: SELEC 1\n", (7, 10), ["syntax error"]),
        ("type: stage\nsource: {format: iceberg, table: a.t}\nselect: [iid]\ntarget: {path: o.parquet}\n", (7, 14), ['no column "iid"; did you mean "id"?', "its columns are: id, x"]),
        ("type: stage\nsource: {format: iceberg, table: a.t}\ncast: {x: bigint}\ntarget: {path: o.parquet}\n", None, ['column "x": not of type bigint: a', "1 row of the source is bad", "on_reject"]),
        ("type: curate\ninto: a.t\nsql: SELECT 1 AS idd\n", None, ['has no column "idd" (did you mean "id"?)']),
        ("type: curate\ninto: a.t\nsql: SELECT 'z' AS id\n", None, ["z"]),
    ],
)
def test_errors_say_what_and_where(lake, sources, task, place, words):
    run, attempt = attempt_on(lake, "polars", task)
    assert run["state"] == "failed", run
    error = attempt["error"]
    for word in words:
        assert word in error["message"], error
    if place:
        assert (error.get("line"), error.get("col")) == place, error
    assert "Traceback" not in error["message"]


def test_a_trace_is_in_the_log_whole_and_its_last_line_is_the_error(lake, sources):
    (sources / "torn.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    run, attempt = attempt_on(lake, "polars", f"type: publish\nfrom: {sources}/torn.parquet\ninto: a.o\n")
    assert run["state"] == "failed"
    assert "\n" not in attempt["error"]["message"] and "ComputeError" in attempt["error"]["message"], attempt["error"]
    log = lake.task_log(run["id"], "t")
    assert "Traceback (most recent call last)" in log and log.count("ComputeError") > 1


def test_a_killed_attempt_leaves_nothing_visible(lake, sources):
    rows = pa.table({"id": pa.array(range(3_000_000), pa.int64()), "x": ["y"] * 3_000_000})
    pq.write_table(rows, sources / "big.parquet")
    lake.flow("k", f"id: k\ntasks:\n  - id: t\n    type: publish\n    engine: polars\n    from: {sources}/big.parquet\n    into: a.big\n")
    run = lake.post("/api/v1/flows/k/runs", {})
    warehouse = pathlib.Path(lake.home) / "warehouse"
    wait_until(lambda: list(warehouse.glob("a/big/data/*.parquet")), "the first file of the attempt")
    os.kill(lake.process.pid, signal.SIGSTOP)  # so that nothing can be committed meanwhile
    try:
        pids = [int(p) for p in os.listdir("/proc") if p.isdigit() and _runs(p, lake.home, run["id"])]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.kill(lake.process.pid, signal.SIGCONT)
    assert pids
    run = lake.ended(run["id"])
    assert run["state"] == "failed", run
    assert [t["name"] for t in lake.get("/api/v1/tables")["items"]] == ["a.t"]


def _runs(pid, home, run):
    """Is it a process that works for this run? Its working folder is the attempt's scratch."""
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(f"{home}/scratch/{run}")
    except OSError:
        return False
