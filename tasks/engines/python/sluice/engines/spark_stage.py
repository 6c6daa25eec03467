"""stage on Spark (stage.py has what it shares with other engines)."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import shutil
from collections.abc import Iterable
from typing import Any, Callable, Optional

import pyarrow.parquet as pq
from pyiceberg.table import Table
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from sluice.engines import (
    csv_look,
    duck,
    lake,
    parquet_parts,
    s3_files,
    spark_delta,
    spark_dialect,
    spark_files,
    spark_hudi,
    spark_lake,
    spark_types,
    stage,
)
from sluice.engines.common import ONLY_DUCKDB, is_remote
from sluice.engines.rejects import Rejects
from sluice.engines.spark_errors import folded
from sluice.engines.spark_types import column
from sluice.engines.spark_work import Work
from sluice.engines.stage import Unreadable, is_lines
from sluice.report import Failure

_ODD = "sluice_odd"  # the mark of a row that may be a reject
_MISFIT = "sluice: a row that may be a reject"  # which spark_log4j2.properties keeps out of the log
_TORN = "sluice_torn"  # the text of a record that does not have as many values as there are columns
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
_RANGES = {"UTINYINT": 2**8, "USMALLINT": 2**16, "UINTEGER": 2**32}
_CODECS = {"zstd": "zstd", "snappy": "snappy", "gzip": "gzip", "lz4": "lz4_raw", "uncompressed": "none", "none": "none"}
_PACKED = (".gz", ".zst", ".bz2")
_WIDE = 100  # columns, for which Spark plans for longer than it works when it tells what is true of each; no more than that depends on it
_SMALL = 64 << 20  # bytes of a source that one task reads and writes


class Stage(stage.Stage):
    """The rows as frames."""

    def __init__(self, work: Work) -> None:
        super().__init__(work.job)
        self.work = work
        self.torn = False  # has what is read a column of texts that are no records? Each look at a frame's columns is a call to the server
        self.look: Optional[csv_look.Look] = None  # at a source of local CSV files
        self.lines_are_records = False  # in those files
        self.reads_otherwise = False  # does Spark's reader make other rows of it than DuckDB's?
        self.seen: Optional[Observation] = None  # where rows must be counted as they pass
        self.count: Callable[[], dict[str, Any]] = dict  # the same by another pass
        # Where Spark's tasks leave what they write for this process, and find what it has for them: where both see it.
        self.passed = f"{self.path}.tmp-{self.job.run_id}-{self.job.task_id}-" if work.elsewhere and is_remote(self.path) else None

    # ---- the source ----

    def scan_csv(self, names: list[str]) -> DataFrame:
        self.torn = True
        if (self.source.get("compression") or "auto") not in ("auto", "none") and not all(f.endswith(_PACKED) for f in self.files):
            raise Failure(f"Spark tells compressed files by their names (.gz, .zst, .bz2); {ONLY_DUCKDB}")
        local = not any(is_remote(f) or f.endswith(_PACKED) for f in self.files)
        found = csv_look.Quotes.ACROSS  # since it is not known
        if local:
            found = csv_look.quotes(self.files, self.quote, self.delimiter) if self.quote else csv_look.Quotes.NONE
        if found == csv_look.Quotes.NONE:
            return self._scan_lines(names)
        self.lines_are_records = found == csv_look.Quotes.IN_LINES
        self.reads_otherwise = found == csv_look.Quotes.STRAY or len(names) == 1  # of which Spark leaves out empty lines
        if local and not self.reads_otherwise:
            self.look = csv_look.Look(self.files)
        reader = (
            self.work.spark.read.schema(", ".join(f"{spark_types.name(n)} string" for n in [*names, _TORN]))
            .option("header", str(self.has_header).lower())
            .option("sep", self.delimiter)
            .option("quote", self.quote)
            .option("escape", self.quote)
            .option("mode", "PERMISSIVE")
            .option("columnNameOfCorruptRecord", _TORN)
            .option("recursiveFileLookup", "true")
            .option("maxColumns", str(len(names) + 20480))
            .option("multiLine", str(not self.lines_are_records).lower())  # or a file is read by one task
        )
        frame = reader.csv([spark_files.address(f) for f in self.files])
        empty = [F.when(column(n) != "", column(n)).alias(n) for n in names]
        return frame.select(*empty, _TORN)

    def _scan_lines(self, names: list[str]) -> DataFrame:
        """Where no value has a quote around it each line is a record, and cut at its delimiters in half the time that Spark's reader of
        CSV takes, which looks at it character by character."""
        self.lines_are_records = True
        headers = {self.delimiter.join(values) for values in self.headers}
        self.look = csv_look.Look(self.files, headers, empty=len(names) == 1)
        line, cut = F.col("value"), re.escape(self.delimiter)
        lines = self.work.spark.read.option("recursiveFileLookup", "true").text([spark_files.address(f) for f in self.files])
        if len(names) > 1:
            lines = lines.filter(line != "")
        if headers:
            lines = lines.filter(~line.isin(*headers))
        records = lines.select("value", F.split(line, cut, -1).alias("values"))
        picked = [f"if(get(values, {i}) = '', NULL, get(values, {i})) AS {spark_types.name(n)}" for i, n in enumerate(names)]
        if len(names) > _WIDE:
            self.work.spark.conf.set("spark.sql.constraintPropagation.enabled", "false")
        return records.selectExpr(*picked, f"if(size(values) = {len(names)}, NULL, value) AS {_TORN}")

    def first_record(self, file: str) -> Optional[list[str]]:
        if is_remote(file):
            with s3_files.store(self.job).open_input_stream(s3_files.key_of(file), compression="detect") as raw:
                return self._first(io.TextIOWrapper(raw, "utf-8-sig", newline="", errors="replace"))
        if file.endswith((".zst", ".bz2")):
            lines = [row[0] for row in self.work.spark.read.text(spark_files.address(file)).limit(1).collect()]
            return self._first(lines)
        opened = gzip.open if file.endswith(".gz") else open
        with opened(file, "rt", encoding="utf-8-sig", newline="", errors="replace") as f:
            return self._first(f)

    def _first(self, lines: Iterable[str]) -> Optional[list[str]]:
        if not self.quote:
            return next(csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE), None)
        return next(csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote), None)

    def scan_files(self) -> tuple[DataFrame, duck.Columns]:
        if self.format == "parquet":
            return self._scan_parquet(not any(is_remote(f) for f in self.files))
        self.torn = True
        columns = self.described("json")
        schema = ", ".join(f"{spark_types.name(n)} {_json_type(spark_types.to_spark(t, n))}" for n, t in columns.items())
        frames = []
        for f, near in self.near().items():
            reader = self.work.spark.read.schema(f"{schema}, {_TORN} string").option("columnNameOfCorruptRecord", _TORN)
            read = f if self.work.elsewhere else near
            frames.append(reader.option("multiLine", str(not is_lines(near)).lower()).json(spark_files.address(read)))
        frame = frames[0]
        for other in frames[1:]:
            frame = frame.unionAll(other)
        return frame.select(*_as(frame, columns), _TORN), columns

    def _scan_parquet(self, local: bool) -> tuple[DataFrame, duck.Columns]:
        union = bool(self.source.get("union_by_name"))
        if not union:
            self.same_columns()
        reader = self.work.spark.read.option("mergeSchema", str(union).lower())
        base = _base_of(self.files)
        reader = reader.option("basePath", spark_files.address(base)) if base else reader.option("recursiveFileLookup", "true")
        frame = reader.parquet(*map(spark_files.address, self.files))
        columns = self.described("parquet") if local else spark_types.columns_of(frame)
        return frame.select(*_as(frame, columns)), columns

    def scan_table(self, tables: lake.Lake, table: Table, at: Optional[int]) -> DataFrame:
        return spark_lake.frame_of(self.work, table, at)

    def scan_delta(self, path: str, version: int) -> tuple[DataFrame, duck.Columns]:
        frame = spark_delta.frame_of(self.work, path, version)
        return frame, spark_types.columns_of(frame)

    def scan_hudi(self, path: str) -> tuple[DataFrame, duck.Columns]:
        frame = spark_hudi.frame_of(self.work, spark_hudi.folder_of(self.work, path, "source/path"), "source/path")
        return frame, spark_types.columns_of(frame)

    def table_rows(self, raw: DataFrame) -> Any:
        if hasattr(raw, "toArrow"):
            return raw.toArrow()
        import pyarrow as pa

        return pa.Table.from_batches(raw._collect_as_arrow())  # of Spark 3.5

    def good_rows(self, rejects: Rejects, columns: duck.Columns) -> DataFrame:
        path = os.path.join(self.job.scratch, "good.parquet")
        self.look, self.lines_are_records, self.seen = None, False, None
        rejects.keep_good_rows(path)
        if self.passed:
            s3_files.send(self.job, path, self.passed + "good.parquet")
            path = self.passed + "good.parquet"
        frame, have = spark_files.parquet(self.work, [path])
        return self._counted(frame.select(*_as(frame, {n: columns[n] for n in have})), have)

    # ---- types ----

    def typed(self, raw: DataFrame, columns: duck.Columns) -> Optional[DataFrame]:
        if not self.torn and not self.not_null and all(columns[n] == t for n, t in self.types.items()):
            return raw  # not counted, which no condition gets by: so row groups are skipped
        if self.reads_otherwise:
            return None
        bytes_may_be_odd = self.format == "csv" and self.look is None
        odd = F.lit(False)
        picked = []
        for name, have in columns.items():
            value = column(name)
            kind = self.types.get(name, have)
            if kind != have:
                made = _cast(name, have, kind)
                if made is None:
                    return None
                odd = odd | (value.isNotNull() & made.isNull())
                picked.append(made.alias(name))
            else:
                picked.append(value)
            if have == "VARCHAR" and bytes_may_be_odd:
                odd = odd | F.coalesce(value.contains("\ufffd"), F.lit(False))  # bytes that are no UTF-8
        for name in self.not_null:
            odd = odd | column(name).isNull()
        if self.torn:
            odd = odd | F.col(_TORN).isNotNull()
        if self.on_reject != "fail":
            counted = self._counted(raw.select(*picked, odd.alias(_ODD)), columns, F.count_if(_ODD).alias("odd"))
            return counted.drop(_ODD)
        # The first one ends the job. No condition of the task's comes before, since the column is not deterministic.
        good = F.when(odd, F.raise_error(F.lit(_MISFIT)).cast("boolean")).otherwise(F.spark_partition_id() >= 0)
        return self._counted(raw.select(*picked, good.alias(_ODD)).filter(_ODD).drop(_ODD), columns)

    def _counted(self, frame: DataFrame, columns: duck.Columns, *odd: Column) -> DataFrame:
        """Rows are counted as they pass, before any condition; not where this is known by less, since what is around an observation is
        not compiled to one loop."""
        if not odd and (self.lines_are_records or self.writes_all()):
            return frame
        self.seen = Observation()
        counts = [F.count(F.lit(1)).alias("rows"), *odd]
        # Of records each column is asked for: their reader looks at no others.
        whole = [F.count(column(n)).alias(f"sluice_{i}") for i, n in enumerate(columns)] if self.format in ("csv", "json") else []
        self.count = lambda: frame.agg(*counts, *whole).collect()[0].asDict()
        return frame.observe(self.seen, *counts)

    # ---- the rows ----

    def selected(self, frame: DataFrame, names: list[str]) -> DataFrame:
        return frame.select(*map(column, names))

    def renamed(self, frame: DataFrame, names: dict[str, str]) -> DataFrame:
        return frame.select(*(column(n).alias(names.get(n, n)) for n in frame.columns))

    def head(self, frame: DataFrame, rows: int) -> DataFrame:
        return frame.limit(rows)

    def query(self, sql: str, key: Optional[str], table: str, frame: Any, columns: duck.Columns, made: duck.Columns) -> DataFrame:
        name = ("", "", table)
        return spark_dialect.query(self.work, sql, key, {name: frame}, {name: columns}, made)

    def write(self, frame: DataFrame, columns: duck.Columns) -> None:
        compression = self.target.get("compression") or "zstd"
        for name in self.partitions:
            if name not in columns:
                raise self.missing("target/partition_by", name, list(columns))
        folder = self.tmp + ".parts"
        try:
            self._write(frame, folder, _CODECS.get(compression, compression))
            if self.seen is not None:
                counts = self.seen.get or self.count()  # where Spark did not hand on what it has observed
                self.rows_in, self.odd = int(counts["rows"]), int(counts.get("odd") or 0)
        except AnalysisException:  # of a statement, whatever the rows are
            raise
        except PySparkException as e:
            if _MISFIT not in str(e):
                raise Unreadable(folded(e)) from e
            self.odd = 1
            print("the rows are looked at one by one, since not all of them fit", flush=True)
            return
        if self.look is not None:
            self._take_look(self.look)
            if self.odd:
                return
        if self.partitions:
            self._name_partitions(folder)
            os.rename(folder, self.tmp)
            return
        parts = [f for f in os.listdir(folder) if f.endswith(".parquet")]
        parts.sort(key=lambda name: int(name.split("-")[1]))  # part-00000-…: in the order of the rows
        parquet_parts.join([os.path.join(folder, p) for p in parts], self.tmp)
        shutil.rmtree(folder)

    def _take_look(self, look: csv_look.Look) -> None:
        lines = look.lines()
        self.odd = max(self.odd, int(lines is None))
        if lines is not None and self.lines_are_records:
            self.rows_in = lines - (len(self.files) if self.has_header else 0)

    def _write(self, frame: DataFrame, folder: str, compression: str) -> None:
        """Leaves Parquet files in the local folder."""
        os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
        names = [f"sluice_{i}" for i in range(len(self.partitions))]
        if names:
            frame = frame.select("*", *(column(n).alias(made) for n, made in zip(self.partitions, names))).repartition(*names)
        elif 0 <= self.bytes_in <= _SMALL:  # to write it by several tasks would take longer
            frame = frame.coalesce(1)
        written = Observation()
        if self.work.elsewhere:
            frame = frame.observe(written, F.count(F.lit(1)).alias("rows"))
        parts = f"{self.passed}{self.job.attempt}.parts" if self.passed else folder
        # Where the store keeps an object for a folder that has gone, it is there for Spark.
        writer = frame.write.mode("overwrite" if self.passed else "error").partitionBy(*names)
        writer.option("compression", compression).parquet(spark_files.address(parts))
        if self.passed:
            s3_files.fetch_folder(self.job, parts, folder)
        if self.work.elsewhere:
            self._check_all_there(folder, written.get.get("rows"))

    def _check_all_there(self, folder: str, written: Optional[int]) -> None:
        """What executors write to a disk of their own is lost, and Spark does not notice."""
        files = [os.path.join(at, n) for at, _, names in os.walk(folder) for n in names if n.endswith(".parquet")]
        there = sum(pq.ParquetFile(f).metadata.num_rows for f in files)
        if written is not None and written != there:
            raise self.job.wrong(
                f"Spark's executors have written {written} rows, of which {there} are in {folder}: they do not all see this machine's "
                "disk; give the task a target on the store (s3://), or a folder that all of them share",
                "target/path",
            )

    def _name_partitions(self, folder: str) -> None:
        """Columns stay in the files, so Spark partitioned by copies of them; folders get the columns' names."""
        os.unlink(os.path.join(folder, "_SUCCESS"))
        for at, _, names in os.walk(folder, topdown=False):
            for name in names:
                if not name.endswith(".parquet"):
                    os.unlink(os.path.join(at, name))
            found = re.match(r"sluice_(\d+)=", os.path.basename(at))
            if found and at != folder:
                value = os.path.basename(at)[found.end() :]
                os.rename(at, os.path.join(os.path.dirname(at), f"{self.partitions[int(found.group(1))]}={value}"))

    def forget(self) -> None:
        super().forget()
        if os.path.isdir(self.tmp + ".parts"):
            shutil.rmtree(self.tmp + ".parts")
        self.tidy()

    def tidy(self) -> None:
        """Removes what this attempt and those before it have passed on by the store."""
        if self.passed:
            for attempt in range(1, self.job.attempt + 1):
                s3_files.remove_folder(self.job, f"{self.passed}{attempt}.parts")
            s3_files.remove(self.job, [self.passed + "good.parquet"])


