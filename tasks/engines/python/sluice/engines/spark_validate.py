"""validate on Spark (validate.py has what it shares with other engines)."""

from __future__ import annotations

import functools
from typing import Any, Optional

from pyiceberg.table import Table
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sluice.engines import duck, spark_files, spark_lake, spark_publish, spark_types, validate
from sluice.engines.spark_types import column
from sluice.engines.spark_work import Work


class Validation(validate.Validation):
    """The checks on frames: one of Spark's jobs each, but that rows and NULLs are counted together."""

    def __init__(self, work: Work) -> None:
        self.work = work
        super().__init__(work.job)

    def query(self, sql: str, key: str, this: Optional[tuple[Any, duck.Columns]]) -> tuple[DataFrame, duck.Columns]:
        return spark_publish.query(self.work, self.lake, self.judge, sql, key, this)

    def table(self, table: Table, at: Optional[int]) -> DataFrame:
        return spark_lake.frame_of(self.work, table, at)

    def parquet_rows(self, files: list[str]) -> int:
        return self.count(spark_files.parquet(self.work, files)[0])

    def count(self, frame: DataFrame) -> int:
        return self._counts[None] if frame is self.this else int(frame.count())

    def first_rows(self, frame: DataFrame) -> tuple[list[tuple[Any, ...]], int]:
        found = [tuple(row) for row in frame.limit(2).collect()]
        return found, len(found) if len(found) < 2 else self.count(frame)

    def null_counts(self, names: list[str]) -> list[int]:
        return [self._counts[n] for n in names]

    @functools.cached_property
    def _counts(self) -> dict[Optional[str], int]:
        """How many rows there are, and how many without a value in each column that a check is about."""
        asked = [c["not_null"] for c in self.job.spec["checks"] if c.get("not_null") is not None]
        wanted = {n.lower() for names in asked for n in (names if isinstance(names, list) else [names])}
        about = [n for n in self.columns if n.lower() in wanted]
        if not about:
            return {None: int(self.this.count())}
        row = self.this.agg(F.count(F.lit(1)), *(F.count_if(column(n).isNull()) for n in about)).collect()[0]
        return dict(zip([None, *about], row))

    def duplicates(self, names: list[str]) -> tuple[int, Optional[tuple[Any, ...]]]:
        keys = [column(n) for n in names]
        have = F.lit(True)
        for k in keys:
            have = have & k.isNotNull()
        twice = self.this.where(have).groupBy(*keys).agg(F.count(F.lit(1)).alias("sluice_n")).where(F.col("sluice_n") > 1)
        found = twice.agg(F.count(F.lit(1)), F.min(F.struct(*keys))).collect()[0]
        return int(found[0]), tuple(found[1]) if found[0] else None

    def not_among(self, name: str, values: list[str]) -> tuple[int, Optional[str]]:
        return self._wrong(name, column(name).isNotNull() & ~column(name).cast("string").isin(values))

    def outside(self, name: str, least: Any, most: Any) -> tuple[int, Optional[str]]:
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

    def _wrong(self, name: str, wrong: Column) -> tuple[int, Optional[str]]:
        found = self.this.where(wrong).agg(F.count(F.lit(1)), F.first(column(name).cast("string"))).collect()[0]
        return int(found[0]), found[1]


def run(work: Work) -> None:
    validate.run(Validation(work))
