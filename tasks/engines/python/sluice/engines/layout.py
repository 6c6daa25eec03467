"""Columns, partitions and order of a table that is written: the table's own, the task's and the rows', brought together.

Field ids are what readers go by, so a column keeps its id for as long as it keeps its name. The rules are those of the duckdb
engine (tasks/iceberg/schema.c).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional

from pyiceberg import types as ice
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table.sorting import NullOrder, SortDirection, SortField, SortOrder
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    Transform,
    TruncateTransform,
    YearTransform,
)

from sluice.engines.common import Job, nearest
from sluice.report import Failure

Fields = tuple[ice.NestedField, ...]


def field_named(fields: Fields, name: str) -> Optional[ice.NestedField]:
    """By name; a name that differs in case only is the same one, as it is for every SQL engine."""
    for f in fields:
        if f.name == name:
            return f
    return next((f for f in fields if f.name.lower() == name.lower()), None)


@dataclass
class Planner:
    """Merges the rows' columns into a table's."""

    job: Job
    table: str
    mode: str
    evolution: str
    last_id: int

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def fields(self, have: Optional[Fields], columns: dict[str, ice.IcebergType]) -> Fields:
        """The table's columns after the write. `columns` are the rows'; ids inside of their types mean nothing."""
        taken: dict[str, str] = {}
        for name in columns:
            if name.lower() in taken:
                raise Failure(f'table {self.table}: two columns are called "{name}" (case makes no difference); give one another name')
            taken[name.lower()] = name
        fresh = tuple(ice.NestedField(field_id=0, name=n, field_type=t, required=False) for n, t in columns.items())
        if have is None:
            return self.numbered(fresh)
        merged = self.merge_fields(have, fresh, "")
        for f in merged:
            if f.required and field_named(fresh, f.name) is None:
                raise Failure(f'table {self.table} requires the column "{f.name}", which the rows do not have')
        return merged

    def numbered(self, fields: Fields) -> Fields:
        """Ids of this level first, then those inside, as other engines give them."""
        ids = [self.next_id() for _ in fields]
        return tuple(_with(f, field_id=i, field_type=self.renumber(f.field_type)) for f, i in zip(fields, ids))

    def renumber(self, kind: ice.IcebergType) -> ice.IcebergType:
        if isinstance(kind, ice.ListType):
            element_id = self.next_id()
            return ice.ListType(element_id=element_id, element=self.renumber(kind.element_type), element_required=kind.element_required)
        if isinstance(kind, ice.MapType):
            key_id, value_id = self.next_id(), self.next_id()
            return ice.MapType(
                key_id=key_id,
                key_type=self.renumber(kind.key_type),
                value_id=value_id,
                value_type=self.renumber(kind.value_type),
                value_required=kind.value_required,
            )
        if isinstance(kind, ice.StructType):
            return ice.StructType(*self.numbered(kind.fields))
        return kind

    def merge_fields(self, old: Fields, fresh: Fields, prefix: str) -> Fields:
        replace = self.mode == "replace"
        out = []
        # The order is the rows' when they replace everything, else that of the table.
        for f in fresh if replace else old:
            path = prefix + f.name
            other = field_named(old if replace else fresh, f.name)
            if other is None:
                out.append(self.added(f) if replace else f)
            else:
                kept, new = (other, f) if replace else (f, other)
                out.append(_with(kept, field_type=self.merge(kept.field_type, new.field_type, path)))
        for f in () if replace else fresh:
            if field_named(old, f.name):
                continue
            if self.evolution == "none":
                near = nearest((o.name for o in old), f.name)
                hint = f' (did you mean "{near}"?)' if near else ""
                raise Failure(
                    f'table {self.table} has no column "{prefix}{f.name}"{hint}; leave it out of the rows, '
                    "say schema_evolution: add_columns, or use mode: replace to change the table's schema"
                )
            out.append(self.added(f))
        return tuple(out)

    def added(self, f: ice.NestedField) -> ice.NestedField:
        field_id = self.next_id()
        return _with(f, field_id=field_id, field_type=self.renumber(f.field_type))

    def merge(self, old: ice.IcebergType, fresh: ice.IcebergType, path: str) -> ice.IcebergType:
        if _kind(old) != _kind(fresh):
            if self.mode == "replace":
                return self.renumber(fresh)
            raise Failure(
                f'table {self.table}: the column "{path}" is a {_kind(old)} in the table and a {_kind(fresh)} in the rows; '
                "use mode: replace to change the table's schema"
            )
        if isinstance(old, ice.ListType) and isinstance(fresh, ice.ListType):
            element = self.merge(old.element_type, fresh.element_type, path + ".element")
            return ice.ListType(element_id=old.element_id, element=element, element_required=old.element_required)
        if isinstance(old, ice.MapType) and isinstance(fresh, ice.MapType):
            return ice.MapType(
                key_id=old.key_id,
                key_type=self.merge(old.key_type, fresh.key_type, path + ".key"),
                value_id=old.value_id,
                value_type=self.merge(old.value_type, fresh.value_type, path + ".value"),
                value_required=old.value_required,
            )
        if isinstance(old, ice.StructType) and isinstance(fresh, ice.StructType):
            return ice.StructType(*self.merge_fields(old.fields, fresh.fields, path + "."))
        if self.mode == "replace" or (self.evolution == "widen" and _can_widen(old, fresh)):
            return fresh
        return old


def _with(f: ice.NestedField, **changes: Any) -> ice.NestedField:
    made: dict[str, Any] = {"field_id": f.field_id, "name": f.name, "field_type": f.field_type, "required": f.required, "doc": f.doc}
    made.update(changes)
    return ice.NestedField(**made)


def _kind(kind: ice.IcebergType) -> str:
    if isinstance(kind, ice.ListType):
        return "list"
    if isinstance(kind, ice.MapType):
        return "map"
    return "struct" if isinstance(kind, ice.StructType) else "scalar"


def _can_widen(old: ice.IcebergType, fresh: ice.IcebergType) -> bool:
    if isinstance(old, ice.IntegerType):
        return isinstance(fresh, ice.LongType)
    if isinstance(old, ice.FloatType):
        return isinstance(fresh, ice.DoubleType)
    return (
        isinstance(old, ice.DecimalType)
        and isinstance(fresh, ice.DecimalType)
        and fresh.precision > old.precision
        and fresh.scale == old.scale
    )


# ---- partitions and order ----

_TIMES: dict[str, tuple[type[Transform[Any, Any]], str]] = {
    "year": (YearTransform, "_year"),
    "month": (MonthTransform, "_month"),
    "day": (DayTransform, "_day"),
    "hour": (HourTransform, "_hour"),
}
_SIZED: dict[str, tuple[Any, str]] = {"bucket": (BucketTransform, "_bucket"), "truncate": (TruncateTransform, "_trunc")}
_CALL = re.compile(r"\s*([A-Za-z]+)\s*\(\s*(?:(\d+)\s*,\s*)?(\"[^\"]+\"|[^(),]+?)\s*\)(.*)", re.S)
_DIRECTION = re.compile(r"\s*(asc|desc)?\s*(?:nulls\s+(first|last))?\s*", re.I)


def _term(text: Any, key: str, table: str, fields: Fields, sort: bool) -> tuple[ice.NestedField, Transform[Any, Any], str, str]:
    """One entry of partition_by or sort_by: column, transform, suffix of the partition's name, and what stands behind."""

    def wrong(why: str) -> Failure:
        return Failure(f'{key} of table {table}: "{text}": {why}')

    if not isinstance(text, str):
        raise Failure(f"{key} of table {table}: {key} takes texts")
    transform: Transform[Any, Any] = IdentityTransform()
    suffix, column, rest, call = "", text.strip(), "", _CALL.fullmatch(text)
    if call:
        name, number, column, rest = call.group(1).lower(), call.group(2), call.group(3).strip('"'), call.group(4)
        name = name[:-1] if name.endswith("s") and name[:-1] in {**_TIMES, **_SIZED} else name
        if name in _TIMES and number is None:
            transform, suffix = _TIMES[name][0](), _TIMES[name][1]
        elif name in _SIZED:
            if not number or int(number) < 1:
                raise wrong(f"{name} needs a whole number from 1, then a column: {name}(16, id)")
            transform, suffix = _SIZED[name][0](int(number)), _SIZED[name][1]
        else:
            raise wrong(
                "is no column or transform: write a column's name, year(c), month(c), day(c), hour(c), bucket(N, c) or truncate(N, c)"
            )
    elif sort and field_named(fields, column) is None:
        column, _, rest = column.partition(" ")
    found = field_named(fields, column)
    if found is None:
        raise wrong(f'there is no column "{column}"; columns are: {", ".join(f.name for f in fields)}')
    if not transform.can_transform(found.field_type):
        what = str(transform).split("[")[0]
        raise wrong(f"{what} does not apply to the column's type {found.field_type}")
    return found, transform, suffix, rest


