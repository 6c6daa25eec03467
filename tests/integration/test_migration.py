"""Parquet data sets and Delta tables become Iceberg tables: what is carried, what is checked, and what is refused."""

import datetime as dt
import decimal
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.rest import RestCatalog
from pyroaring import BitMap

from conftest import ROOT, sluice, task_of, why
from s3_stores import running
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
    assert list(checks) == ["rows", *got.column_names, "table"]
    assert checks["rows"]["value"] == 12 and checks["rows"]["message"] == "12 in the source, 12 written, 12 by the source's own account; the same ones"
    assert checks["i8"]["message"] == "TINYINT in the source, int in the table; 0 NULLs in both, the same values"
    assert checks["s"]["value"] == 2
    assert checks["table"]["message"] == f"snapshot {table.current_snapshot().snapshot_id} has 12 rows, 12 by its summary; it added 12"


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


def test_deletion_vectors_in_a_file(shared, tmp_path):
    """As Spark writes them: a file of vectors beside the data, each with its size and checksum."""
    vector = struct.pack("<I", 1681511377) + struct.pack("<Q", 1) + struct.pack("<I", 0) + BitMap([0, 2]).serialize()
    name = "0123456789abcdef0123456789abcdef"
    uuid = bytes.fromhex(name)
    mark = {"storageType": "u", "pathOrInlineDv": z85(uuid), "offset": 1, "sizeInBytes": len(vector), "cardinality": 2}
    source = by_hand(tmp_path / "t", ["deletionVectors"], settings={"delta.enableDeletionVectors": "true"}, add={"deletionVector": mark, "stats": '{"numRecords":3}'})
    file = f"deletion_vector_{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}.bin"
    (tmp_path / "t" / file).write_bytes(b"\1" + struct.pack(">I", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector)))
    good(publish(shared, source, "d.vector_file"))
    assert shared.sql("SELECT id FROM d.vector_file") == [{"id": 2}]
    # Without that file rows that were deleted would come back.
    (tmp_path / "t" / file).unlink()
    assert file in refused(publish(shared, source, "d.vector_gone"), shared, "d.vector_gone")


def test_mapped_columns(shared, tmp_path):
    def column(name, kind, id, physical):
        return {"name": name, "type": kind, "nullable": True, "metadata": {"delta.columnMapping.id": id, "delta.columnMapping.physicalName": physical}}

    fields = [column("shown", "long", 1, "col-1"), column("n e w", "string", 2, "col-2")]
    rows = pa.table({"col-2": ["x", "y"], "col-1": [1, 2]})
    settings = {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "2"}
    good(publish(shared, by_hand(tmp_path / "n", ["columnMapping"], fields, settings, rows=rows), "d.mapped"))
    assert shared.sql("SELECT * FROM d.mapped ORDER BY 1") == [{"shown": 1, "n e w": "x"}, {"shown": 2, "n e w": "y"}]
    # By id it is the same where files have the names of the log; the engine would read any other as NULL throughout.
    settings["delta.columnMapping.mode"] = "id"
    ids = {"col-1": {"PARQUET:field_id": "1"}, "col-2": {"PARQUET:field_id": "2"}, "other": {"PARQUET:field_id": "2"}}
    for names, folder in ((("col-2", "col-1"), "same"), (("other", "col-1"), "others")):
        rows = pa.table([["x", "y"], [1, 2]], schema=pa.schema([pa.field(n, t, metadata=ids[n]) for n, t in zip(names, (pa.string(), pa.int64()))]))
        run = publish(shared, by_hand(tmp_path / folder, ["columnMapping"], fields, settings, rows=rows), f"d.by_id_{folder}")
        if folder == "same":
            good(run)
            assert shared.sql("SELECT * FROM d.by_id_same ORDER BY 1") == [{"shown": 1, "n e w": "x"}, {"shown": 2, "n e w": "y"}]
        else:
            said = refused(run, shared, "d.by_id_others")
            assert "its columns are mapped by id" in said and 'f.parquet calls "other" what the table\'s log calls "col-2"' in said


