"""stage on Polars (stage.py has what it shares with other engines)."""

from __future__ import annotations

import io
import os
import re
import threading
from typing import Any, Optional

import polars as pl
from pyiceberg.table import Table

from sluice.engines import duck, lake, polars_delta, polars_lake, polars_sql, polars_types, stage
from sluice.engines.common import ONLY_DUCKDB, Job, is_remote
from sluice.engines.rejects import Rejects
from sluice.engines.stage import Unreadable, is_lines
from sluice.report import Failure

_ODD = "sluice_odd"
_HEAD = 1 << 16


class Stage(stage.Stage):
    """The rows as lazy frames."""

    def scan_files(self) -> tuple[pl.LazyFrame, duck.Columns]:
        options = polars_lake.storage_options(self.job)
        if self.format == "parquet":
            local = not any(is_remote(f) for f in self.files)
            union = bool(self.source.get("union_by_name"))
            hive = all(re.search(r"/[^/=]+=[^/]*/", f) for f in self.files)
            if not union:
                self.same_columns()
            frame = pl.scan_parquet(
                self.files, hive_partitioning=hive, glob=False, missing_columns="insert" if union else "raise", storage_options=options
            )
            columns = self.described("parquet") if local else polars_types.columns_of(frame.collect_schema().items())
            return _as(frame, columns), columns
        columns = self.described("json")
        schema = {n: _json_type(polars_types.to_polars(t, n)) for n, t in columns.items()}
        frames = [pl.scan_ndjson(f, schema=schema) if is_lines(f) else pl.read_json(f, schema=schema).lazy() for f in self.near().values()]
        return _as(pl.concat(frames), columns), columns

    def scan_csv(self, names: list[str]) -> pl.LazyFrame:
        return pl.scan_csv(
            self.files,
            schema={n: pl.String() for n in names},
            has_header=False,  # as one, Polars does not take doubled quotes for one
            skip_rows=int(self.has_header),
            raise_if_empty=False,
            separator=self.delimiter,
            quote_char=self.quote or None,
            null_values=[""],
            glob=False,
            storage_options=polars_lake.storage_options(self.job),
        )

    def first_record(self, file: str) -> Optional[list[str]]:
        first = self._first_of_head(file)
        if first is None:
            try:
                first = self._records(file, 1)
            except pl.exceptions.ComputeError as e:  # Polars looks at more records than it gives
                if is_remote(file) or file.endswith((".gz", ".zst")):
                    raise Failure(f"{file}: {str(e).splitlines()[0]}") from e
                first = self._first_line(file)
        if first.is_empty() and not is_remote(file):
            with open(file, "rb") as f:
                if f.read(_HEAD).strip():
                    raise Failure(f"{file}:1: the first record cannot be read: does a value have a quote in it, and none around it?")
        values = None if first.is_empty() else [v or "" for v in first.row(0)]
        if values and any(re.search("\r(?!\n)", v) for v in values):
            raise Failure(f"{file}:1: Polars does not read lines that end with a carriage return alone; engines that can: duckdb, spark")
        return values

    def _first_line(self, file: str) -> pl.DataFrame:
        with open(file, "rb") as f:
            line = io.BytesIO(f.readline())
        try:
            return self._records(line, 1)
        except pl.exceptions.ComputeError as e:
            raise Failure(f"{file}:1: the first record cannot be read: {str(e).splitlines()[0]}") from e

    def _first_of_head(self, file: str) -> Optional[pl.DataFrame]:
        """Of a large file, which Polars would begin to read as a whole. None: it is none, or its head does not tell."""
        if is_remote(file) or os.path.getsize(file) <= _HEAD:
            return None
        with open(file, "rb") as f:
            head = io.BytesIO(f.read(_HEAD))
        try:
            first = self._records(head, 2)
        except (pl.exceptions.PolarsError, OSError):  # it is compressed, or a value is cut
            return None
        return first if first.height == 2 else None  # the first of two is whole

    def _records(self, file: Any, n: int) -> pl.DataFrame:
        return pl.scan_csv(
            file,
            has_header=False,
            infer_schema=False,
            n_rows=n,
            separator=self.delimiter,
            quote_char=self.quote or None,
            raise_if_empty=False,
            glob=False,
            truncate_ragged_lines=True,
            storage_options=polars_lake.storage_options(self.job),
        ).collect()

    def scan_table(self, tables: lake.Lake, table: Table, at: Optional[int]) -> pl.LazyFrame:
        return polars_lake.frame_of(self.job, table, at)

    def scan_delta(self, path: str, version: int) -> tuple[pl.LazyFrame, duck.Columns]:
        return polars_delta.frame_of(self.job, path, version)

    def table_rows(self, raw: pl.LazyFrame) -> Any:
        return raw.collect().to_arrow()

    def good_rows(self, rejects: Rejects, columns: duck.Columns) -> pl.LazyFrame:
        frame = pl.from_arrow(rejects.good_rows())
        assert isinstance(frame, pl.DataFrame)
        return self.counted(_as(frame.lazy(), columns), False)

    def typed(self, raw: pl.LazyFrame, columns: duck.Columns) -> Optional[pl.LazyFrame]:
        """The rows with the types asked for, those that may be rejects counted; None: Polars cannot tell."""
        casts, odd = [], []
        for name, kind in self.types.items():
            if kind == columns[name]:
                continue
            made = _cast(pl.col(name), columns[name], kind, name)
            if made is None:
                return None
            casts.append(made.alias(name))
            odd.append(pl.col(name).is_not_null() & made.is_null())
        odd += [pl.col(n).is_null() for n in self.not_null]
        if self.format == "csv" and columns:
            odd.append(pl.col(list(columns)[-1]).is_null())  # or its line has too few values
        frame = raw.with_columns(pl.any_horizontal(odd).alias(_ODD)) if odd else raw
        frame = frame.with_columns(casts) if casts else frame
        # Rows are counted as they pass, which no condition or choice of columns gets by: so only where rejects must be found.
        return self.counted(frame, True) if odd else frame

    def counted(self, frame: pl.LazyFrame, odd: bool) -> pl.LazyFrame:
        """Counts rows, and odd ones among them, while they pass: batches do so on several threads at once."""
        lock = threading.Lock()

        def count(batch: pl.DataFrame) -> pl.DataFrame:
            found = int(batch[_ODD].sum() or 0) if odd else 0
            with lock:
                self.rows_in += batch.height
                self.odd += found
            return batch

        names = [n for n in frame.collect_schema().names() if n != _ODD]
        # Columns that nobody asks for need not be read, but no condition gets by, since each row counts.
        frame = frame.map_batches(count, streamable=True, predicate_pushdown=False, projection_pushdown=odd, slice_pushdown=False)
        # True of every row: somebody asks for the mark.
        return (frame.filter(pl.col(_ODD).is_not_null()) if odd else frame).select(names)

    # ---- the rows ----

    def selected(self, frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
        return frame.select(names)

    def renamed(self, frame: pl.LazyFrame, names: dict[str, str]) -> pl.LazyFrame:
        return frame.rename(names)

    def head(self, frame: pl.LazyFrame, rows: int) -> pl.LazyFrame:
        return frame.head(rows)

    def query(self, sql: str, key: Optional[str], table: str, frame: Any, columns: duck.Columns, made: duck.Columns) -> pl.LazyFrame:
        name = ("", "", table)
        return polars_sql.query(self.job, sql, key, {name: frame}, {name: columns}, made)

    def write(self, frame: pl.LazyFrame, columns: duck.Columns) -> None:
        compression = self.target.get("compression") or "zstd"
        os.makedirs(os.path.dirname(self.tmp) or ".", exist_ok=True)
        if not self.partitions:
            self._sink(frame, self.tmp, compression)
            return
        for name in self.partitions:
            if name not in columns:
                raise self.missing("target/partition_by", name, list(columns))
        os.makedirs(self.tmp, exist_ok=True)
        self._sink(frame, pl.PartitionBy(self.tmp, key=self.partitions, include_key=True), compression)

    def _sink(self, frame: pl.LazyFrame, target: Any, compression: str) -> None:
        try:
            frame.sink_parquet(target, compression=compression, mkdir=True, engine="streaming")
        except (pl.exceptions.ComputeError, pl.exceptions.SchemaError) as e:  # the second where the first record is torn
            if self.format != "csv":
                raise
            raise Unreadable(str(e)) from e


def run(job: Job) -> None:
    stage.run(Stage(job))


def _json_type(kind: Any) -> Any:
    """Dates and times are texts in JSON."""
    if isinstance(kind, pl.List):
        return pl.List(_json_type(kind.inner))
    if isinstance(kind, pl.Struct):
        return pl.Struct({f.name: _json_type(f.dtype) for f in kind.fields})
    return pl.String() if kind.is_temporal() else kind


def _as(frame: pl.LazyFrame, columns: duck.Columns) -> pl.LazyFrame:
    """The frame with these very columns and types."""
    have = frame.collect_schema()
    out = []
    for n, t in columns.items():
        kind = polars_types.to_polars(t, n)
        if have[n] == kind:
            out.append(pl.col(n))
        elif have[n] == pl.String():
            made = _cast(pl.col(n), "VARCHAR", t, n)
            if made is None:
                raise Failure(f'column "{n}": the polars engine does not read texts as {t}; {ONLY_DUCKDB}')
            out.append(made.alias(n))
        else:
            out.append(pl.col(n).cast(kind, strict=True))
    return frame.select(out)


_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}


