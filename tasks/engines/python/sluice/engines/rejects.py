"""Rows of a stage task's source that cannot be read or do not fit.

An engine says at most that there are such rows. Which they are, and what of the others, DuckDB's readers say here: with the same
lines, words and counts as the duckdb engine (tasks/stage.c, tasks/stage_source.c). Sources without such rows never come here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

import duckdb
import pyarrow as pa

from sluice.engines import duck
from sluice.engines.common import Job
from sluice.report import Failure


@dataclass
class Source:
    """What there is to read, as a statement of DuckDB sees it."""

    format: str
    files: dict[str, str]  # name -> where it can be read on a local disk
    names: list[str]
    types: dict[str, str]  # column -> the type that the task asks for
    not_null: list[str]
    options: dict[str, Any]  # the source's own keys
    rows: Optional[pa.Table] = field(default=None)  # of a table


class Rejects:
    def __init__(self, job: Job, source: Source) -> None:
        self.job, self.source = job, source
        self.on_reject: str = job.spec.get("on_reject") or "fail"
        self.db = duckdb.connect()
        self.db.execute("SET preserve_insertion_order = true")
        self.bad: list[str] = []
        self.reasons: list[str] = []
        self.count = 0
        self._sql()

    # ---- what is read, as SQL ----

    def _sql(self) -> None:
        s = self.source
        files = "[" + ", ".join(duck.text(f) for f in s.files.values()) + "]"
        if s.format == "csv":
            self._csv(files)
            return
        if s.rows is not None:
            self.db.register("sluice_table", s.rows)
            plain = "sluice_table"
            self.traced = f"SELECT *, {duck.text(next(iter(s.files)))} AS sluice_file, row_number() OVER () AS sluice_row FROM sluice_table"
        else:
            union = f", union_by_name = {'true' if s.options.get('union_by_name') else 'false'}" if s.format == "parquet" else ""
            plain = f"read_{s.format}({files}{union})"
            by = "PARTITION BY sluice_file" if len(s.files) > 1 else ""
            self.traced = f"SELECT *, row_number() OVER ({by}) AS sluice_row FROM read_{s.format}({files}{union}, filename = 'sluice_file')"
        self._conditions(True)
        replaced = ", ".join(f"TRY_CAST({duck.name(n)} AS {t}) AS {duck.name(n)}" for n, t in s.types.items())
        star = f"* REPLACE ({replaced})" if replaced else "*"
        self.reader = f"(SELECT {star} FROM {plain} WHERE NOT coalesce({' OR '.join(self.bad) or 'false'}, false))"

    def _csv(self, files: str) -> None:
        s = self.source
        header = s.options.get("header") is not False
        quote = s.options.get("quote", '"')
        compression = s.options.get("compression")
        read = (
            f"read_csv({files}, auto_detect = false, header = {'true' if header else 'false'}, store_rejects = true, rejects_limit = 0, "
            f"strict_mode = true, delim = {duck.text(s.options.get('delimiter') or ',')}, "
            f"quote = {duck.text(quote)}, escape = {duck.text(quote)}, "
            + (f"compression = {duck.text(compression)}, " if compression else "")
            + "columns = {"
            + ", ".join(f"{duck.text(n)}: {duck.text(s.types.get(n, 'VARCHAR'))}" for n in s.names)
            + "}"
        )
        self._conditions(False)
        self.traced = (
            f"SELECT *, row_number() OVER (PARTITION BY sluice_file ORDER BY sluice_n) + {1 if header else 0} AS sluice_row FROM "
            f"(SELECT *, row_number() OVER () AS sluice_n FROM {read}, filename = 'sluice_file'))"
        )
        self.all = f"{read})"
        self.reader = f"(SELECT * FROM {self.all} WHERE NOT ({' OR '.join(self.bad) or 'false'}))"

    def _conditions(self, casts: bool) -> None:
        for column, kind in self.source.types.items() if casts else ():
            q = duck.name(column)
            wrong = f"({q} IS NOT NULL AND TRY_CAST({q} AS {kind}) IS NULL)"
            said = duck.text(f'column "{column}": not of type {kind}: ')
            self.bad.append(wrong)
            self.reasons.append(f"CASE WHEN {wrong} THEN {said} || {q}::VARCHAR END")
        for column in self.source.not_null:
            q = duck.name(column)
            said = duck.text(f'column "{column}" has no value, the schema says not null')
            self.bad.append(f"{q} IS NULL")
            self.reasons.append(f"CASE WHEN {q} IS NULL THEN {said} END")

    # ---- what is wrong ----

    def collect(self) -> int:
        """Puts what the reader refuses and what does not fit into one table; how many rows that is."""
        self.db.execute('CREATE TEMP TABLE sluice_rejects (file VARCHAR, line BIGINT, reason VARCHAR, message VARCHAR, "text" VARCHAR)')
        if self.source.format == "csv":
            self.db.execute(f"SELECT count(COLUMNS(*)) FROM {self.all}").fetchall()
            self.db.execute(
                "INSERT INTO sluice_rejects SELECT s.file_path, e.line::BIGINT, first(e.error_type)::VARCHAR, "
                "string_agg(DISTINCT e.error_message, '; '), first(e.csv_line) FROM reject_errors e JOIN reject_scans s "
                "USING (scan_id, file_id) GROUP BY s.file_path, e.line"
            )
        if self.bad:
            struct = ", ".join(f"{duck.text(n)}: {duck.name(n)}" for n in self.source.names)
            self.db.execute(
                "CREATE TEMP TABLE sluice_bad AS SELECT sluice_file AS file, sluice_row::BIGINT AS line, "
                f"concat_ws('; ', {', '.join(self.reasons)}) AS message, to_json({{{struct}}})::VARCHAR AS \"text\" "
                f"FROM ({self.traced}) WHERE {' OR '.join(self.bad)}"
            )
            # Lines that the reader refused stand between those that it gave.
            self.db.execute(
                "INSERT INTO sluice_rejects SELECT file, line + (SELECT count(*) FROM (SELECT r.file, r.line - row_number() OVER "
                "(PARTITION BY r.file ORDER BY r.line) + 1 AS at FROM sluice_rejects r) x WHERE x.file = b.file AND x.at <= b.line), "
                "'VALUE', message, \"text\" FROM sluice_bad b"
            )
        for name, near in self.source.files.items():
            if name != near:
                self.db.execute("UPDATE sluice_rejects SET file = ? WHERE file = ?", [name, near])
        self.count = int(self.db.execute("SELECT count(*) FROM sluice_rejects").fetchall()[0][0])
        return self.count

    def judge(self) -> None:
        """Raises a Failure when the task may not go on without these rows."""
        most = self.job.spec.get("max_rejects")
        if self.count == 0 or (self.on_reject != "fail" and (most is None or self.count <= most)):
            return
        file, line, message, text = self.db.execute(
            'SELECT file, coalesce(line, 0), message, "text" FROM sluice_rejects ORDER BY file, line LIMIT 1'
        ).fetchall()[0]
        text = (text or "").splitlines()[0] if text else ""
        text = text if len(text) <= 200 else text[:197] + "..."
        hint = "on_reject: skip or quarantine takes the rest" if self.on_reject == "fail" else f"max_rejects is {most}"
        rows = "row of the source is" if self.count == 1 else "rows of the source are"
        raise Failure(
            f'{file or next(iter(self.source.files))}:{line}: {message}: "{text}"; {self.count} {rows} bad; nothing was written ({hint})'
        )

    def good_rows(self) -> pa.Table:
        """The rows that are left."""
        return self.db.execute(f"SELECT * FROM {self.reader}").to_arrow_table()

    def keep_good_rows(self, path: str) -> None:
        """Writes them as a Parquet file."""
        self.db.execute(f"COPY (SELECT * FROM {self.reader}) TO {duck.text(path)} (FORMAT parquet)")

    def keep(self, path: str) -> None:
        """Writes the rejects as a Parquet file."""
        self.db.execute(f"COPY (SELECT * FROM sluice_rejects ORDER BY file, line) TO {duck.text(path)} (FORMAT parquet)")
