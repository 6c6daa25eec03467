"""Maintenance changes no row, removes no file that anybody needs, gives way to writers, and is done once."""

import json
import os
import pathlib
import threading

import pyarrow as pa
import pytest
from conftest import task_of, wait_until, why
from lake_files import catalog_of, missing_and_spare, plain, tables
from test_transactions import at_gate, gate

GROW = """\
id: grow
concurrency: {max_active_runs: 1}
params: {n: 0}
tasks:
  - {id: plain, type: curate, into: m.plain, sql: "SELECT ${params.n} * 1000 + range AS n, 'x' || range AS s FROM range(1000)"}
  - {id: parts, type: curate, into: m.parts, partition_by: [p, "bucket(4, n)"], sql: "SELECT range % 3 AS p, ${params.n} * 100 + range AS n, NULL::DATE AS d FROM range(100)"}
  - {id: merged, type: curate, into: m.merged, mode: upsert, key: [n], partition_by: [p], properties: {write.merge.mode: merge-on-read}, sql: "SELECT range % 2 AS p, range AS n, ${params.n} AS x FROM range(20)"}
  - {id: sorted, type: curate, into: m.sorted, sort_by: [n], sql: "SELECT 100 - range AS n, ${params.n} AS x FROM range(100)"}
"""
NAMES = ["m.merged", "m.parts", "m.plain", "m.sorted"]


def maintain(daemon, expect="success", **keys):
    daemon.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "*", **keys}]}))
    run = daemon.trigger("keep")
    assert run["state"] == expect, why(run)
    return report_of(daemon, run)


def report_of(daemon, run):
    return daemon.get(f"/api/v1/runs/{run['id']}/tasks/keep/artifacts/maintenance.json")


def steps_of(report, table):
    item = next(i for i in report["items"] if i["table"] == table)
    return {s["step"]: s for s in item["steps"]}


def rows(daemon, names=NAMES):
    """What an independent reader sees."""
    catalog = catalog_of(daemon)
    out = {}
    for name in names:
        t = catalog.load_table(name).scan().to_arrow()
        out[name] = sorted(map(str, t.to_pylist()))
    return out


def grow(daemon, times=6):
    daemon.flow("grow", GROW)
    for n in range(times):
        run = daemon.trigger("grow", params={"n": n})
        assert run["state"] == "success", why(run)


@pytest.fixture
def grown(daemon):
    grow(daemon)
    return daemon


def age(daemon, days=10):
    """Every file of the warehouse is as old as that, but for the tables' own metadata, by which their store's clock is told."""
    for path in (pathlib.Path(daemon.home) / "warehouse").rglob("*"):
        if path.is_file() and path != max(path.parent.glob("*.metadata.json"), default=None):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - days * 86400))


def test_compaction_changes_no_row(grown):
    before = rows(grown)
    report = maintain(grown, compact={})
    assert rows(grown) == before
    assert report["changed"] == 4 and report["failed"] == 0, report
    catalog = catalog_of(grown)
    for name in NAMES:
        table = catalog.load_table(name)
        assert table.current_snapshot().summary.operation.value == "replace"
        files = table.inspect.files().to_pylist()
        parts = {str(f["partition"]) for f in files}
        assert len(files) == len(parts) and all(f["content"] == 0 for f in files), name
        assert grown.sql(f"SELECT count(*) AS n FROM {name}") == [{"n": len(before[name])}]
    merged = steps_of(report, "m.merged")["compact"]
    assert merged["delete_files"] > 0 and merged["new_files"] == 2 and merged["commits"] == 1
    # What it wrote is what any write would have made: bounds, order, folders.
    assert [f["sort_order_id"] for f in catalog.load_table("m.sorted").inspect.files().to_pylist()] == [1]
    values = grown.sql("SELECT n FROM m.sorted")
    assert [v["n"] for v in values] == sorted(v["n"] for v in values)
    assert all("/p=" in f["file_path"] for f in catalog.load_table("m.parts").inspect.files().to_pylist())
    again = maintain(grown, compact={})
    assert again["changed"] == 0 and all(s["state"] == "nothing" for i in again["items"] for s in i["steps"])


def test_full_maintenance_leaves_what_is_needed_and_nothing_else(make_daemon):
    daemon = make_daemon(config="housekeeping: {expire_days: 0}\n")
    grow(daemon)
    before = rows(daemon)
    report = maintain(daemon)
    assert rows(daemon) == before and report["failed"] == 0
    missing, spare = missing_and_spare(daemon)
    assert not missing and not spare, (missing, spare)
    for table in tables(daemon):
        assert len(table.metadata.snapshots) == 1
    assert report["snapshots_expired"] > 0 and report["bytes_reclaimed"] > 0
    after = {i["table"]: i["score"] for i in daemon.get("/api/v1/tables/health?match=m.*")["items"]}
    assert after == dict.fromkeys(NAMES, 100)
    assert maintain(daemon)["changed"] == 0


