"""export on Spark: rows of a table, of files or of a query into tables of other formats."""

from __future__ import annotations

from typing import Optional

from pyspark.sql import DataFrame

from sluice.engines import duck, lake, s3_files, spark_delta, spark_files, spark_hudi, spark_lake, spark_publish
from sluice.engines.spark_work import Work


def run(work: Work) -> None:
    made = spark_hudi.Export if work.job.spec["to"]["format"] == "hudi" else spark_delta.Export
    made(work, _rows(work)).run()


def _rows(work: Work) -> Optional[tuple[DataFrame, duck.Columns]]:
    """The rows of `from`; None: there is none."""
    job = work.job
    origin = job.spec.get("from")
    if origin is None:
        return None
    if origin.get("table"):
        return _table(work, origin["table"], origin.get("at"))
    if origin.get("path"):
        return spark_files.parquet(work, s3_files.names_of(job, job.one_or_list(origin["path"], "from.path"), "from/path"))
    return spark_publish.query(work, lake.Lake(job), duck.Judge(job), origin["sql"], "from/sql")


def _table(work: Work, name: str, at: Optional[str]) -> tuple[DataFrame, duck.Columns]:
    table, snapshot, columns = lake.table_at(lake.Lake(work.job), name, at, "from")
    return spark_lake.frame_of(work, table, snapshot.snapshot_id if at and snapshot is not None else None), columns
