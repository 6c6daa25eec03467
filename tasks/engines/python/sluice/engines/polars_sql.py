"""DuckDB's SQL written as Polars' SQL.

What is written for Polars is only what is known to mean the same there (statement.py). Where the engines differ, the node is written
differently (`_REWRITES`).
"""

from __future__ import annotations

from typing import Any, Callable, Optional

import polars as pl
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from sluice.engines import duck, polars_types, statement
from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.engines.statement import FLOATS, KNOWN, SMALL, TEXTS, WHOLE, cast, type_of


class PolarsSQL(DuckDB):  # type: ignore[misc]
    """What Polars reads: DuckDB's own writing, but for the order of NULLs, which is said wherever Polars has another default."""

    NULL_ORDERING = "nulls_are_large"


def query(
    job: Job,
    sql: str,
    key: Optional[str],
    frames: dict[statement.TableName, pl.LazyFrame],
    types: dict[statement.TableName, duck.Columns],
    columns: duck.Columns,
) -> pl.LazyFrame:
    """The statement's rows, with the columns (names, types, order) that DuckDB says it has."""
    tree, names = statement.prepared(job, key, sql, types)
    statement.refuse_unknown(job, key, sql, tree, _refused)
    tree = statement.rewritten(tree, _REWRITES)
    context = pl.SQLContext(frames={names[statement.folded(t)]: _lower(f) for t, f in frames.items()})
    try:
        made = context.execute(tree.sql(dialect=PolarsSQL))
        have = made.collect_schema()
    except pl.exceptions.PolarsError as e:
        raise job.wrong(f"Polars' SQL cannot do this statement: {str(e).splitlines()[0]}; {ONLY_DUCKDB}", key) from None
    if len(have) != len(columns):
        raise job.wrong(f"Polars gives {len(have)} columns for this statement, DuckDB {len(columns)}; {ONLY_DUCKDB}", key)
    # By place: names are DuckDB's.
    made = made.rename({h: f"c{i}" for i, h in enumerate(have)})
    return made.select(
        pl.col(f"c{i}").cast(polars_types.to_polars(kind, n), strict=True).alias(n) for i, (n, kind) in enumerate(columns.items())
    )


def _lower(frame: pl.LazyFrame) -> pl.LazyFrame:
    """DuckDB does not tell upper from lower case in names, Polars does."""
    names = {n: n.lower() for n in frame.collect_schema().names() if n != n.lower()}
    return frame.rename(names) if names else frame


# ---- what is written differently ----


def _wide(node: exp.Expression) -> exp.Expression:
    """Polars computes in the operands' own type and wraps around without a word."""
    return cast(node, "BIGINT") if type_of(node) in SMALL else node


def _ordered(node: exp.Ordered) -> exp.Expression:
    last = not node.args.get("nulls_first")
    if last and node.args.get("desc") and isinstance(node.parent.parent, exp.Window):
        # Polars puts NULLs first there, whatever is said: so it is the ascending order of the negative.
        node.set("this", exp.Neg(this=exp.Paren(this=_wide(node.this))))
        node.set("desc", False)
    node.set("nulls_first", not last)
    return node


def _arithmetic(node: exp.Binary) -> exp.Expression:
    node.set("this", _wide(node.this))
    node.set("expression", _wide(node.expression))
    return node


def _divide(node: exp.Div) -> exp.Expression:
    """Always a DOUBLE in DuckDB."""
    return _quotient(cast(node.this, "DOUBLE"), cast(node.expression, "DOUBLE"))


def _quotient(a: exp.Expression, b: exp.Expression) -> exp.Expression:
    """Polars multiplies with the reciprocal of a constant, whose last bit differs: so it is shown none."""
    if not any(b.find_all(exp.Column)):
        nothing = exp.Paren(this=exp.Is(this=exp.Paren(this=a.copy()), expression=exp.Null()))
        b = exp.Add(this=exp.Paren(this=b), expression=cast(nothing, "DOUBLE"))
    return exp.Div(this=exp.Paren(this=a), expression=exp.Paren(this=b), typed=False, safe=False)


