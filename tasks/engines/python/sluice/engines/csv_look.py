"""What the bytes of local CSV files say of them, known in a fraction of the time that an engine takes to look at each value."""

from __future__ import annotations

import enum
import threading
from collections.abc import Collection, Iterator
from typing import Any, Optional

import numpy as np

_CHUNK = 1 << 17  # bytes; what is made of it fits into a second cache, too
_LONGEST = 64 << 20  # bytes of a line
_LINE_END, _SPACE = ord("\n"), ord(" ")
_SPACES = bytes(range(_SPACE + 1))


class Quotes(enum.IntEnum):
    """What quotes there are: none; around values of lines that are records; around values that may go on in the next line; others,
    of which each engine makes what it wants."""

    NONE = 0
    IN_LINES = 1
    ACROSS = 2
    STRAY = 3


def quotes(files: list[str], quote: str, delimiter: str) -> Quotes:
    """What the files have of them, the last that is true. Lines of nothing but spaces, which Spark's reader leaves out, count as ACROSS."""
    mark = quote.encode()
    if not any(mark in chunk for file in files for chunk in _chunks(file)):
        return Quotes.NONE
    found = Quotes.IN_LINES
    for file in files:
        for chunk in _chunks(file):
            found = max(found, _quotes_of(chunk, ord(mark), ord(delimiter)))
            if found == Quotes.STRAY:
                return found
    return found


def _quotes_of(chunk: bytes, mark: int, delimiter: int) -> Quotes:
    lines = b"\n\n" + _lines_of(chunk) + b"\n"
    bytes_of: Any = np.frombuffer(lines, np.uint8)
    marks, ends = bytes_of == mark, bytes_of == _LINE_END
    bounds = ends | (bytes_of == delimiter)
    blank = marks[2:] & (bytes_of[1:-1] == _SPACE) & bounds[:-2]  # which DuckDB skips
    bounds |= marks
    if blank.any() or (marks[1:-1] & ~(bounds[:-2] | bounds[2:])).any():
        return Quotes.STRAY
    at = np.flatnonzero(ends)
    if (np.searchsorted(np.flatnonzero(marks), at) & 1).any():
        return Quotes.ACROSS
    begins = bytes_of[at[:-1] + 1]
    spaced = (begins <= _SPACE) & (begins != _LINE_END)
    blank_line = spaced.any() and any(line and not line.strip(_SPACES) for line in lines.split(b"\n"))
    return Quotes.ACROSS if blank_line else Quotes.IN_LINES


class Look:
    """A look at whole files, beside what else the task does. `headers` are the first lines of those that have one; `empty`: do lines
    without anything count?"""

    def __init__(self, files: list[str], headers: Collection[str] = (), empty: bool = False) -> None:
        self._files = files
        self._headers = [h.encode() for h in headers]
        self._empty = empty
        self._lines: Optional[int] = 0
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def lines(self) -> Optional[int]:
        """How many lines they have that count, which takes until all are read. None: not all of it is UTF-8, a line is so
        long that this is not known, or one further down is like a header."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._lines

    def _run(self) -> None:
        try:
            for file in self._files:
                lines = _lines(file, self._headers, self._empty)
                if lines is None or self._lines is None:
                    self._lines = None
                    return
                self._lines += lines
        except BaseException as e:
            self._error = e


def _chunks(file: str) -> Iterator[bytes]:
    """The file in parts of whole lines, so that no character goes over the end of one. Mapped, its pages would be this process's memory."""
    with open(file, "rb") as f:
        while chunk := f.read(_CHUNK) + f.readline(_LONGEST):
            yield chunk


def _lines_of(chunk: bytes) -> bytes:
    """With one way to end a line. A carriage return does so by itself, as for Spark's reader."""
    return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk


def _lines(file: str, headers: list[bytes], empty: bool) -> Optional[int]:
    lines = 0
    for i, chunk in enumerate(_chunks(file)):
        if len(chunk) >= _LONGEST:
            return None
        if not chunk.isascii():
            try:
                chunk.decode()
            except UnicodeDecodeError:
                return None
        chunk = _lines_of(chunk)
        if headers:
            further = b"\n%b\n" % (chunk if i else chunk.partition(b"\n")[2])
            if any(b"\n%b\n" % header in further for header in headers):
                return None
        lines += _count(chunk, empty)
    return lines


def _count(chunk: bytes, empty: bool) -> int:
    bytes_of: Any = np.frombuffer(chunk, np.uint8)
    ends = bytes_of == _LINE_END
    without = 0 if empty else int(ends[0]) + int(np.count_nonzero(ends[:-1] & ends[1:]))
    return int(np.count_nonzero(ends)) + (not ends[-1]) - without