def test_widened_types_required_columns_and_new_ones(shared, tmp_path):
    fields = [
        {"name": "id", "type": "long", "nullable": False, "metadata": {"delta.typeChanges": [{"toType": "long", "fromType": "integer"}]}},
        {"name": "later", "type": "string", "nullable": True, "metadata": {}},
    ]
    rows = pa.table({"id": pa.array([1, 2], pa.int32())})
    attempt = good(publish(shared, by_hand(tmp_path / "t", ["typeWidening"], fields, {"delta.enableTypeWidening": "true"}, rows=rows), "d.widened"))
    table, got = arrow(shared, "d.widened")
    assert got.to_pylist() == [{"id": 1, "later": None}, {"id": 2, "later": None}]
    assert [(f.required, str(f.field_type)) for f in table.schema().fields] == [(True, "long"), (False, "string")]
    assert attempt["checks"][1]["message"] == "BIGINT required in the source, long required in the table; 0 NULLs in both, the same values"


@pytest.mark.parametrize(
    "features, reader, said",
    [
        (["geo"], 3, "Feature 'geo' is not supported"),
        (["somethingNew"], 3, "Feature 'somethingNew' is not supported"),
        (["catalogManaged"], 3, "the feature catalogManaged is not supported: its commits are kept by a catalog's server"),
        ([], 4, "Unsupported minimum reader version 4"),
    ],
)
def test_features_that_cannot_be_read(shared, tmp_path, features, reader, said):
    source = by_hand(tmp_path / "t", features, reader=reader, writer=8 if reader == 4 else 7)
    message = refused(publish(shared, source, "d.feature"), shared, "d.feature")
    assert said in message and str(tmp_path / "t") in message and "\n" not in message


def test_a_type_without_counterpart(shared, tmp_path):
    fields = [ID, {"name": "v", "type": "variant", "nullable": True, "metadata": {}}]
    said = refused(publish(shared, by_hand(tmp_path / "t", ["variantType"], fields), "d.variant"), shared, "d.variant")
    assert 'column "v"' in said and "VARIANT has no Iceberg counterpart" in said


def test_bad_delta_tables(shared, tmp_path, delta):
    def said(source):
        return refused(publish(shared, source, "d.bad"), shared, "d.bad")

    assert f"{tmp_path / 'nowhere'} is no Delta table: it has no _delta_log" in said({"format": "delta", "path": str(tmp_path / "nowhere")})
    source = by_hand(tmp_path / "gone")
    (tmp_path / "gone" / "f.parquet").unlink()
    assert f"{tmp_path / 'gone' / 'f.parquet'}" in said(source)
    source = by_hand(tmp_path / "cut")
    whole = (tmp_path / "cut" / "f.parquet").read_bytes()
    (tmp_path / "cut" / "f.parquet").write_bytes(whole[: len(whole) // 2])
    assert f"{tmp_path / 'cut' / 'f.parquet'}" in said(source)
    source = by_hand(tmp_path / "garbage")
    log = tmp_path / "garbage" / "_delta_log" / f"{0:020}.json"
    log.write_text("{not json\n")
    message = said(source)
    assert f"the log of Delta table {tmp_path / 'garbage'}" in message and str(log) in message
    source = by_hand(tmp_path / "gap")
    (tmp_path / "gap" / "_delta_log" / f"{2:020}.json").write_text('{"commitInfo":{"timestamp":1700000001000}}\n')
    assert "gap" in said(source)
    assert 'cast: the source has no column "idd"; did you mean "id"?' in said({"format": "delta", "path": str(delta), "cast": {"idd": "int"}})
    assert 'column "id" cannot be of type "numeral"' in said({"format": "delta", "path": str(delta), "cast": {"id": "numeral"}})


def test_times_that_the_table_vouches_for(shared, tmp_path):
    """inCommitTimestamp is what counts; without any note in the commit it is the file's time."""
    source = by_hand(tmp_path / "t", info={"inCommitTimestamp": 1600000000000})
    good(publish(shared, {**source, "timestamp": "2020-09-13 12:26:40"}, "d.vouched"))
    assert "its oldest is version 0, of 2020-09-13 12:26:40.000 UTC" in refused(publish(shared, {**source, "timestamp": "2020-09-13 12:26:39"}, "d.no"))
    source = by_hand(tmp_path / "f")
    log = tmp_path / "f" / "_delta_log" / f"{0:020}.json"
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[1:]))
    os.utime(log, (1500000000, 1500000000))
    good(publish(shared, {**source, "timestamp": "2017-07-14T02:40:00Z"}, "d.by_file"))
    assert "2017-07-14 02:40:00" in refused(publish(shared, {**source, "timestamp": "2017-07-14T02:39:59Z"}, "d.no"))


