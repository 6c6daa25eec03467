"""Parquet files put together to one without reading their rows (tasks/engines/python/sluice/engines/parquet_parts.py): other readers see what the parts had."""

import datetime as dt
import importlib.util

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ROOT

_spec = importlib.util.spec_from_file_location("parquet_parts", ROOT / "tasks/engines/python/sluice/engines/parquet_parts.py")
parquet_parts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(parquet_parts)

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        ("s", pa.string()),
        ("l", pa.list_(pa.int32())),
        ("m", pa.map_(pa.string(), pa.int64())),
        ("t", pa.timestamp("us", "UTC")),
        ("f", pa.float64()),
        ("b", pa.bool_()),
        ("nothing", pa.string()),
    ]
)


def rows(n, first):
    at = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
    ids = range(first, first + n)
    columns = {
        "id": ids,
        "s": [None if i % 7 == 0 else f"v{i % 50}" for i in ids],
        "l": [[i, i + 1][: i % 3] for i in ids],
        "m": [[("a", i)] for i in ids],
        "t": [at + dt.timedelta(seconds=i) for i in ids],
        "f": [i / 3 for i in ids],
        "b": [i % 2 == 0 for i in ids],
        "nothing": [None] * n,
    }
    return pa.table({k: pa.array(v, SCHEMA.field(k).type) for k, v in columns.items()}, schema=SCHEMA)


def parts(folder, sizes, **options):
    paths, tables = [], []
    for i, n in enumerate(sizes):
        tables.append(rows(n, sum(sizes[:i])))
        paths.append(str(folder / f"part-{i:05}.parquet"))
        pq.write_table(tables[-1], paths[-1], **options)
    return paths, pa.concat_tables(tables)


@pytest.mark.parametrize("sizes", [[5], [0], [0, 0], [1000, 0, 1, 2500], [300] * 40], ids=str)
def test_the_rows_are_those_of_the_parts_in_their_order(tmp_path, sizes):
    paths, whole = parts(tmp_path, sizes, row_group_size=700, compression="zstd", write_page_index=True)
    to = tmp_path / "whole"
    parquet_parts.join(paths, str(to))
    assert pq.read_table(to).equals(whole) and pq.read_schema(to).equals(SCHEMA)
    assert duckdb.sql(f"FROM read_parquet('{to}')").to_arrow_table().cast(SCHEMA).equals(whole)
    near = duckdb.sql(f"SELECT count(*), min(s) FROM read_parquet('{to}') WHERE id BETWEEN 100 AND 120").fetchone()
    assert near == duckdb.sql("SELECT count(*), min(s) FROM whole WHERE id BETWEEN 100 AND 120").fetchone()
    assert pq.ParquetFile(to).metadata.num_rows == sum(sizes)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]


def test_parts_that_do_not_go_together(tmp_path):
    paths, _ = parts(tmp_path, [3])
    other = str(tmp_path / "other")
    pq.write_table(pa.table({"id": [1]}), other)
    with pytest.raises(ValueError, match="has other columns than"):
        parquet_parts.join([*paths, other], str(tmp_path / "whole"))
    (tmp_path / "no.parquet").write_bytes(b"PAR1 something else")
    with pytest.raises(ValueError, match="is no Parquet file"):
        parquet_parts.join([str(tmp_path / "no.parquet"), other], str(tmp_path / "whole"))
