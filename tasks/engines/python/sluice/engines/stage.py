"""stage: files or a table in, one Parquet file or a partitioned folder out. What every engine in Python does alike.

The order of its steps: read (types by `schema` and `cast`, text otherwise for CSV), `where` on the source's columns, `select`,
`rename`, `sql`, `limit`. The target appears by rename, whole. Rows that do not fit are counted while the others are written;
only if there are any, they are looked for (rejects.py).
"""

from __future__ import annotations

import os
import re
import shutil
from typing import Any, Optional

import pyarrow.parquet as pq
from pyiceberg.table import Table

from sluice import report
from sluice.engines import delta_log, duck, lake, s3_files
from sluice.engines.common import ONLY_DUCKDB, Job, bare_path, is_remote, nearest
from sluice.engines.rejects import Rejects, Source
from sluice.report import Failure

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Unreadable(Exception):
    """The engine's reader gave up on the source; why it did is seen line by line."""


class Stage:
    """A frame, here, is whatever the engine calls rows that are to come."""

    def __init__(self, job: Job) -> None:
        self.job, self.spec = job, job.spec
        self.source: dict[str, Any] = job.spec["source"]
        self.target: dict[str, Any] = job.spec["target"]
        self.format: str = self.source.get("format") or "csv"
        self.has_header = self.source.get("header") is not False
        self.delimiter: str = self.source.get("delimiter") or ","
        self.quote: str = self.source.get("quote", '"')  # empty: no value has one around it
        self.on_reject: str = job.spec.get("on_reject") or "fail"
        self.partitions: list[str] = self.target.get("partition_by") or []
        self.path = bare_path(self.target["path"]).rstrip("/")
        base = os.path.join(job.scratch, "target") if is_remote(self.path) else self.path
        self.tmp = f"{base}.tmp-{job.run_id}-{job.attempt}"
        self.judge = duck.Judge(job)
        self.folder = s3_files.Folder(job, self.path) if self.partitions and is_remote(self.path) else None
        self.files: list[str] = []
        self._near: Optional[dict[str, str]] = None
        self.files_in = self.bytes_in = -1
        self.headers: list[list[str]] = []  # of CSV files, as they are written
        self.types: dict[str, str] = {}
        self.written: dict[str, str] = {}  # the same as the task says them
        self.not_null: list[str] = []
        self.rows_in = self.odd = 0
        self.version: Optional[int] = None  # of a Delta table

    # ---- the source ----

    def find(self) -> None:
        """The source's files, or its table."""
        if self.format == "iceberg":
            if not self.source.get("table"):
                raise Failure("source.format iceberg needs source.table, a table of the catalog, not a path")
            self.files = [self.source["table"]]
            return
        if self.format == "delta":  # its log says which files it has
            self.files = [delta_log.folder_of(self.job, self.source.get("path"), "source")]
            return
        if self.format == "hudi":
            self.files = [self.source["path"]]
            return
        if not self.source.get("path") or self.source.get("at"):
            raise Failure(f"source.table and source.at go with format: iceberg, not with {self.format}")
        given = self.job.one_or_list(self.source["path"], "source.path")
        there = s3_files.each_of(self.job, given, "source/path")
        self.files = [f for f, _ in there]
        self.files_in, self.bytes_in = len(there), sum(size for _, size in there)

    def near(self) -> dict[str, str]:
        """The files on a local disk, by their names: those of a store are fetched, once, for who reads no others."""
        if self._near is None:
            self._near = s3_files.near(self.job, self.files)
        return self._near

    def is_table(self) -> bool:
        """Are its rows those of a table, whatever its files are?"""
        return self.format in ("iceberg", "delta", "hudi")

    # ---- what an engine does ----

    def scan_csv(self, names: list[str]) -> Any:
        """The source as it is, before any type is asked for: all texts, nothing between two delimiters is NULL."""
        raise NotImplementedError

    def first_record(self, file: str) -> Optional[list[str]]:
        """The values of a CSV file's first record; None: it has none."""
        raise NotImplementedError

    def scan_files(self) -> tuple[Any, duck.Columns]:
        """The same, of Parquet and JSON."""
        raise NotImplementedError

    def scan_table(self, tables: lake.Lake, table: Table, at: Optional[int]) -> Any:
        """The same, of a table: of a snapshot, or as it is."""
        raise NotImplementedError

    def scan_delta(self, path: str, version: int) -> tuple[Any, duck.Columns]:
        """The same, of a version of a Delta table."""
        raise NotImplementedError

    def scan_hudi(self, path: str) -> tuple[Any, duck.Columns]:
        """The same, of a Hudi table."""
        raise NotImplementedError

    def typed(self, raw: Any, columns: duck.Columns) -> Optional[Any]:
        """The rows with the types asked for; write() says in `odd` how many may be rejects, or 1. None: it cannot tell."""
        raise NotImplementedError

    def selected(self, frame: Any, names: list[str]) -> Any:
        raise NotImplementedError

    def renamed(self, frame: Any, names: dict[str, str]) -> Any:
        raise NotImplementedError

    def head(self, frame: Any, rows: int) -> Any:
        raise NotImplementedError

    def query(self, sql: str, key: Optional[str], table: str, frame: Any, columns: duck.Columns, made: duck.Columns) -> Any:
        """The rows of a statement over `table`, with the columns `made`."""
        raise NotImplementedError

    def write(self, frame: Any, columns: duck.Columns) -> None:
        """Writes the rows to `self.tmp`, a file or a folder of partitions. Raises Unreadable where the source cannot be read."""
        raise NotImplementedError

    def good_rows(self, rejects: Rejects, columns: duck.Columns) -> Any:
        """The rows that are no rejects, with their columns; they count as `rows_in`."""
        raise NotImplementedError

    def table_rows(self, raw: Any) -> Any:
        """The rows of a table as Arrow has them."""
        raise NotImplementedError

    # ---- the source ----

    def scan(self) -> tuple[Any, duck.Columns]:
        """The source as it is."""
        if self.format == "csv":
            names = self._csv_names()
            return self.scan_csv(names), dict.fromkeys(names, "VARCHAR")
        if self.format == "delta":
            self.version = delta_log.Log(self.job, self.files[0]).pick(self.source, "source")
            print(f"Delta table {self.files[0]}, version {self.version}", flush=True)
            return self.scan_delta(self.files[0], self.version)
        if self.format == "hudi":
            return self.scan_hudi(self.files[0])
        return self._scan_table() if self.format == "iceberg" else self.scan_files()

    def _csv_names(self) -> list[str]:
        names: Optional[list[str]] = None
        for f in self.files:
            mine = self._header(f)
            if mine is None:
                continue
            if names is not None and names != mine:
                raise Failure(f"{f} has another header than {self.files[0]}; files of one source must have the same columns")
            names = mine
        return names or []

    def _header(self, file: str) -> Optional[list[str]]:
        names = self.first_record(file)
        if names is None:
            if self.has_header:
                raise Failure(f"{file} is empty: it has no header line")
            return None
        if not self.has_header:
            columns = list(self.source.get("columns") or {})
            if columns and len(columns) != len(names):
                raise self.job.wrong(f"source.columns names {len(columns)} columns, but {file} has {len(names)}", "source/columns")
            return columns or [f"column{i}" for i in range(len(names))]
        self.headers.append(names)
        names = [name or f"column{i}" for i, name in enumerate(names or [""])]
        for i, name in enumerate(names):
            if name.lower() in (n.lower() for n in names[:i]):
                raise Failure(f'{file}:1: the header names the column "{name}" twice')
        return names

    def _scan_table(self) -> tuple[Any, duck.Columns]:
        tables, at = lake.Lake(self.job), self.source.get("at")
        table, snapshot, columns = lake.table_at(tables, self.source["table"], at, "source")
        if snapshot is not None and snapshot.summary is not None:
            self.files_in = int(snapshot.summary.get("total-data-files") or 0)
            self.bytes_in = int(snapshot.summary.get("total-files-size") or 0)
        return self.scan_table(tables, table, snapshot.snapshot_id if at and snapshot is not None else None), columns

    def described(self, format: str) -> duck.Columns:
        files = "[" + ", ".join(duck.text(f) for f in self.near().values()) + "]"
        union = f", union_by_name = {'true' if self.source.get('union_by_name') else 'false'}" if format == "parquet" else ""
        return self.judge.bind(f"SELECT * FROM read_{format}({files}{union})")

    def same_columns(self) -> None:
        """A column that the first file lacks would be left out without a word."""
        if len(self.files) < 2:
            return
        fs = s3_files.store(self.job) if any(is_remote(f) for f in self.files) else None
        names = {
            f: pq.read_schema(s3_files.key_of(f), filesystem=fs).names if is_remote(f) else pq.read_schema(f).names for f in self.files
        }
        first = set(names[self.files[0]])
        for f in self.files[1:]:
            for name in names[f]:
                if name not in first:
                    raise self.job.wrong(
                        f'{f} has the column "{name}", which {self.files[0]} has not; files of one source must have the same columns, '
                        "or say source.union_by_name: true, for which a column that a file lacks is NULL",
                        "source/path",
                    )

    # ---- types ----

    def wanted_types(self, columns: duck.Columns) -> None:
        """The types that the task asks for: the source's columns, `schema` (with "not null") and `cast`, the later the stronger."""
        maps = (("source/columns", self.source.get("columns")), ("schema", self.spec.get("schema")), ("cast", self.spec.get("cast")))
        for where, given in maps:
            for name, kind in (given or {}).items():
                text = kind or "VARCHAR"
                found = re.search(r" not null", text, re.I)
                if found:
                    text = text[: found.start()]
                    self.not_null.append(name)
                key = f"{where}/{name}"
                if name not in columns:
                    raise self.missing(key, name, list(columns))
                try:
                    self.types[name], self.written[name] = self.judge.type_of(text), text
                except Exception as e:
                    said = str(e).partition("\nLINE ")[0].rstrip()
                    raise self.job.wrong(f'column "{name}" cannot be of type "{text}": {said}', key) from None

    def missing(self, key: str, name: str, names: list[str]) -> Failure:
        near = nearest(names, name)
        hint = f'; did you mean "{near}"?' if near else ""
        return self.job.wrong(f'{key}: the source has no column "{name}"{hint}; its columns are: {", ".join(names)}', key)

    # ---- the rows ----

    def rows(self, frame: Any, columns: duck.Columns) -> tuple[Any, duck.Columns]:
        """What is left and made of the source's rows by where, select, rename, sql and limit."""
        frame, columns = self._selected(frame, columns)
        rename = self.spec.get("rename") or {}
        for name in rename:
            if name not in columns:
                raise self.missing("rename", name, list(columns))
        if rename:
            frame = self.renamed(frame, rename)
            columns = {rename.get(n, n): t for n, t in columns.items()}
        if self.spec.get("sql"):
            sql = self.spec["sql"].rstrip("; \t\r\n")
            self.judge.add_view("this", columns)
            made = self.judge.bind(sql, "sql")
            frame = self.query(sql, "sql", "this", frame, columns, made)
            columns = made
        if self.spec.get("limit") is not None:
            frame = self.head(frame, self.spec["limit"])
        return frame, columns

    def _selected(self, frame: Any, columns: duck.Columns) -> tuple[Any, duck.Columns]:
        select, where, schema = self.spec.get("select"), self.spec.get("where"), self.spec.get("schema")
        self.judge.add_view("sluice_source", columns)
        parts: list[str] = []
        plain = not where
        if isinstance(select, list):
            for i, text in enumerate(select):
                if _NAME.fullmatch(text):
                    if text not in columns:
                        raise self.missing(f"select/{i}", text, list(columns))
                    parts.append(duck.name(text))
                else:
                    self.judge.bind(text, f"select/{i}", "SELECT ", " FROM sluice_source")
                    parts.append(text)
                    plain = False
        elif isinstance(select, dict):
            for name, text in select.items():
                self.judge.bind(text, f"select/{name}", "SELECT ", " FROM sluice_source")
                parts.append(f"{text} AS {duck.name(name)}")
            plain = False
        elif schema:
            parts = [duck.name(n) for n in schema]
        if where:
            self.judge.bind(where, "where", "SELECT * FROM sluice_source WHERE ")
        if plain:
            names = [p[1:-1].replace('""', '"') for p in parts] or list(columns)
            return self.selected(frame, names), {n: columns[n] for n in names}
        sql = f"SELECT {', '.join(parts) or '*'} FROM sluice_source" + (f" WHERE ({where}\n)" if where else "")
        made = self.judge.bind(sql)
        key = "where" if where else "select/0"
        return self.query(sql, None if where is None else key, "sluice_source", frame, columns, made), made

    def writes_all(self) -> bool:
        """Is each row of the source one of the result?"""
        select = self.spec.get("select") or []
        named = isinstance(select, list) and all(map(_NAME.fullmatch, select))
        return named and not any(self.spec.get(k) is not None for k in ("where", "sql", "limit"))

    # ---- the target ----

    def check_target(self) -> None:
        for pattern in self.job.one_or_list(self.source["path"], "source.path") if self.source.get("path") else []:
            pattern = bare_path(pattern)
            written = self.path
            if self.partitions:
                if pattern.startswith(self.path + "/"):
                    raise self.job.wrong(f"the {self.job.engine} engine does not write back what it reads; {ONLY_DUCKDB}", "target/path")
                written += "".join(f"/{p}=x" for p in self.partitions) + "/data_0.parquet"
            finds = s3_files.matches(pattern, written) or (
                self.on_reject == "quarantine" and s3_files.matches(pattern, self.path + ".rejects.parquet")
            )
            if re.search(r"[*?\[]", pattern) and finds:
                raise self.job.wrong(
                    f"source.path {pattern} also finds what is written to {self.path}, so the next run would read this result as a source; "
                    "write it elsewhere, or name the files to read one by one",
                    "target/path",
                )
        if is_remote(self.path):
            if self.folder:
                self.folder.look(self.files)
            return
        if any(os.path.exists(f) and os.path.exists(self.path) and os.path.samefile(f, self.path) for f in self.files):
            raise self.job.wrong(
                f"the {self.job.engine} engine does not write back what it reads ({self.path}); {ONLY_DUCKDB}", "target/path"
            )
        if os.path.isdir(self.path) and not self.partitions:
            raise self.job.wrong(f"{self.path} is a folder; name a file in it, or set partition_by to write a folder", "target/path")
        if self.partitions and os.path.isdir(self.path):
            for folder, _, names in os.walk(self.path):
                for name in names:
                    if not name.endswith(".parquet"):
                        raise self.job.wrong(
                            f"the folder {self.path} holds {os.path.join(folder, name)}, which is not Parquet; "
                            "the result would replace it: "
                            "name a folder of its own",
                            "target/path",
                        )

    def forget(self) -> None:
        """What was written is not the result."""
        if os.path.isdir(self.tmp):
            shutil.rmtree(self.tmp)
        elif os.path.exists(self.tmp):
            os.unlink(self.tmp)
        self.rows_in = self.odd = 0

    def take_place(self) -> None:
        """Puts what was written where the target is; what was there before goes away after it."""
        if self.folder:
            self.folder.send(self.tmp)
        elif is_remote(self.path):
            s3_files.send(self.job, self.tmp, self.path)
        elif os.path.isdir(self.path):
            old = self.tmp + ".old"
            os.rename(self.path, old)
            os.rename(self.tmp, self.path)
            shutil.rmtree(old)
        else:
            os.rename(self.tmp, self.path)

    # ---- the order of it all ----

    def run(self) -> None:
        self.find()
        self.check_target()
        raw, columns = self.scan()
        self.wanted_types(columns)
        typed_columns = {n: self.types.get(n, t) for n, t in columns.items()}
        typed = self.typed(raw, columns)
        rejects: Optional[Rejects] = None
        if typed is not None:
            frame, made = self.rows(typed, typed_columns)
            try:
                self.write(frame, made)
            except Unreadable as e:
                if self.format != "csv":
                    raise Failure(f"{self.files[0]}: {e}") from e
                print(f"the file is looked at line by line, since it cannot be read: {' '.join(str(e).split())[:300]}", flush=True)
                self.odd = 1
        if typed is None or self.odd:
            self.forget()
            rejects = self._look_closely(raw, columns)
            frame, made = self.rows(self.good_rows(rejects, typed_columns), typed_columns)
            try:
                self.write(frame, made)
            except Unreadable as e:  # which the source was not to blame for
                raise Failure(str(e)) from e
        self._keep_rejects(rejects)
        files = [self.tmp] if not self.partitions else [os.path.join(f, n) for f, _, names in os.walk(self.tmp) for n in names]
        rows = sum(pq.ParquetFile(f).metadata.num_rows for f in files)
        size = sum(os.path.getsize(f) for f in files)
        self.take_place()
        self._report(rows, len(files), size)

    def _look_closely(self, raw: Any, columns: duck.Columns) -> Rejects:
        table = self.is_table()
        source = Source(
            self.format,
            {f: f for f in self.files} if table else self.near(),
            list(columns),
            self.written,
            self.not_null,
            self.source,
            self.table_rows(raw) if table else None,
        )
        rejects = Rejects(self.job, source)
        rejects.collect()
        rejects.judge()
        return rejects

    def _keep_rejects(self, rejects: Optional[Rejects]) -> None:
        path = self.path + ".rejects.parquet"
        none = rejects is None or rejects.count == 0
        if none or self.on_reject == "skip":
            self._drop_rejects(path)
        if rejects is None or none:
            return
        report.metric("rows_rejected", rejects.count)
        print(f"{rejects.count} rows rejected", flush=True)
        if self.on_reject != "quarantine":
            return
        rejects.keep(self.tmp + ".rejects")
        if is_remote(path):
            s3_files.send(self.job, self.tmp + ".rejects", path)
        else:
            os.rename(self.tmp + ".rejects", path)
        report.outputs({"rejects": path})

    def _drop_rejects(self, path: str) -> None:
        """An earlier run's: publish would take them for this one's."""
        if is_remote(path):
            if s3_files.exists(self.job, path):
                s3_files.remove(self.job, [path])
        elif os.path.exists(path):
            os.unlink(path)

    def _report(self, rows: int, files: int, size: int) -> None:
        metrics = {"files_read": len(self.files), "rows_out": rows, "files_out": files, "bytes_out": size}
        if self.rows_in or self.writes_all():
            metrics["rows_in"] = self.rows_in or rows
        if self.files_in >= 0:
            metrics.update(files_in=self.files_in, bytes_in=max(self.bytes_in, 0))
        report.line("metrics", metrics)
        pattern = self.folder.pattern if self.folder else f"{self.path}/**/*.parquet"
        report.outputs({"path": pattern if self.partitions else self.path, "rows": rows})
        if self.version is not None:
            report.outputs({"version": self.version})
        print(f"{rows} rows from {len(self.files)} files to {self.path}", flush=True)


def run(stage: Stage) -> None:
    try:
        stage.run()
    except BaseException:
        stage.forget()
        raise


def is_lines(file: str) -> bool:
    """Is it one object a line, and not an array of them?"""
    if file.endswith((".gz", ".zst")):
        return True
    with open(file, "rb") as f:
        return not f.read(4096).lstrip().startswith(b"[")
