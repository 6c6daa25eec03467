"""Whatever one engine does to a table, through the catalog or beside it, all see the same rows, types and snapshots, and go on writing."""

import datetime
import decimal
import urllib.parse

import pytest

from conftest import NAMES, class_of
from harness import http

UTC = datetime.timezone.utc
COLUMNS = [("id", "bigint"), ("region", "string"), ("n", "int")]
ROWS = [(1, "eu", 10), (2, "eu", 20), (3, "us", 30), (4, "it's", None)]
MORE = [(5, "us", 50), (6, "ap", 60)]

WIDE = [
    ("id", "bigint"),
    ("name", "string"),
    ("small", "int"),
    ("ok", "boolean"),
    ("amount", "decimal(12,2)"),
    ("ratio", "double"),
    ("share", "float"),
    ("day", "date"),
    ("moment", "timestamp"),
    ("wall", "timestamp_ntz"),
    ("raw", "binary"),
    ("tags", "array<string>"),
    ("place", "struct<city:string,zip:int>"),
    ("counts", "map<string,int>"),
]
WIDE_ROWS = [
    (1, "Ñandú 数", 7, True, decimal.Decimal("1234567890.12"), 0.1, 0.5, datetime.date(2024, 2, 29), datetime.datetime(2024, 3, 31, 1, 30, 0, 123456, UTC),
     datetime.datetime(2024, 3, 31, 2, 30), b"\x00\xff", ["a", "b"], {"city": "Lugo", "zip": 27001}, {"x": 1, "y": 2}),
    (2, "", -7, False, decimal.Decimal("-0.01"), -1e300, -2.0, datetime.date(1969, 12, 31), datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
     datetime.datetime(1900, 1, 1), b"", [], {"city": None, "zip": 0}, {}),
    (3, *[None] * 13),
]


def everyone(*verbs):
    """All engines that have these verbs."""
    return pytest.mark.parametrize("engine", [n for n in NAMES if all(hasattr(class_of(n), v) for v in verbs)], indirect=True)


def make(engine, lake, hint, columns=COLUMNS, rows=ROWS, partition=None):
    table = lake.table(hint)
    engine.create(table, columns, partition)
    engine.append(table, columns, rows)
    return table


def other(engine, engines, seed, verb="append"):
    """Another engine, each time another one."""
    names = [n for n, e in engines.items() if n != engine.name and hasattr(e, verb)]
    return engines[names[sum(map(ord, engine.name + seed)) % len(names)]]


def go_on(engine, engines, agree, table, rows, columns=COLUMNS, seed=""):
    """Another engine writes on top."""
    row = [(99, *["zz" if k == "string" else 9 for _, k in columns[1:]])]
    other(engine, engines, table + seed).append(table, columns, row)
    return agree.on(table, rows + row, columns)


def metadata(lake, table):
    ns, name = table.split(".")
    answer = http("GET", f"{lake.rest}/v1/namespaces/{ns}/tables/{urllib.parse.quote(name)}", headers={"Authorization": f"Bearer {lake.token}"})
    assert answer.status == 200, answer
    return answer.json["metadata"]


def current(lake, table):
    return metadata(lake, table)["current-snapshot-id"]


@everyone()
def test_create_with_every_type(engine, engines, agree, lake):
    table = lake.table("wide")
    engine.create(table, WIDE)
    agree.on(table, [], WIDE)
    engine.append(table, WIDE, WIDE_ROWS)
    before = agree.on(table, WIDE_ROWS, WIDE)
    other(engine, engines, "wide").append(table, WIDE, WIDE_ROWS[:2])
    agree.on(table, WIDE_ROWS + WIDE_ROWS[:2], WIDE, snapshots=before + 1)


@everyone()
def test_append(engine, engines, agree, lake):
    table = make(engine, lake, "append")
    before = agree.on(table, ROWS, COLUMNS)
    engine.append(table, COLUMNS, MORE)
    assert agree.on(table, ROWS + MORE, COLUMNS) == before + 1
    assert go_on(engine, engines, agree, table, ROWS + MORE) == before + 2


