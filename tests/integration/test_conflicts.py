"""Two runs that write one table at the same time: in the end the rows are those of one after the other, and never of both at once."""

import itertools
import json

import pytest
from conftest import task_of, wait_until, why

BASE = [("a", 1, 0), ("b", 2, 0), ("c", 3, 0)]  # p, id, v
FIRST, SECOND = [("a", 1, 10), ("b", 7, 10)], [("b", 8, 20), ("c", 3, 20)]


class Place:
    """One daemon for all; a test has flows and a namespace that nobody else has."""

    def __init__(self, daemon, number):
        self.daemon, self.ns = daemon, f"x{number}"

    def id(self, name):
        return f"{name}_{self.ns}"

    def flow(self, name, tasks, **more):
        self.daemon.flow(self.id(name), json.dumps({"id": self.id(name), "tasks": tasks, **more}))

    def go(self, name):
        """Opens the gate of a flow."""
        (self.daemon.home.parent / self.id(name)).touch()

    def start(self, name):
        return self.daemon.post(f"/api/v1/flows/{self.id(name)}/runs")["id"]

    def rows(self):
        return sorted((r["p"], r["id"], r["v"]) for r in self.daemon.sql(f"SELECT * FROM {self.ns}.t"))


numbers = itertools.count()


@pytest.fixture
def place(shared):
    return Place(shared, next(numbers))


def append(rows, new):
    return rows + new


def overwrite(rows, new):
    return new


def overwrite_partitions(rows, new):
    return [r for r in rows if r[0] not in {n[0] for n in new}] + new


def upsert(rows, new):
    return [r for r in rows if r[1] not in {n[1] for n in new}] + new


replace = overwrite


def values(rows):
    return ", ".join(f"('{p}', {i}::BIGINT, {v}::BIGINT)" for p, i, v in rows)


def writer(place, name, mode, rows, how="copy-on-write", attempts=3, **more):
    """A flow that writes, looks at what it wrote, waits at its gate and counts the rows."""
    write = {"id": "write", "type": "curate", "into": f"{place.ns}.t", "mode": mode, "sql": f"SELECT * FROM (VALUES {values(rows)}) t(p, id, v)"}
    write |= {"partition_by": ["p"], "properties": {"write.merge.mode": how}, "retry": {"max_attempts": attempts, "interval": "10ms"}}
    write |= {"key": ["id"]} if mode == "upsert" else {}
    checks = [{"row_count": {"min": 1}}] if mode == "append" else [{"unique": ["id"]}]
    gate = place.daemon.home.parent / place.id(name)
    count = {"type": "curate", "into": f"{place.ns}.{name}", "mode": "overwrite", "sql": f"SELECT count(*) AS n FROM {place.ns}.t"}
    place.flow(
        name,
        [
            write,
            {"id": "check", "type": "validate", "depends_on": ["write"], "table": f"{place.ns}.t", "checks": checks},
            {"id": "gate", "type": "command", "depends_on": ["check"], "command": f"until [ -e {gate} ]; do sleep 0.02; done"},
            {"id": "count", "depends_on": ["gate"], **count},
        ],
        **more,
    )


def at_gate(place, name):
    run = place.start(name)

    def there():
        now = place.daemon.run(run)
        assert now["state"] in ("queued", "running"), why(now)
        return task_of(now, "gate")["state"] == "running"

    wait_until(there, "the gate")
    return run


def make(place, how):
    sql = f"SELECT * FROM (VALUES {values(BASE)}) t(p, id, v)"
    task = {"id": "t", "type": "curate", "into": f"{place.ns}.t", "partition_by": ["p"], "properties": {"write.merge.mode": how}, "sql": sql}
    place.flow("make", [task])
    ended(place, place.start("make"))


def ended(place, run):
    run = place.daemon.ended(run)
    assert run["state"] == "success", why(run)
    return run


