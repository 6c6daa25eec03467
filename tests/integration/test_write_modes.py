"""How publish and curate write tables: modes, partitions, order, schemas; each result read back by DuckDB, by PyIceberg, and as a model says."""

import datetime
import pathlib
import random
import urllib.parse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.expressions import EqualTo
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from conftest import both, link_engine, task_of, why


class Lake:
    """A daemon, PyIceberg beside it, and a task to write with."""

    def __init__(self, daemon, folder, engine="duckdb"):
        self.daemon, self.folder, self.n = daemon, folder, 0
        self.engine = engine
        if engine != "duckdb":
            link_engine(daemon.home, engine)
        self.catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)

    def file(self, rows, schema=None):
        self.n += 1
        path = self.folder / f"in-{self.n}.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=schema) if isinstance(rows, list) else rows, path)
        return path

    def run(self, rows, into="a.t", schema=None, **keys):
        source = rows if isinstance(rows, (str, pathlib.Path)) else self.file(rows, schema)
        self.n += 1
        name = f"w{self.n}"
        lines = "".join(f"    {k}: {v}\n" for k, v in {"engine": self.engine, **keys}.items())
        self.daemon.flow(name, f"id: {name}\ntasks:\n  - id: publish\n    type: publish\n    from: \"{source}\"\n    into: {into}\n{lines}")
        return self.daemon.trigger(name)

    def write(self, rows, into="a.t", schema=None, **keys):
        run = self.run(rows, into, schema, **keys)
        assert run["state"] == "success", why(run)
        return task_of(run, "publish")["attempts"][-1]["tables"][0]

    def refused(self, rows, into="a.t", schema=None, **keys):
        run = self.run(rows, into, schema, **keys)
        assert run["state"] == "failed", run
        return why(run).replace('\\"', '"')

    def table(self, name="a.t"):
        return self.catalog.load_table(name)

    def check(self, model, name="a.t"):
        """Every reader sees the rows of the model."""
        want = sorted(model, key=repr)
        theirs = self.table(name).scan().to_arrow().to_pylist()
        assert sorted(theirs, key=repr) == want
        columns = ", ".join(f'"{c}"' for c in (want[0] if want else {"count": 0}))
        if want and all(isinstance(v, (int, str, float, type(None))) for r in want for v in r.values()):
            ours = self.daemon.sql(f"SELECT {columns} FROM {name}")
            assert sorted(ours, key=repr) == want
        else:
            assert self.daemon.sql(f"SELECT count(*)::INT AS n FROM {name}") == [{"n": len(want)}]

    def files(self, name="a.t"):
        return self.table(name).inspect.files().to_pylist()

    def data_files(self, name="a.t"):
        return [f for f in self.files(name) if f["content"] == 0]


@pytest.fixture
def lake(daemon, folder, engine):
    return Lake(daemon, folder, engine)


def local(url):
    return pathlib.Path(urllib.parse.urlparse(url).path if url.startswith("file:") else url)


DAY = datetime.date(2024, 2, 28)


def rows_of(n, first=0):
    return [
        {
            "id": i,
            "region": [None, "", "eu", "a=b/c d", "ü'\""][i % 5],
            "at": datetime.datetime(1969, 12, 31, 22, 30) + datetime.timedelta(hours=i * 7),
            "day": DAY + datetime.timedelta(days=i % 4),
            "price": float(i) / 4 if i % 7 else None,
        }
        for i in range(first, first + n)
    ]


