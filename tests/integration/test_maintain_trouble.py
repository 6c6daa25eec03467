"""Maintenance where something is in its way or odd: each time told with the table, other tables finished, and no row or file lost."""

import contextlib
import datetime
import decimal
import json
import os
import pathlib
import subprocess
import time

import pyarrow as pa
import pytest
from conftest import task_of, wait_until, why
from lake_files import catalog_of, missing_and_spare, plain
from pyiceberg.expressions import EqualTo, IsNull
from pyiceberg.transforms import DayTransform, IdentityTransform
from test_maintain import age, maintain, report_of, steps_of

ROWS = 20_000
APPENDS = 5


def grow(daemon, *names, create=True):
    """Tables of five files each, of half a megabyte, by PyIceberg."""
    catalog = catalog_of(daemon)
    catalog.create_namespace_if_not_exists("m")
    for name in names:
        t = catalog.create_table(f"m.{name}", pa.schema([("n", pa.int64()), ("s", pa.string())])) if create else catalog.load_table(f"m.{name}")
        for i in range(APPENDS):
            n = range(i * ROWS, (i + 1) * ROWS)
            t.append(pa.table({"n": pa.array(n, pa.int64()), "s": [f"{x * 2654435761 % 2**64:x}" for x in n]}))
    return catalog


def sums(daemon, *names):
    return {n: daemon.sql(f"SELECT count(*) AS n, sum(n)::BIGINT AS s, count(DISTINCT s) AS d FROM m.{n}") for n in names}


def failed(daemon, *words, **keys):
    daemon.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "*", **keys}]}))
    run = daemon.trigger("keep")
    assert run["state"] == "failed", run
    said = task_of(run, "keep")["error"]
    assert all(w in said for w in words), said
    return report_of(daemon, run)


@contextlib.contextmanager
def mounted(folder, *options):
    if subprocess.run(["mount", *options, folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(daemon):
    """In the middle of a compaction, and then while its manifests are written: nothing is left, and with room it is done."""
    catalog = grow(daemon, "full", "other")
    before = sums(daemon, "full", "other")
    folder = pathlib.Path(plain(catalog.load_table("m.full").location())) / "data"
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    size = sum(map(len, kept.values()))
    with mounted(folder, "-t", "tmpfs", "-o", f"size={int(size * 1.5)},mode=777", "none"):
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        report = failed(daemon, "1 of 2 tables", "m.full", "No space left on device", str(folder), compact={})
        assert steps_of(report, "m.other")["compact"]["state"] == "done"
        assert {p.name for p in folder.iterdir()} == set(kept) and sums(daemon, "full", "other") == before
        subprocess.run(["mount", "-o", f"remount,size={size * 4}", folder], check=True)
        assert steps_of(maintain(daemon, compact={}), "m.full")["compact"]["state"] == "done"
        assert len({p.name for p in folder.iterdir()} - set(kept)) == 1 and sums(daemon, "full", "other") == before
        # Files of the old state go with it, and only they.
        maintain(daemon, expire_snapshots={"older_than": "0s"})
        assert len(list(folder.iterdir())) == 1 and sums(daemon, "full", "other") == before


def test_files_that_cannot_be_removed(make_daemon):
    daemon = make_daemon(config="catalog: {cleanup_after: 50ms}\n")
    catalog = grow(daemon, "held", "other")
    maintain(daemon, compact={})
    before = sums(daemon, "held", "other")
    folder = pathlib.Path(plain(catalog.load_table("m.held").location())) / "data"
    with mounted(folder, "--bind", folder):
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        report = failed(daemon, "1 of 2 tables", "m.held", "Read-only file system", str(folder), expire_snapshots={"older_than": "0s"})
        assert steps_of(report, "m.other")["expire_snapshots"]["files"] > 5 and sums(daemon, "held", "other") == before
    wait_until(lambda: missing_and_spare(daemon) == (set(), set()), "what was left of the expiry")
    assert sums(daemon, "held", "other") == before


@pytest.mark.parametrize("point, replaced", [("maintain.data.before", True), ("maintain.data.after", False), ("write.commit.before", True)])
def test_dropped_and_replaced_while_it_is_maintained(make_daemon, folder, point, replaced):
    faults = folder / "faults"
    faults.write_text("")
    daemon = make_daemon(env={"SLUICE_FAULT": str(faults)})
    catalog = grow(daemon, "gone", "other")
    daemon.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "*", "compact": {}}]}))
    faults.write_text(f"{point}=stop\n")
    run = daemon.post("/api/v1/flows/keep/runs")["id"]
    pid = wait_until(lambda: stopped(daemon), "the attempt at the point")
    catalog.drop_table("m.gone")
    if replaced:
        catalog.create_table("m.gone", pa.schema([("n", pa.int64()), ("s", pa.string())]))
        grow(daemon, "gone", create=False)
        before = sums(daemon, "gone")
    os.kill(pid, 18)
    run = daemon.ended(run)
    assert run["state"] == "success" or "m.gone" in task_of(run, "keep")["error"], why(run)
    assert steps_of(report_of(daemon, run), "m.other")["compact"]["state"] == "done"
    if replaced:
        assert sums(daemon, "gone") == before
        assert steps_of(maintain(daemon, compact={}), "m.gone")["compact"]["state"] in ("done", "nothing")
        assert sums(daemon, "gone") == before
    else:
        assert not catalog.table_exists("m.gone")
    missing, _ = missing_and_spare(daemon)
    assert not missing


