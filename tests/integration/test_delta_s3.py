"""Delta tables on an S3 store, by every engine that can, and by two writers at once. Rows are read by delta-rs."""

import json

import duckdb
import pyarrow as pa
import pytest
from conftest import link_engine, task_of, why
from deltalake import DeltaTable, write_deltalake
from s3_stores import KEY, SECRET, front, running

pytestmark = pytest.mark.timeout(600)  # a JVM on a machine with other work takes its time
TABLE, BUSY = "s3://lake/a b/staff", "s3://lake/busy"


def test_every_engine_and_another_writer(make_daemon, folder):
    with running("seaweedfs", "lake") as store:
        named = {"endpoint_url": store.endpoint, "region": "us-east-1", "access_key_id": KEY, "secret_access_key": SECRET, "allow_http": "true"}
        options = {f"aws_{k}": v for k, v in named.items()}
        between = []

        def meet(request, body):
            """Somebody else commits behind Spark's look at the log, and before its own commit."""
            if request.command == "PUT" and "/busy/_delta_log/" in request.path and request.path.endswith("01.json") and not between:
                between.append(request.path)
                write_deltalake(BUSY, pa.table({"who": ["between"]}), mode="append", storage_options=options)

        with front(store, meet) as before:
            s3 = {"endpoint": before.endpoint, "access_key": KEY, "secret_key": SECRET, "region": "us-east-1", "path_style": True}
            daemon = make_daemon(config=f"s3: {json.dumps(s3)}\n", start=False)
            link_engine(daemon.home, "polars")
            link_engine(daemon.home, "spark")
            daemon.start()

            def good(name, engine, **keys):
                more = {"engine_options": {"connect": True}} if engine == "spark" else {}
                daemon.flow(name, json.dumps({"id": name, "tasks": [{"id": "t", "engine": engine, **more, **keys}]}))
                run = daemon.trigger(name)
                assert run["state"] == "success", (name, why(run))
                return task_of(run, "t")["outputs"]

            def rows(path, version=None):
                return sorted(tuple(r.values()) for r in DeltaTable(path, version=version, storage_options=options).to_pyarrow_table().to_pylist())

            to = {"format": "delta", "path": TABLE}
            three = " UNION ALL ".join(f"SELECT {i}::BIGINT AS id, 'x' AS dep" for i in range(3))
            changes = [
                ("polars", {"from": {"sql": three}, "to": {**to, "partition_by": ["dep"]}}, [(0, "x"), (1, "x"), (2, "x")]),
                ("spark", {"from": {"sql": "SELECT 2::BIGINT AS id, 'y' AS dep UNION ALL SELECT 7, 'y'"}, "to": {**to, "mode": "upsert", "key": ["id"]}}, [(0, "x"), (1, "x"), (2, "y"), (7, "y")]),
                ("spark", {"to": {**to, "mode": "update", "set": {"dep": "dep || '!'"}, "where": "id < 2"}}, [(0, "x!"), (1, "x!"), (2, "y"), (7, "y")]),
                ("polars", {"from": {"sql": "SELECT 7::BIGINT AS id"}, "to": {**to, "mode": "delete", "key": ["id"]}}, [(0, "x!"), (1, "x!"), (2, "y")]),
            ]
            for n, (engine, keys, _) in enumerate(changes):
                assert good(f"f{n}", engine, type="export", **keys)["version"] == n
            assert [rows(TABLE, n) for n in range(len(changes))] == [wanted for _, _, wanted in changes]
            for engine in ("duckdb", "polars", "spark"):
                for name, version, wanted in ((engine, {}, changes[-1][2]), (f"{engine}1", {"version": 1}, changes[1][2])):
                    good(name, engine, type="stage", source={**to, **version}, target={"path": f"{folder}/{name}.parquet"})
                    assert duckdb.sql(f"SELECT id, dep FROM '{folder}/{name}.parquet' ORDER BY id").fetchall() == wanted, name

            write_deltalake(BUSY, pa.table({"who": ["begin"]}), storage_options=options)
            busy = {"from": {"sql": "SELECT 'spark' AS who"}, "to": {"format": "delta", "path": BUSY}}
            assert good("busy", "spark", type="export", **busy)["version"] == 2 and between
            assert rows(BUSY) == [("begin",), ("between",), ("spark",)]