@both
def test_identity_partitions_are_folders_and_prune(lake):
    rows = rows_of(50)
    lake.write(rows, partition_by="[region]")
    lake.check(rows)
    table = lake.table()
    assert [(f.name, str(f.transform), f.field_id) for f in table.spec().fields] == [("region", "identity", 1000)]
    files = lake.data_files()
    assert sorted((f["partition"]["region"] for f in files), key=repr) == sorted([None, "", "eu", "a=b/c d", "ü'\""], key=repr)
    assert any("/data/region=eu/" in f["file_path"] for f in files)
    assert all(local(f["file_path"]).exists() for f in files)
    # Names tell run, task and attempt.
    run = lake.daemon.get("/api/v1/runs")["items"][0]["id"]
    assert all(local(f["file_path"]).name.startswith(f"{run}-publish-1-") for f in files)
    assert len(list(table.scan(EqualTo("region", "eu")).plan_files())) == 1
    # The manifest list tells what its manifests hold.
    manifest = table.current_snapshot().manifests(table.io)[0]
    summary = manifest.partitions[0]
    assert summary.contains_null and summary.lower_bound == b"" and summary.upper_bound == "ü'\"".encode()
    # Writing again keeps the layout.
    more = rows_of(10, 50)
    lake.write(more)
    lake.check(rows + more)


@pytest.mark.parametrize(
    "term, name, transform",
    [
        ("year(at)", "at_year", "year"),
        ("month(at)", "at_month", "month"),
        ("day(at)", "at_day", "day"),
        ("hour(at)", "at_hour", "hour"),
        ("day(day)", "day_day", "day"),
        ('"bucket(4, id)"', "id_bucket", "bucket[4]"),
        ('"bucket(3, region)"', "region_bucket", "bucket[3]"),
        ('"bucket(5, day)"', "day_bucket", "bucket[5]"),
        ('"bucket(5, at)"', "at_bucket", "bucket[5]"),
        ('"truncate(10, id)"', "id_trunc", "truncate[10]"),
        ('"truncate(1, region)"', "region_trunc", "truncate[1]"),
    ],
)
def test_transforms_are_those_of_the_format(lake, term, name, transform):
    rows = rows_of(60)
    lake.write(rows, partition_by=f"[{term}]")
    lake.check(rows)
    table = lake.table()
    field = table.spec().fields[0]
    assert (field.name, str(field.transform)) == (name, transform)
    # What PyIceberg says about each row is what stands in the manifest of the row's file.
    column = table.schema().find_field(field.source_id)
    value = field.transform.transform(column.field_type)
    for file in lake.data_files():
        theirs = pq.ParquetFile(local(file["file_path"])).read().to_pylist()
        keys = {value(to_internal(r[column.name])) for r in theirs}
        have = file["partition"][name]
        if isinstance(have, datetime.date):
            have = (have - datetime.date(1970, 1, 1)).days
        assert keys == {have}


def to_internal(v):
    if isinstance(v, datetime.datetime):
        return int((v - datetime.datetime(1970, 1, 1)) / datetime.timedelta(microseconds=1))
    if isinstance(v, datetime.date):
        return (v - datetime.date(1970, 1, 1)).days
    return v


def test_buckets_of_decimals_uuids_and_bytes(lake):
    import decimal

    schema = pa.schema([("d", pa.decimal128(38, 4)), ("b", pa.binary()), ("n", pa.decimal128(9, 2))])
    numbers = [decimal.Decimal(x) for x in ("0", "-0.0001", "1.2345", "-12800.0000", "3276.8000", "9999999999999999999999999999999999.9999")]
    rows = [{"d": n, "b": bytes([i, 255 - i] * i), "n": decimal.Decimal(i - 3) / 100} for i, n in enumerate(numbers)]
    lake.write(rows, schema=schema, partition_by='["bucket(7, d)", "bucket(5, b)", "truncate(3, n)"]')
    lake.check(rows)
    table = lake.table()
    fields = table.spec().fields
    for file in lake.data_files():
        for row in pq.ParquetFile(local(file["file_path"])).read().to_pylist():
            for field in fields:
                column = table.schema().find_field(field.source_id)
                assert field.transform.transform(column.field_type)(row[column.name]) == file["partition"][field.name]


