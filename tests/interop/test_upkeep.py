"""Maintenance by Sluice, seen by all engines: the same rows after each step, and nothing that Spark's own procedures would still do.

The other way round, too: where Spark's procedures went first, Sluice finds little to do and breaks nothing.
"""

import datetime
import os
import pathlib
import urllib.parse

import pyarrow as pa
import pytest

import lake_files
from conftest import Agreement
from engines import DuckDB, PyIceberg, Sluice, Spark
from harness import why
from lake import Lake
from s3_stores import running
from test_matrix import COLUMNS, metadata

DAY = 86400


def maintain(lake, table, **keys):
    """The steps of the one table, by name."""
    run = lake.daemon.ended(lake.daemon.post("/api/v1/maintenance", {"tables": table, **keys})["id"])
    assert run["state"] == "success", why(run)
    report = lake.daemon.get(f"/api/v1/runs/{run['id']}/tasks/maintain/artifacts/maintenance.json")
    (item,) = [i for i in report["items"] if i["table"] == table]
    return {s["step"]: s for s in item["steps"]}


def sparks(engines):
    found = [e for n, e in engines.items() if n.startswith("spark")]
    if not found:
        pytest.skip("no Spark is here, whose procedures are the measure")
    return found


def folder(lake, table):
    return pathlib.Path(urllib.parse.urlsplit(metadata(lake, table)["location"]).path)


def files(lake, table):
    return {p for p in folder(lake, table).rglob("*") if p.is_file()}


def age(lake, table, days=10):
    own = max(path for path in files(lake, table) if path.name.endswith(".metadata.json"))
    for path in files(lake, table):
        if path == own:  # it tells the clock of the store
            continue
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - days * DAY))


# ---- tables of many shapes: each returns the table, its columns, its rows and who cannot read it yet ----


def appended(lake, engines, hint, partition=None, times=6):
    """By each engine in turn, a file or more each time."""
    writers = [e for e in engines.values() if hasattr(e, "append")]
    table, rows = lake.table(hint), []
    writers[len(hint) % len(writers)].create(table, COLUMNS, partition)
    for i in range(times):
        more = [(10 * i + k, region, None if k == 3 else i) for k, region in enumerate(["eu", "us", "it's", None])]
        writers[i % len(writers)].append(table, COLUMNS, more)
        rows += more
    return table, COLUMNS, rows, ()


def plain(lake, engines):
    return appended(lake, engines, "plain")


def by_identity(lake, engines):
    return appended(lake, engines, "identity", ["region"])


def by_bucket(lake, engines):
    return appended(lake, engines, "bucket", ["bucket(4, id)"])


def by_truncate(lake, engines):
    return appended(lake, engines, "truncate", ["truncate(2, region)"])


def by_time(lake, engines):
    columns, table = [("id", "bigint"), ("moment", "timestamp")], lake.table("time")
    spark = sparks(engines)[0]
    spark.run(f"CREATE TABLE {spark.at(table)} (id bigint, moment timestamp) USING iceberg PARTITIONED BY (days(moment))")
    rows = []
    for i in range(6):
        more = [(10 * i + k, datetime.datetime(1969, 12, 30 + k % 2, 23, 59, 59, 999999, datetime.UTC) + datetime.timedelta(hours=i)) for k in range(3)] + [(10 * i + 9, None)]
        engines["duckdb-rest" if i % 2 else "pyiceberg-rest"].append(table, columns, more)
        rows += more
    return table, columns, rows, ()


def evolved(lake, engines):
    """Columns added, renamed, widened and dropped between the files."""
    table, columns, rows, _ = appended(lake, engines, "evolved", times=3)
    writer, duck = engines["pyiceberg-rest"], engines["duckdb-rest"]
    duck.add_column(table, "late", "string")
    writer.rename_column(table, "region", "zone")
    writer.widen(table, "n")
    columns = [("id", "bigint"), ("zone", "string"), ("n", "bigint"), ("late", "string")]
    rows = [(*r, None) for r in rows] + [(100, "eu", 2**40, "x"), (101, None, None, None)]
    writer.append(table, columns, rows[-2:])
    writer.drop_column(table, "zone")
    writer.add_column(table, "region", "string")  # the name again, which is another column
    columns = [columns[0], *columns[2:], ("region", "string")]
    rows = [(r[0], r[2], r[3], None) for r in rows] + [(200, 1, "y", "back")]
    duck.append(table, columns, rows[-1:])
    return table, columns, rows, ()