def _round(node: exp.Round) -> exp.Expression:
    """Halves go away from zero in DuckDB, to the even neighbour in Polars."""
    if type_of(node.this) not in FLOATS:
        return node
    digits = int(node.args["decimals"].name) if node.args.get("decimals") else 0
    power = exp.Literal.number(f"1e{digits}") if digits else None
    scaled = (
        exp.Paren(this=exp.Mul(this=exp.Paren(this=node.this), expression=cast(power, "DOUBLE"))) if power else exp.Paren(this=node.this)
    )

    def side(inner: type[exp.Func], sign: str) -> exp.Expression:
        near = inner(this=scaled.copy())
        half = exp.Literal.number("5e-1")
        distance = (
            exp.Sub(this=scaled.copy(), expression=near.copy()) if sign == "+" else exp.Sub(this=near.copy(), expression=scaled.copy())
        )
        away = (exp.Add if sign == "+" else exp.Sub)(this=near.copy(), expression=cast(exp.Literal.number(1), "DOUBLE"))
        return exp.Case(ifs=[exp.If(this=exp.GTE(this=exp.Paren(this=distance), expression=cast(half, "DOUBLE")), true=away)], default=near)

    positive = exp.GTE(this=scaled.copy(), expression=cast(exp.Literal.number(0), "DOUBLE"))
    whole = exp.Case(ifs=[exp.If(this=positive, true=side(exp.Floor, "+"))], default=side(exp.Ceil, "-"))
    return _quotient(whole, cast(power.copy(), "DOUBLE")) if power else exp.Paren(this=whole)


def _sum(node: exp.Sum) -> exp.Expression:
    if not isinstance(node.this, exp.Distinct):
        node.set("this", _wide(node.this) if type_of(node.this) != "BOOLEAN" else cast(node.this, "BIGINT"))
    return node


def _average(node: exp.Avg) -> exp.Expression:
    if not isinstance(node.this, exp.Distinct):
        node.set("this", cast(node.this, "DOUBLE"))
    return node


def _whole(node: exp.Expression) -> exp.Expression:
    """A function whose number is BIGINT in DuckDB and smaller in Polars."""
    return cast(node, "BIGINT")


_REWRITES: dict[str, Callable[[Any], exp.Expression]] = {
    "Ordered": _ordered,
    "Add": _arithmetic,
    "Sub": _arithmetic,
    "Mul": _arithmetic,
    "Div": _divide,
    "Round": _round,
    "Sum": _sum,
    "Avg": _average,
    "Length": _whole,
    "Extract": _whole,
    "Year": _whole,
    "Month": _whole,
    "Day": _whole,
}


def _refused(node: exp.Expression) -> Optional[str]:
    """Why a node of a known kind does not mean the same to Polars."""
    kind = type(node).__name__
    if kind not in KNOWN:
        return "this"
    if kind == "Cast":
        to, of = node.args["to"].this.name, type_of(node.this)
        if to in WHOLE and of in FLOATS | {"DECIMAL", "UNKNOWN"}:
            return (
                "a cast to a whole number, which rounds (write round(…) around it)"
                if of != "UNKNOWN"
                else "a cast of what it knows no type of"
            )
        if of in TEXTS and to not in TEXTS | WHOLE | FLOATS | {"DATE", "DECIMAL"}:
            return f"a cast of text to {to}"
    if kind in ("IntDiv", "Mod") and not {type_of(node.this), type_of(node.expression)} <= WHOLE:
        return "`//` and `%` of other than whole numbers"
    if kind in ("DPipe", "Like", "ILike", "Concat") and any(type_of(n) not in TEXTS | {"UNKNOWN", "NULL"} for n in node.iter_expressions()):
        return "text made of other than text (cast it to VARCHAR)"
    if kind == "Join" and (node.args.get("method") or node.side == "FULL" and node.args.get("using")):
        return "this kind of join"
    if kind == "Round" and node.args.get("decimals") and not node.args["decimals"].is_int:
        return "a computed number of digits"
    if kind == "In" and node.args.get("query") and isinstance(node.parent, exp.Not):
        return "NOT IN of a query (NULLs make it empty; LEFT JOIN … WHERE … IS NULL says it)"
    if kind == "Ordered" and isinstance(node.parent, exp.Order) and isinstance(node.parent.parent, exp.Window):
        if node.args.get("desc") and not node.args.get("nulls_first") and type_of(node.this) not in WHOLE | FLOATS | {"DECIMAL"}:
            return "a descending order of other than numbers in a window"
        if node.args.get("nulls_first") and not node.args.get("desc"):
            return "NULLS FIRST in a window"
    if kind == "Window" and node.args.get("spec"):
        return "a window with a frame"
    if kind == "Window" and node.args.get("order") and isinstance(node.this, (exp.Count, exp.Avg, exp.Min, exp.Max, exp.Sum)):
        return "an aggregate over an ordered window"
    if kind in ("Count", "Sum", "Avg") and isinstance(node.this, exp.Distinct) and (kind != "Count" or len(node.this.expressions) != 1):
        return "an aggregate of distinct values"
    if kind in ("Limit", "Offset") and not isinstance(node.expression, exp.Literal):
        return "a computed limit"
    if kind == "Group" and any(node.args.get(k) for k in ("rollup", "cube", "grouping_sets")):
        return "grouping sets"
    if kind in ("Except", "Intersect") and not node.args.get("distinct"):
        return "EXCEPT ALL and INTERSECT ALL"
    return None