@everyone()
def test_overwrite(engine, engines, agree, lake):
    table = make(engine, lake, "overwrite")
    engine.overwrite(table, COLUMNS, MORE)
    agree.on(table, MORE, COLUMNS)
    go_on(engine, engines, agree, table, MORE)


@everyone("overwrite_partitions")
def test_overwrite_partitions(engine, engines, agree, lake):
    table = make(engine, lake, "parts", partition=["region"])
    agree.on(table, ROWS, COLUMNS)
    new = [(7, "eu", 70), (8, "ap", 80)]
    engine.overwrite_partitions(table, COLUMNS, new, "region")
    want = [r for r in ROWS if r[1] != "eu"] + new
    agree.on(table, want, COLUMNS)
    go_on(engine, engines, agree, table, want)


@everyone()
def test_partition_transforms(engine, engines, agree, lake):
    """A value that falls into another partition for one engine than for another would not be found by its filter."""
    columns = [("id", "bigint"), ("name", "string"), ("day", "date"), ("moment", "timestamp")]
    moments = [datetime.datetime(y, 2, 28, 23, 59, 59, 999999, UTC) for y in (1968, 1969, 1970, 2024)]
    texts = ["ñandú", "", "數據庫", "a"]
    rows = [(i * 7_000_000_007 - 5, texts[i % 4], moments[i % 4].date(), moments[(i + 1) % 4]) for i in range(8)] + [(0, None, None, None)]
    table = make(engine, lake, "transforms", columns, rows, ["bucket(4, id)", "truncate(2, name)", "month(day)", "hour(moment)"])
    other(engine, engines, table).append(table, columns, [(100, "ñan", moments[0].date(), moments[1])])
    rows.append((100, "ñan", moments[0].date(), moments[1]))
    agree.on(table, rows, columns)
    for at, value in ((0, rows[3][0]), (0, 0), (1, "ñandú"), (1, ""), (2, rows[0][2]), (3, rows[0][3])):
        want = sorted(r[0] for r in rows if r[at] == value)
        seen = agree.ask(lambda e: e.ids_where(table, *columns[at], value))
        assert all(ids == want for ids in seen.values()), f"{columns[at][0]} = {value!r}: wanted {want}, {seen}"


@everyone("upsert")
def test_upsert_and_delete(engine, engines, agree, lake):
    table = make(engine, lake, "upsert")
    engine.upsert(table, COLUMNS, [(2, "eu", 21), (7, "eu", 70)], "id")
    want = [r for r in ROWS if r[0] != 2] + [(2, "eu", 21), (7, "eu", 70)]
    agree.on(table, want, COLUMNS)
    (engine if hasattr(engine, "delete") else other(engine, engines, table, "delete")).delete(table, "id", [1, 7])
    want = [r for r in want if r[0] not in (1, 7)]
    agree.on(table, want, COLUMNS)
    # And what another one deletes of it.
    other(engine, engines, table + "x", "delete").delete(table, "id", [2])
    want = [r for r in want if r[0] != 2]
    agree.on(table, want, COLUMNS)
    go_on(engine, engines, agree, table, want)


@everyone("add_column")
def test_schema_change(engine, engines, agree, lake):
    table = make(engine, lake, "schema")
    engine.add_column(table, "note", "string")
    added = [*COLUMNS, ("note", "string")]
    agree.on(table, [(*r, None) for r in ROWS], added)
    engine.rename_column(table, "region", "area")
    renamed = [("id", "bigint"), ("area", "string"), ("n", "int"), ("note", "string")]
    rows = [(*r, None) for r in ROWS] + [(5, "us", 50, "x")]
    engine.append(table, renamed, rows[-1:])
    agree.on(table, rows, renamed)
    engine.drop_column(table, "note")
    engine.add_column(table, "note", "string")  # another column, with no values
    rows = [(*r[:3], None) for r in rows]
    agree.on(table, rows, renamed)
    go_on(engine, engines, agree, table, rows, renamed)


