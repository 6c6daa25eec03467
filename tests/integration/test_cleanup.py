"""What runs and attempts that did not succeed left in tables goes after a while; what any table needs stays."""

import os
import sys
import time

import duckdb
import psycopg2
import pyarrow as pa
import pytest
from conftest import task_of, wait_until, why
from lake_files import catalog_of, missing_and_spare, needed, tables
from pyiceberg.table.update import SetLocationUpdate
from test_transactions import at_gate, count, gate, rows_of

MAKE = "id: make\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1::INT AS n}\n"
HALF = "id: half\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2::INT AS n}\n  - {id: z, type: command, depends_on: [a], command: [/bin/false]}\n"
# Fails after it has appended, as a foreign engine: its files carry names of their own.
FOREIGN = """\
import os, sys
import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
catalog = RestCatalog("local", uri=os.environ["SLUICE_CATALOG_URI"], token=os.environ["SLUICE_CATALOG_TOKEN"])
rows = pa.table({"n": pa.array([7], pa.int32())})
catalog.load_table("x.a").append(rows)
sys.exit(3)
"""


@pytest.fixture
def lake(make_daemon):
    def make(after="50ms", **more):
        daemon = make_daemon(config=f"catalog: {{cleanup_after: {after}}}\n", **more)
        daemon.flow("make", MAKE)
        run = daemon.trigger("make")
        assert run["state"] == "success", why(run)
        return daemon

    return make


def left(daemon):
    return rows_of(daemon, "SELECT count(*) FROM sluice.cleanup")[0][0]


def clean(daemon):
    wait_until(lambda: left(daemon) == 0, "the cleanup", 30)
    missing, spare = missing_and_spare(daemon)
    assert not missing and not spare, (missing, spare)


def test_a_run_that_fails(lake):
    daemon = lake()
    daemon.flow(
        "half",
        "id: half\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2::INT AS n}\n  - {id: b, type: curate, into: x.new, sql: SELECT 2 AS n}\n"
        "  - {id: z, type: command, depends_on: [a, b], command: [/bin/false]}\n",
    )
    assert daemon.trigger("half")["state"] == "failed"
    clean(daemon)
    assert daemon.sql("SELECT n FROM x.a") == [{"n": 1}] and "removed" in daemon.log
    daemon.flow("later", "id: later\ntasks:\n  - {id: b, type: curate, into: x.new, sql: SELECT 3 AS n}\n")  # the same folder again
    assert daemon.trigger("later")["state"] == "success"
    assert daemon.sql("SELECT n FROM x.new") == [{"n": 3}]


def test_not_before_its_time(lake):
    daemon = lake(after="1h")
    daemon.flow("half", HALF)
    assert daemon.trigger("half")["state"] == "failed"
    daemon.stop()
    daemon.start()
    assert left(daemon) > 0 and missing_and_spare(daemon)[1]
    age(daemon)
    daemon.kill()
    daemon.start()  # looks when it begins
    clean(daemon)


def age(daemon):
    """As if everything had been two hours ago."""
    then = time.time() - 7200
    for path in (daemon.home / "warehouse").rglob("*"):
        os.utime(path, (then, then))
    execute(daemon, "UPDATE sluice.attempts SET started_at = started_at - interval '2 hours 1 minute'")
    execute(daemon, "UPDATE sluice.cleanup SET at = now() - interval '2 hours'")


def execute(daemon, sql):
    connection = psycopg2.connect(host=str((daemon.home / "pg.run").resolve()), user="sluice", dbname="postgres")
    with connection, connection.cursor() as cursor:
        cursor.execute(sql)
    connection.close()


@pytest.mark.parametrize("point", ["write.data.before", "write.data.after", "write.commit.after"])
def test_an_attempt_killed_while_it_writes(lake, folder, point):
    faults = folder / "faults"
    faults.touch()
    daemon = lake(env={"SLUICE_FAULT": str(faults)})
    faults.write_text(f"{point}=kill\n")
    daemon.flow("again", "id: again\ntasks:\n  - {id: a, type: curate, into: x.a, retry: {max_attempts: 2, interval: 10ms}, sql: SELECT 2::INT AS n}\n")
    run = daemon.trigger("again")
    assert run["state"] == "success" and len(task_of(run, "a")["attempts"]) == 2, why(run)
    clean(daemon)
    assert count(daemon, "x.a") == 2


