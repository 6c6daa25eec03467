"""publish and curate on Spark: rows of files or of SQL into a table."""

from __future__ import annotations

from typing import Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sluice.engines import duck, lake, s3_files, spark_dialect, spark_files, spark_lake, spark_types, statement
from sluice.engines.common import bare_path, sql_of
from sluice.engines.spark_work import Work


def run_publish(work: Work) -> None:
    job = work.job
    paths = job.one_or_list(job.spec["from"]["path"], "`from`")
    frame, columns = spark_files.parquet(work, s3_files.names_of(job, paths, "from"))
    tables = lake.Lake(job)
    lake.write_table(work.writer(work, tables, lake.write_from(job), frame, columns))
    _publish_rejects(work, tables, paths)


def _publish_rejects(work: Work, tables: lake.Lake, paths: list[str]) -> None:
    """What a stage task with on_reject: quarantine left beside its target goes to a table of its own."""
    job = work.job
    found = [p for p in (bare_path(path) + ".rejects.parquet" for path in paths) if s3_files.exists(job, p)]
    if not found:
        return
    w = lake.Write(into=job.spec["into"] + "__rejected")
    rejects, _ = spark_files.parquet(work, found)
    frame = rejects.select(
        F.lit(job.run_id).alias("run_id"),
        F.lit(job.task_id).alias("task_id"),
        "file",
        F.col("line").cast("bigint").alias("line"),
        F.col("message").alias("reason"),
        F.col("text").alias("row"),
    )
    writer = work.writer(work, tables, w, frame, spark_types.columns_of(frame))
    writer.run()
    lake.report_table(w, writer.namespace, writer.name)


def run_curate(work: Work) -> None:
    sql, key = sql_of(work.job)
    tables = lake.Lake(work.job)
    frame, columns = query(work, tables, duck.Judge(work.job), sql, key)
    lake.write_table(work.writer(work, tables, lake.write_from(work.job), frame, columns))


def query(
    work: Work,
    tables: lake.Lake,
    judge: duck.Judge,
    sql: str,
    key: Optional[str],
    this: Optional[tuple[DataFrame, duck.Columns]] = None,
) -> tuple[DataFrame, duck.Columns]:
    """The rows of a statement over the catalog's tables, and over `this` where it is given."""
    sql = sql.rstrip("; \t\r\n")
    bound = statement.bind(work.job, tables, judge, sql, key, this[1] if this else None)
    frames = {n: spark_lake.frame_of(work, t) for n, t in bound.tables.items()}
    if this:
        frames.update((n, this[0]) for n in bound.types if statement.is_this(n))
    return spark_dialect.query(work, sql, key, frames, bound.types, bound.columns), bound.columns