def test_a_column_that_old_files_are_partitioned_by_may_go(lake):
    schema = pa.schema([("id", pa.int64()), ("p", pa.string()), ("q", pa.string())])
    old = [{"id": i, "p": "ab"[i % 2], "q": "x"} for i in range(6)]
    lake.write(old, schema=schema, partition_by="[p]")
    with lake.table().update_spec() as update:
        update.remove_field("p")
        update.add_field("q", "identity", "q")
    with lake.table().update_schema() as update:
        update.delete_column("p")
    few = pa.schema([schema.field("id"), schema.field("q")])
    lake.write([{"id": 10, "q": "y"}], schema=few)
    lake.write([{"id": 11, "q": "y"}], schema=few, mode="overwrite_partitions")
    lake.write([{"id": 2, "q": "z"}], schema=few, mode="upsert", key="[id]")
    lake.check([{"id": r["id"], "q": "z" if r["id"] == 2 else "x"} for r in old] + [{"id": 11, "q": "y"}])
    lake.write([{"id": 1, "q": "w"}], schema=few, mode="overwrite")
    lake.check([{"id": 1, "q": "w"}])


def test_a_manifest_that_is_gone_is_named(lake):
    lake.write([{"id": 1, "p": 1}], partition_by="[p]")
    (manifest,) = lake.table().current_snapshot().manifests(lake.table().io)
    local(manifest.manifest_path).unlink()
    told = lake.refused([{"id": 2, "p": 1}], mode="overwrite_partitions")
    assert "a.t" in told and pathlib.Path(manifest.manifest_path).name in told
    assert len(lake.table().metadata.snapshots) == 1
    left = {p.name for p in pathlib.Path(lake.daemon.home).rglob("warehouse/**/*.parquet")}
    assert len(left) == 1  # what the failed task wrote is gone again


def test_many_partitions_and_two_fields(lake):
    rows = [{"id": i, "c": f"c{i % 37}", "at": datetime.datetime(2024, 1, 1) + datetime.timedelta(days=i % 11)} for i in range(3000)]
    lake.write(rows, partition_by="[c, day(at)]")
    lake.check(rows)
    assert len(lake.data_files()) == 37 * 11
    folders = {tuple(p.split("=")[0] for p in f["file_path"].split("/data/")[1].split("/")[:-1]) for f in lake.data_files()}
    assert folders == {("c", "at_day")}  # as other engines name them
    assert {p.name.split("=")[0] for p in pathlib.Path(lake.daemon.home).glob("warehouse/a/t/data/*")} == {"c"}  # and nothing else is left
    assert lake.daemon.sql("SELECT count(*)::INT AS n FROM a.t WHERE c = 'c3' AND \"at\" >= '2024-01-05'")[0]["n"] == len(
        [r for r in rows if r["c"] == "c3" and r["at"] >= datetime.datetime(2024, 1, 5)]
    )


@both
def test_sorted_files_with_their_order_in_the_table(lake):
    rows = rows_of(200)
    random.Random(7).shuffle(rows)
    lake.write(rows, sort_by='["day desc", "id asc nulls last"]')
    lake.check(rows)
    order = lake.table().sort_order()
    assert [(str(f.transform), str(f.direction.value), str(f.null_order.value)) for f in order.fields] == [
        ("identity", "desc", "nulls-last"),
        ("identity", "asc", "nulls-last"),
    ]
    (file,) = lake.data_files()
    assert file["sort_order_id"] == order.order_id > 0
    got = [(r["day"], r["id"]) for r in pq.ParquetFile(local(file["file_path"])).read().to_pylist()]
    assert got == sorted(got, key=lambda k: (-k[0].toordinal(), k[1]))
    # An order in partitions, too.
    lake.write(rows, into="a.p", partition_by="[day]", sort_by="[id]")
    lake.check(rows, "a.p")
    for file in lake.data_files("a.p"):
        ids = pq.ParquetFile(local(file["file_path"])).read(["id"])["id"].to_pylist()
        assert ids == sorted(ids)


