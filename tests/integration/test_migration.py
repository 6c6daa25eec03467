"""Parquet data sets and Delta tables become Iceberg tables: what is carried, what is checked, and what is refused."""

import base64
import datetime as dt
import decimal
import json
import os
import pathlib
import struct
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.rest import RestCatalog
from pyroaring import BitMap, BitMap64

from conftest import task_of, why
from s3_stores import Store, program
from test_s3 import environment

UTC = dt.timezone.utc


def publish(daemon, source, into="stg.t", flow="m", **more):
    """A flow of one publish task, run to its end; `source` is what stands behind from."""
    keys = {"id": "p", "type": "publish", "from": source, "into": into, **more}
    daemon.flow(flow, json.dumps({"id": flow, "tasks": [keys]}))
    return daemon.trigger(flow)


def good(run):
    assert run["state"] == "success", why(run)
    attempt = task_of(run, "p")["attempts"][-1]
    assert all(c["passed"] for c in attempt["checks"])
    return attempt


def refused(run, daemon=None, table=None):
    assert run["state"] == "failed", run
    if table:  # nothing became visible
        assert daemon.request("GET", f"/api/v1/tables/{table}").status == 404
    return task_of(run, "p")["attempts"][-1]["error"]["message"]


def arrow(daemon, table, sort="id"):
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    try:
        return catalog.load_table(table), catalog.load_table(table).scan().to_arrow().sort_by(sort)
    finally:
        catalog._session.close()


def rows_of_all_types(lo, hi):
    n = range(lo, hi)
    at = dt.datetime(2024, 1, 1)
    columns = {
        "id": pa.array(n, pa.int64()),
        "i8": pa.array([i % 100 - 50 for i in n], pa.int8()),
        "i16": pa.array([-i for i in n], pa.int16()),
        "i32": pa.array([i * 1000 for i in n], pa.int32()),
        "f": pa.array([i / 3 for i in n], pa.float32()),
        "d": pa.array([float("nan") if i == 3 else i / 3 for i in n], pa.float64()),
        "dec": pa.array([decimal.Decimal(i) / 4 for i in n], pa.decimal128(38, 10)),
        "s": pa.array([None if i % 5 == 0 else f"ñ {i}" for i in n]),
        "bin": pa.array([bytes([i % 256, 0]) for i in n], pa.binary()),
        "day": pa.array([dt.date(2024, 1, 1) + dt.timedelta(days=i % 3) for i in n]),
        "ts": pa.array([at.replace(tzinfo=UTC) + dt.timedelta(microseconds=i) for i in n], pa.timestamp("us", "UTC")),
        "tsn": pa.array([at + dt.timedelta(microseconds=i) for i in n], pa.timestamp("us")),
        "st": pa.array([{"a": i, "b": {"c": str(i)}} for i in n]),
        "li": pa.array([[i, None] for i in n], pa.list_(pa.int32())),
        "mp": pa.array([[("k", i)] for i in n], pa.map_(pa.string(), pa.int32())),
        "flag": pa.array([i % 2 == 0 for i in n]),
    }
    return pa.table(columns)


def same_rows(got, want):
    """Column by column in this order, values equal; NaN is itself."""
    assert got.column_names == want.column_names
    for name in want.column_names:
        assert repr(got[name].to_pylist()) == repr(want[name].to_pylist()), name


@pytest.fixture(scope="module")
def delta(tmp_path_factory):
    """Versions 0: ten rows, 1: fifteen, 2: without the first three; partitioned by day."""
    path = tmp_path_factory.mktemp("delta") / "t"
    write_deltalake(path, rows_of_all_types(0, 10), partition_by=["day"])
    write_deltalake(path, rows_of_all_types(10, 15), mode="append")
    DeltaTable(path).delete("id < 3")
    return path


# ---- Delta ----


def test_a_delta_table_with_all_types(shared, delta):
    attempt = good(publish(shared, {"format": "delta", "path": str(delta)}, "d.types"))
    table, got = arrow(shared, "d.types")
    same_rows(got, rows_of_all_types(3, 15))
    assert [f.name for f in table.spec().fields] == ["day"] and str(table.spec().fields[0].transform) == "identity"
    kinds = {f.name: str(f.field_type) for f in table.schema().fields}
    assert [kinds[n] for n in ("i8", "i16", "i32", "dec", "ts", "tsn")] == ["int", "int", "int", "decimal(38, 10)", "timestamptz", "timestamp"]
    checks = {c["name"]: c for c in attempt["checks"]}
    assert list(checks) == ["rows", *got.column_names]
    assert checks["rows"]["value"] == 12 and checks["rows"]["message"] == "12 in the source, 12 written, 12 by the source's own account; the same ones"
    assert checks["i8"]["message"] == "TINYINT in the source, int in the table; 0 NULLs in both, the same values"
    assert checks["s"]["value"] == 2


