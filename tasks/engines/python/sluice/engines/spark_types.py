"""Spark's types beside DuckDB's. Spark's are written as SQL writes them ("bigint")."""

from __future__ import annotations

from typing import Any, Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from sluice.engines import duck
from sluice.engines.common import ONLY_DUCKDB
from sluice.report import Failure

_TO_SPARK = {
    "boolean": "boolean",
    "tinyint": "tinyint",
    "smallint": "smallint",
    "integer": "int",
    "bigint": "bigint",
    "hugeint": "decimal(38,0)",
    "utinyint": "smallint",
    "usmallint": "int",
    "uinteger": "bigint",
    "ubigint": "decimal(20,0)",
    "float": "float",
    "double": "double",
    "date": "date",
    "timestamp": "timestamp_ntz",
    "timestamp_s": "timestamp_ntz",
    "timestamp_ms": "timestamp_ntz",
    "timestamp_ns": "timestamp_ntz",
    "timestamp with time zone": "timestamp",
    "varchar": "string",
    "json": "string",
    "enum": "string",
    "blob": "binary",
}
_FROM_SPARK = {
    T.BooleanType: "BOOLEAN",
    T.ByteType: "TINYINT",
    T.ShortType: "SMALLINT",
    T.IntegerType: "INTEGER",
    T.LongType: "BIGINT",
    T.FloatType: "FLOAT",
    T.DoubleType: "DOUBLE",
    T.DateType: "DATE",
    T.TimestampNTZType: "TIMESTAMP",
    T.TimestampType: "TIMESTAMP WITH TIME ZONE",
    T.StringType: "VARCHAR",
    T.BinaryType: "BLOB",
    T.NullType: "INTEGER",
}


def name(text: str) -> str:
    """A quoted identifier."""
    return "`" + text.replace("`", "``") + "`"


def column(text: str) -> Column:
    """The column of this very name, whatever stands in it."""
    return F.col(name(text))


def to_spark(duck_type: str, column: str) -> str:
    """The Spark type that holds values of a DuckDB type."""
    made = _to_spark(duck.parsed(duck_type))
    if made is None:
        raise Failure(f'column "{column}": the type {duck_type} has no counterpart in Spark; cast it to another type; {ONLY_DUCKDB}')
    return made


def _to_spark(kind: Any) -> Optional[str]:
    if kind.id == "decimal":
        sizes = dict(kind.children)
        return f"decimal({sizes['precision']},{sizes['scale']})"
    if kind.id == "list":
        element = _to_spark(kind.children[0][1])
        return f"array<{element}>" if element else None
    if kind.id == "map":
        key, value = (_to_spark(t) for _, t in kind.children)
        return f"map<{key},{value}>" if key and value else None
    if kind.id == "struct":
        inner = [(n, _to_spark(t)) for n, t in kind.children]
        return "struct<" + ",".join(f"{name(n)}:{t}" for n, t in inner) + ">" if all(t for _, t in inner) else None
    return _TO_SPARK.get(kind.id)


def from_spark(kind: T.DataType, column: str) -> str:
    """The DuckDB type of values that Spark has read."""
    if isinstance(kind, T.DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if isinstance(kind, T.ArrayType):
        return from_spark(kind.elementType, column) + "[]"
    if isinstance(kind, T.MapType):
        return f"MAP({from_spark(kind.keyType, column)}, {from_spark(kind.valueType, column)})"
    if isinstance(kind, T.StructType):
        return "STRUCT(" + ", ".join(f"{duck.name(f.name)} {from_spark(f.dataType, column)}" for f in kind.fields) + ")"
    made = _FROM_SPARK.get(type(kind))
    if made is None:
        raise Failure(f'column "{column}": the spark engine cannot write values of the type {kind.simpleString()}; {ONLY_DUCKDB}')
    return made


def columns_of(frame: DataFrame) -> duck.Columns:
    """The columns of a frame as DuckDB would call their types."""
    return {f.name: from_spark(f.dataType, f.name) for f in frame.schema.fields}


def as_columns(frame: DataFrame, columns: duck.Columns) -> DataFrame:
    """The frame's columns with these names and types, by place."""
    named = frame.toDF(*(f"c{i}" for i in range(len(columns))))
    return named.select(*(F.col(f"c{i}").cast(to_spark(t, n)).alias(n) for i, (n, t) in enumerate(columns.items())))
