"""What a task of any engine has: its document, places in the YAML for what is wrong, names of tables, files by pattern."""

from __future__ import annotations

import glob
import json
import os
import re
import urllib.request
from collections.abc import Iterable
from typing import Any, Optional, Union

from sluice.report import Failure

#: How an error ends where only the built-in engine does what is asked for.
ONLY_DUCKDB = "engines that can: duckdb"
_REMOTE = re.compile(r"s3a?://")


class Job:
    """One attempt's document, as docs/architecture.md says ("The attempt's contract")."""

    def __init__(self, doc: dict[str, Any]) -> None:
        self.doc = doc
        self.spec: dict[str, Any] = doc["spec"]
        self.pos: dict[str, list[int]] = doc.get("pos") or {}
        self.catalog: dict[str, Any] = doc.get("catalog") or {}
        self.engine: str = doc.get("engine") or "duckdb"
        self.engine_options: dict[str, Any] = doc.get("engine_options") or {}
        self.run_id: str = doc["run_id"]
        self.task_id: str = doc["task_id"]
        self.attempt: int = doc["attempt"]
        self.scratch: str = doc["scratch"]

    def wrong(self, message: str, key: Optional[str] = None, line: int = 0, col: int = 0, cause: Optional[str] = None) -> Failure:
        """The failure to raise for what is wrong at `key` of the spec, as in "source/path"; `line` and `col` count inside its text."""
        at = self.pos.get(key) if key else None
        if not at:
            return Failure(message, cause=cause)
        return Failure(message, self.doc["file"], at[0] + max(line - 1, 0), at[1] + max(col - 1, 0), cause)

    def table_name(self, name: str) -> tuple[str, str]:
        """Namespace and name of a table, with or without the catalog's name in front."""
        catalog = self.catalog.get("name") or "local"
        bare = name
        if name.startswith(catalog + ".") and "." in name[len(catalog) + 1 :]:
            bare = name[len(catalog) + 1 :]
        namespace, dot, table = bare.rpartition(".")
        if not dot or not namespace or not table:
            raise Failure(f'"{name}" is not a table\'s name: write namespace.table or {catalog}.namespace.table')
        return namespace, table

    def one_or_list(self, value: Any, what: str) -> list[str]:
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(v, str) for v in values):
            raise Failure(f"{what} must be a path or a list of paths")
        return values


def nearest(names: Iterable[str], wanted: str) -> Optional[str]:
    """The name that a mistyped one most likely means."""
    best, limit = None, len(wanted) // 2 + 1
    for name in names:
        d = _distance(name, wanted)
        if d < limit:
            best, limit = name, d
    return best


def did_you_mean(names: Iterable[str], wanted: str) -> str:
    near = nearest(names, wanted)
    return f'; did you mean "{near}"?' if near else ""


def _distance(a: str, b: str) -> int:
    """Levenshtein's; names of more than 64 characters are near to none."""
    if max(len(a), len(b)) > 64:
        return 99
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(diagonal + (x != y), row[j] + 1, row[j - 1] + 1)
    return row[len(b)]


# ---- files ----


def answer_of(request: Union[str, urllib.request.Request], timeout: float) -> Any:
    """The JSON that the daemon or Spark's page answers: directly, whatever proxy the environment names."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
        return json.load(answer)


def is_remote(location: str) -> bool:
    return _REMOTE.match(location) is not None


def bare_path(location: str) -> str:
    """Without file:; s3a:// is s3://."""
    if location.startswith("file://"):
        return location[len("file://") :]
    if location.startswith("file:/"):
        return location[len("file:") :]
    if location.startswith("s3a://"):
        return "s3://" + location[len("s3a://") :]
    if "://" in location and not is_remote(location):
        raise Failure(f"{location}: only local files and s3:// are supported")
    return location


def local_files(pattern: str) -> list[str]:
    """The files that a pattern names, in order."""
    if not glob.has_magic(pattern):
        return [pattern] if os.path.exists(pattern) else []
    return sorted(f for f in glob.glob(pattern, recursive=True) if os.path.isfile(f))


def sql_of(job: Job) -> tuple[str, Optional[str]]:
    sql = job.spec.get("sql")
    if sql is None and job.spec.get("sql_file"):
        try:
            with open(job.spec["sql_file"], encoding="utf-8") as f:
                return f.read(), None
        except OSError as e:
            raise Failure(f"sql_file {job.spec['sql_file']} cannot be read: {e.strerror}") from None
    if sql is None:
        raise Failure("there is no `sql`")
    return str(sql), "sql"