def merge_on_read(lake, engines):
    """Rows deleted by position, by Spark and DuckDB, in some files all of them."""
    table, columns, rows, _ = appended(lake, engines, "merged", ["region"])
    spark = sparks(engines)[0]
    spark.run(f"ALTER TABLE {spark.at(table)} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read', 'write.merge.mode' = 'merge-on-read')")
    spark.delete(table, "id", [0, 11, 40, 41])
    engines["duckdb-rest"].delete(table, "id", [22, 50])
    spark.upsert(table, columns, [(30, "eu", 3000), (31, "us", 3100)], "id")
    gone = {0, 11, 40, 41, 22, 50, 30, 31}
    return table, columns, [r for r in rows if r[0] not in gone] + [(30, "eu", 3000), (31, "us", 3100)], ()


def several_specs(lake, engines):
    """Partitioned in three ways over time, with deletes in the older ones."""
    table, columns, rows, _ = appended(lake, engines, "specs", ["region"], times=3)
    spark = sparks(engines)[0]
    spark.run(f"ALTER TABLE {spark.at(table)} SET TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')")
    spark.delete(table, "id", [1, 21])
    engines["pyiceberg-rest"].partition_by_bucket(table, "id", 3)
    rows = [r for r in rows if r[0] not in (1, 21)] + [(300, "eu", 1), (301, None, 2)]
    spark.append(table, columns, rows[-2:])
    spark.run(f"ALTER TABLE {spark.at(table)} DROP PARTITION FIELD region")
    for i in range(2):
        rows += [(400 + i, "eu", 1), (410 + i, "us", 2)]
        spark.append(table, columns, rows[-2:])
    spark.delete(table, "id", [2, 400])
    return table, columns, [r for r in rows if r[0] not in (2, 400)], ()


def ordered(lake, engines):
    table, columns, rows, _ = appended(lake, engines, "sorted")
    spark = sparks(engines)[0]
    spark.run(f"ALTER TABLE {spark.at(table)} WRITE ORDERED BY region DESC NULLS LAST, id")
    spark.append(table, columns, [(500, "eu", 1)])
    return table, columns, rows + [(500, "eu", 1)], ()


def by_equality(lake, engines, partition=None):
    """Deletes by value: they concern what was there before, not what came after. PyIceberg cannot read such a table; DuckDB not if it has partitions."""
    table, columns, rows, _ = appended(lake, engines, "equal", partition)
    spark = sparks(engines)[0]
    spark.delete_by_equality(table, "id", [0, 10, 20, 99], "eu")
    engines["pyiceberg-rest"].append(table, columns, [(10, "eu", -1)])
    return table, columns, [r for r in rows if r[0] not in (0, 10, 20)] + [(10, "eu", -1)], ("pyiceberg-rest", *(["duckdb-rest"] if partition else []))


def by_equality_in_partitions(lake, engines):
    return by_equality(lake, engines, ["region"])


SHAPES = [plain, by_identity, by_bucket, by_truncate, by_time, evolved, merge_on_read, several_specs, ordered, by_equality, by_equality_in_partitions]


# ---- what is the same ----


class History:
    """What each engine has read of some snapshots and a tag, to be read again."""

    def __init__(self, agree, lake, table, blind):
        self.agree, self.table = agree, table
        self.who = [n for n in readers(agree) if n not in blind]
        self.ids = [s["snapshot-id"] for s in metadata(lake, table)["snapshots"]]
        self.seen = {i: self.read(i) for i in (self.ids[1], *self.ids[-2:])}

    def read(self, snapshot):
        return {n: s._replace(snapshots=0) for n, s in self.agree.ask(lambda e: e.state_at(self.table, snapshot), self.who).items()}

    def holds(self, *which):
        for snapshot in which:
            assert self.read(snapshot) == self.seen[snapshot]


def readers(agree):
    """Each kind of engine once, by REST and beside it."""
    return ["duckdb-rest", "pyiceberg-rest", *[n for n in agree.engines if n.startswith("spark") and n.endswith("jdbc")]]


def same_rows(agree, table, rows, columns, blind=()):
    seen = agree.ask(lambda e: e.state(table), [n for n in readers(agree) if n not in blind])
    agree.same(seen, rows, columns)


def calls(spark, procedure, table, **arguments):
    said = ", ".join(f"{k} => {v}" for k, v in {"table": f"'{table}'", **arguments}.items())
    answer = spark.run(f"CALL {spark.catalog}.system.{procedure}({said})")
    return {name: row for (name, _), row in zip(answer["types"], zip(*answer["rows"]))} if answer["rows"] else {}


