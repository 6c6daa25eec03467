"""What Spark says when it fails, as one sentence: the cause at the end of the chain, without plans, traces and advice for Spark."""

from __future__ import annotations

import re
from typing import Any, Optional

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException
from pyspark.errors.exceptions.base import PySparkRuntimeError

from sluice.report import Failure

_CLASS = re.compile(r"(?:[a-z_$][\w$]*\.)+([A-Z][\w$]*)(?:: |$)")
_NOISE = re.compile(
    r"\s*SQLSTATE: \w+|\s*;? ?line \d+ pos \d+;?$|\s*Use `try_\w+` to [^.]*\.|\s*If necessary set \"?spark\.[^.]*\.[^.]*\.[^.]*\.[^.]*\."
)
_MAX = 600  # characters


def folded(e: BaseException) -> str:
    """The sentence."""
    said = ""
    java = _java(e)
    while java is not None:
        message = java.getMessage() or ""
        name = java.getClass().getSimpleName()
        if message and not message.startswith("Job aborted"):
            said = message if name.startswith("Spark") or message.startswith("[") else f"{name}: {message}"
        elif not said:
            said = message or name
        java = java.getCause()
    if not said:
        said = str(e)
    return _sentence(said)


def _java(e: BaseException) -> Optional[Any]:
    if isinstance(e, Py4JJavaError):
        return e.java_exception
    return getattr(e, "_origin", None)


def _sentence(said: str) -> str:
    if "Job aborted due to stage failure" in said:  # what a task died of stands in the text alone
        found = re.search(r"Lost task [^\n]*?executor [^)]*\): (.*)", said)
        said = found.group(1) if found else said
    first = said.split("\n\nJVM stacktrace:", 1)[0].strip().split("\n", 1)[0]
    first = _NOISE.sub("", _CLASS.sub("", first) if first.startswith(("org.", "java.", "scala.")) else first).strip().rstrip(";")
    return first if len(first) <= _MAX else first[: _MAX - 1] + "…"


def is_out_of_memory(e: BaseException) -> bool:
    return "OutOfMemoryError" in str(e) or "Java heap space" in str(e)


def failure(e: BaseException, jvm_status: Optional[int]) -> Optional[Failure]:
    """The failure to report for what came out of Spark; None for what did not."""
    if isinstance(e, (Py4JNetworkError, ConnectionError)) or jvm_status is not None:
        status = f" (status {jvm_status})" if jvm_status is not None else ""
        return Failure(f"the JVM of Spark has ended in the middle of the task{status}; the log has what it said")
    if not isinstance(e, (PySparkException, PySparkRuntimeError, Py4JError)):
        return None
    if is_out_of_memory(e):
        return Failure(
            "Spark ran out of memory: give it more with engine_options.driver_memory (executor_memory on a cluster), "
            f"or more and smaller parts with shuffle_partitions ({folded(e)})",
            cause="oom",
        )
    return Failure(f"Spark: {folded(e)}")
