"""DuckDB's SQL written as Spark's SQL.

What is written is only what is known to mean the same (statement.py); Spark runs in ANSI mode, so what overflows or does not
fit is an error as it is for DuckDB. Where the engines differ, the node is written differently (`_REWRITES`).
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.utils import is_remote
from sqlglot import exp

from sluice.engines import duck, spark_connect, spark_types, statement
from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.engines.spark_work import Work
from sluice.engines.statement import FLOATS, KNOWN, TEXTS, WHOLE, cast, type_of

_WHOLE_TYPES = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
_VIEW = "sluice_"  # what the tables' names in Spark's SQL begin with
_NUMBERS = WHOLE | FLOATS | {"DECIMAL"}


def query(
    work: Work,
    sql: str,
    key: Optional[str],
    frames: dict[statement.TableName, DataFrame],
    types: dict[statement.TableName, duck.Columns],
    columns: duck.Columns,
) -> DataFrame:
    """The statement's rows, with the columns (names, types, order) that DuckDB says it has."""
    job = work.job
    tree, names = _written(job, sql, key, types)
    lowered = {names[statement.folded(table)]: _lower(frame, types[table]) for table, frame in frames.items()}
    made = _picked(tree, lowered) if _only_picks(tree) else _asked(work, tree, lowered)
    have = len(tree.selects)
    if have != len(columns):
        raise job.wrong(f"Spark gives {have} columns for this statement, DuckDB {len(columns)}; {ONLY_DUCKDB}", key)
    return spark_types.as_columns(made, columns)


def aggregate(job: Job, sql: str, key: str, bound: statement.Bound) -> Optional[Column]:
    """The value of a statement that aggregates all rows of one table to one value, as an aggregate of these; None: it is another one."""
    tree, _ = _written(job, sql, key, bound.types)
    if not _is_plain(tree) or tree.args.get("where") or len(tree.selects) != 1:
        return None
    value = tree.selects[0].unalias()
    if value.find(exp.AggFunc) is None:
        return None
    for named in value.find_all(exp.Column):
        named.set("table", None)
    ((name, kind),) = bound.columns.items()
    return F.expr(value.sql(dialect="spark", identify=True)).cast(spark_types.to_spark(kind, name))


def _written(
    job: Job, sql: str, key: Optional[str], types: dict[statement.TableName, duck.Columns]
) -> tuple[exp.Expression, dict[statement.TableName, str]]:
    """The statement as Spark takes it, and the names that its tables have there."""
    tree, names = statement.prepared(job, key, sql, types)
    statement.refuse_unknown(job, key, sql, tree, _refused)
    return statement.rewritten(tree, _REWRITES), names


def _only_picks(tree: exp.Expression) -> bool:
    """Is it one table's rows, each by itself, or not at all?"""
    return _is_plain(tree) and not any(isinstance(n, exp.AggFunc) for n in tree.walk())


def _is_plain(tree: exp.Expression) -> bool:
    """Is it a SELECT from one table, with no more than a condition, and no queries, windows and rows made of values in it?"""
    if not isinstance(tree, exp.Select) or {k for k, v in tree.args.items() if v} - {"expressions", "from_", "where"}:
        return False
    table = tree.args["from_"].this if tree.args.get("from_") else None
    if not isinstance(table, exp.Table) or {k for k, v in table.args.items() if v} - {"this", "alias"}:
        return False
    return not any(isinstance(n, (exp.Query, exp.Window, exp.UDTF)) for n in tree.walk() if n is not tree)


def _picked(tree: exp.Expression, frames: dict[str, DataFrame]) -> DataFrame:
    table = tree.args["from_"].this
    frame = frames[table.name].alias(table.alias_or_name)
    if tree.args.get("where"):
        frame = frame.where(F.expr(tree.args["where"].this.sql(dialect="spark", identify=True)))
    return frame.select(*(F.expr(e.sql(dialect="spark", identify=True)) for e in tree.expressions))


def _asked(work: Work, tree: exp.Expression, frames: dict[str, DataFrame]) -> DataFrame:
    for table in list(tree.find_all(exp.Table)):
        if not statement.is_cte(table):
            table.set("this", exp.to_identifier(_VIEW + table.name))
    sql = tree.sql(dialect="spark", identify=True)
    views = {_VIEW + name: frame for name, frame in frames.items()}
    if is_remote():
        return spark_connect.sql(work.spark, sql, views)
    for name, frame in views.items():
        frame.createOrReplaceTempView(name)
    return work.spark.sql(sql)


def expression(job: Job, sql: str, key: str, table: str, columns: duck.Columns, wanted: str) -> str:
    """An expression over the columns of `table` as Spark writes it, with the type that DuckDB would give it there."""
    judge = duck.Judge(job)
    judge.add_view(table, columns)
    made = next(iter(judge.bind(sql, key, "SELECT ", f"\nFROM {duck.name(table)}").values()))
    value = statement.parse_expression(job, sql, key)
    if made != wanted:
        if made.startswith("DECIMAL") and not made.endswith(",0)") and wanted in _WHOLE_TYPES:
            raise job.wrong(f"a cast of decimals ({made}) to {wanted} is not done alike by all engines: write round(…) around it", key)
        value = cast(exp.Paren(this=value), wanted)
    one = exp.select(exp.alias_(value, "sluice_value")).from_(exp.to_table(table))
    tree, _ = statement.typed(job, key, one, {("", "", table): columns})
    statement.refuse_unknown(job, key, sql, tree, _refused)
    tree = statement.rewritten(tree, _REWRITES)
    return str(tree.selects[0].unalias().sql(dialect="spark", identify=True))