def test_manifests_tell_what_files_hold(lake):
    text = "é" * 40
    rows = [{"id": i, "x": [1.5, float("nan"), None, -0.0][i % 4], "s": text + str(i), "l": [i], "st": {"a": i, "b": None}} for i in range(40)]
    lake.write(rows)
    (file,) = lake.data_files()
    ids = {f.name: f.field_id for f in lake.table().schema().fields}
    metrics = {k: dict(file[k]) for k in ("column_sizes", "value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds")}
    assert file["record_count"] == 40 and file["file_size_in_bytes"] == local(file["file_path"]).stat().st_size
    assert metrics["value_counts"][ids["id"]] == 40 and metrics["null_value_counts"][ids["x"]] == 10 and metrics["nan_value_counts"][ids["x"]] == 10
    assert metrics["lower_bounds"][ids["id"]] == (0).to_bytes(8, "little") and metrics["upper_bounds"][ids["id"]] == (39).to_bytes(8, "little")
    assert metrics["lower_bounds"][ids["s"]].decode() == "é" * 16 and metrics["upper_bounds"][ids["s"]].decode() == "é" * 15 + "ê"
    inner = lake.table().schema().find_field("st.a").field_id
    assert metrics["upper_bounds"][inner] == (39).to_bytes(8, "little")
    assert all(size > 0 for size in metrics["column_sizes"].values()) and file["split_offsets"] == [4]
    assert lake.table().scan(EqualTo("id", 77)).to_arrow().num_rows == 0
    assert list(lake.table().scan(EqualTo("id", 77)).plan_files()) == []


