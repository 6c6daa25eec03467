"""What the tasks of both Spark engines go by: the job, its session, and how each of them writes tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from sluice.engines.common import Job

if TYPE_CHECKING:
    from sluice.engines.spark_lake import Writer


@dataclass
class Work:
    job: Job
    spark: SparkSession
    writer: type[Writer]