def spec_from(texts: list[Any], fields: Fields, table: str) -> list[PartitionField]:
    """The fields of partition_by, ids not given yet."""
    out: list[PartitionField] = []
    for text in texts:
        column, transform, suffix, rest = _term(text, "partition_by", table, fields, False)
        name = column.name + suffix
        if rest.strip():
            raise Failure(f'partition_by of table {table}: "{text}" is no column or transform')
        if any(p.name == name for p in out) or (suffix and any(f.name == name for f in fields)):
            raise Failure(f'partition_by of table {table}: "{text}": the partition field would be called {name}, and that name is taken')
        out.append(PartitionField(source_id=column.field_id, field_id=1000 + len(out), transform=transform, name=name))
    return out


def order_from(texts: list[Any], fields: Fields, table: str) -> list[SortField]:
    out = []
    for text in texts:
        column, transform, _, rest = _term(text, "sort_by", table, fields, True)
        match = _DIRECTION.fullmatch(rest)
        if match is None:
            raise Failure(f'sort_by of table {table}: "{text}": after the column may stand asc or desc, then nulls first or nulls last')
        desc = (match.group(1) or "asc").lower() == "desc"
        last = match.group(2).lower() == "last" if match.group(2) else desc
        out.append(
            SortField(
                source_id=column.field_id,
                transform=transform,
                direction=SortDirection.DESC if desc else SortDirection.ASC,
                null_order=NullOrder.NULLS_LAST if last else NullOrder.NULLS_FIRST,
            )
        )
    return out


def same_partitions(a: tuple[PartitionField, ...], b: list[PartitionField]) -> bool:
    return [(p.source_id, str(p.transform), p.name) for p in a] == [(p.source_id, str(p.transform), p.name) for p in b]


def same_order(a: list[SortField], b: list[SortField]) -> bool:
    return [(s.source_id, str(s.transform), s.direction, s.null_order) for s in a] == [
        (s.source_id, str(s.transform), s.direction, s.null_order) for s in b
    ]


__all__ = [
    "Fields",
    "PartitionSpec",
    "Planner",
    "Schema",
    "SortOrder",
    "field_named",
    "order_from",
    "same_order",
    "same_partitions",
    "spec_from",
]
