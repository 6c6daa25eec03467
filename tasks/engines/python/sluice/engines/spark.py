"""The engine spark: stage, publish, curate, validate, maintain and export with Spark; tables by the DataFrame API through Sluice's catalog.

Its import does what a fork takes along: modules, those of Spark Connect's client, too, and the parser of SQL once. The JVM is each
attempt's own, or a server's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType
from typing import Any, Callable, Optional

import pyiceberg.catalog.rest  # noqa: F401  with the next, half a second, which a task on a server that is warm would feel
import pyspark.errors.utils
import sqlglot

from sluice import report, task
from sluice.engines import (
    spark_errors,
    spark_export,
    spark_lake,
    spark_maintain,
    spark_publish,
    spark_session,
    spark_stage,
    spark_told,
    spark_validate,
)
from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.engines.spark_work import Work

pyspark.errors.utils._enable_debugging_cache = False  # or where each column was made is found for Spark, in our code
with contextlib.suppress(ImportError):  # Spark 3.5 is installed without its client
    import pyspark.sql.connect.session  # noqa: F401

#: Threads of the libraries that a fork of this process does well without (engines/polars.py says which).
THREADS_NOT_MISSED = frozenset({"jemalloc_bg_thd", "python", "python3", "sluice-python"})

_TASKS: dict[str, Callable[[Work], None]] = {
    "stage": spark_stage.run,
    "publish": spark_publish.run_publish,
    "curate": spark_publish.run_curate,
    "validate": spark_validate.run,
    "export": spark_export.run,
    "maintain": spark_maintain.run_maintain,
}
sqlglot.parse_one("SELECT a, count(*) AS n FROM s.t WHERE b = 'c' GROUP BY a ORDER BY a", read="duckdb").sql(dialect="spark")


class Cancelled(BaseException):
    """The attempt was told to end."""


def run(doc: dict[str, Any], writer: type[spark_lake.Writer] = spark_lake.Writer) -> int:
    """Runs one attempt. Raises report.Failure, or whatever went wrong in the libraries."""
    begun = time.monotonic()
    job = Job(doc)
    if doc["type"] not in _TASKS:
        raise report.Failure(f"the {job.engine} engine does no tasks of type {doc['type']}; {ONLY_DUCKDB}")
    signal.signal(signal.SIGTERM, _on_term)
    session: Optional[spark_session.AnySession] = None
    cancelled = False
    try:
        session = spark_session.connected(job) or spark_session.begin(job)
        report.metric("start_us", int((time.monotonic() - begun) * 1e6))
        _TASKS[doc["type"]](Work(job, session.spark, writer))
        _tell(job, session)
        report.metric("engine_us", int((time.monotonic() - begun) * 1e6))
    except Cancelled:
        cancelled = True
        print("told to end: Spark's jobs are cancelled", flush=True)
    except report.Failure:
        raise
    except Exception as e:
        told = session.why_ended(e) if session else None
        told = told or spark_errors.failure(e, session.jvm.poll() if session and session.jvm else None)
        if told is None:
            raise
        task.log(e, task.user_part(e.__traceback__))
        key = next((k for k in ("sql", "where", "select/0", "table", "into") if k in job.pos), None)
        raise job.wrong(told.message, key, cause=told.cause) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if session:
            session.stop(cancelled)
    if cancelled:
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    return 0


def _tell(job: Job, session: spark_session.AnySession) -> None:
    """What the session was, and what it has read. The task has done its work: it is no failure where Spark does not say."""
    with contextlib.suppress(Exception):
        report.outputs({"session": session.told})
        _, attempt = spark_told.tags(job)
        read = spark_told.bytes_read(session.ui, session.application, attempt) if spark_told.counts_reads(job) else None
        if read is not None:
            report.metric("bytes_read", read)


def _on_term(number: int, frame: Optional[FrameType]) -> None:
    raise Cancelled
