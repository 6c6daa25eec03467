"""Random operations by random engines, and maintenance between them, against a table in Python's memory; all engines are asked after each.

SLUICE_INTEROP_SEED repeats a run; SLUICE_INTEROP_STEPS makes it longer: that many operations, however long they take.
"""

import os
import random
import time

import pytest

from engines import DuckDB, PyIceberg
from test_matrix import metadata
from test_upkeep import age, folder, maintain

SEED = int(os.environ.get("SLUICE_INTEROP_SEED", "5"))
STEPS = int(os.environ.get("SLUICE_INTEROP_STEPS", "60"))
SECONDS = float(os.environ.get("SLUICE_INTEROP_SECONDS", "inf" if "SLUICE_INTEROP_STEPS" in os.environ else "60"))
A_TABLE = 60  # operations; then another one, partitioned or not
WORDS = ["", "eu", "us", "it's", "Ñ 数", None]


class Model:
    """The table as it ought to be. A row is a map from a column's number, which is never used again, to its value."""

    def __init__(self):
        self.columns = {0: ("id", "bigint"), 1: ("region", "string"), 2: ("n", "int")}
        self.rows, self.next_column, self.next_id = [], 3, 1
        self.past, self.tags = {}, {}  # snapshot: (columns, rows); tag: snapshot

    def shown(self, columns=None, rows=None):
        """Columns and rows as engines tell them."""
        columns, rows = columns or self.columns, self.rows if rows is None else rows
        return list(columns.values()), [tuple(r.get(c) for c in columns) for r in rows]

    def fresh(self, rng, id=None):
        if id is None:
            id, self.next_id = self.next_id, self.next_id + 1
        return {0: id, **{c: rng.choice(WORDS) if kind == "string" else rng.choice([None, rng.randint(-9, 9)]) for c, (_, kind) in self.columns.items() if c}}

    def some(self, rng, most=4):
        return [self.fresh(rng) for _ in range(rng.randint(1, most))]


# ---- operations: each does the same to the model and to the table; None: there is nothing to do it to ----


def append(m, e, t, rng):
    rows = m.some(rng)
    e.append(t, *m.shown(rows=rows))
    m.rows = m.rows + rows


def overwrite(m, e, t, rng):
    rows = m.some(rng, 6)
    e.overwrite(t, *m.shown(rows=rows))
    m.rows = rows


def upsert(m, e, t, rng):
    old = rng.sample([r[0] for r in m.rows], min(len(m.rows), 2))
    rows = [m.fresh(rng, id) for id in old] + m.some(rng, 2)
    e.upsert(t, *m.shown(rows=rows), "id")
    m.rows = [r for r in m.rows if r[0] not in old] + rows


def delete(m, e, t, rng):
    if not m.rows:
        return None
    gone = rng.sample([r[0] for r in m.rows], rng.randint(1, min(3, len(m.rows))))
    e.delete(t, "id", gone)
    m.rows = [r for r in m.rows if r[0] not in gone]


def add_column(m, e, t, rng):
    number, m.next_column = m.next_column, m.next_column + 1
    column = (f"c{number}", rng.choice(["string", "int"]))
    e.add_column(t, *column)
    m.columns = {**m.columns, number: column}


def rename_column(m, e, t, rng):
    number = rng.choice([c for c in m.columns if c])
    name, kind = m.columns[number]
    new = f"{name.split('_')[0]}_{m.next_column}"
    m.next_column += 1
    e.rename_column(t, name, new)
    m.columns = {**m.columns, number: (new, kind)}


def drop_column(m, e, t, rng):
    if len(m.columns) < 3:
        return None
    number = rng.choice([c for c in m.columns if c])
    e.drop_column(t, m.columns[number][0])
    m.columns = {c: v for c, v in m.columns.items() if c != number}


def widen(m, e, t, rng):
    ints = [c for c, (_, kind) in m.columns.items() if kind == "int"]
    if not ints:
        return None
    number = rng.choice(ints)
    e.widen(t, m.columns[number][0])
    m.columns = {**m.columns, number: (m.columns[number][0], "bigint")}


def replace(m, e, t, rng):
    rows = m.some(rng)
    e.replace(t, *m.shown(rows=rows))
    m.rows = rows


def rollback(m, e, t, rng):
    ancestors = m.ancestors & m.past.keys()
    if not ancestors:
        return None
    snapshot = rng.choice(sorted(ancestors))
    e.rollback(t, snapshot)
    m.rows = m.past[snapshot][1]  # the schema stays as it is


def tag(m, e, t, rng):
    if not m.past:
        return None
    name, snapshot = f"tag{len(m.tags)}", rng.choice(sorted(m.past))
    e.tag(t, name, snapshot)
    m.tags[name] = snapshot