def _cast(value: pl.Expr, have: str, wanted: str, column: str) -> Optional[pl.Expr]:
    """The value as DuckDB would cast it, or NULL where that is not certain; None: never certain."""
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", wanted)
    if have == "VARCHAR":
        if wanted in _INTEGERS or wanted in ("FLOAT", "DOUBLE"):
            return value.cast(polars_types.to_polars(wanted, column), strict=False)
        if wanted == "DATE":
            return pl.when(value.str.contains(r"^\d{4}-\d{2}-\d{2}$")).then(value).str.to_date("%Y-%m-%d", strict=False)
        if wanted == "TIMESTAMP":
            plain = (
                pl.when(value.str.contains(r"^\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}:\d{2}(\.\d{1,6})?$"))
                .then(value)
                .str.replace("T", " ", literal=True)
            )
            return plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
        if wanted == "BOOLEAN":
            return value.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
        if decimal:
            plain = pl.when(
                value.str.contains(rf"^[+-]?\d+(\.\d{{1,{decimal.group(2)}}})?$" if decimal.group(2) != "0" else r"^[+-]?\d+$")
            ).then(value)
            return plain.cast(polars_types.to_polars(wanted, column), strict=False)
        return None
    if have in _INTEGERS and (wanted in _INTEGERS or wanted in ("DOUBLE", "VARCHAR") or decimal):
        return value.cast(polars_types.to_polars(wanted, column), strict=False)
    if (have, wanted) in {("FLOAT", "DOUBLE"), ("DATE", "VARCHAR"), ("DATE", "TIMESTAMP")}:
        return value.cast(polars_types.to_polars(wanted, column), strict=False)
    return None