def test_a_foreign_engine(lake, folder):
    daemon = lake()
    before = {f for t in tables(daemon) for f in needed(t)}
    script = folder / "foreign.py"
    script.write_text(FOREIGN)
    daemon.flow("foreign", f"id: foreign\ntasks:\n  - {{id: a, type: command, command: [{sys.executable}, {script}]}}\n")
    run = daemon.trigger("foreign")
    assert run["state"] == "failed" and task_of(run, "a")["attempts"][-1]["exit_code"] == 3, why(run)
    clean(daemon)
    assert {f for t in tables(daemon) for f in needed(t)} == before and count(daemon, "x.a") == 1


def test_others_files_stay_where_the_table_is_gone(lake, folder):
    """A failed attempt's metadata holds what others had committed while it ran; then the table is dropped, and nothing needs these files just now."""
    daemon = lake(after="1h")
    script = folder / "foreign.py"
    script.write_text("import pathlib, time\nwhile not pathlib.Path(__file__).with_name('go').exists():\n    time.sleep(0.02)\n" + FOREIGN)
    daemon.flow("foreign", f"id: foreign\ntasks:\n  - {{id: a, type: command, command: [{sys.executable}, {script}]}}\n")
    run = daemon.post("/api/v1/flows/foreign/runs")["id"]
    wait_until(lambda: task_of(daemon.run(run), "a")["state"] == "running", "the attempt")
    catalog = catalog_of(daemon)
    catalog.load_table("x.a").append(pa.table({"n": pa.array([10], pa.int32())}))
    (folder / "go").touch()
    assert daemon.ended(run)["state"] == "failed"
    kept = needed(catalog.load_table("x.a"))
    assert missing_and_spare(daemon)[1]
    catalog.drop_table("x.a")
    age(daemon)
    daemon.stop()
    daemon.start()
    wait_until(lambda: left(daemon) == 0, "the cleanup", 30)
    have = {str(p) for p in (daemon.home / "warehouse").rglob("*") if p.is_file()}
    assert have == kept


def test_a_location_with_a_final_slash(lake):
    """The same file, however its name is spelled."""
    daemon = lake()
    catalog = catalog_of(daemon)
    table = catalog.load_table("x.a")
    with table.transaction() as change:
        change._apply((SetLocationUpdate(location=table.location() + "//"),))
    daemon.flow("half", HALF)
    daemon.flow("more", MAKE.replace("make", "more"))
    assert daemon.trigger("more")["state"] == "success"
    run = daemon.trigger("half")
    assert run["state"] == "failed"
    execute(daemon, "INSERT INTO sluice.cleanup (at, run_id, task_id, attempt, namespace, name, location) SELECT now(), run_id, task_id, attempt, namespace, "
            f"name, '{table.location()}//' FROM sluice.commits WHERE state = 'visible' AND run_id IS NOT NULL")  # as if a daemon had died while they committed
    daemon.stop()
    daemon.start()
    clean(daemon)
    assert count(daemon, "x.a") == 2


def test_what_was_put_on_top_of_others(lake, folder):
    """The lists and metadata of a run's commits in their first place are needed by nobody once they have a new one."""
    daemon = lake()
    daemon.flow(
        "more",
        "id: more\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2::INT AS n}\n"
        "  - {id: b, type: curate, depends_on: [a], into: x.a, sql: SELECT 3::INT AS n}\n" + gate(folder, after=["b"]),
    )
    run = at_gate(daemon, "more")
    catalog_of(daemon).load_table("x.a").append(pa.table({"n": pa.array([10], pa.int32())}))
    (folder / "gate").touch()
    assert daemon.ended(run)["state"] == "success"
    clean(daemon)
    assert sorted(r["n"] for r in daemon.sql("SELECT n FROM x.a")) == [1, 2, 3, 10]


