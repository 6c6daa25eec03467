"""Delta tables on Spark: a version of one as a frame, and what an export makes of one (delta_export.py has what engines do alike)."""

from __future__ import annotations

import json
from typing import Any, Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sluice.engines import delta_export, duck, spark_dialect, spark_types
from sluice.engines.common import did_you_mean, is_remote
from sluice.engines.delta_log import transaction, user_metadata
from sluice.engines.spark_errors import folded
from sluice.engines.spark_files import location
from sluice.engines.spark_session import DELTA, LOG_STORE, has_jar, names_log_store
from sluice.engines.spark_types import column, name
from sluice.engines.spark_work import Work
from sluice.report import Failure

_CATALOG = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
_ROWS = "sluice_rows"
_TARGET = "sluice_target"
_CONFLICTS = ("Concurrent", "MetadataChanged", "ProtocolChanged")  # how the names of Delta's exceptions begin where another one was faster


def prepare(work: Work) -> None:
    """Has the session know Delta tables. Raises a Failure where it cannot: its server was started without."""
    conf = work.spark.conf
    if DELTA not in (conf.get("spark.sql.extensions", "") or ""):
        raise Failure(
            f"this Spark has no Delta Lake: it must be started with delta-spark's jars and {DELTA} among its spark.sql.extensions"
        )
    conf.set("spark.sql.catalog.spark_catalog", _CATALOG)
    given = work.job.engine_options.get("conf") or {}
    if "spark.databricks.delta.snapshotPartitions" not in given:
        conf.set("spark.databricks.delta.snapshotPartitions", "2")  # 50 tasks for a log of ten lines take seconds


def frame_of(work: Work, path: str, version: int) -> DataFrame:
    prepare(work)
    return work.spark.read.format("delta").option("versionAsOf", str(version)).load(location(path))


