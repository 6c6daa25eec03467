"""The engine polars: stage, publish, curate, validate and export with lazy Polars; tables through PyIceberg.

Its import does what every task needs and what a fork takes along: modules, the parser of SQL once, and DuckDB's own binder.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from typing import Any, Callable

import sqlglot

from sluice import report
from sluice.engines import duck, polars_delta, polars_publish, polars_stage, polars_validate
from sluice.engines.common import ONLY_DUCKDB, Job
from sluice.engines.polars_sql import PolarsSQL

#: Threads of the libraries that a fork of this process does well without: jemalloc begins its own anew after a fork; Polars' cleaner
#: takes away what was spilled to disk, which for us lies in the attempt's scratch; and DuckDB's serves a connection that nobody asks
#: (it bears the name of the process, as that was when duckdb was imported).
THREADS_NOT_MISSED = frozenset({"jemalloc_bg_thd", "polars-ooc-clea", "python", "python3", "sluice-python"})

_TASKS: dict[str, Callable[[Job], None]] = {
    "stage": polars_stage.run,
    "publish": polars_publish.run_publish,
    "curate": polars_publish.run_curate,
    "validate": polars_validate.run,
    "export": polars_delta.run,
}
_AT_IMPORT = "SELECT a, count(*) AS n FROM s.t WHERE b = 'c' GROUP BY a ORDER BY a"
sqlglot.parse_one(_AT_IMPORT, read="duckdb").sql(dialect=PolarsSQL)
duck.warm_up()
# What is imported at its first use: the REST catalog alone takes 100 ms.
for late in ("pyiceberg.catalog.rest", "pyiceberg.avro.decoder_fast", "polars._utils.parquet", "polars._utils.threading"):
    with contextlib.suppress(ImportError):
        importlib.import_module(late)


def run(doc: dict[str, Any]) -> int:
    """Runs one attempt. Raises report.Failure, or whatever went wrong in the libraries."""
    begun = time.monotonic()
    threads = (doc.get("engine_options") or {}).get("threads")
    if threads:  # read when the first frame is computed
        os.environ["POLARS_MAX_THREADS"] = str(threads)
    os.environ["POLARS_OOC_SPILL_DIR"] = os.environ["POLARS_TEMP_DIR"] = doc["scratch"]  # what it keeps of a store goes with the attempt
    os.environ.setdefault("POLARS_ICEBERG_PLANNER", "pyiceberg")  # without a word about a faster one, which is not there
    if doc["type"] not in _TASKS:
        raise report.Failure(f"the polars engine does no tasks of type {doc['type']}; {ONLY_DUCKDB}")
    _TASKS[doc["type"]](Job(doc))
    report.metric("engine_us", int((time.monotonic() - begun) * 1e6))
    return 0
