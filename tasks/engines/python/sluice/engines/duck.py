"""DuckDB as the judge of its own dialect: what a statement's columns are called and of which types, and what is wrong with it.

Statements are bound to empty tables, never run: the rows are the engine's work. So names, types and messages are those that the
duckdb engine gives.
"""

from __future__ import annotations

import functools
from typing import Any, Optional

import duckdb
from pyiceberg import types as ice

from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.report import Failure

Columns = dict[str, str]  # name -> DuckDB type, in order


def name(text: str) -> str:
    """A quoted identifier."""
    return '"' + text.replace('"', '""') + '"'


def text(value: str) -> str:
    """A quoted string."""
    return "'" + value.replace("'", "''") + "'"


class Judge:
    """A DuckDB in memory with the tables that statements may name."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.db = _connection()
        self._catalog: Optional[str] = None

    def add_view(self, view: str, columns: Columns) -> None:
        """An empty table called `view`."""
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE {name(view)} ({_columns(columns)})")

    def add_table(self, namespace: str, table: str, columns: Columns) -> None:
        """An empty table of the catalog, by its name there."""
        if self._catalog is None:
            self._catalog = self.job.catalog.get("name") or "local"
            self.db.execute(f"ATTACH ':memory:' AS {name(self._catalog)}")
            self.db.execute(f"USE {name(self._catalog)}")
        schema = f"{name(self._catalog)}.{name(namespace)}"
        self.db.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        self.db.execute(f"CREATE OR REPLACE TABLE {schema}.{name(table)} ({_columns(columns)})")

    def use(self, namespace: Optional[str]) -> None:
        """Has names without a namespace be looked up in this one."""
        if namespace and self._catalog:
            self.db.execute(f"USE {name(self._catalog)}.{name(namespace)}")

    def parse(self, sql: str, key: Optional[str]) -> None:
        """Is it SQL?"""
        try:
            self.db.extract_statements(sql)
        except duckdb.Error as e:
            raise self._wrong(str(e), key, 0) from None

    def bind(self, sql: str, key: Optional[str] = None, before: str = "", after: str = "") -> Columns:
        """The columns of a SELECT. `key` is where its text stands in the YAML, with our own words around it."""
        before = "DESCRIBE " + before
        try:
            return {row[0]: row[1] for row in self.db.execute(before + sql + after).fetchall()}
        except duckdb.Error as e:
            raise self._wrong(str(e), key, len(before)) from None

    def type_of(self, wanted: str) -> str:
        """DuckDB's own spelling of a type: bigint, int8 and LONG are one. Raises duckdb.Error with why there is none such."""
        return str(self.db.sql(f"SELECT CAST(NULL AS {wanted})").types[0])

    def _wrong(self, message: str, key: Optional[str], before: int) -> Failure:
        words, _, excerpt = message.partition("\nLINE ")
        line = col = 0
        if excerpt:
            number, _, rest = excerpt.partition(": ")
            line = int(number)
            shown, _, caret = rest.partition("\n")
            if "^" in caret and not shown.startswith("..."):
                col = caret.index("^") - len(f"LINE {number}: ") + 1
        if line == 1:
            col -= before
        return self.job.wrong(words.rstrip(), key, line, col)


def _columns(columns: Columns) -> str:
    return ", ".join(f"{name(n)} {t}" for n, t in columns.items())


# ---- types: DuckDB's and Iceberg's ----