def test_a_folder_of_any_name(shared, delta, tmp_path):
    for n, name in enumerate(("it's a [b]*", "ñandú")):
        shutil.copytree(delta, tmp_path / name)
        good(publish(shared, {"format": "delta", "path": str(tmp_path / name)}, "d.named", mode="replace"))
        assert shared.sql("SELECT count(*) AS n FROM d.named") == [{"n": 12}]
        folder = tmp_path / "set" / name / f"{name}=1"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": [1, 2]}), folder / "f.parquet")
        good(publish(shared, {"format": "parquet", "path": str(folder.parent)}, f"d.named_{n}"))
        assert shared.sql(f"SELECT * FROM d.named_{n} ORDER BY id") == [{"id": i, name: 1} for i in (1, 2)]


def test_a_stage_reads_delta(shared, delta, folder):
    shared.flow("s", json.dumps({"id": "s", "tasks": [
        {"id": "s", "type": "stage", "source": {"format": "delta", "path": str(delta), "version": 1}, "select": ["id", "day"], "where": "id < 5", "target": {"path": str(folder / "out.parquet")}},
        {"id": "p", "type": "publish", "depends_on": ["s"], "from": "${tasks.s.outputs.path}", "into": "d.v${tasks.s.outputs.version}"}]}))
    run = shared.trigger("s")
    assert run["state"] == "success", why(run)
    assert shared.sql("SELECT count(*) AS n, max(day)::VARCHAR AS day FROM d.v1") == [{"n": 5, "day": "2024-01-03"}]


# ---- what is compared ----


def test_a_value_that_the_table_cannot_keep(shared, tmp_path):
    """Nanoseconds have no place in a timestamp: full parity finds them, and nothing is published."""
    (tmp_path / "t").mkdir()
    pq.write_table(pa.table({"id": [1, 2], "at": pa.array([1000, 1001], pa.timestamp("ns"))}), tmp_path / "t" / "f.parquet")
    source = {"format": "parquet", "path": str(tmp_path / "t")}
    run = publish(shared, source, "d.nanos")
    said = refused(run, shared, "d.nanos")
    assert "what was written is not what the source has, so it was not published" in said and "at: TIMESTAMP_NS in the source, timestamp in the table" in said
    checks = {c["name"]: c["passed"] for c in task_of(run, "p")["attempts"][-1]["checks"]}
    assert checks == {"rows": False, "id": True, "at": False}
    attempt = good(publish(shared, source, "d.nanos", parity="counts"))
    assert attempt["checks"][0]["message"] == "2 in the source, 2 written"
    assert good(publish(shared, source, "d.nanos2", parity="none"))["checks"] == []


def test_a_log_that_counts_other_rows(shared, tmp_path):
    source = by_hand(tmp_path / "t", add={"stats": '{"numRecords":4}'})
    assert "rows: 3 in the source, 3 written, 4 by the source's own account" in refused(publish(shared, source, "d.counted"), shared, "d.counted")


def test_parity_of_bare_paths_and_of_modes(shared, tmp_path):
    pq.write_table(pa.table({"id": [1, 2]}), tmp_path / "f.parquet")
    path = str(tmp_path / "f.parquet")
    assert good(publish(shared, path, "d.bare"))["checks"] == []
    assert len(good(publish(shared, [path, path], "d.bare", parity="full"))["checks"]) == 3
    assert len(good(publish(shared, {"path": path, "format": "parquet"}, "d.bare", mode="overwrite"))["checks"]) == 3
    pq.write_table(pa.table({"more": ["x"], "id": [7]}), tmp_path / "g.parquet")
    good(publish(shared, str(tmp_path / "g.parquet"), "d.more"))
    told = good(publish(shared, path, "d.more", parity="counts"))["checks"]
    assert [(c["name"], c["value"]) for c in told] == [("rows", 2), ("id", 0), ("more", 2), ("table", 3)] and told[2]["message"] == "not in the source; NULL in every row"
    assert good(publish(shared, {"path": path, "format": "parquet"}, "d.bare", mode="upsert", key="id"))["checks"] == []
    assert "mode: upsert writes others, too" in refused(publish(shared, path, "d.bare", mode="upsert", key="id", parity="full"))
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), tmp_path / "empty" / "f.parquet")
    assert good(publish(shared, {"path": str(tmp_path / "empty"), "format": "parquet"}, "d.empty"))["checks"][0]["value"] == 0