def test_what_is_kept(grown):
    catalog = catalog_of(grown)
    table = catalog.load_table("m.plain")
    ids = [s.snapshot_id for s in sorted(table.metadata.snapshots, key=lambda s: s.sequence_number)]
    table.manage_snapshots().create_tag(ids[1], "release").commit()
    report = maintain(grown, tables="m.plain", expire_snapshots={"older_than": "0s", "keep_last": 2})
    left = {s.snapshot_id for s in catalog.load_table("m.plain").metadata.snapshots}
    assert left == {ids[1], *ids[-2:]}
    assert steps_of(report, "m.plain")["expire_snapshots"]["snapshots"] == 3
    assert catalog.load_table("m.plain").scan(snapshot_id=ids[1]).to_arrow().num_rows == 2000
    days = {s.timestamp_ms // 86_400_000 for s in catalog.load_table("m.parts").metadata.snapshots}
    maintain(grown, tables="m.parts", expire_snapshots={"older_than": "0s", "keep": {"daily": 3}})
    assert len(catalog.load_table("m.parts").metadata.snapshots) == len(days)  # one of each day
    missing, _ = missing_and_spare(grown)
    assert not missing


def test_policies(make_daemon):
    daemon = make_daemon(config="housekeeping: {expire_days: 30, tables: {m.pl*: {expire_days: 0}, local.m.parts: {expire_days: 0, keep_last: 3}}}\n")
    grow(daemon)
    maintain(daemon, expire_snapshots={})
    assert {t.name()[-1]: len(t.metadata.snapshots) for t in tables(daemon)} == {"plain": 1, "parts": 3, "merged": 6, "sorted": 6}


def test_orphans(grown):
    folder = pathlib.Path(grown.home) / "warehouse/m/plain"
    spare = [folder / "data/lost.parquet", folder / "metadata/lost-m0.avro", folder / "data/deep/er/x.parquet"]
    beside = folder.parent / "beside.parquet"
    for path in [*spare, beside]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    age(grown)
    young = folder / "data/young.parquet"
    young.write_bytes(b"y")
    before = rows(grown)
    dry = maintain(grown, dry_run=True)
    assert dry["orphans"] == 3 and dry["bytes_reclaimed"] == 30 and all(p.exists() for p in spare)
    half = maintain(grown, remove_orphan_files={"dry_run": True})
    assert half["orphans"] == 3 and all(p.exists() for p in spare)
    report = maintain(grown, remove_orphan_files={})
    assert report["orphans"] == 3 and report["bytes_reclaimed"] == 30
    assert not any(p.exists() for p in spare) and young.exists() and beside.exists()
    assert rows(grown) == before and not missing_and_spare(grown)[0]


def test_orphans_where_the_clock_of_the_store_is_behind(grown):
    """Files that were written a moment ago look four days old there."""
    lost = pathlib.Path(grown.home) / "warehouse/m/plain/data/lost.parquet"
    lost.write_bytes(b"x")
    for path in lost.parents[1].rglob("*"):
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 4 * 86400))
    step = steps_of(maintain(grown, tables="m.plain", remove_orphan_files={}), "m.plain")["remove_orphan_files"]
    assert lost.exists() and abs(step["clock_behind_s"] - 4 * 86400) < 60
    os.utime(lost, (lost.stat().st_atime, lost.stat().st_mtime - 4 * 86400))
    assert maintain(grown, tables="m.plain", remove_orphan_files={})["orphans"] == 1 and not lost.exists()


def test_a_folder_of_two_tables(grown):
    """A table that is registered again shares its files: what is whose nobody can tell."""
    catalog = catalog_of(grown)
    catalog.register_table("m.twin", catalog.load_table("m.plain").metadata_location)
    (pathlib.Path(grown.home) / "warehouse/m/plain/data/lost.parquet").write_bytes(b"x")
    age(grown)
    before = rows(grown, [*NAMES, "m.twin"])
    report = maintain(grown, tables=["m.plain", "m.twin"], compact={}, expire_snapshots={"older_than": "0s"}, remove_orphan_files={})
    for name, other in (("m.plain", "m.twin"), ("m.twin", "m.plain")):
        step = steps_of(report, name)["remove_orphan_files"]
        assert step["state"] == "skipped" and other in step["why"]
    assert rows(grown, [*NAMES, "m.twin"]) == before and not missing_and_spare(grown)[0]


def test_manifests(grown):
    grow(grown, 6)
    before = rows(grown)
    report = maintain(grown, rewrite_manifests="auto")
    assert rows(grown) == before
    for name in NAMES:
        step = steps_of(report, name)["rewrite_manifests"]
        table = catalog_of(grown).load_table(name)
        if step["state"] == "done":
            assert step["merged"] >= 10 and len(table.inspect.manifests()) <= 2, (name, step)
            assert table.current_snapshot().summary["manifests-created"] == str(len(table.inspect.manifests()))
    assert steps_of(report, "m.plain")["rewrite_manifests"]["state"] == "done"
    assert maintain(grown, rewrite_manifests="auto")["changed"] == 0
    assert catalog_of(grown).load_table("m.parts").scan("p = 1").to_arrow().num_rows == sum("'p': 1," in r for r in before["m.parts"])