def stopped(daemon):
    """The process of this daemon's attempts that has stopped itself."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            state = (path / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "T" and str(daemon.home).encode() in (path / "environ").read_bytes() + (path / "cmdline").read_bytes():
                return int(path.name)
        except OSError:
            continue
    return None


@pytest.mark.parametrize("other", ["appends", "merges manifests", "deletes"])
def test_others_commit_first(make_daemon, folder, other):
    """Every time that a compaction asks for its commit somebody else has been there before."""
    faults = folder / "faults"
    faults.write_text("write.commit.before=stop\n")
    daemon = make_daemon(env={"SLUICE_FAULT": str(faults)})
    table = grow(daemon, "busy").load_table("m.busy")
    if other == "merges manifests":
        with table.transaction() as change:
            change.set_properties(**{"commit.manifest-merge.enabled": "true", "commit.manifest.min-count-to-merge": "2"})
    rows = table.scan().to_arrow().num_rows
    daemon.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "*", "compact": {}}]}))
    run = daemon.post("/api/v1/flows/keep/runs")["id"]
    for n in range(4):
        pid = wait_until(lambda: stopped(daemon), "the attempt before its commit")
        table.refresh()
        if other == "deletes" and n == 1:
            gone = table.scan(limit=1).to_arrow()["n"][0].as_py()
            rows -= table.scan(f"n = {gone}").to_arrow().num_rows
            table.delete(f"n = {gone}")
        else:
            table.append(pa.table({"n": pa.array([-1 - n], pa.int64()), "s": ["late"]}))
            rows += 1
        if n < 3:
            faults.write_text("write.commit.before=stop\n")
        os.kill(pid, 18)
    run = daemon.ended(run)
    assert run["state"] == "success", why(run)
    step = steps_of(report_of(daemon, run), "m.busy")["compact"]
    assert step["state"] == "done" and step["new_files"] < step["files"]
    table.refresh()
    now = table.current_snapshot()
    assert now.summary.operation.value == "replace" and now.parent_snapshot_id == table.snapshots()[-2].snapshot_id
    assert table.scan().to_arrow().num_rows == rows and daemon.sql("SELECT count(*) AS n FROM m.busy") == [{"n": rows}]
    assert now.summary["total-records"] == str(rows) and {m.sequence_number for m in now.manifests(table.io) if m.added_snapshot_id == now.snapshot_id} == {now.sequence_number}
    missing, spare = missing_and_spare(daemon)
    assert not missing and not [f for f in spare if run["id"] in f]  # PyIceberg leaves manifests that it merged


def create(daemon, name, **more):
    fields = [{"id": 1, "name": "n", "type": "long", "required": False}, {"id": 2, "name": "s", "type": "string", "required": False}]
    body = {"name": name, "schema": {"type": "struct", "schema-id": 0, "fields": fields}, **more}
    answer = daemon.request("POST", "/iceberg/v1/namespaces/m/tables", body)
    assert answer.status == 200, answer


def append(daemon, name, times=6):
    rows = ", ".join(f"({i}, 'x{i}')" for i in range(3))
    daemon.flow("append", json.dumps({"id": "append", "tasks": [{"id": "a", "type": "curate", "into": f"m.{name}", "sql": f"SELECT n::BIGINT AS n, s FROM (VALUES {rows}) v(n, s)"}]}))
    for _ in range(times):
        run = daemon.trigger("append")
        assert run["state"] == "success", why(run)


def test_tables_of_all_kinds(daemon, folder):
    """Format versions, no snapshot yet, garbage that is not to be collected, data elsewhere, refs with lives of their own, packed metadata."""
    catalog = catalog_of(daemon)
    catalog.create_namespace("m")
    kinds = {
        "first": {"format-version": "1"},
        "third": {"format-version": "3"},
        "fresh": {},
        "guarded": {"gc.enabled": "false"},
        "elsewhere": {"write.data.path": f"file://{folder}/elsewhere"},
        "packed": {"write.metadata.compression-codec": "gzip"},
        "refs": {},
    }
    for name, properties in kinds.items():
        create(daemon, name, properties=properties)
        if name == "first":
            for i in range(6):
                catalog.load_table("m.first").append(pa.table({"n": pa.array([i], pa.int64()), "s": ["x"]}))
        elif name != "fresh":
            append(daemon, name)
    t = catalog.load_table("m.refs")
    ids = [s.snapshot_id for s in sorted(t.metadata.snapshots, key=lambda s: s.sequence_number)]
    with t.manage_snapshots() as m:
        m.create_branch(ids[3], "side", max_snapshot_age_ms=1, min_snapshots_to_keep=2)
        m.create_tag(ids[0], "brief", max_ref_age_ms=1)
        m.create_tag(ids[1], "long", max_ref_age_ms=10**12)
    age(daemon)
    filled = [n for n in kinds if n != "fresh"]
    before = sums(daemon, *filled)
    time.sleep(0.002)  # so that `brief` is past its age: the catalog's clock has milliseconds
    report = maintain(daemon, compact={}, rewrite_manifests="always", expire_snapshots={"older_than": "0s"}, remove_orphan_files={})
    told = {n: {k: s["state"] for k, s in steps_of(report, f"m.{n}").items()} for n in kinds}
    why_not = {n: steps_of(report, f"m.{n}")["compact"].get("why") for n in kinds}
    assert sums(daemon, *filled) == before, told
    assert told["first"]["compact"] == told["third"]["compact"] == "skipped" and "version 1" in why_not["first"] and "version 3" in why_not["third"]
    assert told["first"]["expire_snapshots"] == told["third"]["expire_snapshots"] == "done"
    assert set(told["fresh"].values()) == {"nothing"}, told
    assert told["guarded"] == {"compact": "done", "rewrite_manifests": told["guarded"]["rewrite_manifests"], "expire_snapshots": "skipped", "remove_orphan_files": "skipped"}
    assert told["packed"]["compact"] == told["elsewhere"]["compact"] == "done"
    refs = catalog.load_table("m.refs")
    # Of `side` the head and the one before it, `long` and the current one; `brief` is past its age.
    assert set(refs.metadata.refs) == {"main", "side", "long"}
    assert {s.snapshot_id for s in refs.metadata.snapshots} == {ids[1], ids[2], ids[3], refs.current_snapshot().snapshot_id}
    assert refs.scan(snapshot_id=ids[1]).to_arrow().num_rows == 6
    missing, spare = missing_and_spare(daemon)
    assert not {p for p in missing if "/elsewhere/" not in p} and all(pathlib.Path(p).exists() for p in missing)
    assert not spare, spare
    with t.manage_snapshots() as m:
        m.create_tag(ids[3], "late")
    assert maintain(daemon, compact={}, expire_snapshots={"older_than": "0s"}, remove_orphan_files={})["failed"] == 0
    assert sums(daemon, *filled) == before


NAMES = [("deep.er.and", "deep-er"), ("ventas", "año 2026"), ('quo"ted', "it's"), ("per", "50%"), ("ünï", "täble"), ("select", "from"), ("dash-ed", "a+b&c=d?e#f")]
ODD_COLUMNS = ["filename", "part", "gone", "file_path", "spec", "texts", "kind", "año \"2\".x", "it's 50%", "select"]


def test_odd_names(daemon):
    """Of namespaces, tables and columns, these also as partitions."""
    catalog = catalog_of(daemon)
    schema = pa.schema([(c, pa.string()) for c in ODD_COLUMNS])
    values = ["", None, "it's", "a/b=c", "100%", "x y", "ñ", "..", "\\", '"']
    rows = [dict(zip(ODD_COLUMNS, values[i:] + values[:i])) for i in range(10)]
    for ns, name in NAMES:
        catalog.create_namespace(tuple(ns.split(".")))
        t = catalog.create_table((*ns.split("."), name), schema)
        with t.update_spec() as spec:
            for c in ODD_COLUMNS[:4] if name != "from" else ODD_COLUMNS[4:7]:  # PyIceberg writes names of partitions that Avro does not take
                spec.add_identity(c)
        for _ in range(2):
            t.append(pa.Table.from_pylist(rows, schema))
    load = lambda ns, name: catalog.load_table((*ns.split("."), name))
    seen = lambda: {n: sorted(map(str, load(*n).scan().to_arrow().to_pylist())) for n in NAMES}
    before = seen()
    age(daemon)
    report = maintain(daemon, compact={"min_input_files": 2}, rewrite_manifests="always", expire_snapshots={"older_than": "0s"}, remove_orphan_files={})
    assert report["changed"] == len(NAMES) and report["failed"] == 0 and report["skipped"] == 0, report
    assert seen() == before and missing_and_spare(daemon) == (set(), set())
    for ns, name in NAMES:
        assert len(load(ns, name).inspect.files()) == 10
        by = "kind" if name == "from" else "part"
        assert load(ns, name).scan(EqualTo(by, "..")).to_arrow().num_rows == 2


def test_odd_values_of_partitions(daemon):
    """Nulls, times before 1970, decimals, bytes, a day by PyIceberg, and each of them the only one of its partition."""
    catalog = catalog_of(daemon)
    catalog.create_namespace("m")
    schema = pa.schema([("at", pa.timestamp("us")), ("zone", pa.timestamp("us", "UTC")), ("d", pa.date32()), ("dec", pa.decimal128(12, 3)),
                        ("raw", pa.binary()), ("ok", pa.bool_()), ("f", pa.float64()), ("n", pa.int64())])
    long_ago = datetime.datetime(1969, 12, 31, 23, 59, 59, 999999)
    values = {
        "at": long_ago, "zone": long_ago.replace(tzinfo=datetime.UTC), "d": datetime.date(1900, 2, 28), "dec": decimal.Decimal("-0.001"),
        "raw": b"\x00 a'", "ok": False, "f": -0.5,
    }
    tables = {c: catalog.create_table(f"m.by_{c}", schema) for c in values}
    tables["day"] = catalog.create_table("m.by_day", schema)
    for c, t in tables.items():
        with t.update_spec() as spec:
            spec.add_field("zone" if c == "day" else c, DayTransform() if c == "day" else IdentityTransform(), f"p_{c}")
        for i in range(2):
            t.append(pa.Table.from_pylist([{**values, "n": i}, {**values, c if c != "day" else "zone": None, "n": i + 10}], schema))
    seen = lambda: {c: sorted(map(str, catalog.load_table(f"m.by_{c}").scan().to_arrow().to_pylist())) for c in tables}
    before = seen()
    age(daemon)
    report = maintain(daemon, compact={"min_input_files": 2}, rewrite_manifests="always", expire_snapshots={"older_than": "0s"}, remove_orphan_files={})
    assert report["changed"] == len(tables), report
    assert seen() == before and missing_and_spare(daemon) == (set(), set())
    for c in tables:
        assert len(catalog.load_table(f"m.by_{c}").inspect.files()) == 2, c
        assert catalog.load_table(f"m.by_{c}").scan(IsNull("zone" if c == "day" else c)).to_arrow().num_rows == 2, c
