"""Files on an S3 store as sources and targets of Spark's stage, read by its S3A connector."""

import gzip
import io
import json
import pathlib
import subprocess

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, link_engine, task_of, why
from s3_stores import KEY, SECRET, running

pytestmark = pytest.mark.timeout(600)  # a JVM on a machine with other work takes its time
TUNING = {"fs.s3a.connection.maximum": "23", "spark.hadoop.fs.s3a.connection.timeout": "17s", "fs.s3a.fast.upload.buffer": "array"}


@pytest.fixture(scope="module")
def store():
    with running("seaweedfs", "raw") as made:
        made.make_bucket("out")
        made.make_bucket("warehouse")
        yield made


def settings(store):
    return {"endpoint": store.endpoint, "access_key": KEY, "secret_key": SECRET, "region": "us-east-1", "path_style": True}


def object_of(store, bucket, key):
    status, body = store.request("GET", f"/{bucket}/{key}")
    return body if status == 200 else None


def rows(store, key):
    return pq.read_table(io.BytesIO(object_of(store, "out", key))).to_pylist()


def parquet(**columns):
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def test_stages_in_one_session(make_daemon, folder, store):
    daemon = make_daemon()
    link_engine(daemon.home, "spark")
    store.put("raw", "a/one.csv", b'id,dep,note\n1,x,"two\nlines"\n2,y,\n')
    store.put("raw", "a/two {2}.csv", b"id,dep,note\n3,x,c\n")
    store.put("raw", "b/three.csv.gz", gzip.compress(b"id,dep,note\n4,z,d\n"))
    store.put("raw", "c/lines.json", b'{"id": 1, "at": "2024-01-02"}\n{"id": 2, "at": null}\n')
    store.put("raw", "d/1.parquet", parquet(id=[1, 2], x=["a", "b"]))
    store.put("raw", "d/2.parquet", parquet(id=[3], x=["c"]))
    store.put("raw", "d2/1.parquet", parquet(id=[1]))
    store.put("raw", "d2/2.parquet", parquet(id=[2], more=["m"]))
    store.put("raw", "e/bad.csv", b"id,n\n1,10\n2,x\n3,30\n")
    store.put("out", "foreign/notes.txt", b"mine")
    csv = {"source": {"format": "csv", "path": ["s3a://raw/a/*.csv", "s3://raw/b/**/*.gz"]}, "cast": {"id": "bigint"}}
    bad = {"source": {"format": "csv", "path": "s3://raw/e/bad.csv"}, "cast": {"n": "int"}}
    stages = {
        "file": {**csv, "target": {"path": "s3://out/file.parquet"}},
        "folder": {**csv, "target": {"path": "s3://out/folder", "partition_by": ["dep"]}},
        "folder again": {**csv, "where": "dep <> 'x'", "target": {"path": "s3://out/folder", "partition_by": ["dep"]}},
        "folder read": {"source": {"format": "parquet", "path": "s3://out/folder/**/*.parquet"}, "target": {"path": f"{folder}/read.parquet"}},
        "json": {"source": {"format": "json", "path": "s3://raw/c/*.json"}, "target": {"path": "s3a://out/json.parquet"}},
        "parquet": {"source": {"format": "parquet", "path": "s3://raw/d/*"}, "select": ["x"], "where": "id > 1", "target": {"path": "s3://out/parquet.parquet"}},
        "other columns": {"source": {"format": "parquet", "path": "s3://raw/d2/*"}, "target": {"path": "s3://out/no.parquet"}},
        "rejects": {**bad, "on_reject": "quarantine", "target": {"path": "s3://out/good.parquet"}},
        "rejects fail": {**bad, "target": {"path": "s3://out/no.parquet"}},
        "foreign": {**csv, "target": {"path": "s3://out/foreign", "partition_by": ["dep"]}},
        "none": {"source": {"format": "csv", "path": "s3://raw/none/*.csv"}, "target": {"path": "s3://out/no.parquet"}},
    }
    given = {
        "catalog": {"name": "local", "uri": daemon.url + "/iceberg", "token": daemon.token},
        "s3": settings(store),
        "conf": TUNING,
        "scratch": str(folder),
        "tasks": [{"type": "stage", "engine": "spark", "spec": s} for s in stages.values()]
        + [{"type": "publish", "engine": "spark", "spec": {"from": {"path": "s3://out/good.parquet"}, "into": "stg.t"}}],
        "queries": [],
    }
    script = pathlib.Path(__file__).with_name("spark_tasks.py")
    python = daemon.home / "engines" / "spark" / "bin" / "python"
    done = subprocess.run([python, script, ROOT / "tasks" / "engines" / "python"], input=json.dumps(given), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    told = json.loads(done.stdout)
    assert told["hadoop"] == {name.removeprefix("spark.hadoop."): value for name, value in TUNING.items()}
    assert SECRET not in done.stderr and SECRET not in str(told["conf"]) + str(told["jvm"])
    lines = dict(zip(stages, told["tasks"]))
    metrics = {what: {k: v for line in one["lines"] for k, v in line.get("metrics", {}).items()} for what, one in lines.items()}
    outputs = {what: {k: v for line in one["lines"] for k, v in line.get("outputs", {}).items()} for what, one in lines.items()}
    wrong = {what: one["error"]["message"] for what, one in lines.items() if one["error"]}

    assert sorted(wrong) == ["foreign", "none", "other columns", "rejects fail"], wrong

    whole = [{"id": 1, "dep": "x", "note": "two\nlines"}, {"id": 2, "dep": "y", "note": None}, {"id": 3, "dep": "x", "note": "c"}, {"id": 4, "dep": "z", "note": "d"}]
    assert sorted(rows(store, "file.parquet"), key=lambda r: r["id"]) == whole
    assert metrics["file"]["files_in"] == 3 and metrics["file"]["bytes_in"] > 80 and metrics["file"]["rows_out"] == 4
    # A partition whose rows are gone is gone, and the folder is whole.
    run = [n for n, what in enumerate(stages) if what == "folder again"][0]
    keys = store.keys("out", "folder/")
    assert sorted(k.rsplit("/", 1)[0] for k in keys) == ["folder", "folder/dep=y", "folder/dep=z"] and "folder/_SUCCESS" in keys, keys
    assert outputs["folder again"] == {"path": f"s3://out/folder/**/r{run}-t-1-*.parquet", "rows": 2}
    assert sorted(duckdb.sql(f"SELECT id, dep FROM '{folder}/read.parquet'").fetchall()) == [(2, "y"), (4, "z")]
    assert [r["id"] for r in rows(store, "json.parquet")] == [1, 2] and sorted(r["x"] for r in rows(store, "parquet.parquet")) == ["b", "c"]
    assert [r["id"] for r in rows(store, "good.parquet")] == ["1", "3"] and metrics["rejects"]["rows_rejected"] == 1
    assert rows(store, "good.parquet.rejects.parquet")[0]["file"] == "s3://raw/e/bad.csv" and outputs["rejects"]["rejects"] == "s3://out/good.parquet.rejects.parquet"
    assert "s3://out/foreign/notes.txt, which is not Parquet" in wrong["foreign"]
    assert 's3://raw/d2/2.parquet has the column "more", which s3://raw/d2/1.parquet has not' in wrong["other columns"]
    assert wrong["rejects fail"].startswith("s3://raw/e/bad.csv:3:") and "no file matches s3://raw/none/*.csv" in wrong["none"]
    assert object_of(store, "out", "no.parquet") is None
    assert told["tasks"][-1]["error"] is None, told["tasks"][-1]
    assert daemon.sql("SELECT id, n FROM stg.t ORDER BY id") == [{"id": "1", "n": 10}, {"id": "3", "n": 30}]
    assert daemon.sql('SELECT line, "row" FROM stg.t__rejected') == [{"line": 3, "row": "2,x"}]


FLOW = """
id: f
tasks:
  - id: stage
    type: stage
    engine: spark
    engine_options: {threads: 2, conf: {fs.s3a.connection.maximum: 9}}
    source: {format: csv, path: "s3://raw/f/*.csv"}
    cast: {n: int}
    target: {path: "s3://out/run=${run.id}/part.parquet"}
  - {id: publish, type: publish, depends_on: [stage], from: "${tasks.stage.outputs.path}", into: stg.t}
"""


def test_a_flow_from_store_to_store(make_daemon, store):
    store.put("raw", "f/good.csv", b"id,n\n1,10\n3,30\n")
    daemon = make_daemon(config=f"s3: {json.dumps(settings(store))}\ncatalog: {{name: local, warehouse: 's3://warehouse/w'}}\n", start=False)
    link_engine(daemon.home, "spark")
    daemon.start().flow("f", FLOW)
    run = daemon.trigger("f")
    assert run["state"] == "success", why(run)
    assert task_of(run, "stage")["attempts"][-1]["metrics"]["bytes_in"] == 15
    assert daemon.sql("SELECT id, n FROM stg.t ORDER BY id") == [{"id": "1", "n": 10}, {"id": "3", "n": 30}]
    assert SECRET not in daemon.task_log(run["id"], "stage") + daemon.log
