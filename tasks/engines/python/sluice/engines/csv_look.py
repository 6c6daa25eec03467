"""What the bytes of local CSV files say of them, known in a fraction of the time that an engine takes to look at each value."""

from __future__ import annotations

import enum
import re
import threading
from collections.abc import Collection, Iterator
from typing import Any, Optional

import numpy as np

_CHUNK = 1 << 17  # bytes; what is made of it fits into a second cache, too
_LONGEST = 64 << 20  # bytes of a line
_LINE_END, _SPACE = ord("\n"), ord(" ")
_SPACES = bytes(range(_SPACE + 1))


class Quotes(enum.IntEnum):
    """Where quotes are: nowhere; in lines that are records; around values that may go on in the next line; behind a blank, which
    DuckDB skips, and others take for the value's first character."""

    NONE = 0
    IN_LINES = 1
    ANYWHERE = 2
    BLANK = 3


def quotes(file: str, quote: str, delimiter: str) -> Quotes:
    """What the file has of them, the last that is true. Lines of nothing but spaces, which Spark's reader leaves out, count as ANYWHERE."""
    mark, found = quote.encode(), Quotes.IN_LINES
    if not any(mark in chunk for chunk in _chunks(file)):
        return Quotes.NONE
    behind_blank = re.compile(rb"(?:\A|[\r\n]|%b) %b" % (re.escape(delimiter.encode()), re.escape(mark)))
    for chunk in _chunks(file):
        if b" " + mark in chunk and behind_blank.search(chunk):
            return Quotes.BLANK
        if found == Quotes.IN_LINES and not _whole(chunk, mark):
            found = Quotes.ANYWHERE
    return found


def _whole(chunk: bytes, mark: bytes) -> bool:
    """Has each line an even number of quotes, and more than spaces?"""
    lines = _lines_of(chunk) + b"\n"
    bytes_of: Any = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(bytes_of == _LINE_END)
    if (np.searchsorted(np.flatnonzero(bytes_of == mark[0]), ends) & 1).any():
        return False
    begins = bytes_of[np.append(0, ends[:-1] + 1)]
    spaced = (begins <= _SPACE) & (begins != _LINE_END)
    return not spaced.any() or not any(line and not line.strip(_SPACES) for line in lines.split(b"\n"))


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
