"""Delta tables by every engine that can: time travel, and exports that change them once. Rows are read by delta-rs, which wrote none of Spark's."""

import datetime as dt
import json
import os
import pathlib
import signal
import subprocess
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, link_engine, task_of, wait_until, why
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.rest import RestCatalog

pytestmark = pytest.mark.timeout(600)  # a JVM on a machine with other work takes its time
STAFF = pa.table(
    {
        "id": pa.array([1, 2, 3, 4], pa.int64()),
        "name": pa.array(["a", "b", "ü'", None]),
        "dep": pa.array(["x", "y", "x", "y"]),
        "salary": pa.array([100.0, 200.0, 300.0, None], pa.float64()),
        "n": pa.array([10, 20, 30, 40], pa.int32()),
    }
)


def rows(path, version=None):
    return sorted((tuple(r.values()) for r in DeltaTable(str(path), version=version).to_pyarrow_table().to_pylist()), key=repr)


@pytest.fixture
def spark(make_daemon, folder):
    """Tasks of Spark in one session."""
    daemon = make_daemon()
    link_engine(daemon.home, "spark")
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    catalog.create_namespace("s")
    catalog.create_table("s.t", STAFF.schema).append(STAFF)

    def run(tasks):
        given = {
            "catalog": {"name": "local", "uri": daemon.url + "/iceberg", "token": daemon.token},
            "scratch": str(folder),
            "spec": {"to": {"format": "delta"}},
            "tasks": tasks,
            "queries": [],
        }
        script = pathlib.Path(__file__).with_name("spark_tasks.py")
        python = daemon.home / "engines" / "spark" / "bin" / "python"
        done = subprocess.run([python, script, ROOT / "tasks" / "engines" / "python"], input=json.dumps(given), capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        (folder / "log").write_text(done.stderr)
        return json.loads(done.stdout)["tasks"]

    run.daemon = daemon
    return run


def test_every_mode_and_what_is_wrong(spark, folder):
    path = folder / "a b[1]" / "staff"
    to = {"format": "delta", "path": str(path)}
    sql = "SELECT * FROM s.t"
    raised = "SELECT id, salary + 1 AS salary FROM s.t WHERE id < 3 UNION ALL SELECT 9, 900.0"
    steps = [  # what is done, and the rows by id afterwards, (dep, salary, n) of each
        ({"from": {"sql": sql}, "to": {**to, "partition_by": ["dep"]}}, {1: ("x", 100.0, 10), 2: ("y", 200.0, 20), 3: ("x", 300.0, 30), 4: ("y", None, 40)}),
        ({"to": {**to, "mode": "update", "set": {"Salary": "salary * 1.1", "n": "n + CASE WHEN name LIKE 'a%' THEN 1 ELSE 2 END"}, "where": "dep = 'x'"}}, {1: ("x", 110.00000000000001, 11), 3: ("x", 330.0, 32)}),
        ({"from": {"sql": raised}, "to": {**to, "mode": "upsert", "key": ["id"]}}, {1: ("x", 101.0, 11), 2: ("y", 201.0, 20), 9: (None, 900.0, None)}),
        ({"to": {**to, "mode": "delete", "where": "salary > 800 OR n = 40"}}, {9: None, 4: None}),
        ({"from": {"sql": "SELECT 2 AS id, 'other' AS name"}, "to": {**to, "mode": "delete", "key": ["id"]}}, {2: None}),
        ({"from": {"table": "s.t"}, "to": to}, None),
        ({"from": {"path": str(folder / "more.parquet")}, "to": {**to, "mode": "overwrite"}}, {1: None, 2: None, 3: None, 4: None, 7: ("z", None, 70)}),
        ({"from": {"sql": "SELECT 1 AS other, 'p' AS part"}, "to": {**to, "mode": "replace", "partition_by": ["part"]}}, None),
    ]
    pq.write_table(pa.table({"n": pa.array([70], pa.int64()), "id": pa.array([7], pa.int32()), "dep": ["z"]}), folder / "more.parquet")
    wrong = [
        ({"to": {**to, "path": str(folder / "none"), "mode": "update", "set": {"a": "1"}}}, "is no Delta table: it has no _delta_log"),
        ({"to": {**to, "mode": "update", "set": {"othr": "1"}}}, 'has no column "othr"; did you mean "other"?'),
        ({"to": {**to, "mode": "update", "set": {"other": "othr + 1"}}}, '"othr" not found'),
        ({"to": {**to, "mode": "update", "set": {"other": "other * 1.5"}}}, "write round(…) around it"),
        ({"to": {**to, "mode": "delete", "where": "part ~ 'p'"}}, "engines that can: duckdb"),
        ({"from": {"sql": "SELECT 'x' AS oter"}, "to": to}, 'has no column "oter"; did you mean "other"?'),
        ({"from": {"sql": "SELECT 1 AS other"}, "to": {**to, "mode": "upsert", "key": ["oter"]}}, 'the rows have no column "oter" for the key; did you mean "other"?'),
        ({"from": {"sql": "SELECT 1 AS other UNION ALL SELECT 1"}, "to": {**to, "mode": "upsert", "key": ["other"]}}, "2 rows have the same key (other): 1"),
        ({"from": {"sql": "SELECT 1 AS other"}, "to": {**to, "partition_by": ["other"]}}, "is partitioned by part; another partition_by is for mode: replace"),
        ({"from": {"sql": sql}, "to": {**to, "path": str(folder)}}, "holds something else than a Delta table"),
    ]
    reads = [  # versions, and what a time of them means
        {"version": 1},
        {},
        {"timestamp": "2001-01-01"},
        {"version": 99},
        {"timestamp": "soon"},
    ]
    tasks = [{"type": "export", "engine": "spark_sql" if i % 2 else "spark", "spec": spec} for i, (spec, _) in enumerate([*steps, *wrong])]
    source = {"format": "delta", "path": str(path)}
    tasks += [{"type": "stage", "engine": "spark", "spec": {"source": {**source, **at}, "target": {"path": str(folder / f"out-{i}.parquet")}}} for i, at in enumerate(reads)]
    done = spark(tasks)

    want = {}
    for version, ((spec, change), result) in enumerate(zip(steps, done)):
        assert result["error"] is None, (spec, result)
        outputs = next(line["outputs"] for line in result["lines"] if "version" in line.get("outputs", {}))
        assert outputs["version"] == version and outputs["path"] == str(path), outputs
        assert outputs["rows"] == (len(change) if change and version < 6 else {5: 4, 6: 1, 7: 1}[version]), (spec, outputs)
        if change is None:
            continue
        want = {k: v for k, v in {**({} if version == 6 else want), **change}.items() if v is not None}
        have = {r["id"]: (r["dep"], r["salary"], r["n"]) for r in DeltaTable(str(path), version=version).to_pyarrow_table().to_pylist()}
        assert have == want, (spec, have)
    table = DeltaTable(str(path))
    assert table.version() == len(steps) - 1 and rows(path) == [(1, "p")] and table.metadata().partition_columns == ["part"]
    assert json.loads(table.history(1)[0]["userMetadata"])["sluice.task-id"] == "t"
    for (spec, says), result in zip(wrong, done[len(steps) :]):
        assert says in (result["error"] or {"message": "nothing"})["message"], (spec, result)

    # What a time means, on Spark as on DuckDB: also what is said of one that is none.
    for i, (at, result) in enumerate(zip(reads, done[len(steps) + len(wrong) :])):
        spark.daemon.flow(f"r{i}", json.dumps({"id": f"r{i}", "tasks": [{"id": "t", "type": "stage", "source": {**source, **at}, "target": {"path": str(folder / f"duckdb-{i}.parquet")}}]}))
        run = spark.daemon.trigger(f"r{i}")
        attempt = task_of(run, "t")["attempts"][-1]
        if result["error"]:
            assert result["error"]["message"] == attempt["error"]["message"], (at, result, attempt)
            continue
        assert run["state"] == "success", why(run)
        outputs = {k: v for line in result["lines"] for k, v in line.get("outputs", {}).items() if k not in ("path", "session")}
        assert outputs == {k: v for k, v in task_of(run, "t")["outputs"].items() if k != "path"}, (at, outputs)
        ours, theirs = (pq.read_table(folder / f"{e}-{i}.parquet") for e in ("out", "duckdb"))
        assert ours.schema.names == theirs.schema.names and ours.schema.types == theirs.schema.types, (ours.schema, theirs.schema)
        assert sorted(ours.to_pylist(), key=repr) == sorted(theirs.to_pylist(), key=repr)
    assert sum(r["error"] is not None for r in done[len(steps) + len(wrong) :]) == 3


FLOW = """
id: raises
tasks:
  - id: update
    type: export
    engine: spark
    engine_options: {threads: 2, shuffle_partitions: 2}
    retry: {max_attempts: 3, interval: 0s}
    to: {format: delta, path: %(path)s, mode: update, set: {salary: salary * 1.1}, where: "dep = '${vars.dep}'"}
  - id: read
    type: stage
    depends_on: update
    source: {format: delta, path: %(path)s, version: "${tasks.update.outputs.version}"}
    target: {path: %(path)s.parquet}
vars: {dep: x}
"""


def test_an_update_is_made_once_whatever_ends_its_attempts(make_daemon, folder):
    """Killed when its commit is there, before it could tell anybody; the next attempt finds it, and changes nothing twice."""
    daemon = make_daemon()
    link_engine(daemon.home, "spark")
    path = folder / "staff"
    write_deltalake(str(path), STAFF)
    daemon.flow("raises", FLOW % {"path": path})
    run = daemon.post("/api/v1/flows/raises/runs", {})
    commit = path / "_delta_log" / f"{1:020}.json"
    wait_until(lambda: _attempt_of(run["id"]), "the attempt's process", 240)
    pid = _attempt_of(run["id"])
    deadline = time.monotonic() + 240
    while not commit.exists():
        assert time.monotonic() < deadline, why(daemon.run(run["id"]))
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    ended = daemon.ended(run["id"])
    assert ended["state"] == "success", why(ended)
    attempts = task_of(ended, "update")["attempts"]
    assert [a["state"] for a in attempts] == ["failed", "success"], attempts
    outputs = {k: v for k, v in task_of(ended, "update")["outputs"].items() if k != "session"}
    assert outputs == {"path": str(path), "version": 1, "rows": 2}
    assert "an earlier attempt has made this change, in version 1" in daemon.task_log(run["id"], "update")
    table = DeltaTable(str(path))
    assert table.version() == 1 and [r["salary"] for r in sorted(table.to_pyarrow_table().to_pylist(), key=lambda r: r["id"])] == [110.00000000000001, 200.0, 330.0, None]
    assert pq.read_table(f"{path}.parquet").num_rows == 4


def _attempt_of(run):
    """The process of the run's attempt that Spark's JVM belongs to."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if run in pathlib.Path(f"/proc/{pid}/cmdline").read_text() and "PythonGatewayServer" in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
                return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    return None


def test_polars_writes_and_every_engine_reads_the_same(make_daemon, folder):
    """Rows by rows and by keys, on delta-rs; versions and times of it on DuckDB and Polars, with the same rows and words."""
    daemon = make_daemon()
    link_engine(daemon.home, "polars")
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    catalog.create_namespace("s")
    catalog.create_table("s.t", STAFF.schema).append(STAFF)
    path = folder / "a b" / "staff"
    to = {"format": "delta", "path": str(path)}

    def export(origin, more=None, attempts=1):
        task = {"id": "e", "type": "export", "engine": "polars", "from": origin, "to": {**to, **(more or {})}}
        daemon.flow("e", json.dumps({"id": "e", "tasks": [task]}))
        run = daemon.trigger("e")
        attempt = task_of(run, "e")["attempts"][-1]
        return task_of(run, "e")["outputs"] if run["state"] == "success" else attempt["error"]["message"]

    assert export({"sql": "SELECT *, id::UTINYINT AS u FROM s.t"}, {"partition_by": "dep"}) == {"path": str(path), "version": 0, "rows": 4}
    changes = "SELECT id, salary + 1 AS salary FROM s.t WHERE id < 3 UNION ALL SELECT 9, 900.0"
    assert export({"sql": changes}, {"mode": "upsert", "key": "ID"}) == {"path": str(path), "version": 1, "rows": 3, "inserted": 1, "updated": 2, "deleted": 0}
    assert export({"sql": "SELECT 2 AS id, 'other' AS name"}, {"mode": "delete", "key": "id"})["deleted"] == 1
    assert export("s.t")["version"] == 3
    have = sorted((r["id"], r["dep"], r["salary"], r["u"]) for r in DeltaTable(str(path), version=2).to_pyarrow_table().to_pylist())
    assert have == [(1, "x", 101.0, 1), (3, "x", 300.0, 3), (4, "y", None, 4), (9, None, 900.0, None)]
    assert json.loads(DeltaTable(str(path)).history(1)[0]["userMetadata"])["sluice.flow"] == "e"
    assert "is partitioned by dep" in export("s.t", {"partition_by": "name"})
    assert 'has no column "idd"; did you mean "id"?' in export({"sql": "SELECT 1 AS idd"})
    assert "2 rows have the same key (id): 1" in export({"sql": "SELECT 1 AS id UNION ALL SELECT 1"}, {"mode": "upsert", "key": "id"})
    pq.write_table(pa.table({"k": ["p ü"], "m": [[("a", 1)]]}, schema=pa.schema([("k", pa.string()), ("m", pa.map_(pa.string(), pa.int64()))])), folder / "one.parquet")
    assert export({"path": str(folder / "one.parquet")}, {"mode": "replace", "partition_by": "k"})["version"] == 4

    when = dt.datetime.fromtimestamp(DeltaTable(str(path)).history()[-2]["timestamp"] / 1000, dt.timezone.utc).isoformat()
    for i, at in enumerate([{}, {"version": 2}, {"timestamp": when}, {"timestamp": "2001-01-01"}, {"version": 5}, {"timestamp": "soon"}]):
        seen = []
        for engine in ("duckdb", "polars"):
            out = folder / f"{engine}-{i}.parquet"
            task = {"id": "t", "type": "stage", "engine": engine, "source": {**to, **at}, "target": {"path": str(out)}}
            daemon.flow(f"r{i}", json.dumps({"id": f"r{i}", "tasks": [task]}))
            run = daemon.trigger(f"r{i}")
            if run["state"] == "success":
                table = pq.read_table(out)
                types = [str(t).replace("large_", "") for t in table.schema.types]
                seen.append((table.schema.names, types, sorted(table.to_pylist(), key=repr), task_of(run, "t")["outputs"]["version"]))
            else:
                seen.append(task_of(run, "t")["attempts"][-1]["error"]["message"])
        assert seen[0] == seen[1], (at, seen)
        assert isinstance(seen[0], str) == (i > 2) and (i != 2 or seen[0][3] == 1), (at, seen)


def test_what_the_loader_refuses(make_daemon):
    daemon = make_daemon()
    rows = {"sql": "SELECT 1 AS id"}
    for origin, engine, to, words in (
        (None, "spark", {}, 'task "e" needs the key "from"'),
        (None, "spark", {"mode": "update"}, 'mode: update needs "set"'),
        (rows, "spark", {"mode": "update", "set": {"a": "1"}}, "takes no rows"),
        (None, "spark", {"mode": "delete"}, 'needs one of "where", a condition, and "key"'),
        (None, "spark", {"mode": "delete", "key": "id"}, "needs `from`"),
        (rows, "spark", {"where": "id = 1"}, '"where" goes with mode: update'),
        (rows, "spark", {"key": "id"}, '"key" goes with mode: upsert and mode: delete'),
        (rows, "spark", {"compression": "zstd"}, '"compression" does not go with format: delta'),
        (rows, "duckdb", {}, 'engine "duckdb" does not do `to.format: delta` of task "e"; these can: polars, spark, spark_sql'),
        (rows, "spark", {"format": "csv"}, 'engine "spark" does not do `to.format: csv` of task "e"; these can: duckdb'),
        (None, "polars", {"mode": "update", "set": {"a": "1"}}, 'engine "polars" does not do `to.mode: update` of task "e"; these can: spark, spark_sql'),
        (rows, "duckdb", {"format": "sqlite", "table": "t", "mode": "delete"}, "modes update and delete go with format: delta"),
    ):
        task = {"id": "e", "type": "export", "engine": engine, "to": {"format": "delta", "path": "/tmp/x", **to}}
        flow = {"id": "x", "tasks": [{**task, "from": origin} if origin else task]}
        answer = daemon.request("POST", "/api/v1/validate", {"file": "x.yaml", "source": json.dumps(flow)}).json
        assert any(words in p["message"] for p in answer["problems"]), (to, answer)
