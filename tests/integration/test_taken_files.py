"""Publish copies files that are what it would write; what it does not copy it writes, and nobody can tell the tables apart."""

import duckdb
import pyarrow.parquet as pq
import pytest

from conftest import why
from test_write_modes import Lake, local

TYPES = """
SELECT i::INTEGER AS i, i::BIGINT * 3 AS l, i % 2 = 0 AS b, (i / 7)::FLOAT AS f,
    CASE WHEN i = 200000 THEN 'nan'::DOUBLE WHEN i BETWEEN 122880 AND 245759 AND i % 3 > 0 THEN NULL ELSE -i / 7 END AS d,
    CASE WHEN i >= 122880 THEN 'x' || i END AS s, repeat('é', 300) || i AS long, 'x' || i AS "odd ""name"", x", md5(i::VARCHAR)::UUID AS u,
    (i - 1000) / 100.0 AS dec0, ((i - 1000) / 100.0)::DECIMAL(12, 2) AS dec, DATE '1999-12-31' + i::INTEGER % 900 AS day, TIMESTAMP '2001-02-03 04:05:06.789' + INTERVAL (i) SECOND AS ts,
    TIMESTAMPTZ '2001-02-03 04:05:06+02' + INTERVAL (i) SECOND AS tz, TIME '01:02:03.000004' AS t, ('\\xFF' || i)::BLOB AS bin, NULL::INTEGER AS nothing
FROM range({n}) r(i)
"""
SMALL = "SELECT i AS id, 'n' || i AS name FROM range({n}) r(i)"


@pytest.fixture
def lake(daemon, folder):
    return Lake(daemon, folder)


@pytest.fixture
def staged(folder):
    def make(sql, n=1000, name="staged", options=""):
        path = folder / f"{name}.parquet"
        with duckdb.connect() as db:
            db.execute(f"SET TimeZone = 'UTC'; COPY ({sql.format(n=n)}) TO '{path}' (FORMAT parquet, COMPRESSION zstd {options})")
        return path

    return make


def published(lake, source, into="a.t", **keys):
    """Was it copied?"""
    run = lake.run(source, into, **keys)
    assert run["state"] == "success", why(run)
    return "took 1 file as it is" in lake.daemon.task_log(run["id"], "publish")


def file_of(lake, name):
    (task,) = lake.table(name).scan().plan_files()
    return task.file


def told(lake, name):
    """What the manifest says of a table's file, but for what compression changes."""
    file, names = file_of(lake, name), {f.field_id: f.name for f in lake.table(name).schema().fields}
    by_column = ("value_counts", "null_value_counts", "nan_value_counts", "lower_bounds", "upper_bounds")
    return {"record_count": file.record_count, **{k: {names[i]: v for i, v in getattr(file, k).items()} for k in by_column}}


def rows(lake, name):
    return lake.table(name).scan().to_arrow()


def test_copied_or_written_is_the_same(lake, staged):
    source = staged(TYPES, 300_000)
    assert published(lake, source, "a.copied", parity="full")
    assert not published(lake, source, "a.written", compression="snappy", parity="full")
    assert lake.daemon.sql("SELECT count(*)::INT AS n FROM (FROM a.copied EXCEPT ALL FROM a.written)") == [{"n": 0}]
    mine, theirs = (rows(lake, name).drop_columns(["d", "u"]).sort_by("l") for name in ("a.copied", "a.written"))  # NaN is not NaN, and PyArrow does not compare these
    assert mine.num_rows == 300_000 and [c for c in mine.column_names if not mine[c].equals(theirs[c])] == []
    mine, theirs = told(lake, "a.copied"), told(lake, "a.written")
    for bounds in ("lower_bounds", "upper_bounds"):  # of bytes, and of numbers beside a NaN, the footer does not tell enough
        assert theirs[bounds].keys() - mine[bounds].keys() == {"bin", "d"}
        del theirs[bounds]["bin"], theirs[bounds]["d"]
    assert mine == theirs
    assert mine["nan_value_counts"] == {"f": 0, "d": 1, "dec0": 0} and mine["lower_bounds"]["s"] == b"x122880"
    file = file_of(lake, "a.copied")
    data = pq.ParquetFile(local(file.file_path))
    assert [data.schema_arrow.field(i).metadata[b"PARQUET:field_id"] for i in range(17)] == [str(i + 1).encode() for i in range(17)]
    assert data.metadata.num_row_groups == len(file.split_offsets) == 3 and file.file_size_in_bytes == local(file.file_path).stat().st_size
    # The same pages, behind which is another footer.
    pages = source.read_bytes()
    assert local(file.file_path).read_bytes().startswith(pages[: -8 - int.from_bytes(pages[-8:-4], "little")])
    assert lake.daemon.sql("SELECT count(*)::INT AS n, count(nothing)::INT AS none FROM a.copied WHERE l >= 3") == [{"n": 299_999, "none": 0}]