class Export(delta_export.Export):
    """One change of a table, by the DataFrame API where rows are added, else by a statement, which stands in the log."""

    def __init__(self, work: Work, rows: Optional[tuple[DataFrame, duck.Columns]]) -> None:
        super().__init__(work.job, rows[1] if rows else None)
        self.work = work
        self.frame: Optional[DataFrame] = rows[0] if rows else None
        self.table = f"delta.{name(location(self.path))}"

    def change(self) -> None:
        prepare(self.work)
        self._check_log_store()
        conf = self.work.spark.conf
        conf.set("spark.databricks.delta.write.txnAppId", transaction(self.job))
        conf.set("spark.databricks.delta.write.txnVersion", "1")
        conf.set("spark.databricks.delta.commitInfo.userMetadata", json.dumps(user_metadata(self.job)))
        if self.frame is None:
            self._by_condition(spark_types.columns_of(self._there()))
        elif self.mode in ("upsert", "delete") and self.log.exists:
            self._by_key(self.frame, self._there())
        else:
            self._write(self.frame)

    def _check_log_store(self) -> None:
        if is_remote(self.path) and not has_jar(LOG_STORE) and not names_log_store(self.job):
            raise Failure(
                f"without {LOG_STORE}, commits on S3 may overwrite those of others: `sluice engines install spark --replace` makes it"
            )

    def conflict(self, e: Exception) -> Optional[str]:
        said = folded(e)
        return said if said.startswith(_CONFLICTS) or "DELTA_CONCURRENT" in str(e) else None

    def count(self) -> int:
        if self.frame is not None:
            return int(self.frame.count())
        prepare(self.work)
        there = self._there()
        there.createOrReplaceTempView(_TARGET)
        where = self._condition(spark_types.columns_of(there))
        return int(self.work.spark.sql(f"SELECT count(*) AS n FROM {_TARGET}{where}").collect()[0]["n"])

    def _there(self) -> DataFrame:
        """The table as it is."""
        return self.work.spark.read.format("delta").load(location(self.path))

    # ---- rows ----

    def _write(self, frame: DataFrame) -> None:
        if self.mode == "upsert":
            self._check_keys(frame)
        if not self.is_anew():
            self._check_partitions()
            frame = self._aligned(frame, self._there(), whole=True)
        writer = frame.write.format("delta").mode("append" if self.mode in ("append", "upsert") else "overwrite")
        if self.is_anew():
            writer = writer.partitionBy(*self.partitions).options(**delta_export.FORGET)
        if self.mode == "replace":
            writer = writer.option("overwriteSchema", "true")
        writer.save(location(self.path))

    def _check_partitions(self) -> None:
        if self.to.get("partition_by") is not None:
            (have,) = self.work.spark.sql(f"DESCRIBE DETAIL {self.table}").select("partitionColumns").collect()[0]
            self.check_partitions(list(have))

    def _aligned(self, frame: DataFrame, there: DataFrame, whole: bool) -> DataFrame:
        """The rows with the table's columns and types; `whole`: also those that the rows lack, as NULL."""
        self.check_columns(spark_types.columns_of(there))
        mine = {c.lower(): c for c in self.columns}
        picked = []
        for field in there.schema.fields:
            kind = field.dataType
            if field.name.lower() in mine:
                picked.append(column(mine[field.name.lower()]).cast(kind).alias(field.name))
            elif whole:
                picked.append(F.lit(None).cast(kind).alias(field.name))
        return frame.select(*picked)

    def _check_keys(self, frame: DataFrame) -> None:
        keys = [column(k) for k in self.key]
        null = F.lit(False)
        for k in keys:
            null = null | k.isNull()
        found = frame.groupBy(*keys).agg(F.count(F.lit(1)).alias("sluice_n")).where((F.col("sluice_n") > 1) | null).limit(1).collect()
        if found:
            raise self.bad_key([found[0][i] for i in range(len(keys))], found[0]["sluice_n"])

    def _by_key(self, frame: DataFrame, there: DataFrame) -> None:
        """Columns that the rows lack stay as they are; a new row has NULL there."""
        keys = [k.lower() for k in self.key]
        if self.mode == "delete":
            frame = frame.select(*map(column, self.key)).distinct()
            self.columns = {c: t for c, t in self.columns.items() if c.lower() in keys}
        else:
            self._check_keys(frame)
            self._check_partitions()
        frame = self._aligned(frame, there, whole=False)
        frame.createOrReplaceTempView(_ROWS)
        on = " AND ".join(f"t.{name(k)} = s.{name(k)}" for k in self.key)
        if self.mode == "delete":
            then = "WHEN MATCHED THEN DELETE"
        else:
            changed = ", ".join(f"{name(c)} = s.{name(c)}" for c in frame.columns if c.lower() not in keys)
            into, values = ", ".join(map(name, frame.columns)), ", ".join(f"s.{name(c)}" for c in frame.columns)
            then = f"WHEN MATCHED THEN UPDATE SET {changed} " if changed else ""
            then += f"WHEN NOT MATCHED THEN INSERT ({into}) VALUES ({values})"
        self._run(f"MERGE INTO {self.table} t USING {_ROWS} s ON {on} {then}")

    # ---- expressions ----

    def _by_condition(self, columns: duck.Columns) -> None:
        where = self._condition(columns)
        if self.mode == "delete":
            self._run(f"DELETE FROM {self.table} AS {_TARGET}{where}")
            return
        by_name = {c.lower(): c for c in columns}
        changes = []
        for given, sql in self.to["set"].items():
            key = f"to/set/{given}"
            mine = by_name.get(given.lower())
            if mine is None:
                near = did_you_mean(columns, given)
                raise self.job.wrong(f'Delta table {self.path} has no column "{given}"{near}; its columns are: {", ".join(columns)}', key)
            changes.append(f"{name(mine)} = {self._expression(str(sql), key, columns, columns[mine])}")
        self._run(f"UPDATE {self.table} AS {_TARGET} SET {', '.join(changes)}{where}")

    def _condition(self, columns: duck.Columns) -> str:
        where: Any = self.to.get("where")
        return " WHERE " + self._expression(str(where), "to/where", columns, "BOOLEAN") if where else ""

    def _expression(self, sql: str, key: str, columns: duck.Columns, wanted: str) -> str:
        return spark_dialect.expression(self.job, sql, key, _TARGET, columns, wanted)

    def _run(self, statement: str) -> None:
        print(statement, flush=True)
        self.work.spark.sql(statement).collect()