def nothing_to_rewrite_or_expire(spark, table):
    for options in ("map()", "map('delete-file-threshold', '1')"):
        done = calls(spark, "rewrite_data_files", table, options=options)
        assert done["rewritten_data_files_count"] == (0,) and done["failed_data_files_count"] == (0,), done
    assert calls(spark, "rewrite_position_delete_files", table)["rewritten_delete_files_count"] == (0,)
    now = datetime.datetime.now(datetime.UTC)
    gone = calls(spark, "expire_snapshots", table, older_than=f"TIMESTAMP '{now:%F %T.%f}'", retain_last=1)
    assert not any(v[0] for v in gone.values()), gone


def nothing_left(spark, lake, table):
    """What Spark's procedures, asked for the same, would still do."""
    nothing_to_rewrite_or_expire(spark, table)
    age(lake, table)
    now = datetime.datetime.now(datetime.UTC)
    orphans = calls(spark, "remove_orphan_files", table, older_than=f"TIMESTAMP '{now - datetime.timedelta(days=2):%F %T}'", dry_run="true")
    assert not orphans, orphans


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__name__)
def test_every_step_and_nothing_left(shape, engines, agree, lake):
    spark = sparks(engines)[0]
    table, columns, rows, blind = shape(lake, engines)
    same_rows(agree, table, rows, columns, blind)
    history = History(agree, lake, table, blind)
    spark.tag(table, "kept", history.ids[1])

    before = metadata(lake, table), files(lake, table)
    planned = maintain(lake, table, dry_run=True, compact={"min_input_files": 2}, expire_snapshots={"older_than": "0s"}, remove_orphan_files={})
    assert (metadata(lake, table), files(lake, table)) == before
    assert planned["compact"]["state"] == planned["expire_snapshots"]["state"] == "planned", planned

    done = maintain(lake, table, compact={"min_input_files": 2})["compact"]
    assert done["state"] == "done" and done["files"] == planned["compact"]["files"] > done["new_files"], (planned, done)
    same_rows(agree, table, rows, columns)  # by those, too, that could not read it before
    history.holds(*history.seen)

    assert maintain(lake, table, rewrite_manifests="always")["rewrite_manifests"]["state"] in ("done", "nothing")
    same_rows(agree, table, rows, columns)

    now = [s["snapshot-id"] for s in metadata(lake, table)["snapshots"]]
    history.seen |= {i: history.read(i) for i in now[-2:]}
    expired = maintain(lake, table, expire_snapshots={"older_than": "0s", "keep_last": 2})["expire_snapshots"]
    left = {s["snapshot-id"] for s in metadata(lake, table)["snapshots"]}
    assert left == {history.ids[1], *now[-2:]} and expired["snapshots"] == len(now) - len(left) and expired["files"] > 0
    history.holds(*left)
    assert spark.state_of_tag(table, "kept")._replace(snapshots=0) == history.seen[history.ids[1]][history.who[-1]]
    same_rows(agree, table, rows, columns)

    needed = files(lake, table)
    stray = [folder(lake, table) / "data" / "never committed.parquet", folder(lake, table) / "metadata" / "snap-0.avro"]
    for path in stray:
        path.write_bytes(b"x")
    age(lake, table)
    orphans = maintain(lake, table, remove_orphan_files={})["remove_orphan_files"]
    assert orphans["files"] == 2 and files(lake, table) == needed, orphans
    history.holds(*left)

    spark.run(f"ALTER TABLE {spark.at(table)} DROP TAG kept")
    maintain(lake, table, expire_snapshots={"older_than": "0s", "keep_last": 1})
    nothing_left(spark, lake, table)
    assert maintain(lake, table, rewrite_manifests="auto")["rewrite_manifests"]["state"] == "nothing"
    same_rows(agree, table, rows, columns)
    calls(spark, "rewrite_manifests", table)
    # DuckDB's extension writes to no table with a sort order.
    for i, writer in enumerate(["sluice", "pyiceberg-jdbc", spark.name, *([] if shape is ordered else ["duckdb-rest"])]):
        row = (1000 + i, *[None for _ in columns[1:]])
        engines[writer].append(table, columns, [row])
        rows = [*rows, row]
    same_rows(agree, table, rows, columns)


