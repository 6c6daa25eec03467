"""Files as Spark's frames."""

from __future__ import annotations

import re

from pyspark.sql import DataFrame

from sluice.engines import duck, spark_types
from sluice.engines.common import is_remote
from sluice.engines.spark_types import column
from sluice.engines.spark_work import Work

_SPECIAL = re.compile(r"([{}\[\]*?\\,])")


def location(path: str) -> str:
    """Where a file or folder is, in Spark's words: stores are S3A's."""
    return "s3a://" + path.split("://", 1)[1] if is_remote(path) else "file://" + path


def address(file: str) -> str:
    """The same for a reader that takes patterns: nothing in it is one."""
    return location(_SPECIAL.sub(r"\\\1", file))


def parquet(work: Work, files: list[str]) -> tuple[DataFrame, duck.Columns]:
    """The rows of Parquet files, their columns as DuckDB would call them where it can look: in local files."""
    frame = work.spark.read.option("recursiveFileLookup", "true").parquet(*map(address, files))
    if any(is_remote(f) for f in files):
        return frame, spark_types.columns_of(frame)
    names = ", ".join(duck.text(f) for f in files)
    columns = duck.Judge(work.job).bind(f"SELECT * FROM read_parquet([{names}], hive_partitioning = false)")
    picked = [column(n).cast(spark_types.to_spark(t, n)).alias(n) for n, t in columns.items()]
    return frame.select(*picked), columns
