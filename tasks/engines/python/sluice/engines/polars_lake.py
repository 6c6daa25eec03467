"""Tables read as lazy frames and written from them: PyIceberg's scans and data files, one snapshot a write."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Optional

import polars as pl
import pyarrow as pa
from pyiceberg import table as pyiceberg_table
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files, schema_to_pyarrow
from pyiceberg.manifest import DataFile
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask, Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.sorting import SortOrder

from sluice.engines import duck, lake, layout, polars_types
from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.report import Failure

_SORT_ORDER = 15  # the place of a data file's sort_order_id


def frame_of(job: Job, table: Table, at: Optional[int] = None) -> pl.LazyFrame:
    """The table's rows, of the snapshot `at` or of the current one."""
    if at is None and table.current_snapshot() is None:
        return pl.DataFrame(
            schema={f.name: polars_types.to_polars(duck.from_iceberg(f.field_type, f.name), f.name) for f in table.schema().fields}
        ).lazy()
    return pl.scan_iceberg(table, snapshot_id=at, storage_options=storage_options(job))


def storage_options(job: Job) -> Optional[dict[str, str]]:
    """The settings of the S3 store as Polars takes them."""
    s3 = job.doc.get("s3")
    if not s3:
        return None
    endpoint = s3.get("endpoint")
    named = {
        "aws_endpoint_url": endpoint,
        "aws_region": s3.get("region") or "us-east-1",
        "aws_access_key_id": s3.get("access_key"),
        "aws_secret_access_key": s3.get("secret_key"),
        "aws_session_token": s3.get("session_token"),
        "aws_virtual_hosted_style_request": "false" if s3.get("path_style", True) else "true",
        "aws_allow_http": "true" if endpoint and endpoint.startswith("http:") else None,
    }
    return {k: str(v) for k, v in named.items() if v}