def test_a_damaged_table_spoils_no_other(grown):
    table = catalog_of(grown).load_table("m.plain")
    manifest = pathlib.Path(plain(table.current_snapshot().manifests(table.io)[0].manifest_path))
    data = pathlib.Path(plain(catalog_of(grown).load_table("m.sorted").inspect.files().to_pylist()[0]["file_path"]))
    manifest.write_bytes(b"not avro")
    data.unlink()
    before = rows(grown, ["m.parts", "m.merged"])
    grown.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "*"}]}))
    run = grown.trigger("keep")
    assert run["state"] == "failed"
    error = task_of(run, "keep")["error"]
    assert "2 of 4 tables" in error and "m.plain" in error and manifest.name in error and "m.sorted" in error and data.name in error
    report = report_of(grown, run)
    assert report["failed"] == 2 and report["changed"] == 2
    assert rows(grown, ["m.parts", "m.merged"]) == before


def test_gives_way_to_writers(grown, folder):
    """A run that has written to the table, or is about to, keeps it; the others are maintained."""
    grown.flow("busy", f"id: busy\ntasks:\n  - {{id: w, type: curate, into: m.plain, sql: \"SELECT 1 AS n, '' AS s\"}}\n{gate(folder, after=['w'])}")
    run = at_gate(grown, "busy")
    report = maintain(grown, wait_for_writers="0s", compact={}, expire_snapshots={"older_than": "0s"})
    for step in ("compact", "expire_snapshots"):
        assert steps_of(report, "m.plain")[step]["state"] == "skipped" and run in steps_of(report, "m.plain")[step]["why"]
    assert steps_of(report, "m.parts")["compact"]["state"] == "done"
    (folder / "gate").touch()
    assert grown.ended(run)["state"] == "success"
    assert steps_of(maintain(grown), "m.plain")["compact"]["state"] == "done"


def test_writers_lose_nothing(grown):
    """Appends by another engine while the table is compacted."""
    catalog = catalog_of(grown)
    stop, done, errors = threading.Event(), [], []

    def write():
        while not stop.is_set():
            try:
                catalog.load_table("m.plain").append(pa.table({"n": pa.array([-1], pa.int64()), "s": ["w"]}))
                done.append(1)
            except Exception as e:  # noqa: BLE001
                errors.append(e)

    writer = threading.Thread(target=write)
    writer.start()
    wait_until(lambda: len(done) > 3)
    report = maintain(grown, tables="m.plain", compact={}, rewrite_manifests="always")
    stop.set()
    writer.join()
    assert not errors and steps_of(report, "m.plain")["compact"]["state"] == "done"
    assert rows(grown, ["m.plain"])["m.plain"].count("{'n': -1, 's': 'w'}") == len(done)
    assert len(rows(grown, ["m.plain"])["m.plain"]) == 6000 + len(done)


def test_nothing_by_that_name(daemon):
    daemon.flow("keep", "id: keep\ntasks:\n  - {id: keep, type: maintain, tables: [none.such]}\n")
    run = daemon.trigger("keep")
    assert run["state"] == "failed" and "no table has such a name" in task_of(run, "keep")["error"]


def test_what_a_run_has_written(grown):
    """In the run's own transaction: compaction joins it, and nothing is removed."""
    grown.flow(
        "own",
        "id: own\ntasks:\n  - {id: w, type: curate, into: m.plain, sql: \"SELECT -5 AS n, 'own' AS s\"}\n"
        "  - {id: keep, type: maintain, depends_on: [w], tables: m.plain}\n",
    )
    run = grown.trigger("own")
    assert run["state"] == "success", why(run)
    report = report_of(grown, run)
    assert steps_of(report, "m.plain")["compact"]["state"] == "done"
    assert steps_of(report, "m.plain")["expire_snapshots"]["state"] == "skipped"
    assert len(rows(grown, ["m.plain"])["m.plain"]) == 6001 and len(catalog_of(grown).load_table("m.plain").inspect.files()) == 1


def test_files_of_several_row_groups_tell_how_many_nan_they_have(daemon):
    """By a count of 0 a reader would leave them out."""
    sql = "SELECT i AS id, CASE WHEN i = 3 THEN 'nan'::DOUBLE ELSE i END AS x, array_to_string([md5((i * 1000 + k)::VARCHAR) FOR k IN range(40)], '') AS wide FROM range({}, {}) r(i)"
    flow = {"id": "fill", "tasks": [{"id": f"t{n}", "type": "curate", "into": "m.nan", "sql": sql.format(n * 5000, n * 5000 + 5000)} for n in range(4)]}
    daemon.flow("fill", json.dumps(flow))
    assert daemon.trigger("fill")["state"] == "success"
    maintain(daemon, compact={"min_input_files": 2, "target_file_size": "8MB"})
    table = catalog_of(daemon).load_table("m.nan")
    files = [task.file for task in table.scan().plan_files()]
    assert all(1 < len(f.split_offsets) and f.record_count < 60_000 for f in files) and sorted(f.nan_value_counts[2] for f in files)[-2:] == [0, 1]
    assert table.scan("x IS NAN").to_arrow()["id"].to_pylist() == [3]
