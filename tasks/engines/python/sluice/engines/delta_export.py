"""export into a Delta table: what every engine in Python does alike.

An export is one commit, once a run and task: it bears a name of the task (delta_log.transaction) that Delta keeps in the table and
refuses a second time. So an attempt after one that died, be it behind its commit, changes nothing twice.
"""

from __future__ import annotations

from typing import Any, Optional

from sluice import report
from sluice.engines import duck
from sluice.engines.common import Job, did_you_mean
from sluice.engines.delta_log import Commit, Log, folder_of
from sluice.report import Failure

#: What tables made here forget of the tasks that wrote to them: the names of commits would be kept for good.
FORGET = {"delta.setTransactionRetentionDuration": "interval 30 days"}
_ROWS = ("numOutputRows", "numAddedRows", "numUpdatedRows", "numDeletedRows")
_OF_MERGE = ("numTargetRowsInserted", "numTargetRowsUpdated", "numTargetRowsDeleted")


class Export:
    """One change of a table. `columns` are those of the rows; None: there are no rows, the table's own are changed."""

    def __init__(self, job: Job, columns: Optional[duck.Columns]) -> None:
        self.job = job
        self.to: dict[str, Any] = job.spec["to"]
        self.mode: str = self.to.get("mode") or "append"
        self.key: list[str] = self.to.get("key") or []
        self.partitions: list[str] = self.to.get("partition_by") or []
        self.path = folder_of(job, self.to["path"], "to/path")
        self.log = Log(job, self.path)
        self.has_rows = columns is not None
        self.columns: duck.Columns = columns or {}

    # ---- what an engine does ----

    def change(self) -> None:
        """Commits the change under the task's name."""
        raise NotImplementedError

    def conflict(self, e: Exception) -> Optional[str]:
        """What the engine's library says when somebody else's commit was in the way; None where it says something else."""
        raise NotImplementedError

    def count(self) -> int:
        """The rows that would be written, or changed."""
        raise NotImplementedError

    # ---- the order of it all ----

    def run(self) -> None:
        if self.job.doc.get("rehearsal"):
            self._rehearse()
            return
        done = self.log.committed()
        if done:
            print(f"an earlier attempt has made this change, in version {done.version}", flush=True)
        else:
            self._check()
            try:
                self.change()
            except Exception as e:
                said = self.conflict(e)
                if said is None:
                    raise
                done = self._look_again()  # a commit that was put twice, since the store's first answer was lost
                told = f"Delta table {self.path}: somebody else changed it meanwhile; the task can be tried again ({said})"
                if done is None:
                    raise Failure(told, cause="conflict") from e
            else:
                done = self._look_again()
        self._report(done)

    def _look_again(self) -> Optional[Commit]:
        self.log = Log(self.job, self.path)
        return self.log.committed()

    def _rehearse(self) -> None:
        self._check()
        count = self.count()
        print(f"a rehearsal: {count} rows would be {'exported' if self.has_rows else 'changed'}", flush=True)
        report.metric("rows_in", count)

    def _check(self) -> None:
        """Is there a table to be changed, or room for a new one, and have the rows what the task names?"""
        if self.mode in ("update", "delete"):
            self.log.require("to/path")
        elif not self.log.exists and not self.log.is_free():
            raise self.job.wrong(f"{self.path} holds something else than a Delta table; name a folder of its own", "to/path")
        if not self.has_rows:
            return
        for names, what, place in ((self.key, "the key", "to/key"), (self.partitions, "partition_by", "to/partition_by")):
            for name in names:
                if name.lower() not in _folded(self.columns):
                    raise self.job.wrong(f'the rows have no column "{name}" for {what}{did_you_mean(self.columns, name)}', place)

    # ---- what engines ask on the way ----

    def is_anew(self) -> bool:
        """Does the table come to be, or all that it is?"""
        return self.mode == "replace" or not self.log.exists

    def check_columns(self, there: duck.Columns) -> None:
        """Has the table the columns of the rows?"""
        for c in self.columns:
            if c.lower() not in _folded(there):
                raise self.job.wrong(
                    f'Delta table {self.path} has no column "{c}"{did_you_mean(there, c)}; its columns are: {", ".join(there)} '
                    "(mode: replace makes the table anew)",
                    "from",
                )

    def check_partitions(self, have: list[str]) -> None:
        if self.to.get("partition_by") is not None and [p.lower() for p in self.partitions] != [p.lower() for p in have]:
            raise self.job.wrong(
                f"Delta table {self.path} is partitioned by {', '.join(have) or 'nothing'}; another partition_by is for mode: replace",
                "to/partition_by",
            )

    def bad_key(self, values: list[Any], count: int) -> Failure:
        """Which of two rows with one key would win? Nobody can tell: that is an error. So is a key without a value."""
        names = ", ".join(self.key)
        if None in values:
            return self.job.wrong(f"{count} of the rows have no value in their key ({names})", "to/key")
        return self.job.wrong(f"{count} rows have the same key ({names}): {', '.join(map(str, values))}", "to/key")

    # ---- afterwards ----

    def _report(self, done: Optional[Commit]) -> None:
        counts = done.metrics if done else {}
        parts = {n: counts[n] for n in _OF_MERGE if n in counts}
        rows = sum(parts.values()) if parts else next((counts[n] for n in _ROWS if n in counts), None if done else 0)
        version = done.version if done else self.log.newest
        outputs: dict[str, Any] = {"path": self.path, "version": version, "rows": rows}
        outputs.update({n[len("numTargetRows") :].lower(): v for n, v in parts.items()})
        report.outputs({k: v for k, v in outputs.items() if v is not None})
        metrics = {
            "rows_in": counts.get("numSourceRows", rows if self.has_rows else None),
            "rows_out": rows,
            "files_out": _first(counts, "numFiles", "numAddedFiles", "numTargetFilesAdded"),
            "bytes_out": _first(counts, "numOutputBytes", "numAddedBytes", "numTargetBytesAdded"),
        }
        report.line("metrics", {k: v for k, v in metrics.items() if v is not None})
        said = "rows" if rows is None else f"{rows} rows"
        print(f"{said} changed in Delta table {self.path}, version {version}", flush=True)


def _folded(names: Any) -> set[str]:
    return {str(n).lower() for n in names}


def _first(counts: dict[str, int], *names: str) -> Optional[int]:
    return next((counts[n] for n in names if n in counts), None)