def _lower(frame: DataFrame, columns: duck.Columns) -> DataFrame:
    """As the statement names them once its parts have types."""
    return frame.select(*(spark_types.column(n).alias(n.lower()) for n in columns))


# ---- what is written differently ----


def _number(value: str) -> exp.Expression:
    made = exp.Literal.number(value)
    made.type = exp.DataType.build("INT")
    return made


def _double(text: str) -> exp.Expression:
    return cast(exp.Literal.string(text), "DOUBLE")


def _paren(node: exp.Expression) -> exp.Expression:
    return exp.Paren(this=node)


def _not_zero(node: exp.Expression) -> exp.Expression:
    """The divisor, or NULL for zero, which gives NULL in DuckDB and is an error for Spark."""
    return exp.Nullif(this=node, expression=_number("0"))


def _divide(node: exp.Div) -> exp.Expression:
    """Always a DOUBLE in DuckDB; by zero it is infinite or no number, as IEEE has it, and an error for Spark."""
    a, b = cast(node.this, "DOUBLE"), cast(node.expression, "DOUBLE")
    plain = exp.Div(this=_paren(a), expression=_paren(b), typed=False, safe=False)
    if isinstance(node.expression, exp.Literal) and float(node.expression.name or 0):
        return _paren(plain)
    zero = _double("0")
    safe = plain.copy()
    safe.set("expression", exp.Nullif(this=b.copy(), expression=zero.copy()))
    nan = exp.Anonymous(this="isnan", expressions=[a.copy()])
    return _case(
        [
            (
                exp.Or(
                    this=exp.Is(this=_paren(b.copy()), expression=exp.Null()), expression=exp.NEQ(this=_paren(b.copy()), expression=zero)
                ),
                safe,
            ),
            (exp.Or(this=nan, expression=exp.EQ(this=_paren(a.copy()), expression=_double("0"))), _double("NaN")),
            (exp.GT(this=_paren(a.copy()), expression=_double("0")), _double("Infinity")),
            (exp.LT(this=_paren(a.copy()), expression=_double("0")), _double("-Infinity")),
        ]
    )


def _case(ways: list[tuple[exp.Expression, exp.Expression]], default: Optional[exp.Expression] = None) -> exp.Expression:
    return _paren(exp.Case(ifs=[exp.If(this=when, true=then) for when, then in ways], default=default))


def _int_divide(node: exp.IntDiv) -> exp.Expression:
    node.set("expression", _not_zero(node.expression))
    return node


def _modulo(node: exp.Mod) -> exp.Expression:
    node.set("this", _paren(node.this))
    node.set("expression", _not_zero(node.expression))
    return node


def _nearest(value: exp.Expression) -> exp.Expression:
    """The whole number nearest to a DOUBLE, as one; halves go to the even one."""
    return exp.Anonymous(this="rint", expressions=[value.copy()])


def _step(value: exp.Expression, up: bool) -> exp.Expression:
    """floor and ceil that stay DOUBLE."""
    near = _nearest(value)
    past = (exp.LT if up else exp.GT)(this=near, expression=_paren(value.copy()))
    moved = (exp.Add if up else exp.Sub)(this=near.copy(), expression=_double("1"))
    return _case([(past, moved)], near.copy())


def _floor(node: exp.Floor) -> exp.Expression:
    return _step(node.this, False) if type_of(node.this) in FLOATS else node


def _ceil(node: exp.Ceil) -> exp.Expression:
    return _step(node.this, True) if type_of(node.this) in FLOATS else node


def _round(node: exp.Round) -> exp.Expression:
    """Of a DOUBLE: scaled, to the nearest with halves away from zero, scaled back. Spark would look at its digits."""
    if type_of(node.this) not in FLOATS:
        return node
    digits = int(node.args["decimals"].name) if node.args.get("decimals") else 0
    value = cast(node.this, "DOUBLE")
    scaled = _paren(exp.Mul(this=_paren(value), expression=_double(f"1e{digits}"))) if digits else _paren(value)
    near = _nearest(scaled)
    apart = exp.Sub(this=scaled.copy(), expression=near.copy())
    whole = _case(
        [
            (_half(apart, scaled, exp.GT, "0.5"), exp.Add(this=near.copy(), expression=_double("1"))),
            (_half(apart, scaled, exp.LT, "-0.5"), exp.Sub(this=near.copy(), expression=_double("1"))),
        ],
        near.copy(),
    )
    return _paren(exp.Div(this=whole, expression=_double(f"1e{digits}"), typed=False, safe=False)) if digits else whole