@pytest.mark.parametrize("engine", [n for n in NAMES if hasattr(class_of(n), "upsert") and not n.startswith("pyiceberg")], indirect=True)
def test_upsert_right_after_a_schema_change(engine, agree, engines, lake):
    """The newest snapshot has the old columns still. (PyIceberg's upsert compares with those, and refuses.)"""
    table = make(engine, lake, "renamed")
    engines["pyiceberg-rest"].rename_column(table, "n", "m")
    engines["pyiceberg-rest"].add_column(table, "note", "string")
    columns = [*COLUMNS[:2], ("m", "int"), ("note", "string")]
    engine.upsert(table, columns, [(2, "eu", 21, "x"), (9, "us", None, None)], "id")
    agree.on(table, [(*r, None) for r in ROWS if r[0] != 2] + [(2, "eu", 21, "x"), (9, "us", None, None)], columns)


@everyone("widen")
def test_widen(engine, engines, agree, lake):
    table = make(engine, lake, "widen")
    engine.widen(table, "n")
    wide = [("id", "bigint"), ("region", "string"), ("n", "bigint")]
    agree.on(table, ROWS, wide)
    go_on(engine, engines, agree, table, ROWS, wide)


@everyone("partition_by_bucket")
def test_partition_change(engine, engines, agree, lake):
    table = make(engine, lake, "spec")
    engine.partition_by_bucket(table, "id", 4)
    agree.on(table, ROWS, COLUMNS)
    engine.append(table, COLUMNS, MORE)
    agree.on(table, ROWS + MORE, COLUMNS)
    md = metadata(lake, table)
    (spec,) = [s for s in md["partition-specs"] if s["spec-id"] == md["default-spec-id"]]
    assert [(f["source-id"], f["transform"]) for f in spec["fields"]] == [(1, "bucket[4]")] and len(md["partition-specs"]) == 2
    go_on(engine, engines, agree, table, ROWS + MORE)


@everyone()
def test_time_travel(engine, engines, agree, lake):
    table = make(engine, lake, "travel")
    first = current(lake, table)
    engine.append(table, COLUMNS, MORE)
    second = current(lake, table)
    engines["pyiceberg-rest"].add_column(table, "note", "string")
    for snapshot, rows in ((first, ROWS), (second, ROWS + MORE)):
        agree.same(agree.ask(lambda e: e.state_at(table, snapshot)), rows, COLUMNS)


@everyone("tag")
def test_tag(engine, engines, agree, lake):
    table = make(engine, lake, "tag")
    first = current(lake, table)
    engine.tag(table, "good", first)
    engine.append(table, COLUMNS, MORE)
    assert metadata(lake, table)["refs"]["good"] == {"snapshot-id": first, "type": "tag"}
    agree.same(agree.ask(lambda e: e.state_of_tag(table, "good"), [n for n in engines if hasattr(engines[n], "state_of_tag")]), ROWS, COLUMNS)
    agree.on(table, ROWS + MORE, COLUMNS)


@everyone("rollback")
def test_rollback(engine, engines, agree, lake):
    table = make(engine, lake, "back")
    first = current(lake, table)
    engine.append(table, COLUMNS, MORE)
    before = agree.on(table, ROWS + MORE, COLUMNS)
    engine.rollback(table, first)
    agree.on(table, ROWS, COLUMNS, snapshots=before)  # the one rolled back is still there
    assert current(lake, table) == first
    assert go_on(engine, engines, agree, table, ROWS) == before + 1


@everyone("replace")
def test_after_a_replace(engine, engines, agree, lake):
    """The history is kept, the schema is another one."""
    table = make(engine, lake, "replace")
    first, before = current(lake, table), agree.on(table, ROWS, COLUMNS)
    columns, rows = [("id", "bigint"), ("city", "string")], [(1, "Lugo"), (2, "Soria")]
    engine.replace(table, columns, rows)
    assert agree.on(table, rows, columns) == before + 1
    agree.same(agree.ask(lambda e: e.state_at(table, first)), ROWS, COLUMNS)
    assert go_on(engine, engines, agree, table, rows, columns) == before + 2