@pytest.mark.timeout(300)
def test_files_of_the_target_size(engines, agree, lake):
    """Neither so small nor so large that Spark, asked for the same size, would write them again."""
    spark, table, target = sparks(engines)[0], lake.table("sizes"), 2 << 20
    engines["pyiceberg-rest"].create(table, COLUMNS)
    for i in range(30):
        n = range(i * 40_000, (i + 1) * 40_000)
        rows = pa.table({"id": pa.array(n, pa.int64()), "region": [f"{x * 11400714819323198485 % 2**64:x}" for x in n], "n": pa.array([x % 7 for x in n], pa.int32())})
        engines["pyiceberg-rest"].load(table).append(rows)
    sums = f"SELECT count(*), sum(id), count(DISTINCT region) FROM {{}}.{table}"
    done = maintain(lake, table, compact={"target_file_size": "2MB"})["compact"]
    assert done["files"] == 30 and 2 < done["new_files"] < 30, done
    again = maintain(lake, table, compact={"target_file_size": "2MB"})["compact"]
    found = calls(spark, "rewrite_data_files", table, options=f"map('target-file-size-bytes', '{target}')")
    sizes = [f["file_size_in_bytes"] for f in engines["pyiceberg-rest"].load(table).inspect.files().to_pylist()]
    assert again["state"] == "nothing" and found["rewritten_data_files_count"] == (0,), (done, again, found, sizes)
    want = [1_200_000, sum(range(1_200_000)), 1_200_000]
    assert spark.run(sums.format(spark.catalog))["rows"] == [want] == [[int(v) for v in lake.daemon.sql(sums.format(lake.name))[0].values()]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", [plain, by_identity, merge_on_read], ids=lambda s: s.__name__)
def test_after_sparks_procedures(shape, engines, agree, lake):
    """What Spark has done needs no doing again, and a table that it keeps can be kept by Sluice from now on."""
    spark = sparks(engines)[0]
    table, columns, rows, blind = shape(lake, engines)
    done = calls(spark, "rewrite_data_files", table, options="map('min-input-files', '2', 'delete-file-threshold', '1', 'remove-dangling-deletes', 'true')")
    assert done["rewritten_data_files_count"][0] > 1
    calls(spark, "rewrite_manifests", table)
    now = datetime.datetime.now(datetime.UTC)
    calls(spark, "expire_snapshots", table, older_than=f"TIMESTAMP '{now:%F %T.%f}'", retain_last=1)
    age(lake, table)
    calls(spark, "remove_orphan_files", table, older_than=f"TIMESTAMP '{now - datetime.timedelta(days=2):%F %T}'")
    same_rows(agree, table, rows, columns, blind)
    before = {p.name for p in files(lake, table) if "crc" not in p.name}
    steps = maintain(lake, table, compact={"min_input_files": 2}, rewrite_manifests="auto", expire_snapshots={"older_than": "0s"}, remove_orphan_files={})
    assert all(s["state"] == "nothing" for s in steps.values()), steps
    assert {p.name for p in files(lake, table) if "crc" not in p.name} == before
    same_rows(agree, table, rows, columns, blind)


# ---- on S3 ----

BUCKET = "upkeep-test"


@pytest.fixture(scope="module")
def on_s3(engines):
    """A lake on a store, its engines, and their agreement; Spark reads and writes with the keys that the catalog lends."""
    jvm = sparks(engines)[0].jvm
    with running("seaweedfs", BUCKET) as store:
        lake = Lake(store, BUCKET)
        try:
            lake.start()
            made = [Sluice(lake), DuckDB(lake), PyIceberg(lake, "rest"), Spark(lake, "rest", "4.1", jvm)]
            made[2].catalog.create_namespace_if_not_exists("m")
            agreement = Agreement({e.name: e for e in made})
            yield lake, {e.name: e for e in made}, agreement
            agreement.pool.shutdown()
        finally:
            lake.close()


def key_of(location):
    return location.removeprefix(f"s3://{BUCKET}/")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shape", [plain, by_identity, merge_on_read], ids=lambda s: s.__name__)
def test_on_s3(shape, on_s3):
    lake, engines, agree = on_s3
    spark = sparks(engines)[0]
    table, columns, rows, _ = shape(lake, engines)
    agree.on(table, rows, columns)
    lake.store.put(BUCKET, f"{key_of(metadata(lake, table)['location'])}/data/never committed.parquet", b"x")
    for step in (
        {"compact": {"min_input_files": 2}},
        {"rewrite_manifests": "always"},
        {"expire_snapshots": {"older_than": "0s", "keep_last": 1}},
        {"remove_orphan_files": {"older_than": "0s"}},
    ):
        done = maintain(lake, table, **step)[next(iter(step))]
        assert done["state"] in ("done", "nothing") and (done["state"] == "done" or "rewrite_manifests" in step), done
        agree.on(table, rows, columns)
    need = {urllib.parse.unquote(key_of(f)) for f in lake_files.needed(engines["pyiceberg-rest"].load(table))}
    assert set(lake.store.keys(BUCKET, key_of(metadata(lake, table)["location"]))) == need
    nothing_to_rewrite_or_expire(spark, table)
    for i, writer in enumerate(["sluice", "duckdb-rest", "pyiceberg-rest", spark.name]):
        rows = [*rows, (1000 + i, *[None for _ in columns[1:]])]
        engines[writer].append(table, columns, rows[-1:])
    agree.on(table, rows, columns)
