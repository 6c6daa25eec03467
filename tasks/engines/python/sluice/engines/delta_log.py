"""The log of a Delta table: which versions it has, which of them a task means, and which commit is the task's own.

What is asked and what is said of it is the same as by the duckdb engine (tasks/delta.c).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

import duckdb
import pyarrow.fs

from sluice.engines import duck
from sluice.engines.common import Job, bare_path, is_remote
from sluice.engines.s3_files import store

_ENTRY = re.compile(r"(\d{20})\.(json|checkpoint\..*)")
_SKEW = timedelta(days=1)  # by which clocks of stores and ours may differ, and zones


@dataclass
class Entry:
    """One file of the log. `modified` is in milliseconds since 1970."""

    version: int
    modified: int
    file: str


@dataclass
class Commit:
    """A commit of this run and task: its version, and what its writer counted (names differ by writer)."""

    version: int
    metrics: dict[str, int]


def folder_of(job: Job, given: Any, key: str) -> str:
    """The table's folder, as `path` of the object at `key` names it; without a slash at its end."""
    if not isinstance(given, str):
        raise job.wrong("with format: delta, path is one folder", key)
    return bare_path(given).rstrip("/") or "/"


class Log:
    """What the folder holds of a log: possibly nothing."""

    def __init__(self, job: Job, path: str) -> None:
        self.job, self.path = job, path
        self.fs: pyarrow.fs.FileSystem = store(job) if is_remote(path) else pyarrow.fs.LocalFileSystem()
        self.root = path.split("://", 1)[1] if is_remote(path) else path
        self.commits: list[Entry] = []
        self.checkpoints: list[Entry] = []
        there = pyarrow.fs.FileSelector(f"{self.root}/_delta_log", allow_not_found=True)
        for info in sorted(self.fs.get_file_info(there), key=lambda info: str(info.base_name)):
            found = _ENTRY.fullmatch(info.base_name)
            if found and info.type == pyarrow.fs.FileType.File:
                entry = Entry(int(found.group(1)), int((info.mtime_ns or 0) // 1_000_000), info.path)
                (self.commits if found.group(2) == "json" else self.checkpoints).append(entry)

    @property
    def exists(self) -> bool:
        return bool(self.commits or self.checkpoints)

    @property
    def newest(self) -> int:
        return max(e.version for e in [*self.commits[-1:], *self.checkpoints[-1:]])

    @property
    def oldest(self) -> int:
        """Commits before the first checkpoint may have been cleaned away; without the first of all they lead nowhere."""
        whole = self.commits and (self.commits[0].version == 0 or not self.checkpoints)
        return self.commits[0].version if whole else self.checkpoints[0].version

    def require(self, key: str) -> None:
        """Raises a Failure where there is no table."""
        if not self.exists:
            raise self.job.wrong(
                f"{self.path} is no Delta table: it has no _delta_log with commits; is the path right? A folder of Parquet "
                "files is read with format: parquet",
                key,
            )

    def is_free(self) -> bool:
        """Is the folder empty, or not there, so that a new table may be made in it?"""
        inside = pyarrow.fs.FileSelector(self.root, allow_not_found=True)
        return self.fs.get_file_info(self.root).type in (
            pyarrow.fs.FileType.NotFound,
            pyarrow.fs.FileType.Directory,
        ) and not self.fs.get_file_info(inside)

    # ---- the version ----

    def pick(self, source: dict[str, Any], key: str) -> int:
        """The version that the source means. Raises a Failure where there is none such."""
        self.require(key)
        version, timestamp = source.get("version"), source.get("timestamp")
        if version is not None and timestamp:
            raise self.job.wrong("version and timestamp each name a version; leave one out", key)
        if timestamp:
            return self._at(timestamp, f"{key}/timestamp")
        if version is None:
            return self.newest
        if not self.oldest <= version <= self.newest:
            gone = "; older ones have been cleaned away" if self.oldest > 0 else ""
            raise self.job.wrong(
                f"Delta table {self.path} has no version {version}: it has {self.oldest} to {self.newest}{gone}", f"{key}/version"
            )
        return int(version)

    def _at(self, timestamp: str, place: str) -> int:
        """
        When a commit was made: by the time in it that the table vouches for, else by the one that its writer noted, else by its
        file's. As readers do it, no commit is older than the one before it.
        """
        if not self.commits:
            raise self.job.wrong(f"Delta table {self.path}: no commit is left in its log that tells a time; name a version", place)
        wanted = self._milliseconds(timestamp, place)
        at = picked = first = -1
        for entry in self.commits:
            if entry.version < self.oldest:
                continue
            said = self._info(entry)
            at = max(at, said.get("inCommitTimestamp") or said.get("timestamp") or entry.modified)
            first = at if first < 0 else first
            picked = entry.version if at <= wanted else picked
        if picked < 0:
            when = datetime.fromtimestamp(first / 1000, timezone.utc)
            raise self.job.wrong(
                f"Delta table {self.path} has no version as old as {timestamp}: its oldest is version {self.oldest}, "
                f"of {when:%Y-%m-%d %H:%M:%S}.{first % 1000:03d} UTC",
                place,
            )
        return picked

    def _milliseconds(self, timestamp: str, place: str) -> int:
        db = duck._connection()
        try:
            db.execute("SET TimeZone = 'UTC'")
            (made,) = db.execute("SELECT epoch_ms(CAST(? AS TIMESTAMPTZ))", [timestamp]).fetchall()[0]
        except duckdb.ConversionException:
            raise self.job.wrong(
                f'timestamp "{timestamp}" is no time; write it as 2026-11-21 06:00 or 2026-11-21T06:00:00+01:00', place
            ) from None
        return int(made)

    # ---- commits ----

    def _actions(self, entry: Entry) -> Iterator[dict[str, Any]]:
        with self.fs.open_input_stream(entry.file) as f:
            for line in f.read().splitlines():
                if line.strip():
                    yield json.loads(line)

    def _info(self, entry: Entry) -> dict[str, Any]:
        return next((a["commitInfo"] for a in self._actions(entry) if "commitInfo" in a), {})

    def committed(self) -> Optional[Commit]:
        """The commit that this run and task has made already, if any; looked for back to when the run began."""
        begun = _begun(self.job.run_id)
        for entry in reversed(self.commits):
            if entry.modified < begun:
                break
            if any(a.get("txn", {}).get("appId") == transaction(self.job) for a in self._actions(entry)):
                return Commit(entry.version, _counts(self._info(entry).get("operationMetrics") or {}))
        return None


def transaction(job: Job) -> str:
    """What a commit of the task is known by: Delta keeps, per such name, that version 1 of it is in the table."""
    return f"sluice/{job.run_id}/{job.task_id}"


def user_metadata(job: Job) -> dict[str, str]:
    """What the commit says about where it comes from."""
    return {"sluice.flow": job.doc["flow"], "sluice.run-id": job.run_id, "sluice.task-id": job.task_id, "sluice.attempt": str(job.attempt)}


def _begun(run_id: str) -> int:
    """Milliseconds since 1970 before which nothing of the run was committed."""
    try:
        when = datetime.strptime(run_id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return 0
    return int((when - _SKEW).timestamp() * 1000)


def _counts(metrics: dict[str, Any]) -> dict[str, int]:
    """Numbers by names as Spark writes them (numUpdatedRows); delta-rs writes num_updated_rows."""
    out = {}
    for name, value in metrics.items():
        words = name.split("_")
        text = str(value)
        if re.fullmatch(r"\d+", text):
            out[words[0] + "".join(w.capitalize() for w in words[1:])] = int(text)
    return out
