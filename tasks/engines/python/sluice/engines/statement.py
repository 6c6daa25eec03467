"""A statement as sqlglot sees it: its tables, the types of its parts, and what of it an engine is known to do alike.

Flows are written in DuckDB's SQL, and DuckDB has bound a statement (duck.py) before it comes here, so it is right. An engine with
another dialect has a list of the kinds of nodes that mean the same there, and rewrites for those that do not; what is in
neither is refused with its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import sqlglot
from pyiceberg.table import Table
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from sluice.engines import duck, lake
from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.report import Failure

#: (catalog, namespace, table) as a statement writes them; a missing part is "". Frames are found whatever the case.
TableName = tuple[str, str, str]


#: Kinds of nodes that mean the same to every engine, or that each rewrites.
_SAME = (
    # rows
    "Select From Join Where Group Having Order Ordered Limit Offset With CTE Subquery Union Except Intersect Distinct Table "
    "TableAlias Alias Star Column Identifier Qualify Window Tuple Paren "
    # conditions and arithmetic
    "Literal Boolean Null And Or Not EQ NEQ GT GTE LT LTE Is In Between Like ILike Add Sub Mul Div IntDiv Mod Neg DPipe Case If "
    "Coalesce Nullif Cast DataType DataTypeParam Var Greatest Least "
    # functions
    "Upper Lower Length Trim Substring Replace Abs Floor Ceil Round Left Right StartsWith EndsWith Concat Extract Year Month Day "
    "TimestampTrunc DateTrunc "
    # aggregates and windows
    "Count Sum Avg Min Max Median Stddev StddevSamp Variance Filter RowNumber Rank DenseRank"
)
KNOWN = frozenset(_SAME.split())
SMALL = {"TINYINT", "SMALLINT", "INT", "UTINYINT", "USMALLINT", "UINT", "INTEGER", "UINTEGER"}
WHOLE = SMALL | {"BIGINT", "UBIGINT", "HUGEINT", "INT128"}
TEXTS = {"VARCHAR", "TEXT", "CHAR", "NVARCHAR", "NCHAR"}
FLOATS = {"FLOAT", "DOUBLE", "REAL"}


@dataclass
class Bound:
    """A statement with what it reads: tables by their names in it, the columns of these and of `this`, and its own."""

    tables: dict[TableName, Table]
    types: dict[TableName, duck.Columns]
    columns: duck.Columns


def bind(job: Job, tables: lake.Lake, judge: duck.Judge, sql: str, key: Optional[str], this: Optional[duck.Columns]) -> Bound:
    """Looks up what the statement reads in the catalog, and has DuckDB judge it. `this` is the table of that name, if there is one."""
    judge.parse(sql, key)  # DuckDB's words for what is no SQL are better than others'
    bound = Bound({}, {}, {})
    names = tables_of(job, sql, key)
    for name in names:
        catalog, namespace, table = name
        if this is not None and is_this(name):
            bound.types[name] = this
            continue
        if catalog and catalog != (job.catalog.get("name") or "local"):
            continue  # DuckDB says that there is none such
        found = tables.table(namespace, table)
        if found is not None:
            bound.tables[name], bound.types[name] = found, lake.columns_of(found.schema())
            judge.add_table(namespace or tables.default_namespace(), table, bound.types[name])
    judge.use(tables.default_namespace() if any(not n for _, n, t in names if t.lower() != "this") else None)
    bound.columns = judge.bind(sql, key)
    return bound


def is_this(name: TableName) -> bool:
    return not name[1] and name[2].lower() == "this"


def tables_of(job: Job, sql: str, key: Optional[str]) -> list[TableName]:
    """The tables that a statement reads, each once."""
    found: dict[TableName, None] = {}
    for table in parse(job, sql, key).find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            raise cannot(job, key, sql, table.this, "a function in the place of a table")
        if not is_cte(table):
            found[name_of(table)] = None
    return list(found)


def prepared(
    job: Job, key: Optional[str], sql: str, types: Mapping[TableName, duck.Columns]
) -> tuple[exp.Expression, dict[TableName, str]]:
    """The statement with the types of its parts, its stars written out; and the names that its tables have in it now."""
    return typed(job, key, parse(job, sql, key), types)


def typed(
    job: Job, key: Optional[str], tree: exp.Expression, types: Mapping[TableName, duck.Columns]
) -> tuple[exp.Expression, dict[TableName, str]]:
    """The same of a statement that is a tree already."""
    names = {folded(t): f"t{i}" for i, t in enumerate(types)}
    for table in list(tree.find_all(exp.Table)):
        if is_cte(table):
            continue
        written = folded(name_of(table))
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        table.set("this", exp.to_identifier(names[written]))
        table.set("db", None)
        table.set("catalog", None)
    for column in tree.find_all(exp.Column):
        column.set("db", None)
        column.set("catalog", None)
    known = {names[folded(t)]: {c.lower(): kind for c, kind in cols.items()} for t, cols in types.items()}
    return _with_types(job, key, tree, known), names


def parse(job: Job, sql: str, key: Optional[str]) -> exp.Expression:
    try:
        trees = [t for t in sqlglot.parse(sql, read="duckdb") if t is not None]
    except SqlglotError as e:
        raise job.wrong(f"the statement cannot be read by the {job.engine} engine: {str(e).splitlines()[0]}; {ONLY_DUCKDB}", key) from None
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise job.wrong("one SELECT is needed", key)
    return trees[0]


def parse_expression(job: Job, sql: str, key: Optional[str]) -> exp.Expression:
    """An expression by itself; DuckDB has found that it is one."""
    try:
        return sqlglot.parse_one(sql, read="duckdb")
    except SqlglotError as e:
        raise job.wrong(f"the expression cannot be read by the {job.engine} engine: {str(e).splitlines()[0]}; {ONLY_DUCKDB}", key) from None


def name_of(table: exp.Table) -> TableName:
    return table.catalog, table.db, table.name


def folded(name: TableName) -> TableName:
    return name[0].lower(), name[1].lower(), name[2].lower()


def is_cte(table: exp.Table) -> bool:
    if table.db:
        return False
    at: Optional[exp.Expression] = table
    while at is not None:
        with_ = at.args.get("with_") or at.args.get("with")
        if isinstance(with_, exp.With) and any(c.alias.lower() == table.name.lower() for c in with_.expressions):
            return True
        at = at.parent
    return False


def _with_types(job: Job, key: Optional[str], tree: exp.Expression, known: dict[str, dict[str, str]]) -> exp.Expression:
    try:
        tree = qualify(tree, dialect="duckdb", schema=known, validate_qualify_columns=False, isolate_tables=False)
        return annotate_types(tree, schema=known, dialect="duckdb")
    except SqlglotError as e:
        raise job.wrong(
            f"the {job.engine} engine cannot tell what this statement means: {str(e).splitlines()[0]}; {ONLY_DUCKDB}", key
        ) from None


# ---- what is written differently ----


def type_of(node: exp.Expression) -> str:
    kind = node.type
    return kind.this.name if isinstance(kind, exp.DataType) and isinstance(kind.this, exp.DataType.Type) else "UNKNOWN"


def cast(node: exp.Expression, kind: str) -> exp.Expression:
    made = exp.Cast(this=node, to=exp.DataType.build(kind, dialect="duckdb"))
    made.type = made.args["to"]
    return made


def refuse_unknown(
    job: Job, key: Optional[str], sql: str, tree: exp.Expression, why_not: Callable[[exp.Expression], Optional[str]]
) -> None:
    """Raises a Failure at the first node that the engine would take for something else; `why_not` says so ("this": no word for it)."""
    for node in tree.walk():
        why = why_not(node)
        if why:
            raise cannot(job, key, sql, node, why)


def rewritten(tree: exp.Expression, rewrites: Mapping[str, Callable[[Any], exp.Expression]]) -> exp.Expression:
    """The tree with each node of a kind in the table put otherwise; from the leaves up, so that a node is seen before it is wrapped."""
    for node in reversed(list(tree.walk())):
        rewrite = rewrites.get(type(node).__name__)
        if rewrite is None:
            continue
        parent, arg, index = node.parent, node.arg_key, node.index
        copied = rewrite(node)
        if copied is node:
            continue
        if parent is None:
            tree = copied
        else:
            parent.set(arg, copied, index) if index is not None else parent.set(arg, copied)
    return tree


def cannot(job: Job, key: Optional[str], sql: str, node: exp.Expression, why: str) -> Failure:
    said = node.sql(dialect="duckdb")
    said = said if len(said) <= 60 else said[:57] + "..."
    starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    at = min(starts, default=0)
    line, col = sql.count("\n", 0, at) + 1, at - sql.rfind("\n", 0, at)
    what = why if why != "this" else "this part of the statement"
    return job.wrong(f"the {job.engine} engine does not do {what}: {said}; {ONLY_DUCKDB}", key, line, col)
