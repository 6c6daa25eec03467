"""validate on Spark (validate.py has what it shares with other engines)."""

from __future__ import annotations

import functools
from typing import Any, Optional

from pyiceberg.table import Table
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sluice.engines import duck, spark_dialect, spark_lake, spark_publish, spark_types, statement, validate
from sluice.engines.lake import is_small
from sluice.engines.spark_types import column
from sluice.engines.spark_work import Work


class Validation(validate.Validation):
    """The checks on frames, all in one of Spark's jobs."""

    def __init__(self, work: Work) -> None:
        self.work = work
        super().__init__(work.job)

    def query(self, sql: str, key: str, this: Optional[tuple[Any, duck.Columns]]) -> tuple[DataFrame, duck.Columns]:
        return spark_publish.query(self.work, self.lake, self.judge, sql, key, this)

    def table(self, table: Table, at: Optional[int]) -> DataFrame:
        frame = spark_lake.frame_of(self.work, table, at)
        # All in one place, a small table is summed up without a shuffle.
        return frame.coalesce(1) if at is None and is_small(table) else frame

    def totals(self, wanted: list[tuple[DataFrame, list[Column]]]) -> list[tuple[Any, ...]]:
        """A row for each frame, NULL where another frame's values are: one job finds them all."""
        names = [[f"v{i}_{k}" for k in range(len(aggregates))] for i, (_, aggregates) in enumerate(wanted)]
        each = [
            frame.agg(F.lit(i).alias("of"), *(a.alias(n) for a, n in zip(aggregates, names[i])))
            for i, (frame, aggregates) in enumerate(wanted)
        ]
        found = {row["of"]: row for row in functools.reduce(lambda a, b: a.unionByName(b, allowMissingColumns=True), each).collect()}
        return [tuple(found[i][n] for n in names[i]) for i in range(len(wanted))]

    def rows(self) -> Column:
        return F.count(F.lit(1))

    def nulls(self, name: str) -> Column:
        return F.count_if(column(name).isNull())

    def first(self, name: str) -> Column:
        return F.first(column(name))

    def head(self, frame: DataFrame) -> DataFrame:
        return frame.limit(1)

    def first_of(self, sql: str, key: str) -> validate.Ask:
        """An aggregate of the rows is found in the same pass as the others."""
        bound = statement.bind(self.job, self.lake, self.judge, sql, key, self.columns)
        value = spark_dialect.aggregate(self.job, sql, key, bound) if not bound.tables else None
        return validate.Ask(self.this, [value]) if value is not None else super().first_of(sql, key)

    def doubles(self, names: list[str]) -> tuple[DataFrame, list[Column]]:
        keys = [column(n) for n in names]
        have = functools.reduce(lambda a, b: a & b, (k.isNotNull() for k in keys))
        twice = self.this.where(have).groupBy(*keys).agg(F.count(F.lit(1)).alias("sluice_n")).where(F.col("sluice_n") > 1)
        least = F.min(F.struct(*keys))
        return twice, [F.count(F.lit(1)), *(least.getField(n) for n in names)]

    def not_among(self, name: str, values: list[str]) -> list[Column]:
        return self._wrong(name, column(name).isNotNull() & ~column(name).cast("string").isin(values))

    def outside(self, name: str, least: Any, most: Any) -> list[Column]:
        wrong = F.lit(False)
        if least is not None:
            wrong = wrong | (column(name) < self._literal(least, name))
        if most is not None:
            wrong = wrong | (column(name) > self._literal(most, name))
        return self._wrong(name, wrong)

    def _literal(self, value: Any, name: str) -> Column:
        kind = self.columns[name]
        made = self.bound(value, kind)
        return F.lit(made) if made is value else F.lit(str(made)).cast(spark_types.to_spark(kind, name))

    def _wrong(self, name: str, wrong: Column) -> list[Column]:
        return [F.count_if(wrong), F.first(F.when(wrong, column(name).cast("string")), ignorenulls=True)]


def run(work: Work) -> None:
    validate.run(Validation(work))