# ---- Parquet data sets ----


def test_a_data_set_in_folders(shared, tmp_path):
    """Folders become columns behind the files' own, with types of their texts; what writers hide is none of the data."""
    base = tmp_path / "run=7" / "sales"  # a folder above is no column
    for year, month in ((2023, "12"), (2024, "01"), (2024, "02")):
        for region in ("a%2Fb", "__HIVE_DEFAULT_PARTITION__"):
            folder = base / f"year={year}" / f"month={month}" / f"region={region}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"z": [year * 100 + int(month)], "amount": pa.array([decimal.Decimal("1.50")], pa.decimal128(9, 2)), "a": ["x"]}), folder / "part-0.snappy.parquet")
    (base / "_SUCCESS").write_bytes(b"")
    (base / "year=2024" / ".part-0.crc").write_bytes(b"x")
    (base / "_temporary").mkdir()
    (base / "_temporary" / "part-1.parquet").write_bytes(b"half")
    attempt = good(publish(shared, {"format": "parquet", "path": str(base)}, "p.sales"))
    table, got = arrow(shared, "p.sales", [("z", "ascending"), ("region", "ascending")])
    assert got.column_names == ["z", "amount", "a", "year", "month", "region"]
    assert [str(f.field_type) for f in table.schema().fields] == ["long", "decimal(9, 2)", "string", "int", "int", "string"]
    assert [f.name for f in table.spec().fields] == ["year", "month", "region"]
    assert got["month"].to_pylist() == [12, 12, 1, 1, 2, 2] and got["region"].to_pylist() == ["a/b", None] * 3
    assert len(attempt["checks"]) == 8 and attempt["checks"][6]["value"] == 3
    # A cast says what a folder's text is; the table's own order and types stay when it is there already.
    good(publish(shared, {"format": "parquet", "path": str(base), "cast": {"month": "varchar"}}, "p.text", partition_by=["year"]))
    assert shared.sql("SELECT DISTINCT month FROM p.text ORDER BY 1") == [{"month": m} for m in ("01", "02", "12")]
    assert [f.name for f in arrow(shared, "p.text", "z")[0].spec().fields] == ["year"]
    good(publish(shared, {"format": "parquet", "path": str(base)}, "p.text"))
    assert shared.sql("SELECT month, count(*) AS n FROM p.text GROUP BY 1 ORDER BY 1") == [{"month": m, "n": 4} for m in ("01", "02", "12")]
    good(publish(shared, {"format": "parquet", "path": str(base)}, "p.flat", partition_by=[]))
    assert arrow(shared, "p.flat", "z")[0].spec().is_unpartitioned()
    # A pattern names files; all folders of their paths are columns.
    good(publish(shared, {"format": "parquet", "path": str(base / "year=2024" / "**" / "*.parquet")}, "p.pattern"))
    assert arrow(shared, "p.pattern", "z")[1].column_names == ["z", "amount", "a", "run", "year", "month", "region"]


def test_columns_in_files_and_folders(shared, tmp_path):
    """Partition columns that the files have as well are the files' own: their place and type stay."""
    for day in ("2024-01-01", "2024-01-02"):
        (tmp_path / "t" / f"day={day}").mkdir(parents=True)
        pq.write_table(pa.table({"day": [dt.date.fromisoformat(day)], "n": [1]}), tmp_path / "t" / f"day={day}" / "f.parquet")
    good(publish(shared, {"format": "parquet", "path": str(tmp_path / "t")}, "p.both"))
    table, got = arrow(shared, "p.both", "day")
    assert got.column_names == ["day", "n"] and [str(f.field_type) for f in table.schema().fields] == ["date", "long"]
    assert [f.name for f in table.spec().fields] == ["day"]


