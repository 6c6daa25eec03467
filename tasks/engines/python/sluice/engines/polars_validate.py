"""validate on Polars (validate.py has what it shares with other engines)."""

from __future__ import annotations

from typing import Any, Optional

import polars as pl
from pyiceberg.table import Table

from sluice.engines import duck, polars_lake, polars_types, validate
from sluice.engines.common import Job
from sluice.engines.lake import is_small
from sluice.engines.polars_publish import query


class Validation(validate.Validation):
    """The checks on lazy frames."""

    def query(self, sql: str, key: str, this: Optional[tuple[Any, duck.Columns]]) -> tuple[pl.LazyFrame, duck.Columns]:
        return query(self.job, self.lake, self.judge, sql, key, this)

    def table(self, table: Table, at: Optional[int]) -> pl.LazyFrame:
        frame = polars_lake.frame_of(self.job, table, at)
        # Each check would plan the table's scan anew.
        return frame.collect().lazy() if at is None and is_small(table) else frame

    def totals(self, wanted: list[tuple[pl.LazyFrame, list[pl.Expr]]]) -> list[tuple[Any, ...]]:
        """One after another: together, what they share of a table would be held in memory."""
        return [frame.select(a.alias(str(i)) for i, a in enumerate(aggregates)).collect().row(0) for frame, aggregates in wanted]

    def rows(self) -> pl.Expr:
        return pl.len().cast(pl.Int64)

    def nulls(self, name: str) -> pl.Expr:
        return pl.col(name).null_count().cast(pl.Int64)

    def first(self, name: str) -> pl.Expr:
        return pl.col(name).first()

    def head(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        return frame.head(1)

    def doubles(self, names: list[str]) -> tuple[pl.LazyFrame, list[pl.Expr]]:
        keys = [pl.col(n) for n in names]
        whole = self.this.filter(pl.all_horizontal(k.is_not_null() for k in keys))
        twice = whole.group_by(keys).agg(pl.len().alias("sluice_n")).filter(pl.col("sluice_n") > 1)
        return twice, [self.rows(), *(k.sort_by(keys).first() for k in keys)]

    def not_among(self, name: str, values: list[str]) -> list[pl.Expr]:
        column = pl.col(name)
        return self._wrong(name, column.is_not_null() & ~column.cast(pl.String).is_in(values))

    def outside(self, name: str, least: Any, most: Any) -> list[pl.Expr]:
        wrong = pl.lit(False)
        if least is not None:
            wrong = wrong | (pl.col(name) < self._literal(least, name))
        if most is not None:
            wrong = wrong | (pl.col(name) > self._literal(most, name))
        return self._wrong(name, wrong)

    def _literal(self, value: Any, name: str) -> Any:
        kind = self.columns[name]
        made = self.bound(value, kind)
        return made if made is value else pl.lit(made, dtype=polars_types.to_polars(kind, name))

    def _wrong(self, name: str, wrong: pl.Expr) -> list[pl.Expr]:
        return [wrong.sum().cast(pl.Int64), pl.col(name).filter(wrong).first().cast(pl.String)]


def run(job: Job) -> None:
    validate.run(Validation(job))
