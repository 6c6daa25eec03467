"""validate on Polars (validate.py has what it shares with other engines)."""

from __future__ import annotations

from typing import Any, Optional

import polars as pl
from pyiceberg.table import Table

from sluice.engines import duck, polars_lake, polars_types, validate
from sluice.engines.common import Job
from sluice.engines.polars_publish import query

_SMALL = 16 << 20  # bytes of files


class Validation(validate.Validation):
    """The checks on lazy frames."""

    def query(self, sql: str, key: str, this: Optional[tuple[Any, duck.Columns]]) -> tuple[pl.LazyFrame, duck.Columns]:
        return query(self.job, self.lake, self.judge, sql, key, this)

    def table(self, table: Table, at: Optional[int]) -> pl.LazyFrame:
        frame = polars_lake.frame_of(self.job, table, at)
        # Each check would plan the table's scan anew.
        return frame.collect().lazy() if at is None and _is_small(table) else frame

    def parquet_rows(self, files: list[str]) -> int:
        options = polars_lake.storage_options(self.job)
        return self.count(pl.scan_parquet(files, hive_partitioning=False, storage_options=options))

    def count(self, frame: pl.LazyFrame) -> int:
        return int(frame.select(pl.len()).collect().item())

    def first_rows(self, frame: pl.LazyFrame) -> tuple[list[tuple[Any, ...]], int]:
        found = frame.collect()
        return found.head(2).rows(), found.height

    def null_counts(self, names: list[str]) -> list[int]:
        counts = self.this.select(pl.col(n).null_count().cast(pl.Int64).alias(str(i)) for i, n in enumerate(names)).collect()
        return list(counts.row(0))

    def duplicates(self, names: list[str]) -> tuple[int, Optional[tuple[Any, ...]]]:
        keys = [pl.col(n) for n in names]
        twice = (
            self.this.filter(pl.all_horizontal(k.is_not_null() for k in keys))
            .group_by(keys)
            .agg(pl.len().alias("sluice_n"))
            .filter(pl.col("sluice_n") > 1)
        )
        found = twice.drop("sluice_n").sort(pl.all()).collect()
        return found.height, None if found.is_empty() else found.row(0)

    def not_among(self, name: str, values: list[str]) -> tuple[int, Optional[str]]:
        column = pl.col(name)
        return self._wrong(name, column.is_not_null() & ~column.cast(pl.String).is_in(values))

    def outside(self, name: str, least: Any, most: Any) -> tuple[int, Optional[str]]:
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

    def _wrong(self, name: str, wrong: pl.Expr) -> tuple[int, Optional[str]]:
        found = self.this.filter(wrong).select(pl.len().alias("n"), pl.col(name).cast(pl.String).first().alias("example")).collect()
        n, example = found.row(0)
        return n, example


def _is_small(table: Table) -> bool:
    """May its rows be held in memory without a thought?"""
    snapshot = table.current_snapshot()
    summary = snapshot.summary if snapshot is not None else None
    return summary is None or int(summary.get("total-files-size") or _SMALL) < _SMALL


def run(job: Job) -> None:
    validate.run(Validation(job))
