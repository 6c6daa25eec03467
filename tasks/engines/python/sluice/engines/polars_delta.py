"""Delta tables on Polars: a version of one as a frame, and what an export makes of one, by delta-rs.

Its library has threads of its own, which a fork would not take along: it is imported by the attempt that needs it.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Optional

import polars as pl

from sluice.engines import delta_export, duck, lake, polars_lake, polars_publish, polars_types, s3_files
from sluice.engines.common import Job
from sluice.engines.delta_log import transaction, user_metadata
from sluice.report import Failure

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable

_PLAIN = re.compile(r"[A-Za-z0-9._/:-]+")
OTHERS = "engines that can: duckdb, spark, spark_sql"
#: Types that Delta has not, and those that hold their values.
_WIDER: dict[Any, pl.DataType] = {
    pl.UInt8(): pl.Int16(),
    pl.UInt16(): pl.Int32(),
    pl.UInt32(): pl.Int64(),
    pl.UInt64(): pl.Decimal(20, 0),
    pl.Int128(): pl.Decimal(38, 0),
    pl.Datetime("ms"): pl.Datetime("us"),
    pl.Datetime("ns"): pl.Datetime("us"),
}


def frame_of(job: Job, path: str, version: Optional[int] = None) -> tuple[pl.LazyFrame, duck.Columns]:
    """The rows of a version, or of the newest one."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    storage = polars_lake.storage_options(job)
    try:
        table = DeltaTable(path, version=version, storage_options=storage)
        plain = _PLAIN.fullmatch(path) and not any("%" in file for file in table.file_uris())
        # Polars takes paths for URLs, so it would look for a folder called a%20b where there is "a b".
        frame = pl.scan_delta(table, storage_options=storage) if plain else pl.scan_pyarrow_dataset(table.to_pyarrow_dataset())
        return frame, polars_types.columns_of(frame.collect_schema().items())
    except DeltaError as e:
        raise Failure(f"Delta table {path}: {_sentence(e)}; {OTHERS}") from None


def run(job: Job) -> None:
    """Runs an export."""
    frame, columns = _rows(job)
    Export(job, frame, columns).run()


def _rows(job: Job) -> tuple[pl.LazyFrame, duck.Columns]:
    origin = job.spec["from"]
    if origin.get("table"):
        at = origin.get("at")
        table, snapshot, columns = lake.table_at(lake.Lake(job), origin["table"], at, "from")
        return polars_lake.frame_of(job, table, snapshot.snapshot_id if at and snapshot is not None else None), columns
    if origin.get("path"):
        files = s3_files.names_of(job, job.one_or_list(origin["path"], "from.path"), "from/path")
        frame = pl.scan_parquet(files, hive_partitioning=False, glob=False, storage_options=polars_lake.storage_options(job))
        return frame, polars_types.columns_of(frame.collect_schema().items())
    return polars_publish.query(job, lake.Lake(job), duck.Judge(job), origin["sql"], "from/sql")