# ---- maintenance, which changes no row; by `sluice maintain`, as a person would ----


class Upkeep:
    """Sluice, again; what it does here needs the table alone."""

    name = "upkeep"

    def __init__(self, lake):
        self.lake = lake

    def tell(self, table, *args):
        self.lake.daemon.cli("maintain", table, *args, "--quiet")


def compact(m, e, t, rng):
    maintain(e.lake, t, compact={"min_input_files": 2})


def manifests(m, e, t, rng):
    e.tell(t, "--manifests")


def expire(m, e, t, rng):
    e.tell(t, "--expire", "--older-than", "0s", "--keep-last", str(rng.randint(1, 3)))
    left = {s["snapshot-id"] for s in metadata(e.lake, t)["snapshots"]}
    assert {m.current, *m.tags.values()} - {None, -1} <= left
    m.past = {i: seen for i, seen in m.past.items() if i in left}


def orphans(m, e, t, rng):
    stray = folder(e.lake, t) / "data" / f"{m.next_id}.parquet"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    age(e.lake, t)
    e.tell(t, "--orphans")
    assert not stray.exists()


def everything(m, e, t, rng):
    e.tell(t)


UPKEEP = {compact: 2, manifests: 1, expire: 1, orphans: 1, everything: 1}
OPERATIONS = {**UPKEEP, append: 6, overwrite: 2, upsert: 4, delete: 4, add_column: 1, rename_column: 1, drop_column: 1, widen: 1, replace: 1, rollback: 2, tag: 1}


def look(m, lake, table):
    """What the table's metadata says of now: its snapshot is remembered with what it must hold."""
    md = metadata(lake, table)
    current = m.current = md.get("current-snapshot-id")
    m.newest_schema = md["current-schema-id"] == max(s["schema-id"] for s in md["schemas"])
    parents = {s["snapshot-id"]: s.get("parent-snapshot-id") for s in md["snapshots"]}
    m.ancestors, at = set(), parents.get(current)
    while at is not None:
        m.ancestors.add(at)
        at = parents.get(at)
    if current not in (None, -1) and current not in m.past:
        m.past[current] = (m.columns, m.rows)


def able(e, operation, m):
    if operation in UPKEEP or isinstance(e, Upkeep):
        return operation in UPKEEP and isinstance(e, Upkeep)
    # PyIceberg's upsert compares the new rows with the columns of the last snapshot, not with those of the table.
    if operation is upsert and isinstance(e, PyIceberg) and m.current in m.past and m.past[m.current][0] != m.columns:
        return False
    # DuckDB gives a new schema the number after the current one's, also where a column was dropped and an older schema is in force again.
    if operation in (add_column, rename_column, drop_column) and isinstance(e, DuckDB) and not m.newest_schema:
        return False
    return hasattr(e, operation.__name__)


def everybody_agrees(m, agree, table, rng):
    columns, rows = m.shown()
    agree.on(table, rows, columns)
    who = rng.choice(list(agree.engines))
    if m.past:
        snapshot = rng.choice(sorted(m.past))
        columns, rows = m.shown(*m.past[snapshot])
        agree.same(agree.ask(lambda e: e.state_at(table, snapshot), [who]), rows, columns)
    if m.tags and hasattr(agree.engines[who], "state_of_tag"):
        name = rng.choice(sorted(m.tags))
        columns, rows = m.shown(*m.past[m.tags[name]])
        agree.same(agree.ask(lambda e: e.state_of_tag(table, name), [who]), rows, columns)


@pytest.mark.timeout(600 + 10 * STEPS)
def test_random_operations(engines, agree, lake):
    rng, m, told = random.Random(SEED), None, []
    everyone = [*engines.values(), Upkeep(lake)]
    deadline, done = time.monotonic() + SECONDS, 0
    while done < STEPS and time.monotonic() < deadline:
        if done % A_TABLE == 0:
            m, table, partition = Model(), lake.table("model"), rng.choice([None, ["bucket(4, id)"]])
            creator = rng.choice(list(engines.values()))
            creator.create(table, m.shown()[0], partition)
            told = []
        operation = rng.choices(list(OPERATIONS), OPERATIONS.values())[0]
        look(m, lake, table)
        engine = rng.choice([e for e in everyone if able(e, operation, m)])
        told.append(f"{engine.name} {operation.__name__}")
        try:
            operation(m, engine, table, rng)
            look(m, lake, table)
            everybody_agrees(m, agree, table, rng)
        except BaseException as e:
            e.add_note(f"seed {SEED}, operation {done} of a table made by {creator.name}, partitioned by {partition}, after:\n  " + "\n  ".join(told))
            raise
        done += 1
    print(f"seed {SEED}: {done} operations")
