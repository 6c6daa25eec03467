"""What Spark tells of an attempt's session: how it is, as the output `session`, and how much it has read, as Spark's own page says."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Optional

from sluice.engines.common import Job, answer_of, is_remote

_ANSWER_S = 20.0  # of a page that was never asked before, on a machine that is busy
_PATIENCE_S = 2.0  # seconds in which the page has heard that a job is done
_LOOK_S = 0.02


#: What info() looks at.
SETTINGS = ("spark.master", "spark.app.name", "spark.default.parallelism")


def info(settings: Mapping[str, Optional[str]], version: str, page: Optional[str]) -> dict[str, Any]:
    """The session as a value of JSON; what is not known is null."""
    master = settings["spark.master"]
    return {
        "active": True,
        "app_name": settings["spark.app.name"],
        "spark_version": version,
        "master": master,
        "ui_web_url": page,
        "default_parallelism": _parallelism(master or "", settings["spark.default.parallelism"]),
    }


def _parallelism(master: str, given: Optional[str]) -> Optional[int]:
    """As Spark decides it on this machine; a cluster's is that of its executors, which come and go."""
    if given:
        return int(given)
    found = re.fullmatch(r"local\[(\*|\d+)\]", master)
    if found is None:
        return None
    return os.cpu_count() if found.group(1) == "*" else int(found.group(1))


def tags(job: Job) -> tuple[str, str]:
    """What all that the attempt has Spark do is marked with: its run, and the attempt itself."""
    return f"sluice-run={job.run_id}", f"sluice-attempt={job.run_id}.{job.task_id}.{job.attempt}"


def counts_reads(job: Job) -> bool:
    """Does Spark count what the task reads? Of local files, read by the threads of its tasks; others are read by threads of their own."""
    source = job.spec.get("source")
    if job.doc.get("type") != "stage" or not isinstance(source, dict) or source.get("format") not in (None, "csv", "json", "parquet"):
        return False
    given = source.get("path")
    return not any(is_remote(str(p)) for p in (given if isinstance(given, list) else [given]))


def bytes_read(page: Optional[str], application: str, tag: str) -> Optional[int]:
    """What the jobs with this tag have read of files and tables; None where there is no page, or it does not say."""
    if not page:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError):
        stages = {s for j in _jobs(page, application, tag) for s in j["stageIds"]}
        attempts = [a for s in stages for a in _ask(page, application, f"stages/{s}?details=false")]
        read: int = sum(a["inputBytes"] for a in attempts)
        return read
    return None


def _jobs(page: str, application: str, tag: str) -> list[dict[str, Any]]:
    """The page hears of a job's end a little later than who waits for it, and of the tasks before that."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        jobs = [j for j in _ask(page, application, "jobs") if any(t.endswith(tag) for t in j.get("jobTags") or ())]
        if all(j["status"] != "RUNNING" for j in jobs) or time.monotonic() > deadline:
            return jobs
        time.sleep(_LOOK_S)


def _ask(page: str, application: str, what: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = answer_of(f"{page}/api/v1/applications/{application}/{what}", _ANSWER_S)
    return told