_TO_ICEBERG: dict[str, Any] = {
    "boolean": ice.BooleanType,
    "tinyint": ice.IntegerType,
    "smallint": ice.IntegerType,
    "integer": ice.IntegerType,
    "utinyint": ice.IntegerType,
    "usmallint": ice.IntegerType,
    "bigint": ice.LongType,
    "uinteger": ice.LongType,
    "hugeint": ice.LongType,
    "float": ice.FloatType,
    "double": ice.DoubleType,
    "date": ice.DateType,
    "time": ice.TimeType,
    "timestamp": ice.TimestampType,
    "timestamp_s": ice.TimestampType,
    "timestamp_ms": ice.TimestampType,
    "timestamp_ns": ice.TimestampType,
    "timestamp with time zone": ice.TimestamptzType,
    "varchar": ice.StringType,
    "json": ice.StringType,
    "enum": ice.StringType,
    "blob": ice.BinaryType,
}
_FROM_ICEBERG = {
    ice.BooleanType: "BOOLEAN",
    ice.IntegerType: "INTEGER",
    ice.LongType: "BIGINT",
    ice.FloatType: "FLOAT",
    ice.DoubleType: "DOUBLE",
    ice.DateType: "DATE",
    ice.TimeType: "TIME",
    ice.TimestampType: "TIMESTAMP",
    ice.TimestamptzType: "TIMESTAMP WITH TIME ZONE",
    ice.StringType: "VARCHAR",
    ice.BinaryType: "BLOB",
}


@functools.lru_cache(maxsize=1)
def _connection() -> duckdb.DuckDBPyConnection:
    """The one of this process: nothing is computed on it, so one thread does."""
    return duckdb.connect(config={"threads": 1})


def warm_up() -> None:
    """Opens it (15 ms) where that is done once: it has no thread of its own, so that a fork takes it along."""
    _connection().execute("DESCRIBE SELECT 1 AS n").fetchall()


@functools.lru_cache(maxsize=4096)
def parsed(duck_type: str) -> Any:
    """The type as DuckDB describes it: its `id`, and for some `children`."""
    return _connection().sql(f"SELECT CAST(NULL AS {duck_type})").types[0]


def to_iceberg(duck_type: str, column: str) -> ice.IcebergType:
    """The Iceberg type that values of a DuckDB type get in a table; ids inside of it mean nothing yet."""
    made = _to_iceberg(parsed(duck_type))
    if made is None:
        raise Failure(f'column "{column}": the type {duck_type} has no counterpart in Iceberg; cast it to another type; {ONLY_DUCKDB}')
    return made


def _to_iceberg(kind: Any) -> Optional[ice.IcebergType]:
    if kind.id == "decimal":
        sizes = dict(kind.children)
        return ice.DecimalType(sizes["precision"], sizes["scale"])
    if kind.id == "ubigint":
        return ice.DecimalType(20, 0)
    if kind.id == "list":
        element = _to_iceberg(kind.children[0][1])
        return element and ice.ListType(element_id=0, element=element, element_required=False)
    if kind.id == "map":
        key, value = (_to_iceberg(t) for _, t in kind.children)
        return key and value and ice.MapType(key_id=0, key_type=key, value_id=0, value_type=value, value_required=False)
    if kind.id == "struct":
        inner = [(n, _to_iceberg(t)) for n, t in kind.children]
        if any(t is None for _, t in inner):
            return None
        return ice.StructType(*(ice.NestedField(field_id=i, name=n, field_type=t, required=False) for i, (n, t) in enumerate(inner)))
    made = _TO_ICEBERG.get(kind.id)
    return made() if made else None


def from_iceberg(kind: ice.IcebergType, column: str) -> str:
    """The DuckDB type of a table's column."""
    if isinstance(kind, ice.DecimalType):
        return f"DECIMAL({kind.precision},{kind.scale})"
    if isinstance(kind, ice.ListType):
        return from_iceberg(kind.element_type, column) + "[]"
    if isinstance(kind, ice.MapType):
        return f"MAP({from_iceberg(kind.key_type, column)}, {from_iceberg(kind.value_type, column)})"
    if isinstance(kind, ice.StructType):
        return "STRUCT(" + ", ".join(f"{name(f.name)} {from_iceberg(f.field_type, column)}" for f in kind.fields) + ")"
    made = _FROM_ICEBERG.get(type(kind))
    if made is None:
        raise Failure(f'column "{column}": this engine does not know the Iceberg type {kind}; {ONLY_DUCKDB}')
    return str(made)
