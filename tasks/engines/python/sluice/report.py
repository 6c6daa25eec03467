"""What an attempt tells the daemon: JSON lines on descriptor 3, one write each (docs/architecture.md, "The attempt's contract")."""

from __future__ import annotations

import json
import os
from typing import Any, Optional

FD = 3
OUTPUTS_MAX = 4 << 20  # bytes, all outputs of an attempt together: they are kept with the run for good
_WHOLE = range(-(2**63), 2**63)  # the whole numbers that the daemon can hold

_outputs: dict[str, int] = {}  # name -> bytes of its value


class Failure(Exception):
    """Why a task cannot go on, in a sentence for people; with its place in a file when that is known.

    `line` and `col` count from 1. `cause` may be "conflict" or "oom", as retry policies know them; `final`: trying again is no use.
    """

    def __init__(
        self,
        message: str,
        file: Optional[str] = None,
        line: Optional[int] = None,
        col: Optional[int] = None,
        cause: Optional[str] = None,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.message, self.file, self.line, self.col, self.cause, self.final = message, file, line, col, cause, final


def line(key: str, value: Any) -> None:
    """Writes {key: value} as one line."""
    text = (json.dumps({key: value}, separators=(",", ":"), allow_nan=False) + "\n").encode()
    while text:
        text = text[os.write(FD, text) :]


def metric(name: str, value: int) -> None:
    """A whole number about the work: rows_in, rows_out, rows_rejected, bytes_out, files_out, ..."""
    line("metrics", {name: value})


def table(**entry: Any) -> None:
    """A commit that was made: table, operation, snapshot_id (a text: ids pass 2**53), rows, files, bytes."""
    line("tables", [entry])


def check(**entry: Any) -> None:
    """The result of a check: check, passed, severity, message, value."""
    line("checks", [entry])


def outputs(values: dict[str, Any]) -> None:
    """Outputs by name. A Failure names the one that JSON has no value for, and is raised before any is told."""
    for name, value in values.items():
        _look(value, f'the output "{name}"', 0)
    for name, value in values.items():
        _outputs[name] = len(json.dumps(value))
    if sum(_outputs.values()) > OUTPUTS_MAX:
        largest = max(_outputs, key=lambda name: _outputs[name])
        raise Failure(
            f"the outputs have {sum(_outputs.values()) / 2**20:.1f} MB, and at most {OUTPUTS_MAX >> 20} MB are kept with a run "
            f'(the largest is "{largest}"): write what is large to a file in $SLUICE_ARTIFACTS or to a table, and give its place'
        )
    if values:
        line("outputs", values)


def error(e: Failure) -> None:
    """Why the task failed; the last one counts."""
    told: dict[str, Any] = {"message": e.message}
    if e.file and e.line:
        told.update(file=e.file, line=e.line, col=e.col or 1)
    if e.cause:
        told["cause"] = e.cause
    if e.final:
        told["final"] = True
    line("error", told)


def _look(value: Any, what: str, depth: int) -> None:
    """Raises a Failure when the daemon could not read the value as JSON."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if "\0" in value or not value.isascii() and value.encode("utf-8", "ignore").decode() != value:
            raise Failure(f"{what} is a text with characters that cannot be kept (a zero byte, or half of a pair)")
    elif isinstance(value, int):
        if value not in _WHOLE:
            raise Failure(f"{what} is a whole number of more than 64 bits: give it as a text")
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise Failure(f"{what} is {value}, which JSON has not: give None or a text")
    elif depth > 100:
        raise Failure(f"{what} holds lists or maps more than 100 deep")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _look(item, f"{what}[{i}]" if depth < 3 else what, depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise Failure(f"{what} is a map with the key {key!r} of type {_type(key)}; names in JSON are texts")
            _look(key, f"a name in {what}", depth)
            _look(item, f"{what}.{key}" if depth < 3 else what, depth + 1)
    else:
        raise Failure(f"{what} is of type {_type(value)}, which JSON has not: give a text, number, bool, list, dict or None")


def _type(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
