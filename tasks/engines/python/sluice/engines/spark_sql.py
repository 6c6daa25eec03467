"""The engine spark_sql: the same as spark, but tables are made and written with statements."""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame

from sluice.engines import duck, spark, spark_lake
from sluice.engines.spark_types import name

THREADS_NOT_MISSED = spark.THREADS_NOT_MISSED
_ROWS = "sluice_rows"


class Writer(spark_lake.Writer):
    """One write of a frame into a table, with INSERT and MERGE. Each statement stands in the log."""

    def write(self, rows: DataFrame) -> None:
        rows.createOrReplaceTempView(_ROWS)
        if self.w.mode == "upsert":
            self.set_codec()
            on = " AND ".join(f"t.{name(k)} = s.{name(k)}" for k in self.w.key)
            self._run(f"MERGE INTO {self.table} t USING {_ROWS} s ON {on} WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *")
            return
        whole = "dynamic" if self.w.mode == "overwrite_partitions" else "static"
        self.work.spark.conf.set("spark.sql.sources.partitionOverwriteMode", whole)
        options = ", ".join(f"{duck.text(k)} = {duck.text(v)}" for k, v in self.options().items())
        verb = "INTO" if self.w.mode == "append" else "OVERWRITE"
        self._run(f"INSERT {verb} {self.table} WITH ({options}) SELECT * FROM {_ROWS}")

    def _run(self, statement: str) -> None:
        print(statement, flush=True)
        self.work.spark.sql(statement)


def run(doc: dict[str, Any]) -> int:
    """Runs one attempt."""
    return spark.run(doc, Writer)
