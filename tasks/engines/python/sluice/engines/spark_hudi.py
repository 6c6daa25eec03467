"""Hudi tables on Spark 3.5: the rows of one, and exports into one.

An upsert, a delete and an overwrite that are done twice are done once. An append is not, so each commit bears the name of run and task,
in the timeline's files, where an attempt after one that died looks for it. Hudi has one writer at a time unless it is told otherwise.
"""

from __future__ import annotations

import glob
import os
import re
from typing import Any, Optional

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from sluice import report
from sluice.engines import duck
from sluice.engines.common import bare_path, did_you_mean, is_remote
from sluice.engines.delta_log import transaction
from sluice.engines.spark_types import column
from sluice.engines.spark_work import Work
from sluice.report import Failure

_OPERATIONS = {"append": "insert", "overwrite": "insert_overwrite_table", "upsert": "upsert", "delete": "delete"}
_DONE = re.compile(r"(\d+)_\d+\.(commit|deltacommit|replacecommit)")
_OURS = "_hoodie_"  # how the columns begin that Hudi adds


def folder_of(work: Work, given: Any, key: str) -> str:
    if not isinstance(given, str):
        raise work.job.wrong("with format: hudi, path is one folder", key)
    path = bare_path(given).rstrip("/") or "/"
    if is_remote(path):
        raise work.job.wrong("Hudi tables are read and written on local disks only", key)
    return path


def is_table(path: str) -> bool:
    return os.path.isfile(f"{path}/.hoodie/hoodie.properties")


def no_table(work: Work, path: str, key: str) -> Failure:
    return work.job.wrong(f"{path} is no Hudi table: it has no .hoodie with its properties; is the path right?", key)


def frame_of(work: Work, path: str, key: str) -> DataFrame:
    """The rows as they are, without Hudi's own columns."""
    if not is_table(path):
        raise no_table(work, path, key)
    require(work)
    frame = work.spark.read.format("hudi").load("file://" + path)
    return frame.select(*(column(c) for c in frame.columns if not c.startswith(_OURS)))


def require(work: Work) -> None:
    if not str(work.spark.version).startswith("3.5"):
        raise Failure('Hudi tables need Spark 3.5: engine_options: {version: "3.5"}, which `sluice engines install spark-3.5` makes')


class Export:
    """One commit of rows."""

    def __init__(self, work: Work, rows: Optional[tuple[DataFrame, duck.Columns]]) -> None:
        if rows is None:
            raise work.job.wrong("an export into a Hudi table needs `from`", "to")
        self.work, self.job = work, work.job
        self.frame, self.columns = rows
        self.to: dict[str, Any] = work.job.spec["to"]
        self.mode: str = self.to.get("mode") or "append"
        self.key: list[str] = self.to.get("key") or []
        self.partitions: list[str] = self.to.get("partition_by") or []
        self.path = folder_of(work, self.to["path"], "to/path")
        self.exists = is_table(self.path)

    def run(self) -> None:
        require(self.work)
        done = self._committed()
        rows: Optional[int] = None
        if self.job.doc.get("rehearsal"):
            report.metric("rows_in", self.frame.count())
            return
        if done:
            print(f"an earlier attempt has made this change, in commit {done}", flush=True)
        else:
            self._check()
            frame = self._doomed() if self.mode == "delete" else self.frame
            rows = frame.count()
            if rows or self.mode == "overwrite" or not self.exists:
                self._write(frame)
            done = self._committed()
        outputs: dict[str, Any] = {"path": self.path, "version": done, "rows": rows}
        report.outputs({k: v for k, v in outputs.items() if v is not None})
        if rows is not None:
            report.line("metrics", {"rows_in": rows, "rows_out": rows})
        print(f"{'' if rows is None else f'{rows} '}rows changed in Hudi table {self.path}, commit {done}", flush=True)

    def _committed(self) -> Optional[str]:
        """The commit that this run and task has made, if any."""
        mark = transaction(self.job).encode()
        for file in sorted(glob.glob(f"{glob.escape(self.path)}/.hoodie/timeline/*"), reverse=True):
            found = _DONE.fullmatch(os.path.basename(file))
            if found:
                with open(file, "rb") as f:
                    if mark in f.read():
                        return found.group(1)
        return None

    def _check(self) -> None:
        if self.mode == "delete" and not self.exists:
            raise no_table(self.work, self.path, "to/path")
        if not self.exists and os.path.exists(self.path) and (not os.path.isdir(self.path) or os.listdir(self.path)):
            raise self.job.wrong(f"{self.path} holds something else than a Hudi table; name a folder of its own", "to/path")
        order = [self.to["order_by"]] if self.to.get("order_by") else []
        for names, place in ((self.key, "to/key"), (self.partitions, "to/partition_by"), (order, "to/order_by")):
            for name in names:
                if name not in self.columns:
                    raise self.job.wrong(f'the rows have no column "{name}"{did_you_mean(self.columns, name)}', place)
        if self.key and not order and self.mode != "delete":
            self._check_keys()

    def _check_keys(self) -> None:
        """Which of two rows with one key would win? Without order_by nobody can tell."""
        found = self.frame.groupBy(*map(column, self.key)).agg(F.count(F.lit(1)).alias("sluice_n")).where("sluice_n > 1").limit(1).collect()
        if found:
            values = ", ".join(str(found[0][i]) for i in range(len(self.key)))
            said = f"{found[0]['sluice_n']} rows have the same key ({', '.join(self.key)}): {values}; order_by says which one stays"
            raise self.job.wrong(said, "to/key")

    def _doomed(self) -> DataFrame:
        """The rows of the table that have the keys: Hudi wants to know their partitions, too."""
        there = frame_of(self.work, self.path, "to/path")
        return there.join(self.frame.select(*map(column, self.key)).distinct(), self.key, "left_semi")

    def _write(self, frame: DataFrame) -> None:
        options = {
            "hoodie.table.name": re.sub(r"\W", "_", os.path.basename(self.path)) or "t",
            "hoodie.datasource.write.operation": _OPERATIONS[self.mode],
            "hoodie.datasource.write.hive_style_partitioning": "true",
            "hoodie.datasource.write.commitmeta.key.prefix": "sluice.",
            "sluice.transaction": transaction(self.job),
            "hoodie.index.type": "GLOBAL_SIMPLE",  # a key is one row, whatever its partition
            "hoodie.embed.timeline.server": "false",  # it would listen on all addresses
        }
        order: list[str] = [self.to["order_by"]] if self.to.get("order_by") else []
        for what, names in (("recordkey", self.key), ("partitionpath", self.partitions), ("precombine", order)):
            if names:
                options[f"hoodie.datasource.write.{what}.field"] = ",".join(names)
        frame.write.format("hudi").options(**options).mode("append").save("file://" + self.path)