def test_big_files_have_the_size_that_was_asked_for(lake):
    n = 600_000
    rng = random.Random(3)
    table = pa.table({"id": list(range(n)), "h": [rng.getrandbits(62) for _ in range(n)], "p": [i % 2 for i in range(n)]})
    lake.write(table, target_file_size="3MB")
    sizes = [f["file_size_in_bytes"] for f in lake.data_files()]
    assert len(sizes) >= 2 and max(sizes) < 6_000_000
    assert all(len(f["split_offsets"]) == -(-f["record_count"] // 122880) for f in lake.data_files())
    lake.write(table, into="a.p", partition_by="[p]", target_file_size="1MB")
    files = lake.data_files("a.p")
    assert len(files) >= 4 and {f["partition"]["p"] for f in files} == {0, 1}
    assert lake.daemon.sql("SELECT count(*)::INT AS n, sum(id)::BIGINT AS s FROM a.p") == [{"n": n, "s": n * (n - 1) // 2}]


@both
def test_overwrite_partitions_replaces_what_it_touches(lake):
    schema = pa.schema([("p", pa.string()), ("id", pa.int64())])
    model = [{"p": p, "id": i} for i in range(30) for p in ("a", "b", None)]
    lake.write(model, schema=schema, partition_by="[p]")
    before = {f["file_path"] for f in lake.data_files() if f["partition"]["p"] == "b"}
    new = [{"p": "a", "id": 100}, {"p": None, "id": 101}, {"p": "c", "id": 102}]
    done = lake.write(new, schema=schema, mode="overwrite_partitions")
    assert done["removed_rows"] == 60 and done["removed_files"] == 2
    model = [r for r in model if r["p"] == "b"] + new
    lake.check(model)
    assert before <= {f["file_path"] for f in lake.data_files()}
    summary = lake.table().current_snapshot().summary
    assert summary["total-records"] == "33" and summary["deleted-records"] == "60" and summary["total-data-files"] == "4"
    # Again and again: manifests that were rewritten are rewritten.
    for i in range(3):
        new = [{"p": "a", "id": 200 + i}]
        lake.write(new, schema=schema, mode="overwrite_partitions")
        model = [r for r in model if r["p"] != "a"] + new
        lake.check(model)
    lake.write([{"p": "z", "id": 1}], schema=schema, mode="overwrite")
    lake.check([{"p": "z", "id": 1}])
    assert lake.table().current_snapshot().summary["total-records"] == "1"
    lake.write([], schema=schema, mode="overwrite_partitions")
    lake.check([{"p": "z", "id": 1}])


@both
def test_tables_that_others_partitioned(lake):
    lake.catalog.create_namespace("a")
    schema = Schema(NestedField(1, "id", LongType(), required=True), NestedField(2, "p", StringType(), doc="the part"), NestedField(3, "2 odd-name", StringType()))
    spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "p"), PartitionField(3, 1001, IdentityTransform(), "2 odd-name"))
    table = lake.catalog.create_table("a.t", schema, partition_spec=spec)
    arrow = pa.schema([pa.field("id", pa.int64(), nullable=False), ("p", pa.string()), ("2 odd-name", pa.string())])
    model = [{"id": i, "p": "xy"[i % 2], "2 odd-name": "q"} for i in range(20)]
    table.append(pa.Table.from_pylist(model, schema=arrow))
    more = [{"id": i, "p": "xz"[i % 2], "2 odd-name": "q"} for i in range(20, 40)]
    lake.write(more, schema=arrow)
    model += more
    lake.check(model)
    # Theirs and ours alternate on the same manifests.
    lake.table().delete("id = 3")
    model = [r for r in model if r["id"] != 3]
    lake.check(model)
    new = [{"id": 7, "p": "y", "2 odd-name": "q"}]
    lake.write(new, schema=arrow, mode="overwrite_partitions")
    model = [r for r in model if r["p"] != "y"] + new
    lake.check(model)
    assert lake.table().schema().find_field("p").doc == "the part" and lake.table().schema().find_field("id").required
    told = lake.refused([{"id": None, "p": "y", "2 odd-name": "q"}], schema=pa.schema([("id", pa.int64()), ("p", pa.string()), ("2 odd-name", pa.string())]))
    assert '"id"' in told and "required" in told
    assert "required" in told
    # A spec that changed: new files by the new one, the old ones stay.
    with lake.table().update_spec() as update:
        update.remove_field("2 odd-name")
    more = [{"id": i, "p": "x", "2 odd-name": "r"} for i in range(50, 60)]
    lake.write(more, schema=arrow)
    model += more
    lake.check(model)
    assert len({f["spec_id"] for f in lake.data_files()}) == 2
    lake.write(more, schema=arrow, mode="overwrite_partitions")
    lake.check(model)
    lake.write(more[:1], schema=arrow, mode="overwrite")
    lake.check(more[:1])


@pytest.mark.parametrize("how", ["copy-on-write", "merge-on-read"])
@pytest.mark.parametrize("parts", ["[]", "[p]", '["bucket(3, id)", p]'])
def test_upsert(lake, how, parts):
    schema = pa.schema([("id", pa.int64()), ("p", pa.string()), ("v", pa.int64())])
    rng = random.Random(11)
    model = {}
    keys = {"mode": "upsert", "key": "[id]", "partition_by": parts, "properties": f"{{write.merge.mode: {how}}}"}
    for turn in range(5):
        new = {i: {"id": i, "p": rng.choice("abc"), "v": turn} for i in rng.sample(range(60), 12)}
        lake.write(list(new.values()), schema=schema, **keys)
        model.update(new)
        lake.check(list(model.values()))
    deletes = [f for f in lake.files() if f["content"] == 1]
    assert bool(deletes) == (how == "merge-on-read")
    # Appending keeps the deletes, and theirs go together with ours.
    lake.write([{"id": 1000, "p": "a", "v": 0}], schema=schema)
    model[1000] = {"id": 1000, "p": "a", "v": 0}
    lake.check(list(model.values()))
    lake.table().delete("id = 1000")
    del model[1000]
    lake.check(list(model.values()))
    if parts != "[]":
        new = [{"id": 2000, "p": p, "v": 9} for p in "abc"]
        lake.write(new, schema=schema, mode="overwrite_partitions")
        if parts == "[p]":
            lake.check(new)
    lake.write([{"id": 1, "p": "a", "v": 1}], schema=schema, mode="overwrite")
    lake.check([{"id": 1, "p": "a", "v": 1}])
    assert [f for f in lake.files() if f["content"] != 0] == []
    summary = lake.table().current_snapshot().summary
    assert summary["total-delete-files"] == "0" and summary["total-position-deletes"] == "0"


@both
def test_upsert_says_what_is_wrong_with_a_key(lake):
    rows = [{"id": 1, "v": 1}, {"id": 1, "v": 2}]
    told = lake.refused(rows, mode="upsert", key="[id]")
    assert "2 rows have the key id = 1" in told
    assert lake.daemon.get("/api/v1/tables")["items"] == []
    schema = pa.schema([("id", pa.int64()), ("v", pa.int64())])
    assert "no value in its key (id = NULL)" in lake.refused([{"id": None, "v": 1}], schema=schema, mode="upsert", key="[id]")
    assert 'no column "idd" (did you mean "id"?)' in lake.refused(rows, mode="upsert", key="[idd]")
    assert "needs `key`" in lake.refused(rows, mode="upsert")


@both
def test_upsert_from_sql_reads_and_writes_the_same_table(lake):
    lake.write([{"id": i, "n": i} for i in range(10)])
    lake.daemon.flow(
        "again",
        """
        id: again
        tasks:
          - id: curate
            type: curate
            engine: ENGINE
            into: a.t
            mode: upsert
            key: id
            sql: SELECT id + 5 AS id, n * 10 AS n FROM a.t
        """.replace("ENGINE", lake.engine),
    )
    run = lake.daemon.trigger("again")
    assert run["state"] == "success", why(run)
    lake.check([{"id": i, "n": i if i < 5 else (i - 5) * 10} for i in range(15)])


@both
def test_columns_are_added_and_widened(lake):
    one = pa.schema([("id", pa.int32()), ("x", pa.float32()), ("s", pa.struct([("a", pa.int32())])), ("l", pa.list_(pa.struct([("b", pa.int32())])))])
    first = {"id": 1, "x": 0.5, "s": {"a": 1}, "l": [{"b": 1}]}
    lake.write([first], schema=one)
    two = pa.schema(
        [
            ("id", pa.int64()),
            ("x", pa.float64()),
            ("s", pa.struct([("a", pa.int64()), ("c", pa.string())])),
            ("l", pa.list_(pa.struct([("b", pa.int32()), ("d", pa.map_(pa.string(), pa.int64()))]))),
            ("new", pa.string()),
        ]
    )
    second = {"id": 2**40, "x": 1e300, "s": {"a": 2**40, "c": "c"}, "l": [{"b": 2, "d": [("k", 1)]}], "new": "n"}
    told = lake.refused([second], schema=two)
    assert "add_columns" in told
    told = lake.refused([second], schema=two, schema_evolution="add_columns")
    assert "1099511627776" in told  # the wider value does not fit, and the type was not to change
    ids = {f.name: f.field_id for f in lake.table().schema().fields}
    lake.write([second], schema=two, schema_evolution="widen")
    schema = lake.table().schema()
    assert {f.name: f.field_id for f in schema.fields if f.name in ids} == ids
    assert [str(f.field_type) for f in schema.fields[:2]] == ["long", "double"] and str(schema.find_field("s.a").field_type) == "long"
    want = [{**first, "s": {"a": 1, "c": None}, "l": [{"b": 1, "d": None}], "new": None}, second]
    lake.check(want)
    # The order of the rows' columns is their own affair, and columns may be missing.
    few = pa.schema([("new", pa.string()), two.field("l"), ("id", pa.int64())])
    lake.write([{"new": "m", "l": [], "id": 3}], schema=few)
    lake.check(want + [{"id": 3, "x": None, "s": None, "l": [], "new": "m"}])


def test_replace_keeps_history_and_ids_and_changes_the_rest(lake):
    lake.write([{"id": 1, "s": {"a": 1}, "gone": 1}], partition_by="[gone]")
    table = lake.table()
    uuid, ids = table.metadata.table_uuid, {n: table.schema().find_field(n).field_id for n in ("id", "s", "s.a")}
    told = lake.refused([{"id": 2, "s": {"a": 2}}], mode="replace")
    assert "partition_by: []" in told
    told = lake.refused([{"id": 2, "s": {"a": 2}, "gone": 2}], partition_by="[id]")
    assert "partitioned otherwise: by gone" in told
    lake.write([{"id": 2, "s": {"a": 2, "b": "x"}}], mode="replace", partition_by='["bucket(2, id)"]', sort_by="[id]")
    table = lake.table()
    lake.check([{"id": 2, "s": {"a": 2, "b": "x"}}])
    assert table.metadata.table_uuid == uuid and len(table.metadata.snapshots) == 2
    assert {n: table.schema().find_field(n).field_id for n in ("id", "s", "s.a")} == ids
    assert [str(f.transform) for f in table.spec().fields] == ["bucket[2]"] and len(table.sort_order().fields) == 1
    first = table.metadata.snapshots[0].snapshot_id
    assert table.scan(snapshot_id=first).to_arrow().to_pylist() == [{"id": 1, "s": {"a": 1}, "gone": 1}]
    # The same rows again: nothing about the table changes.
    schemas = len(table.metadata.schemas)
    lake.write([{"id": 2, "s": {"a": 2, "b": "x"}}], mode="replace")
    assert len(lake.table().metadata.schemas) == schemas and len(lake.table().metadata.partition_specs) == 2
    lake.write([{"id": 2}], mode="replace", partition_by="[]")
    assert lake.table().spec().fields == () or list(lake.table().spec().fields) == []


def test_compression_properties_and_version_3(lake):
    lake.write([{"id": 1}], compression="snappy", properties="{owner: me, write.target-file-size-bytes: '1000000'}")
    (file,) = lake.data_files()
    assert pq.ParquetFile(local(file["file_path"])).metadata.row_group(0).column(0).compression == "SNAPPY"
    assert lake.table().properties["owner"] == "me"
    lake.write([{"id": 2}])
    assert {pq.ParquetFile(local(f["file_path"])).metadata.row_group(0).column(0).compression for f in lake.data_files()} == {"SNAPPY"}

    lake.write([{"id": i, "p": i % 2} for i in range(10)], into="a.v3", format_version="3", partition_by="[p]")
    lake.write([{"id": i, "p": i % 2} for i in range(10, 14)], into="a.v3")
    got = lake.daemon.sql("SELECT id, p FROM a.v3 ORDER BY id")
    assert got == [{"id": i, "p": i % 2} for i in range(14)]
    meta = lake.daemon.request("GET", "/iceberg/v1/namespaces/a/tables/v3").json["metadata"]
    assert meta["format-version"] == 3 and meta["next-row-id"] == 14
    assert [(s["first-row-id"], s["added-rows"]) for s in meta["snapshots"]] == [(0, 10), (10, 4)]
    lake.check(got, "a.v3")
    told = lake.refused([{"id": 1, "p": 1}], into="a.v3", mode="overwrite_partitions")
    assert "format version 3" in told
    lake.write([{"id": 1, "p": 1}], into="a.v3", mode="overwrite")
    lake.check([{"id": 1, "p": 1}], "a.v3")
    assert "has format version 2 already" in lake.refused([{"id": 3}], format_version="3")


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"partition_by": '["bucket(id)"]'}, "bucket needs a whole number"),
        ({"partition_by": '["hour(day)"]'}, "hour does not apply to the column's type date"),
        ({"partition_by": "[nope]"}, 'there is no column "nope"; columns are: id'),
        ({"partition_by": '["week(day)"]'}, "is no column or transform"),
        ({"partition_by": '["day(day)", "days(day)"]'}, "that name is taken"),
        ({"sort_by": '["id upwards"]'}, "asc or desc"),
    ],
)
def test_what_makes_no_sense_is_explained(lake, keys, words):
    told = lake.refused(rows_of(3), **keys)
    assert words in told
    assert lake.daemon.get("/api/v1/tables")["items"] == []
    assert not list(pathlib.Path(lake.daemon.home).rglob("warehouse/**/*.parquet"))