def test_columns_keep_their_ids(lake, staged):
    """The table's first column is not the first that it ever had."""
    assert published(lake, staged("SELECT 'gone' AS old, i AS id FROM range({n}) r(i)"))
    with lake.table().update_schema() as change:
        change.delete_column("old")
    with lake.table().update_schema() as change:
        change.add_column("name", lake.table().schema().find_type("id").__class__())
    assert published(lake, staged("SELECT i AS id, -i AS name FROM range({n}) r(i)"))
    got = rows(lake, "a.t").sort_by([("id", "ascending"), ("name", "descending")]).to_pylist()
    assert got[:4] == [{"id": 0, "name": 0}, {"id": 0, "name": None}, {"id": 1, "name": -1}, {"id": 1, "name": None}] and len(got) == 2000
    assert lake.daemon.sql("SELECT sum(id)::INT AS a, sum(name)::INT AS b FROM a.t") == [{"a": 999_000, "b": -499_500}]
    for mode, n in (("overwrite", 1000), ("append", 2000), ("replace", 1000)):
        assert published(lake, staged("SELECT i AS id, -i AS name FROM range({n}) r(i)"), mode=mode)
        assert rows(lake, "a.t").num_rows == n


@pytest.mark.parametrize(
    "sql, keys",
    [
        (SMALL, {"partition_by": "[name]", "n": 7}),
        (SMALL, {"sort_by": "[name]"}),
        (SMALL, {"target_file_size": "1KB"}),
        ("SELECT i::TINYINT AS id, 'n' || i AS name FROM range(100) r(i)", {}),
        ("SELECT {{'a': i}} AS s, [i] AS l FROM range({n}) r(i)", {}),
        (SMALL, {"options": ", ROW_GROUP_SIZE 2048", "n": 30_000}),
        (SMALL, {"options": ", ROW_GROUP_SIZE 1000000", "n": 600_000}),
        (SMALL, {"options": ", PARQUET_VERSION V2", "n": 5000}),
        ("SELECT i AS id, TIMESTAMP_MS '2024-01-01' AS at FROM range({n}) r(i)", {}),  # others take its bounds for microseconds
    ],
)
def test_what_is_not_as_it_would_be_written_is_written(lake, staged, sql, keys):
    n = keys.pop("n", 1000)
    source = staged(sql, n, options=keys.pop("options", ""))
    assert not published(lake, source, **keys)
    assert rows(lake, "a.t").num_rows == pq.read_metadata(source).num_rows
    if keys.keys() & {"partition_by", "sort_by", "target_file_size"}:
        assert published(lake, source, "a.plain")


def test_other_tables_and_other_files(lake, staged, folder):
    source = staged(SMALL)
    assert published(lake, source)
    assert published(lake, source)
    # Columns in another order, fewer columns, of another writer, small ones, in one mode that reads the table.
    assert not published(lake, staged("SELECT 'n' AS name, 1::BIGINT AS id", 1, "order"))
    assert not published(lake, staged("SELECT 1::BIGINT AS id", 1, "fewer"))
    pq.write_table(pq.read_table(source), folder / "other.parquet", compression="zstd")
    assert not published(lake, folder / "other.parquet")
    assert not published(lake, source, mode="upsert", key="[id]")
    staged(SMALL, 10, "many-1")
    staged(SMALL, 20, "many-2")
    assert not published(lake, folder / "many-*.parquet", "a.many")
    assert len(lake.data_files("a.many")) == 1 and rows(lake, "a.many").num_rows == 30
    assert not published(lake, staged(SMALL, 0, "none"), "a.none")
    assert rows(lake, "a.none").num_rows == 0
