"""One Parquet file of several with the same columns: their row groups one behind the other, byte for byte, under one footer.

The footer is the FileMetaData of https://github.com/apache/parquet-format (parquet.thrift) in Thrift's compact protocol
(https://github.com/apache/thrift, thrift-compact-protocol.md). Of a row group only the places change that it names in the file.
What is optional and would be of one part alone goes: the indexes of pages, which name places themselves, and ordinals.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, Optional

_MAGIC = b"PAR1"
_STRUCT, _LIST, _SET, _MAP, _BINARY = 12, 9, 10, 11, 8
_FIXED = {3: 1, 7: 8, 13: 16}  # bytes of a byte, a double, a UUID
_INTEGERS = (4, 5, 6)
_TRUE, _FALSE, _I64 = 1, 2, 6
# Fields by their numbers, from FileMetaData on.
_SCHEMA, _ROWS, _GROUPS = 2, 3, 4
_PLACES = {(4, 5), (4, 1, 2), (4, 1, 3, 9), (4, 1, 3, 10), (4, 1, 3, 11), (4, 1, 3, 14)}
_GONE = {(4, 7), (4, 1, 4), (4, 1, 5), (4, 1, 6), (4, 1, 7)}
_Path = tuple[int, ...]


class Footer:
    """`fields` of the file as they are, but for `rows` and the row `groups`, whose places are moved by `by` bytes."""

    def __init__(self, data: bytes, by: int) -> None:
        self._data, self._at, self._by = data, 0, by
        self.fields: dict[int, tuple[int, bytes]] = {}
        self.rows = 0
        self.groups: list[bytes] = []
        for field, kind in self._fields():
            if field == _GROUPS:
                self.groups = [self._value(_STRUCT, (_GROUPS,)) for _ in range(self._list()[0])]
            elif field == _ROWS:
                self.rows = _signed(self._varint())
            else:
                self.fields[field] = kind, self._value(kind, (field,))

    def _fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of the struct that begins here; who asks reads each one's value before the next."""
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else _signed(self._varint())
            yield field, head & 15

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, n: int) -> bytes:
        self._at += n
        return self._data[self._at - n : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _list(self) -> tuple[int, int]:
        """Number and type of its elements."""
        head = self._byte()
        return (self._varint() if head >> 4 == 15 else head >> 4), head & 15

    def _value(self, kind: int, path: _Path) -> bytes:
        if kind in (_TRUE, _FALSE):  # the type says it
            return b""
        if kind in _INTEGERS:
            n = self._varint()
            return _varint(_unsigned(_signed(n) + self._by) if path in _PLACES and n else n)
        if kind in _FIXED:
            return self._bytes(_FIXED[kind])
        if kind == _BINARY:
            n = self._varint()
            return _varint(n) + self._bytes(n)
        if kind in (_LIST, _SET):
            n, of = self._list()
            return _list(n, of) + b"".join(self._element(of, path) for _ in range(n))
        if kind == _MAP:
            n = self._varint()
            if n == 0:
                return b"\0"
            kinds = self._byte()
            return _varint(n) + bytes([kinds]) + b"".join(self._element(k, path) for _ in range(n) for k in (kinds >> 4, kinds & 15))
        if kind == _STRUCT:
            return _struct({f: (k, v) for f, k in self._fields() for v in [self._value(k, (*path, f))] if (*path, f) not in _GONE})
        raise ValueError(f"a Parquet footer has a value of type {kind}, which there is not")

    def _element(self, kind: int, path: _Path) -> bytes:
        return self._bytes(1) if kind in (_TRUE, _FALSE) else self._value(kind, path)


def join(parts: list[str], to: str) -> None:
    """Moves the rows of these files, in this order, to one."""
    if len(parts) == 1:
        os.rename(parts[0], to)
        return
    first: Optional[Footer] = None
    rows, groups = 0, list[bytes]()
    with open(to, "wb") as out:
        out.write(_MAGIC)
        for part in parts:
            with open(part, "rb") as f:
                size = os.path.getsize(part) - 8
                f.seek(size)
                length, magic = struct.unpack("<I4s", f.read(8))
                if magic != _MAGIC:
                    raise ValueError(f"{part} is no Parquet file, or an encrypted one")
                f.seek(size - length)
                footer = Footer(f.read(length), out.tell() - len(_MAGIC))
                first = first or footer
                if footer.fields[_SCHEMA] != first.fields[_SCHEMA]:
                    raise ValueError(f"{part} has other columns than {parts[0]}")
                if footer.groups:
                    f.seek(len(_MAGIC))
                    _copy(f, out, size - length - len(_MAGIC))
            rows += footer.rows
            groups += footer.groups
            os.unlink(part)
        assert first is not None
        fields = {**first.fields, _ROWS: (_I64, _varint(_unsigned(rows))), _GROUPS: (_LIST, _list(len(groups), _STRUCT) + b"".join(groups))}
        text = _struct(fields)
        out.write(text + struct.pack("<I4s", len(text), _MAGIC))


def _copy(source: BinaryIO, to: BinaryIO, n: int) -> None:
    while n:
        got = source.read(min(n, 1 << 20))
        if not got:
            raise EOFError("a part ends too early")
        to.write(got)
        n -= len(got)


def _struct(fields: dict[int, tuple[int, bytes]]) -> bytes:
    out, last = bytearray(), 0
    for field in sorted(fields):
        kind, value = fields[field]
        out += bytes([field - last << 4 | kind]) if 0 < field - last < 16 else bytes([kind]) + _varint(_unsigned(field))
        out += value
        last = field
    return bytes(out + b"\0")


def _list(n: int, kind: int) -> bytes:
    return bytes([n << 4 | kind]) if n < 15 else bytes([0xF0 | kind]) + _varint(n)


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def _signed(n: int) -> int:
    return n >> 1 ^ -(n & 1)


def _unsigned(n: int) -> int:
    return n << 1 if n >= 0 else -n * 2 - 1