def run(work: Work) -> None:
    made = Stage(work)
    made.tidy()
    stage.run(made)
    made.tidy()


def _base_of(files: list[str]) -> Optional[str]:
    """The folder above the first partition's, where all files lie in partitions."""
    if not all(re.search(r"/[^/=]+=[^/]*/", f) for f in files) or len({is_remote(f) for f in files}) > 1:
        return None
    scheme = "s3:/" if is_remote(files[0]) else ""
    return scheme + os.path.commonpath([re.split(r"/[^/=]+=[^/]*/", f[len(scheme) :], maxsplit=1)[0] for f in files])


def _json_type(kind: str) -> str:
    """Dates and times are texts in JSON."""
    return re.sub(r"timestamp_ntz|timestamp|date", "string", kind)


def _as(frame: DataFrame, columns: duck.Columns) -> list[Column]:
    """The columns with these very types."""
    have = spark_types.columns_of(frame)
    out = []
    for n, t in columns.items():
        made: Optional[Column] = column(n)
        mine = next((h for h in have if h.lower() == n.lower()), n)
        if have.get(mine) != t:
            made = _cast(n, "VARCHAR", t) if have.get(mine) == "VARCHAR" else column(n).cast(spark_types.to_spark(t, n))
        if made is None:
            raise Failure(f'column "{n}": the spark engine does not read texts as {t}; {ONLY_DUCKDB}')
        out.append(made.alias(n))
    return out


