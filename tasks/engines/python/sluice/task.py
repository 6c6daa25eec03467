"""Runs one attempt: finds what its type and engine need, and says why it failed."""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from types import TracebackType
from typing import Any, Optional

import sluice
from sluice import report

DOCUMENT_FD = 4
MESSAGE_MAX = 1000  # characters; the whole is in the log
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the folder of run.py


def read_document() -> dict[str, Any]:
    """The attempt's document, from descriptor 4, which is closed."""
    with open(DOCUMENT_FD, "rb") as f:
        doc: dict[str, Any] = json.load(f)
    return doc


def module_of(doc: dict[str, Any]) -> str:
    """The module that has `run(doc)` for this attempt."""
    return "sluice.python_task" if doc["type"] == "python" else f"sluice.engines.{doc['engine']}"


def run(doc: dict[str, Any]) -> int:
    """Runs the attempt; gives the status to exit with. The module's `run(doc)` gives one too, or None for 0."""
    if _HOME in sys.path:  # what the user's own modules are called must not be taken for ours, and still be found
        sys.path.remove(_HOME)
        sys.path.append(_HOME)
    sluice._begin(doc)
    try:
        return load(doc).run(doc) or 0
    except report.Failure as e:
        fail(e)
    except Exception as e:
        log(e, user_part(e.__traceback__))
        fail(report.Failure(last_line(e), cause="oom" if isinstance(e, MemoryError) else None))
    return 1


def load(doc: dict[str, Any]) -> Any:
    """The module that runs this attempt. Raises report.Failure where an engine's environment lacks what it needs."""
    try:
        return importlib.import_module(module_of(doc))
    except ImportError as e:
        if doc["type"] == "python":
            raise
        log(e, e.__traceback__)
        raise report.Failure(
            f"the engine {doc['engine']} cannot begin ({last_line(e)}): its environment is damaged, or was made for another version "
            f"of sluice; `sluice engines install {'spark' if doc['engine'] == 'spark_sql' else doc['engine']}` makes it anew",
            final=True,
        ) from None


def fail(e: report.Failure) -> None:
    """Reports why, and says it in the log."""
    where = f"{e.file}:{e.line}:{e.col or 1}: " if e.file and e.line else ""
    print(f"{where}error: {e.message}", file=sys.stderr, flush=True)
    report.error(e)


def last_line(e: BaseException) -> str:
    """What a trace ends with, "ValueError: bad", on one line."""
    kind = type(e)
    own = kind.__module__ in ("builtins", "__main__", "__sluice__")
    name = kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"
    try:
        said = e.msg if isinstance(e, SyntaxError) else str(e)  # its place is told beside it
    except Exception:  # its own __str__ failed
        said = ""
    said = " ".join(said.split())
    text = f"{name}: {said}" if said else name
    text = text.encode("utf-8", "replace").decode().replace("\0", " ")
    return text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 1] + "…"


def user_part(tb: Optional[TracebackType]) -> Optional[TracebackType]:
    """The trace from the first line that is not ours or Python's own machinery on the way to it."""
    first = tb
    while first and (first.tb_frame.f_code.co_filename.startswith((_HOME, "<frozen"))):
        first = first.tb_next
    return first or tb


def log(e: BaseException, tb: Optional[TracebackType]) -> None:
    """The whole trace, as Python prints it."""
    sys.stdout.flush()
    traceback.print_exception(type(e), e, tb)
    sys.stderr.flush()
