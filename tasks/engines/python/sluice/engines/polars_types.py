"""Polars' types beside DuckDB's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional, Union

import polars as pl

from sluice.engines import duck
from sluice.engines.common import ONLY_DUCKDB
from sluice.report import Failure

_POLARS = {
    "boolean": pl.Boolean(),
    "tinyint": pl.Int8(),
    "smallint": pl.Int16(),
    "integer": pl.Int32(),
    "bigint": pl.Int64(),
    "hugeint": pl.Int128(),
    "utinyint": pl.UInt8(),
    "usmallint": pl.UInt16(),
    "uinteger": pl.UInt32(),
    "ubigint": pl.UInt64(),
    "float": pl.Float32(),
    "double": pl.Float64(),
    "date": pl.Date(),
    "time": pl.Time(),
    "timestamp": pl.Datetime("us"),
    "timestamp_s": pl.Datetime("us"),
    "timestamp_ms": pl.Datetime("ms"),
    "timestamp_ns": pl.Datetime("ns"),
    "timestamp with time zone": pl.Datetime("us", "UTC"),
    "varchar": pl.String(),
    "blob": pl.Binary(),
}


def to_polars(duck_type: str, column: str) -> pl.DataType:
    """The Polars type that holds values of a DuckDB type."""
    made = _to_polars(duck.parsed(duck_type))
    if made is None:
        raise Failure(f'column "{column}": the type {duck_type} has no counterpart in Polars; cast it to another type; {ONLY_DUCKDB}')
    return made


def _to_polars(kind: Any) -> Optional[pl.DataType]:
    if kind.id == "decimal":
        sizes = dict(kind.children)
        return pl.Decimal(sizes["precision"], sizes["scale"])
    if kind.id == "list":
        element = _to_polars(kind.children[0][1])
        return element and pl.List(element)
    if kind.id == "map":
        key, value = (_to_polars(t) for _, t in kind.children)
        return pl.Map(key, value) if key and value else None
    if kind.id == "struct":
        inner = {n: _to_polars(t) for n, t in kind.children}
        return pl.Struct({n: t for n, t in inner.items() if t}) if all(inner.values()) else None
    return _POLARS.get(kind.id)


def from_polars(kind: Union[pl.DataType, Any], column: str) -> str:
    """The DuckDB type of values that Polars has read."""
    if isinstance(kind, pl.Decimal):
        return f"DECIMAL({kind.precision or 38},{kind.scale})"
    if isinstance(kind, pl.Datetime):
        if kind.time_zone:
            return "TIMESTAMP WITH TIME ZONE"
        return {"ns": "TIMESTAMP_NS", "ms": "TIMESTAMP_MS"}.get(kind.time_unit, "TIMESTAMP")
    if isinstance(kind, (pl.List, pl.Array)):
        return from_polars(kind.inner, column) + "[]"
    if isinstance(kind, pl.Map):
        return f"MAP({from_polars(kind.key, column)}, {from_polars(kind.value, column)})"
    if isinstance(kind, pl.Struct):
        return "STRUCT(" + ", ".join(f"{duck.name(f.name)} {from_polars(f.dtype, column)}" for f in kind.fields) + ")"
    if isinstance(kind, (pl.Categorical, pl.Enum)):
        return "VARCHAR"
    for spelled, ours in _POLARS.items():
        if ours == kind:
            return spelled.upper()
    if kind == pl.Null():
        return "INTEGER"
    raise Failure(f'column "{column}": the polars engine cannot write values of the type {kind}; {ONLY_DUCKDB}')


def columns_of(schema: Iterable[tuple[str, Any]]) -> duck.Columns:
    """The columns of a frame as DuckDB would call their types."""
    return {n: from_polars(t, n) for n, t in schema}