def test_files_that_were_only_added_stay(lake, folder):
    """A failed run had added files in place: they were there before, even in the table's own folder."""
    daemon = lake()
    data = daemon.home / "warehouse" / "x" / "a" / "data"
    duckdb.sql(f"COPY (SELECT 5::INT AS n) TO '{data}/mine.parquet'")
    daemon.flow(
        "adds",
        f"id: adds\ntasks:\n  - {{id: a, type: publish, mode: add_files, into: x.a, from: '{data}/mine.parquet'}}\n"
        "  - {id: z, type: command, depends_on: [a], command: [/bin/false]}\n",
    )
    run = daemon.trigger("adds")
    assert run["state"] == "failed" and task_of(run, "a")["state"] == "success", why(run)
    wait_until(lambda: left(daemon) == 0, "the cleanup", 30)
    missing, spare = missing_and_spare(daemon)
    assert not missing and {p.rsplit("/", 1)[1] for p in spare} == {"mine.parquet"}


def test_a_live_run_keeps_its_files(lake, folder):
    """Its first attempt failed: what that left goes while the run is still under way, and nothing else of it."""
    daemon = lake()
    daemon.flow(
        "live",
        "id: live\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2::INT AS n}\n"
        f"  - {{id: b, type: command, depends_on: [a], retry: {{max_attempts: 2, interval: 10ms}}, command: [{sys.executable}, {folder}/once.py]}}\n"
        + gate(folder, after=["b"]),
    )
    (folder / "once.py").write_text(FOREIGN.replace("sys.exit(3)", "sys.exit(3 if os.environ['SLUICE_ATTEMPT'] == '1' else 0)"))
    run = at_gate(daemon, "live")
    wait_until(lambda: left(daemon) == 0, "the cleanup", 30)
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    clean(daemon)
    assert sorted(r["n"] for r in daemon.sql("SELECT n FROM x.a")) == [1, 2, 7]


def test_a_damaged_table_is_named_and_the_others_are_done(lake):
    daemon = lake()
    daemon.flow(
        "half",
        "id: half\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2::INT AS n}\n  - {id: b, type: curate, into: x.b, sql: SELECT 2 AS n}\n"
        "  - {id: z, type: command, depends_on: [a, b], command: [/bin/false]}\n",
    )
    manifest = next(f for t in tables(daemon) for f in needed(t) if f.endswith(".avro") and "/snap-" not in f)
    kept = open(manifest, "rb").read()
    os.unlink(manifest)
    assert daemon.trigger("half")["state"] == "failed"
    wait_until(lambda: "x.a: what failed attempts left" in daemon.log, "the warning", 30)
    assert manifest.rsplit("/", 1)[1] in daemon.log
    wait_until(lambda: not list((daemon.home / "warehouse/x/b").rglob("*.parquet")), "the other table's cleanup", 30)
    wait_until(lambda: left(daemon) == 1, "the end of that")
    with open(manifest, "wb") as f:
        f.write(kept)
    execute(daemon, "UPDATE sluice.cleanup SET at = now() - interval '2 hours'")
    daemon.stop()
    daemon.start()
    clean(daemon)


def test_what_expired_goes_and_a_dropped_table_stays(lake):
    """What a killed expiry has left is removed by the daemon; not what a table needs that was dropped meanwhile, without its files."""
    daemon = lake(after="1h")
    for _ in range(2):
        daemon.flow("add", "id: add\ntasks:\n  - {id: a, type: curate, into: x.a, mode: overwrite, sql: SELECT 5::INT AS n}\n  - {id: b, type: curate, into: x.b, mode: overwrite, sql: SELECT 6 AS n}\n")
        assert daemon.trigger("add")["state"] == "success"
    catalog = catalog_of(daemon)
    kept = needed(catalog.load_table("x.b"))
    for name in ("x.a", "x.b"):
        table = catalog.load_table(name)
        location = table.metadata_location
        old = [s.snapshot_id for s in table.metadata.snapshots if s.snapshot_id != table.current_snapshot().snapshot_id]
        table.maintenance.expire_snapshots().by_ids(old).commit()
        execute(daemon, f"INSERT INTO sluice.cleanup (at, run_id, task_id, attempt, namespace, name, metadata, expired) VALUES (now(), 'r', 't', 1, 'x', '{name[2:]}', '{location}', true)")
    catalog.drop_table("x.b")
    execute(daemon, "UPDATE sluice.cleanup SET at = now() - interval '2 hours'")
    daemon.stop()
    daemon.start()
    wait_until(lambda: left(daemon) == 0, "the cleanup", 30)
    missing, spare = missing_and_spare(daemon)
    assert not missing and {p for p in spare if "/x/a/" in p} == set()
    assert kept <= spare
