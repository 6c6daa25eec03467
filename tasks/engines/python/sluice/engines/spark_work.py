"""What the tasks of both Spark engines go by: the job, its session, and how each of them writes tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql import SparkSession

from sluice.engines import spark_cluster
from sluice.engines.common import Job

if TYPE_CHECKING:
    from sluice.engines.spark_lake import Writer


@dataclass
class Work:
    job: Job
    spark: SparkSession
    writer: type[Writer]

    @property
    def elsewhere(self) -> bool:
        """Do Spark's tasks run where they may not see this machine's disks?"""
        options = self.job.engine_options
        return isinstance(options.get("connect"), str) or spark_cluster.is_cluster(options.get("master") or "")