def _half(apart: exp.Expression, scaled: exp.Expression, side: type[exp.Binary], by: str) -> exp.Expression:
    """Is it a half that went towards zero?"""
    there = side(this=scaled.copy(), expression=_double("0"))
    return exp.And(this=there, expression=exp.EQ(this=_paren(apart.copy()), expression=_double(by)))


def _average(node: exp.Avg) -> exp.Expression:
    if not isinstance(node.this, exp.Distinct):
        node.set("this", cast(node.this, "DOUBLE"))
    return node


def _sum(node: exp.Sum) -> exp.Expression:
    if type_of(node.this) == "BOOLEAN":
        node.set("this", cast(node.this, "BIGINT"))
    return node


def _whole_cast(node: exp.Cast) -> exp.Expression:
    """DuckDB rounds to the nearest, Spark cuts off."""
    if node.args["to"].this.name in WHOLE and type_of(node.this) in FLOATS:
        node.set("this", _nearest(cast(node.this, "DOUBLE")))
    return node


def _concat(node: exp.Concat) -> exp.Expression:
    """DuckDB passes over what is NULL."""
    parts = [exp.Coalesce(this=part, expressions=[exp.Literal.string("")]) for part in node.expressions]
    return exp.Anonymous(this="concat", expressions=parts)


def _date_part(node: exp.Expression) -> exp.Expression:
    return cast(node, "BIGINT")


def _ordered(node: exp.Ordered) -> exp.Expression:
    node.set("nulls_first", bool(node.args.get("nulls_first")))
    return node


_REWRITES: dict[str, Callable[[Any], exp.Expression]] = {
    "Ordered": _ordered,
    "Div": _divide,
    "IntDiv": _int_divide,
    "Mod": _modulo,
    "Floor": _floor,
    "Ceil": _ceil,
    "Round": _round,
    "Avg": _average,
    "Sum": _sum,
    "Cast": _whole_cast,
    "Concat": _concat,
    "Length": _date_part,
    "Extract": _date_part,
    "Year": _date_part,
    "Month": _date_part,
    "Day": _date_part,
}


def _is_whole_literal(node: Optional[exp.Expression], least: int) -> bool:
    return isinstance(node, exp.Literal) and node.is_int and int(node.name) >= least


def _refused(node: exp.Expression) -> Optional[str]:
    """Why a node of a known kind does not mean the same to Spark."""
    kind = type(node).__name__
    if kind not in KNOWN:
        return "this"
    if kind == "Cast":
        to, of = node.args["to"].this.name, type_of(node.this)
        if to in WHOLE and of in {"DECIMAL", "UNKNOWN"}:
            return (
                "a cast of what it knows no type of"
                if of == "UNKNOWN"
                else "a cast of decimals to a whole number (write round(…) around it)"
            )
        if of in TEXTS and to not in TEXTS | WHOLE | FLOATS | {"DATE", "DECIMAL", "TIMESTAMP", "TIMESTAMPNTZ"}:
            return f"a cast of text to {to}"
        if to in TEXTS and of in FLOATS:
            return "a cast of floating-point numbers to text"
    if kind in ("IntDiv", "Mod") and not {type_of(node.this), type_of(node.expression)} <= WHOLE:
        return "`//` and `%` of other than whole numbers"
    if kind in ("DPipe", "Like", "ILike", "Concat") and any(type_of(n) not in TEXTS | {"UNKNOWN", "NULL"} for n in node.iter_expressions()):
        return "text made of other than text (cast it to VARCHAR)"
    if kind in ("Like", "ILike") and (not isinstance(node.expression, exp.Literal) or "\\" in node.expression.name):
        return "a pattern that is computed or has a backslash"
    if kind == "Join" and (node.args.get("method") or node.side == "FULL" and node.args.get("using")):
        return "this kind of join"
    if kind == "Round" and node.args.get("decimals") and not node.args["decimals"].is_int:
        return "a computed number of digits"
    if kind == "Substring" and not _is_whole_literal(node.args.get("start"), 1):
        return "substring with a start that is computed, or less than 1"
    if kind in ("Left", "Right") and not _is_whole_literal(node.expression, 0):
        return f"{kind.lower()} with a number that is computed or below zero"
    if kind == "Trim" and node.expression is not None:
        return "trim of other characters than blanks"
    if kind == "Window" and node.args.get("spec"):
        return "a window with a frame"
    if kind in ("Count", "Sum", "Avg") and isinstance(node.this, exp.Distinct) and (kind != "Count" or len(node.this.expressions) != 1):
        return "an aggregate of distinct values"
    if kind == "Distinct" and node.args.get("on") and isinstance(node.parent, exp.Select) and node.parent.args.get("limit"):
        return "DISTINCT ON with LIMIT (put one of them into a subquery)"
    if kind in ("Limit", "Offset") and not isinstance(node.expression, exp.Literal):
        return "a computed limit"
    if kind == "Group" and any(node.args.get(k) for k in ("rollup", "cube", "grouping_sets")):
        return "grouping sets"
    if kind in ("Except", "Intersect") and not node.args.get("distinct"):
        return "EXCEPT ALL and INTERSECT ALL"
    return None
