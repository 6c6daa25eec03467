"""Tables as Spark's frames, and frames into tables, by the DataFrame API. spark_sql.py says the same with statements.

What a write makes of its table (columns, partitions, order, properties) is committed first (lake.py), then Spark commits the
rows. Nobody sees one without the other: both are the run's, until it succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from pyiceberg.table import Table, Transaction
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.sorting import SortOrder
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sluice.engines import duck, lake, layout, spark_types
from sluice.engines.spark_errors import folded
from sluice.engines.spark_types import column
from sluice.engines.spark_work import Work
from sluice.report import Failure

CODEC = "spark.sql.iceberg.compression-codec"


def full_name(work: Work, namespace: str, table: str) -> str:
    """The table's name as Spark's SQL writes it."""
    parts = [work.job.catalog.get("name") or "local", *namespace.split("."), table]
    return ".".join(spark_types.name(p) for p in parts)


def codec(work: Work, properties: Mapping[str, str], wanted: Optional[str] = None) -> str:
    """What data files are compressed with, where the task may say what is `wanted`. Iceberg's own default for a table that does not say
    is gzip, which takes a fifth longer than the other engines' zstd, and more space."""
    given = work.job.engine_options.get("conf") or {}
    return wanted or given.get(CODEC) or properties.get("write.parquet.compression-codec") or "zstd"


def frame_of(work: Work, table: Table, at: Optional[int] = None) -> DataFrame:
    """The table's rows, of the snapshot `at` or of the current one, whatever is committed meanwhile."""
    names = table.name()
    reader = work.spark.read
    current = table.current_snapshot()
    if at is None and current is not None and current.schema_id == table.schema().schema_id:
        at = current.snapshot_id
    if at is not None:
        reader = reader.option("versionAsOf", str(at))
    return reader.table(full_name(work, ".".join(names[:-1]), names[-1]))


class Writer(lake.Writer):
    """One write of a frame into a table."""

    def __init__(self, work: Work, tables: lake.Lake, w: lake.Write, frame: DataFrame, columns: duck.Columns) -> None:
        super().__init__(tables, w, columns)
        self.work, self.frame = work, frame
        self.properties: Mapping[str, str] = {}  # of the table, as it is when the rows come
        self.table = full_name(work, self.namespace, self.name)

    def rows(self, fields: layout.Fields, order: SortOrder) -> DataFrame:
        """Their order is Spark's work when it writes: it asks the table for it."""
        rows = self._select(fields)
        if self.w.mode == "upsert":
            self._check_rows_key(rows)
        return rows

    def _select(self, fields: layout.Fields) -> DataFrame:
        by_name = {n.lower(): n for n in self.columns}
        picked = []
        for f in fields:
            kind = spark_types.to_spark(duck.from_iceberg(f.field_type, f.name), f.name)
            mine = by_name.get(f.name.lower())
            value = column(mine).cast(kind) if mine else F.lit(None).cast(kind)
            if f.required:
                said = f'column "{f.name}" is required, but a row has no value there'
                value = F.when(value.isNull(), F.raise_error(F.lit(said)).cast(kind)).otherwise(value)
            picked.append(value.alias(f.name))
        return self.frame.select(*picked)

    def _check_rows_key(self, rows: DataFrame) -> None:
        """Which of two rows with one key would win? Nobody can tell: that is an error. So is a key without a value."""
        keys = [column(k) for k in self.w.key]
        null = F.lit(False)
        for k in keys:
            null = null | k.isNull()
        found = rows.groupBy(*keys).agg(F.count(F.lit(1)).alias("sluice_n")).where((F.col("sluice_n") > 1) | null).limit(1).collect()
        if found:
            raise self.job.wrong(lake.bad_key(self.w, found[0].asDict(), found[0]["sluice_n"]), "key")

    def put(self, tx: Transaction, rows: DataFrame) -> Optional[Snapshot]:
        before = tx.table_metadata.current_snapshot_id
        self.properties = tx.table_metadata.properties
        if tx._updates:
            tx.commit_transaction()
        self.committing = True
        try:
            self.write(rows)
        except Exception as e:
            if is_conflict(e):
                raise Failure(
                    f"table {self.w.into}: somebody else changed it meanwhile; the task can be tried again ({folded(e)})",
                    cause="conflict",
                ) from e
            raise
        made = self.lake.load(self.namespace, self.name)
        snapshot = made.current_snapshot() if made is not None else None
        return snapshot if snapshot is not None and snapshot.snapshot_id != before else None

    def options(self) -> dict[str, str]:
        """What is said of the files of this write alone."""
        size = self.w.target_file_size or int(self.properties.get("write.target-file-size-bytes") or 0) or self.w.usual_file_size
        return {"target-file-size-bytes": str(size), "compression-codec": codec(self.work, self.properties, self.w.compression)}

    def set_codec(self) -> None:
        """For a merge, which takes no options."""
        self.work.spark.conf.set(CODEC, codec(self.work, self.properties, self.w.compression))

    def write(self, rows: DataFrame) -> None:
        """Commits the rows, in the mode that the task says."""
        if self.w.mode == "upsert":
            self.set_codec()
            on = " AND ".join(f"{self.table}.{spark_types.name(k)} = s.{spark_types.name(k)}" for k in self.w.key)
            rows.alias("s").mergeInto(self.table, F.expr(on)).whenMatched().updateAll().whenNotMatched().insertAll().merge()
            return
        into = rows.writeTo(self.table).options(**self.options())
        if self.w.mode == "append":
            into.append()
        elif self.w.mode == "overwrite_partitions":
            into.overwritePartitions()
        else:
            into.overwrite(F.lit(True))


def is_conflict(e: BaseException) -> bool:
    """Did the catalog refuse a commit because of somebody else's?"""
    said = str(e)
    return "CommitFailedException" in said or "org.apache.iceberg.exceptions.ValidationException" in said