def test_types_of_a_data_set(shared, tmp_path):
    rows = rows_of_all_types(0, 12)
    pq.write_to_dataset(rows, tmp_path / "t", partition_cols=["day"])
    good(publish(shared, {"format": "parquet", "path": str(tmp_path / "t")}, "p.types"))
    same_rows(arrow(shared, "p.types")[1], rows.drop_columns("day").append_column("day", rows["day"]))


def test_old_timestamps_are_instants(shared, tmp_path):
    """INT96, as Spark and Hive wrote it: UTC without saying so."""
    at = dt.datetime(2024, 3, 1, 12, 30, 15, 123456)
    (tmp_path / "t").mkdir()
    rows = pa.table({"id": [1], "at": pa.array([at], pa.timestamp("us")), "in": [{"a": [at], "TIMESTAMP": {"b": at}}]})
    pq.write_table(rows, tmp_path / "t" / "f.parquet", use_deprecated_int96_timestamps=True)
    good(publish(shared, {"format": "parquet", "path": str(tmp_path / "t")}, "p.old"))
    table, got = arrow(shared, "p.old")
    zoned = at.replace(tzinfo=UTC)
    assert str(table.schema().find_field("at").field_type) == "timestamptz"
    assert got.to_pylist() == [{"id": 1, "at": zoned, "in": {"a": [zoned], "TIMESTAMP": {"b": zoned}}}]
    good(publish(shared, {"format": "parquet", "path": str(tmp_path / "t"), "cast": {"at": "timestamp"}}, "p.old2"))
    assert arrow(shared, "p.old2")[1]["at"].to_pylist() == [at]


def test_files_with_different_columns(shared, tmp_path):
    base = tmp_path / "t"
    base.mkdir()
    pq.write_table(pa.table({"id": pa.array([1], pa.int32()), "a": ["x"]}), base / "1.parquet")
    pq.write_table(pa.table({"b": [2.5], "id": pa.array([2], pa.int32())}), base / "2.parquet")
    source = {"format": "parquet", "path": str(base)}
    said = refused(publish(shared, source, "p.mixed"), shared, "p.mixed")
    assert f'{base / "1.parquet"} has the column "a", but {base / "2.parquet"} has not; schema_evolution: add_columns' in said
    good(publish(shared, source, "p.mixed", schema_evolution="add_columns"))
    assert arrow(shared, "p.mixed")[1].to_pylist() == [{"id": 1, "a": "x", "b": None}, {"id": 2, "a": None, "b": 2.5}]
    pq.write_table(pa.table({"id": pa.array([2**40], pa.int64()), "a": ["y"]}), base / "2.parquet")
    said = refused(publish(shared, source, "p.wide", schema_evolution="add_columns"), shared, "p.wide")
    assert f'the column "id" is INTEGER in {base / "1.parquet"} and BIGINT in {base / "2.parquet"}; schema_evolution: widen' in said
    good(publish(shared, source, "p.wide", schema_evolution="widen"))
    assert shared.sql("SELECT id FROM p.wide ORDER BY id") == [{"id": 1}, {"id": 2**40}]


def test_bad_data_sets(shared, tmp_path, delta):
    def said(path, **more):
        return refused(publish(shared, {"format": "parquet", "path": str(path), **more}, "p.bad"), shared, "p.bad")

    assert f"no file matches {tmp_path / 'nowhere'}" in said(tmp_path / "nowhere")
    assert f"{delta} is a table of format delta, whose log says which files count; say format: delta" in said(delta)
    (tmp_path / "k" / "a=1").mkdir(parents=True)
    (tmp_path / "k" / "b=1").mkdir(parents=True)
    for folder in ("a=1", "b=1"):
        pq.write_table(pa.table({"id": [1]}), tmp_path / "k" / folder / "f.parquet")
    assert "lies in a=…, but" in said(tmp_path / "k") and "in b=…; the files of a data set" in said(tmp_path / "k")
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "x" / "f.parquet")
    (tmp_path / "x" / "notes.txt").write_text("not Parquet")
    assert str(tmp_path / "x" / "notes.txt") in said(tmp_path / "x")
    assert 'cast: the source has no column "ID2"' in said(tmp_path / "k" / "a=1", cast={"ID2": "int"})
    (tmp_path / "id=5" / "t" / "m=1").mkdir(parents=True)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "id=5" / "t" / "m=1" / "f.parquet")
    assert "the folder id=… above" in said(tmp_path / "id=5" / "t")


