"""Appends keep the number of a table's manifests low, as its properties say, and change nothing else by it."""

import json
import pathlib
import sys

import pyarrow as pa
import pytest
from conftest import task_of, why
from lake_files import catalog_of, missing_and_spare, plain
from test_transactions import at_gate, gate

MANY = {"commit.manifest.min-count-to-merge": "4"}


def append(daemon, name, n, into="m.t", **keys):
    sql = f"SELECT {n} AS n, range % 2 AS p, 'x' || range AS s FROM range(6)"
    daemon.flow(name, json.dumps({"id": name, "tasks": [{"id": "a", "type": "curate", "into": into, "sql": sql, "partition_by": ["p"], "properties": MANY, **keys}]}))
    run = daemon.trigger(name)
    assert run["state"] == "success", why(run)
    return run


def table_of(daemon, name="m.t"):
    return catalog_of(daemon).load_table(name)


def test_appends_merge_old_manifests(daemon):
    for n in range(40):
        append(daemon, "more", n)
        if n in (2, 3, 17):
            table = table_of(daemon)
            assert sorted(table.scan().to_arrow()["n"].to_pylist()) == sorted([*range(n + 1)] * 6)
    table = table_of(daemon)
    summary = table.current_snapshot().summary
    assert summary.operation.value == "append" and summary["total-records"] == "240" and summary["total-data-files"] == "80"
    manifests = table.current_snapshot().manifests(table.io)
    assert len(manifests) <= 8 and sum((m.added_files_count or 0) + (m.existing_files_count or 0) for m in manifests) == 80
    merged = next(s for s in table.snapshots() if int(s.summary["manifests-created"] or 0))
    assert merged.summary["manifests-created"] == "1" and merged.summary["manifests-replaced"] == "4"
    # Whoever reads goes by what a manifest says: about partitions, about when a file came.
    assert table.scan("p = 1 AND n = 7").to_arrow().num_rows == 3 and {m.partitions[0].contains_null for m in manifests} == {False}
    entries = [e for m in manifests for e in m.fetch_manifest_entry(table.io)]
    order = {s.snapshot_id: s.sequence_number for s in table.snapshots()}
    assert all(e.sequence_number == order[e.snapshot_id] for e in entries)
    assert table.scan(snapshot_id=table.snapshots()[4].snapshot_id).to_arrow().num_rows == 30
    assert daemon.sql("SELECT count(*) AS n, sum(n)::INT AS s, count(*) FILTER (p = 0)::INT AS p FROM m.t") == [{"n": 240, "s": 6 * 780, "p": 120}]
    missing, spare = missing_and_spare(daemon)
    assert not missing and not spare


def test_deletes_are_merged_apart(daemon):
    """Merge-on-read: each upsert adds delete files, which count from the snapshot that brought them."""
    for n in range(12):
        append(daemon, "more", n, mode="upsert", key=["s"], properties={**MANY, "write.merge.mode": "merge-on-read"})
    table = table_of(daemon)
    manifests = table.current_snapshot().manifests(table.io)
    assert {m.content.name for m in manifests} == {"DATA", "DELETES"}
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [11] * 6
    assert daemon.sql("SELECT DISTINCT n FROM m.t") == [{"n": 11}]


def test_no_more_than_the_table_wants(daemon):
    for n in range(8):
        append(daemon, "more", n, properties={**MANY, "commit.manifest-merge.enabled": "false"})
    table = table_of(daemon)
    assert len(table.current_snapshot().manifests(table.io)) == 8


def test_a_damaged_manifest_stops_no_append(daemon):
    for n in range(4):
        append(daemon, "more", n)
    table = table_of(daemon)
    broken = pathlib.Path(plain(table.current_snapshot().manifests(table.io)[-1].manifest_path))
    whole = broken.read_bytes()
    broken.write_bytes(b"not avro")
    run = append(daemon, "more", 4)
    log = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/a/logs").text
    assert "warning: the manifests of table m.t cannot be merged" in log and broken.name in log
    broken.write_bytes(whole)
    table = table_of(daemon)
    assert table.scan().to_arrow().num_rows == 30 and len(table.current_snapshot().manifests(table.io)) == 5


def test_merged_and_put_on_top_of_others(daemon, folder):
    """A run's appends that merged others' manifests get another place: each row is there once."""
    for n in range(4):
        append(daemon, "more", n)
    sql = "SELECT {} AS n, 0::BIGINT AS p, 'own' AS s"
    tasks = [{"id": f"t{i}", "type": "curate", "into": "m.t", "sql": sql.format(100 + i), "depends_on": [f"t{i - 1}"] if i else []} for i in range(6)]
    daemon.flow("own", "id: own\ntasks:\n" + "".join(f"  - {json.dumps(t)}\n" for t in tasks) + gate(folder, after=["t5"]))
    run = at_gate(daemon, "own")
    append(daemon, "more", 50)
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success" and {len(t["attempts"]) for t in ended["tasks"]} == {1}, why(ended)
    table = table_of(daemon)
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == sorted([*range(4), 50] * 6) + [*range(100, 106)]
    assert table.current_snapshot().summary["total-records"] == "36"
    append(daemon, "more", 51)  # and merging goes on from there
    assert daemon.sql("SELECT count(*) AS n, count(DISTINCT (n, p, s)) AS d FROM m.t") == [{"n": 42, "d": 42}]


PROGRAM = """\
import os, pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
catalog = RestCatalog('local', uri=os.environ['SLUICE_CATALOG_URI'], token=os.environ['SLUICE_CATALOG_TOKEN'])
catalog.load_table('m.t').append(pa.table({'n': pa.array([7], pa.int64())}))
"""


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_program_that_merges_its_files_with_others(daemon, folder, attempts):
    """PyIceberg puts its new files into one manifest with old ones: such a run cannot be put on top of others, it is done again."""
    catalog = catalog_of(daemon)
    catalog.create_namespace("m")
    row = pa.table({"n": pa.array([1], pa.int64())})
    table = catalog.create_table("m.t", row.schema, properties={"commit.manifest-merge.enabled": "true", "commit.manifest.min-count-to-merge": "2"})
    table.append(row)
    table.append(row)
    script = folder / "append.py"
    script.write_text(PROGRAM)
    retry = json.dumps({"max_attempts": attempts, "interval": "0s"})
    daemon.flow("more", f"id: more\ntasks:\n  - {{id: a, type: command, command: [{sys.executable}, {script}], retry: {retry}}}\n" + gate(folder, after=["a"]))
    run = at_gate(daemon, "more")
    table.append(row)
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == ("success" if attempts > 1 else "failed") and len(task_of(ended, "a")["attempts"]) == attempts, why(ended)
    table.refresh()
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [1, 1, 1] + [7] * (attempts - 1)