class Export(delta_export.Export):
    """One change of a table, by rows."""

    def __init__(self, job: Job, frame: pl.LazyFrame, columns: duck.Columns) -> None:
        super().__init__(job, columns)
        self.frame = frame
        self.storage = polars_lake.storage_options(job)

    def change(self) -> None:
        if self.mode in ("upsert", "delete") and self.log.exists:
            self._by_key()
        else:
            self._write()

    def conflict(self, e: Exception) -> Optional[str]:
        from deltalake.exceptions import CommitFailedError

        return _sentence(e) if isinstance(e, CommitFailedError) else None

    def count(self) -> int:
        return int(self.frame.select(pl.len()).collect(engine="streaming").item())

    def _commit(self) -> CommitProperties:
        from deltalake import CommitProperties, Transaction

        name = Transaction(app_id=transaction(self.job), version=1, last_updated=int(time.time() * 1000))
        return CommitProperties(custom_metadata={"userMetadata": json.dumps(user_metadata(self.job))}, app_transactions=[name])

    def _there(self) -> DeltaTable:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable(self.path, storage_options=self.storage)
        except DeltaError as e:
            raise Failure(f"Delta table {self.path}: {_sentence(e)}; {OTHERS}") from None

    def _write(self) -> None:
        options: dict[str, Any] = {"commit_properties": self._commit()}
        frame, target = self.frame, self.path
        if self.mode == "upsert":
            self._check_keys(frame)
        if self.is_anew():
            frame = frame.cast(_storable(frame))
            options.update(partition_by=self.partitions, configuration=delta_export.FORGET)
            if self.mode == "replace" and self.log.exists:
                options.update(schema_mode="overwrite", configuration=None)
        else:
            frame = self._aligned(frame, whole=True)
        mode: Any = "append" if self.mode in ("append", "upsert") else "overwrite"
        frame.sink_delta(target, mode=mode, storage_options=self.storage, delta_write_options=options)

    def _aligned(self, frame: pl.LazyFrame, whole: bool) -> pl.LazyFrame:
        """The rows with the table's columns and types; `whole`: also those that the rows lack, as NULL."""
        self.check_partitions(self._there().metadata().partition_columns)
        there, columns = frame_of(self.job, self.path)
        self.check_columns(columns)
        mine = {c.lower(): c for c in self.columns}
        picked = []
        for name, kind in there.collect_schema().items():
            if name.lower() in mine:
                picked.append(pl.col(mine[name.lower()]).cast(kind, strict=True).alias(name))
            elif whole:
                picked.append(pl.lit(None, dtype=kind).alias(name))
        return frame.select(picked)

    def _check_keys(self, frame: pl.LazyFrame) -> None:
        null = pl.any_horizontal(pl.col(k).is_null() for k in self._keys())
        found = frame.group_by(self._keys()).agg(pl.len().alias("sluice_n")).filter((pl.col("sluice_n") > 1) | null).head(1).collect()
        if found.height:
            *values, count = found.row(0)
            raise self.bad_key(list(values), count)

    def _keys(self) -> list[str]:
        mine = {c.lower(): c for c in self.columns}
        return [mine[k.lower()] for k in self.key]

    def _by_key(self) -> None:
        """Columns that the rows lack stay as they are; a new row has NULL there."""
        frame = self.frame
        if self.mode == "delete":
            frame = frame.select(self._keys()).unique()
            self.columns = {c: self.columns[c] for c in self._keys()}
        else:
            self._check_keys(frame)
        rows = self._aligned(frame, whole=False).collect(engine="streaming")
        keys = [k.lower() for k in self.key]
        merger = self._there().merge(
            rows.to_arrow(),
            predicate=" AND ".join(f"t.{duck.name(c)} = s.{duck.name(c)}" for c in rows.columns if c.lower() in keys),
            source_alias="s",
            target_alias="t",
            commit_properties=self._commit(),
        )
        values = {duck.name(c): f"s.{duck.name(c)}" for c in rows.columns}
        changed = {duck.name(c): f"s.{duck.name(c)}" for c in rows.columns if c.lower() not in keys}
        if self.mode == "delete":
            merger = merger.when_matched_delete()
        else:
            merger = merger.when_matched_update(changed) if changed else merger
            merger = merger.when_not_matched_insert(values)
        merger.execute()


def _storable(frame: pl.LazyFrame) -> dict[str, pl.DataType]:
    """The types of a new table's columns, where they are others than the rows'."""
    out: dict[str, pl.DataType] = {}
    for name, kind in frame.collect_schema().items():
        if isinstance(kind, pl.Time):
            raise Failure(f'column "{name}": Delta tables have no type for times of day; cast it to another type')
        if kind in _WIDER:
            out[name] = _WIDER[kind]
    return out


def _sentence(e: Exception) -> str:
    return str(e).split("\n", 1)[0].strip().rstrip(".")