class Writer(lake.Writer):
    """One write of a frame into a table."""

    def __init__(self, tables: lake.Lake, w: lake.Write, frame: pl.LazyFrame, columns: duck.Columns) -> None:
        super().__init__(tables, w, columns)
        self.frame = frame
        self.made: list[tuple[FileIO, str]] = []
        stem = f"{self.job.run_id}-{self.job.task_id}-{self.job.attempt}-{uuid.uuid4().hex[:8]}"
        # What an attempt left behind is found by the names of its files.
        pyiceberg_table.WriteTask.generate_data_file_filename = lambda task, extension: f"{stem}-{task.task_id:05}.{extension}"

    def rows(self, fields: layout.Fields, order: SortOrder) -> pl.LazyFrame:
        rows = self._select(fields)
        if self.w.mode == "upsert":
            self._check_rows_key(rows)
        return _sorted(rows, order, fields) if order.fields else rows

    def put(self, tx: Transaction, rows: pl.LazyFrame) -> Optional[Snapshot]:
        self._data(tx, rows)
        self.committing = True
        return tx.commit_transaction().metadata.current_snapshot()

    def unmake(self) -> None:
        """What was written and cannot be seen any more goes away."""
        for io, path in self.made:
            try:
                io.delete(path)
            except OSError as e:
                print(f"a file stays behind: {path}: {e}", flush=True)
        self.made.clear()

    def _check_rows_key(self, rows: pl.LazyFrame) -> None:
        """Which of two rows with one key would win? Nobody can tell: that is an error. So is a key without a value."""
        null = pl.any_horizontal(pl.col(k).is_null() for k in self.w.key)
        found = rows.group_by(self.w.key).agg(pl.len().alias("sluice_n")).filter((pl.col("sluice_n") > 1) | null).head(1).collect()
        if found.is_empty():
            return
        row = found.row(0, named=True)
        raise self.job.wrong(lake.bad_key(self.w, row, row["sluice_n"]), "key")

    def _select(self, fields: layout.Fields) -> pl.LazyFrame:
        """The rows with the table's columns, types and order."""
        by_name = {n.lower(): n for n in self.columns}
        picked = []
        for f in fields:
            kind = polars_types.to_polars(duck.from_iceberg(f.field_type, f.name), f.name)
            mine = by_name.get(f.name.lower())
            picked.append((pl.col(mine).cast(kind, strict=True) if mine else pl.lit(None, dtype=kind)).alias(f.name))
        return self.frame.select(picked)

    # ---- the rows ----

    def _data(self, tx: Transaction, rows: pl.LazyFrame) -> None:
        meta = tx.table_metadata
        target = self.w.target_file_size or int(meta.properties.get("write.target-file-size-bytes", 0)) or self.w.usual_file_size
        sized = meta.model_copy(update={"properties": {**meta.properties, "write.target-file-size-bytes": str(target)}})
        if self.w.compression:
            sized.properties["write.parquet.compression-codec"] = self.w.compression
        counter = itertools.count(0)
        arrow = schema_to_pyarrow(meta.schema(), include_field_ids=False)
        table = tx._table
        removed, files = self._removed_before(tx)
        source: Any = _reader(rows, arrow, self._required(meta.schema()))
        if self.w.mode == "upsert" or not meta.spec().is_unpartitioned():
            source = source.read_all()
        made = [f for f in self._files(sized, source, table.io, counter) if f.record_count]
        if self.w.mode == "overwrite_partitions":
            if meta.spec().is_unpartitioned():
                removed = files if made else []
            else:
                touched = {f.partition for f in made}
                removed = [f for f in files if f.spec_id == meta.default_spec_id and f.partition in touched]
        elif self.w.mode == "upsert":
            removed, kept = self._replaced(tx, source, arrow)
            if kept.num_rows:
                made += self._files(sized, kept, table.io, counter)
        self._stage(tx, made, removed)

    def _files(self, meta: TableMetadata, rows: Any, io: FileIO, counter: Any) -> Iterator[DataFile]:
        for f in _dataframe_to_data_files(table_metadata=meta, df=rows, io=io, counter=counter):
            self.made.append((io, f.file_path))
            if meta.default_sort_order_id:
                f[_SORT_ORDER] = meta.default_sort_order_id
            yield f

    def _removed_before(self, tx: Transaction) -> tuple[list[DataFile], list[DataFile]]:
        """What the mode removes whatever comes, and all files of the table."""
        if self.w.mode in ("append", "upsert") or tx.table_metadata.current_snapshot() is None:
            return [], []
        files = [t.file for t in tx._scan().plan_files()]
        return (files if self.w.mode in ("overwrite", "replace") else []), files

    def _replaced(self, tx: Transaction, new: pa.Table, arrow: pa.Schema) -> tuple[list[DataFile], pa.Table]:
        """The files that hold rows with the keys of the new ones, and their other rows. One file in memory at a time."""
        removed: list[DataFile] = []
        kept = [arrow.empty_table()]
        if tx.table_metadata.current_snapshot() is None:
            return removed, kept[0]
        keys = pl.from_arrow(new.select(self.w.key))
        assert isinstance(keys, pl.DataFrame)
        for task in tx._scan().plan_files():
            rows = self._rows_of(tx, task)
            others = rows.join(keys, on=self.w.key, how="anti", maintain_order="left")
            if others.height == rows.height:
                continue
            removed.append(task.file)
            kept.append(others.to_arrow().cast(arrow))
        return removed, pa.concat_tables(kept)

    def _rows_of(self, tx: Transaction, task: FileScanTask) -> pl.DataFrame:
        scan = ArrowScan(
            table_metadata=tx.table_metadata, io=tx._table.io, projected_schema=tx.table_metadata.schema(), row_filter=AlwaysTrue()
        )
        rows = pl.from_arrow(scan.to_table(tasks=[task]))
        assert isinstance(rows, pl.DataFrame)
        return rows

    def _required(self, schema: Schema) -> list[str]:
        return [f.name for f in schema.fields if f.required]

    def _stage(self, tx: Transaction, made: Iterable[DataFile], removed: list[DataFile]) -> None:
        job = self.job
        properties = {
            "sluice.flow": job.doc["flow"],
            "sluice.run-id": job.run_id,
            "sluice.task-id": job.task_id,
            "sluice.mode": self.w.mode,
            "sluice.attempt": str(job.attempt),
        }
        update = tx.update_snapshot(snapshot_properties=properties)
        if self.w.mode == "append" or (self.w.mode == "upsert" and not removed):
            with tx._append_snapshot_producer(properties) as appending:
                for f in made:
                    appending.append_data_file(f)
            return
        ids = {f.field_id for f in tx.table_metadata.schema().fields}
        for spec_id in {f.spec_id for f in removed}:
            for p in tx.table_metadata.specs()[spec_id].fields:
                if p.source_id not in ids:
                    raise Failure(
                        f"table {self.w.into} has files that are partitioned by {p.name}, whose column is gone; "
                        f"PyIceberg cannot take them out; {ONLY_DUCKDB}"
                    )
        with update.overwrite() as overwriting:
            # What somebody else writes meanwhile is a conflict, in whatever partition it lies.
            overwriting.delete_by_predicate(AlwaysTrue())
            overwriting._build_delete_files_partition_predicate = lambda: None
            for f in removed:
                overwriting.delete_data_file(f)
            for f in made:
                overwriting.append_data_file(f)


def _sorted(rows: pl.LazyFrame, order: SortOrder, fields: layout.Fields) -> pl.LazyFrame:
    names = {f.field_id: f.name for f in fields}
    by = [names[s.source_id] for s in order.fields]
    if any(str(s.transform) != "identity" for s in order.fields):
        raise Failure(f"the polars engine sorts by columns only, not by transforms of them; {ONLY_DUCKDB}")
    return rows.sort(
        by,
        descending=[s.direction.value == "desc" for s in order.fields],
        nulls_last=[s.null_order.value == "nulls-last" for s in order.fields],
        maintain_order=True,
    )


def _reader(rows: pl.LazyFrame, arrow: pa.Schema, required: list[str]) -> pa.RecordBatchReader:
    """The rows as a stream of batches: they are made while they are written."""

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in rows.collect_batches(chunk_size=1 << 17):
            for name in required:
                if frame[name].null_count():
                    raise Failure(f'column "{name}" is required, but a row has no value there')
            for batch in frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(arrow).to_batches():
                if batch.num_rows:
                    yield batch

    return pa.RecordBatchReader.from_batches(arrow, batches())