CASES = {
    "partitions-disjoint": (overwrite_partitions, [("a", 10, 1)], overwrite_partitions, [("b", 20, 2)]),
    "partitions-same": (overwrite_partitions, [("a", 10, 1), ("b", 11, 1)], overwrite_partitions, [("b", 20, 2)]),
    "partitions-new": (overwrite_partitions, [("z", 10, 1)], overwrite_partitions, [("z", 20, 2)]),
    "partitions-append": (overwrite_partitions, [("a", 10, 1)], append, [("a", 20, 2)]),
    "upsert-same-keys": (upsert, [("a", 1, 10)], upsert, [("a", 1, 20), ("b", 2, 20)]),
    "upsert-new-keys": (upsert, [("a", 50, 10)], upsert, [("a", 50, 20)]),
    "upsert-moves-key": (upsert, [("b", 1, 10)], upsert, [("c", 1, 20)]),
    "upsert-disjoint": (upsert, FIRST, upsert, SECOND),
    "upsert-append": (upsert, [("a", 60, 10)], append, [("a", 60, 20)]),
    "overwrite": (overwrite, FIRST, overwrite, SECOND),
    "replace": (replace, FIRST, replace, SECOND),
    "replace-append": (replace, FIRST, append, SECOND),
    "append-overwrite": (append, FIRST, overwrite, SECOND),
    "append-append": (append, FIRST, append, SECOND),
}


def mode_of(case, side):
    operation = CASES[case][0 if side == "held" else 2]
    return "replace" if case.startswith("replace") and operation is overwrite else operation.__name__


PAIRS = [(case, how) for case, (held, _, other, _) in CASES.items() for how in ("copy-on-write", "merge-on-read") if how[0] == "c" or upsert in (held, other)]


@pytest.mark.parametrize("case, how", PAIRS)
def test_another_run_was_first(place, case, how):
    """The held run wrote first, and the other one is visible first: the held one comes after it, redone or put on top."""
    held, rows, other, others = CASES[case]
    make(place, how)
    writer(place, "held", mode_of(case, "held"), rows, how)
    writer(place, "other", mode_of(case, "other"), others, how)
    place.go("other")
    run = at_gate(place, "held")
    assert place.rows() == sorted(BASE)
    ended(place, place.start("other"))
    assert place.rows() == sorted(other(BASE, others))
    place.go("held")
    done = ended(place, run)
    want = held(other(BASE, others), rows)
    assert place.rows() == sorted(want)
    # What came after the write saw the very state that became visible: it ran again where the write did.
    tries = {t["id"]: len(t["attempts"]) for t in done["tasks"]}
    assert set(tries.values()) == {1 if held is append else 2}, tries
    if held is not append:
        assert place.daemon.sql(f"SELECT n FROM {place.ns}.held") == [{"n": len(want)}]
        assert [a["cause"] for a in task_of(done, "write")["attempts"]] == ["conflict", "exit"]


@pytest.mark.parametrize("case", CASES)
def test_both_at_once(place, case):
    """Both wait, both go: either order will do."""
    first, rows, second, others = CASES[case]
    make(place, "copy-on-write")
    writer(place, "held", mode_of(case, "held"), rows)
    writer(place, "other", mode_of(case, "other"), others)
    runs = [at_gate(place, "held"), at_gate(place, "other")]
    place.go("held")
    place.go("other")
    for run in runs:
        ended(place, run)
    assert place.rows() in (sorted(second(first(BASE, rows), others)), sorted(first(second(BASE, others), rows)))


@pytest.mark.parametrize("case", ["partitions-same", "upsert-new-keys", "replace"])
def test_without_another_attempt(place, case):
    """A run that may not try again fails, names the table, and leaves the other's rows."""
    held, rows, other, others = CASES[case]
    make(place, "copy-on-write")
    writer(place, "held", mode_of(case, "held"), rows, attempts=1)
    writer(place, "other", mode_of(case, "other"), others)
    place.go("other")
    run = at_gate(place, "held")
    ended(place, place.start("other"))
    place.go("held")
    lost = place.daemon.ended(run)
    assert lost["state"] == "failed" and f"another writer changed {place.ns}.t" in lost["error"]
    assert place.rows() == sorted(other(BASE, others))


@pytest.mark.parametrize("case", ["partitions-same", "upsert-new-keys", "upsert-disjoint", "replace-append"])
def test_tasks_that_are_transactions(place, case):
    """With isolation by task both write at the same time and find each other at their commits."""
    first, rows, second, others = CASES[case]
    make(place, "copy-on-write")
    writer(place, "held", mode_of(case, "held"), rows, isolation="task")
    writer(place, "other", mode_of(case, "other"), others, isolation="task")
    place.go("held")
    place.go("other")
    for run in [place.start("held"), place.start("other")]:
        ended(place, run)
    assert place.rows() in (sorted(second(first(BASE, rows), others)), sorted(first(second(BASE, others), rows)))