@both
def test_rejects_go_to_a_table_of_their_own(lake):
    (lake.folder / "in.csv").write_text("id,n\n1,10\n2,x\n3,30\n,40\n")
    lake.daemon.flow(
        "go",
        f"""
        id: go
        defaults: {{engine: {lake.engine}}}
        tasks:
          - id: stage
            type: stage
            source: {{format: csv, path: "{lake.folder}/in.csv"}}
            schema: {{id: bigint not null, n: bigint}}
            on_reject: quarantine
            target: {{path: "{lake.folder}/out.parquet"}}
          - id: publish
            type: publish
            depends_on: [stage]
            from: ${{tasks.stage.outputs.path}}
            into: a.t
        """,
    )
    run = lake.daemon.trigger("go")
    assert run["state"] == "success", why(run)
    lake.check([{"id": 1, "n": 10}, {"id": 3, "n": 30}])
    tables = task_of(run, "publish")["attempts"][-1]["tables"]
    assert [(t["table"], t["rows"]) for t in tables] == [("a.t", 2), ("a.t__rejected", 2)]
    got = lake.daemon.sql("SELECT * FROM a.t__rejected ORDER BY line")
    assert [(r["run_id"], r["task_id"], r["file"], r["line"], r["row"]) for r in got] == [
        (run["id"], "publish", f"{lake.folder}/in.csv", 3, "2,x"),
        (run["id"], "publish", f"{lake.folder}/in.csv", 5, '{"id":null,"n":40}'),
    ]
    assert all(r["reason"] for r in got)
    # A source without rejects adds none, also none of an earlier run.
    (lake.folder / "in.csv").write_text("id,n\n7,70\n")
    run = lake.daemon.trigger("go")
    assert run["state"] == "success", why(run)
    assert lake.daemon.sql("SELECT count(*)::INT AS n FROM a.t__rejected") == [{"n": 2}]


