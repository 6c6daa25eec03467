"""publish and curate on Polars: rows of files or of SQL into a table."""

from __future__ import annotations

from typing import Optional

import polars as pl

from sluice.engines import duck, lake, polars_lake, polars_sql, polars_types, s3_files, statement
from sluice.engines.common import Job, bare_path, sql_of


def run_publish(job: Job) -> None:
    source = job.spec["from"]["path"]
    paths = job.one_or_list(source, "`from`")
    files = s3_files.names_of(job, paths, "from")
    frame = pl.scan_parquet(files, hive_partitioning=False, glob=False, storage_options=polars_lake.storage_options(job))
    columns = polars_types.columns_of(frame.collect_schema().items())
    tables = lake.Lake(job)
    lake.write_table(polars_lake.Writer(tables, lake.write_from(job), frame, columns))
    _publish_rejects(job, tables, paths)


def _publish_rejects(job: Job, tables: lake.Lake, paths: list[str]) -> None:
    """What a stage task with on_reject: quarantine left beside its target goes to a table of its own."""
    found = [p for p in (bare_path(path) + ".rejects.parquet" for path in paths) if s3_files.exists(job, p)]
    if not found:
        return
    w = lake.Write(into=job.spec["into"] + "__rejected")
    frame = pl.scan_parquet(found, storage_options=polars_lake.storage_options(job)).select(
        pl.lit(job.run_id).alias("run_id"),
        pl.lit(job.task_id).alias("task_id"),
        "file",
        pl.col("line").cast(pl.Int64),
        pl.col("message").alias("reason"),
        pl.col("text").alias("row"),
    )
    writer = polars_lake.Writer(tables, w, frame, polars_types.columns_of(frame.collect_schema().items()))
    writer.run()
    lake.report_table(w, writer.namespace, writer.name)


def run_curate(job: Job) -> None:
    sql, key = sql_of(job)
    tables = lake.Lake(job)
    frame, columns = query(job, tables, duck.Judge(job), sql, key)
    lake.write_table(polars_lake.Writer(tables, lake.write_from(job), frame, columns))


def query(
    job: Job,
    tables: lake.Lake,
    judge: duck.Judge,
    sql: str,
    key: Optional[str],
    this: Optional[tuple[pl.LazyFrame, duck.Columns]] = None,
) -> tuple[pl.LazyFrame, duck.Columns]:
    """The rows of a statement over the catalog's tables, and over `this` where it is given."""
    sql = sql.rstrip("; \t\r\n")
    bound = statement.bind(job, tables, judge, sql, key, this[1] if this else None)
    frames = {n: polars_lake.frame_of(job, t) for n, t in bound.tables.items()}
    if this:
        frames.update((n, this[0]) for n in bound.types if statement.is_this(n))
    return polars_sql.query(job, sql, key, frames, bound.types, bound.columns), bound.columns