# ---- S3 ----


@pytest.fixture(scope="module")
def store():
    with running("seaweedfs", "sources") as made:
        made.make_bucket("warehouse")
        yield made


def put_folder(store, folder, prefix):
    for path in folder.rglob("*"):
        if path.is_file():
            store.put("sources", f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


def test_sources_on_s3(make_daemon, store, delta, tmp_path):
    put_folder(store, delta, "delta")
    rows = rows_of_all_types(0, 12)
    pq.write_to_dataset(rows, tmp_path / "t", partition_cols=["day"])
    put_folder(store, tmp_path / "t", "set")
    daemon = make_daemon(config=f"s3: {{endpoint: '{store.endpoint}'}}\ncatalog: {{warehouse: 's3://warehouse/w'}}\n", env=environment(store))
    good(publish(daemon, {"format": "delta", "path": "s3a://sources/delta", "version": 1}, "s.delta"))
    same_rows(arrow(daemon, "s.delta")[1], rows_of_all_types(0, 15))
    good(publish(daemon, {"format": "parquet", "path": "s3a://sources/set/"}, "s.files"))
    same_rows(arrow(daemon, "s.files")[1], rows.drop_columns("day").append_column("day", rows["day"]))
    assert "s3://sources/none is no Delta table" in refused(publish(daemon, {"format": "delta", "path": "s3://sources/none"}, "s.no"))
    said = refused(publish(daemon, {"format": "delta", "path": "s3://nobucket/none"}, "s.no"))
    assert "NoSuchBucket" in said and store.endpoint in said
    assert "no file matches s3://sources/none" in refused(publish(daemon, {"format": "parquet", "path": "s3://sources/none"}, "s.no"))


def signed(folder):
    """A certificate of one's own, and the store's, for which it vouches: (the one, the store's, its key)."""

    def openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

    ca, cert, key = folder / "ca.crt", folder / "leaf.crt", folder / "leaf.key"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=own", "-keyout", folder / "ca.key", "-out", ca)
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=store", "-keyout", key, "-out", folder / "leaf.csr")
    openssl("x509", "-req", "-in", folder / "leaf.csr", "-CA", ca, "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", "2", "-extfile", folder / "ext", "-out", cert)
    return ca, cert, key


def test_a_store_with_a_certificate_of_ones_own(make_daemon, folder, delta):
    """Delta's library speaks to stores itself, and must be told, too."""
    ca, cert, key = signed(folder)
    with running("seaweedfs", "sources", tls=(cert, key)) as store:
        put_folder(store, delta, "delta")
        daemon = make_daemon(config=f"s3: {{endpoint: '{store.endpoint}', ca: '{ca}'}}\n", env=environment(store))
        good(publish(daemon, {"format": "delta", "path": "s3://sources/delta"}, "s.delta"))


# ---- the example ----


def test_the_example(make_daemon, folder):
    example = folder / "migration"
    shutil.copytree(ROOT / "examples" / "migration", example, ignore=shutil.ignore_patterns("data"))
    subprocess.run([sys.executable, str(example / "generate")], check=True, capture_output=True)
    run = json.loads(sluice("run", "migration.yaml", "--json", cwd=example, env={"SLUICE_HOME": folder / "alone"}).stdout)
    assert run["state"] == "success", why(run)
    daemon = make_daemon(flows=example)
    run = daemon.trigger("migration")
    assert run["state"] == "success", why(run)
    assert [len(task_of(run, t)["attempts"][-1]["checks"]) for t in ("orders", "first_orders", "events")] == [7, 7, 7]
    assert daemon.sql("SELECT count(*) AS n, sum(event)::BIGINT AS events, max(happened)::VARCHAR AS last FROM lake.events") == [
        {"n": 200, "events": 19900, "last": "2024-04-01 05:00:00+00"}
    ]
    orders = DeltaTable(example / "data" / "orders").to_pyarrow_table()
    assert daemon.sql("SELECT count(*) AS n, sum(amount)::VARCHAR AS amount FROM lake.orders") == [{"n": 90, "amount": str(sum(orders["amount"].to_pylist()))}]