def test_versions_and_times(shared, delta):
    history = {h["version"]: dt.datetime.fromtimestamp(h["timestamp"] / 1000, UTC) for h in DeltaTable(delta).history()}
    for version, rows in ((0, 10), (1, 15), (2, 12)):
        run = publish(shared, {"format": "delta", "path": str(delta), "version": version}, "d.v", mode="replace")
        good(run)
        assert task_of(run, "p")["outputs"]["version"] == version
        assert shared.sql("SELECT count(*) AS n FROM d.v") == [{"n": rows}]
        good(publish(shared, {"format": "delta", "path": str(delta), "timestamp": history[version].isoformat()}, "d.v", mode="replace"))
        assert shared.sql("SELECT count(*) AS n FROM d.v") == [{"n": rows}]
    later = history[2] + dt.timedelta(days=1)
    good(publish(shared, {"format": "delta", "path": str(delta), "timestamp": later.strftime("%Y-%m-%d %H:%M")}, "d.v", mode="replace"))
    assert shared.sql("SELECT count(*) AS n FROM d.v") == [{"n": 12}]


def test_versions_that_are_not_there(shared, delta, tmp_path):
    source = {"format": "delta", "path": str(delta)}
    assert refused(publish(shared, {**source, "version": 9}, "d.no"), shared, "d.no") == f"Delta table {delta} has no version 9: it has 0 to 2"
    said = refused(publish(shared, {**source, "timestamp": "2020-01-01"}, "d.no"))
    assert "no version as old as 2020-01-01: its oldest is version 0, of 20" in said
    assert 'timestamp "yesterday" is no time' in refused(publish(shared, {**source, "timestamp": "yesterday"}, "d.no"))
    # After a checkpoint old commits may go.
    write_deltalake(tmp_path / "t", rows_of_all_types(0, 2))
    for i in range(3):
        write_deltalake(tmp_path / "t", rows_of_all_types(i + 2, i + 3), mode="append")
    DeltaTable(tmp_path / "t").create_checkpoint()
    for i in range(3):
        (tmp_path / "t" / "_delta_log" / f"{i:020}.json").unlink()
    source["path"] = str(tmp_path / "t")
    assert "has no version 1: it has 3 to 3; older ones have been cleaned away" in refused(publish(shared, {**source, "version": 1}, "d.no"))
    good(publish(shared, source, "d.checkpoint"))
    assert shared.sql("SELECT count(*) AS n FROM d.checkpoint") == [{"n": 5}]


# ---- logs written by hand, for what deltalake does not write ----

ID = {"name": "id", "type": "long", "nullable": True, "metadata": {}}


def by_hand(path, features=(), fields=(ID,), settings=None, reader=3, writer=7, rows=None, add=None, info=None):
    """A table of one version and one file."""
    (path / "_delta_log").mkdir(parents=True)
    pq.write_table(rows or pa.table({"id": pa.array([1, 2, 3], pa.int64())}), path / "f.parquet")
    protocol = {"minReaderVersion": reader, "minWriterVersion": writer}
    if reader == 3:
        protocol |= {"readerFeatures": list(features), "writerFeatures": list(features)}
    schema = json.dumps({"type": "struct", "fields": list(fields)})
    lines = [
        {"commitInfo": {"timestamp": 1700000000000, "operation": "WRITE", **(info or {})}},
        {"protocol": protocol},
        {"metaData": {"id": "x", "format": {"provider": "parquet", "options": {}}, "schemaString": schema, "partitionColumns": [], "configuration": settings or {}}},
        {"add": {"path": "f.parquet", "partitionValues": {}, "size": (path / "f.parquet").stat().st_size, "modificationTime": 1700000000000, "dataChange": True, **(add or {})}},
    ]
    (path / "_delta_log" / f"{0:020}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"format": "delta", "path": str(path)}


def z85(data):
    digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    out = ""
    for (n,) in struct.iter_unpack(">I", data):
        out += "".join(digits[n // 85**k % 85] for k in (4, 3, 2, 1, 0))
    return out


def test_deletion_vectors(shared, tmp_path):
    vector = struct.pack("<I", 1681511377) + struct.pack("<Q", 1) + struct.pack("<I", 0) + BitMap([1]).serialize()
    vector += bytes(-len(vector) % 4)
    mark = {"storageType": "i", "pathOrInlineDv": z85(vector), "sizeInBytes": len(vector), "cardinality": 1}
    source = by_hand(tmp_path / "t", ["deletionVectors"], settings={"delta.enableDeletionVectors": "true"}, add={"deletionVector": mark, "stats": '{"numRecords":3}'})
    attempt = good(publish(shared, source, "d.vectors"))
    assert shared.sql("SELECT id FROM d.vectors ORDER BY id") == [{"id": 1}, {"id": 3}]
    assert attempt["checks"][0]["message"] == "2 in the source, 2 written, 2 by the source's own account; the same ones"