def test_a_data_set_is_added_where_it_lies(lake):
    root = lake.folder / "set"
    model = []
    for day in ("2024-01-01", "2024-01-02"):
        for kind in ("a b", None):
            rows = [{"id": len(model) + i, "st": {"x": i}, "tags": ["t"]} for i in range(3)]
            folder = root / f"day={day}" / f"kind={urllib.parse.quote(kind) if kind else '__HIVE_DEFAULT_PARTITION__'}"
            folder.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
            model += [{**r, "day": datetime.date.fromisoformat(day), "kind": kind} for r in rows]
    before = sorted(root.rglob("*.parquet"))
    done = lake.write(f"{root}/*/*/*.parquet", mode="add_files")
    assert (done["rows"], done["files"]) == (12, 4)
    lake.check(model)
    assert lake.daemon.sql("SELECT id FROM a.t WHERE kind = 'a b' AND day = '2024-01-02' ORDER BY id") == [{"id": i} for i in (6, 7, 8)]
    assert {local(f["file_path"]) for f in lake.data_files()} == set(before) == set(root.rglob("*.parquet"))
    assert [f.name for f in lake.table().spec().fields] == ["day", "kind"]
    assert "has the file" in lake.refused(f"{root}/*/*/*.parquet", mode="add_files")
    # From then on it is a table like any other.
    more = [{"id": 100, "st": {"x": 1}, "tags": [], "day": datetime.date(2024, 1, 2), "kind": "c"}]
    lake.write(more)
    lake.check(model + more)
    pq.write_table(pa.table({"id": ["text"], "day": ["x"]}), lake.folder / "wrong.parquet")
    assert "string in the files" in lake.refused(lake.folder / "wrong.parquet", mode="add_files")


def test_a_metadata_file_becomes_a_table(lake):
    rows = [{"id": i} for i in range(5)]
    lake.write(rows)
    metadata = lake.table().metadata_location
    done = lake.write(metadata, into="b.same", mode="register")
    assert done["rows"] == 5 and done["table"] == "b.same"
    lake.check(rows, "b.same")
    assert lake.table("b.same").metadata.table_uuid == lake.table().metadata.table_uuid
    lake.write([{"id": 9}])
    assert "is there already" in lake.refused(lake.table().metadata_location, into="b.same", mode="register")
    assert "none.metadata.json" in lake.refused(f"{lake.folder}/none.metadata.json", into="b.other", mode="register")