def _cast(name: str, have: str, wanted: str) -> Optional[Column]:
    """The column's value as DuckDB would cast it, or NULL where that is not certain; None: never certain."""
    tried = F.expr(f"try_cast({spark_types.name(name)} AS {spark_types.to_spark(wanted, name)})")
    decimal = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", wanted)
    if have == "VARCHAR":
        pattern = _pattern(wanted, decimal)
        if pattern is None:
            return None
        made = F.when(column(name).rlike(pattern), tried)
        return F.when((made >= 0) & (made < _RANGES[wanted]), made) if wanted in _RANGES else made
    if have in _INTEGERS and (wanted in _INTEGERS - {*_RANGES, "UBIGINT"} or wanted in ("DOUBLE", "VARCHAR") or decimal):
        return tried
    if (have, wanted) in {("FLOAT", "DOUBLE"), ("DATE", "VARCHAR"), ("DATE", "TIMESTAMP")}:
        return tried
    return None


def _pattern(wanted: str, decimal: Optional[re.Match[str]]) -> Optional[str]:
    """What a text must look like for both engines to read the same from it."""
    if wanted in _INTEGERS:
        return r"^-?[0-9]{1,20}$"
    if wanted in ("FLOAT", "DOUBLE"):
        return r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
    if wanted == "DATE":
        return r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
    if wanted == "TIMESTAMP":
        return r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?$"
    if wanted == "BOOLEAN":
        return r"^(true|false)$"
    if decimal:
        return rf"^-?[0-9]+(\.[0-9]{{1,{decimal.group(2)}}})?$" if decimal.group(2) != "0" else r"^-?[0-9]+$"
    return None
