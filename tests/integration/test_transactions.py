"""A run is a transaction over the tables it writes: seen by the run alone, then by everybody at once, or by nobody ever."""

import contextlib
import json
import pathlib
import sys
import sys

import psycopg2
import pyarrow as pa
import pytest
from conftest import task_of, wait_until, why
from pyiceberg.catalog.rest import RestCatalog


@pytest.fixture
def catalog(daemon):
    return RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)


def gate(folder, name="gate", after=()):
    """A task that waits for a file of its name."""
    return f"  - {{id: {name}, type: command, depends_on: [{', '.join(after)}], command: \"until [ -e {folder}/{name} ]; do sleep 0.02; done\"}}\n"


def at_gate(daemon, flow, name="gate"):
    run = daemon.post(f"/api/v1/flows/{flow}/runs")
    wait_until(lambda: (r := daemon.run(run["id"])) and (task_of(r, name)["state"] == "running" or why_over(r)), "the gate")
    return run["id"]


def why_over(run):
    assert run["state"] in ("queued", "running"), why(run)


def names(daemon):
    return sorted(i["name"] for i in daemon.get("/api/v1/tables")["items"])


def count(daemon, table):
    return daemon.sql(f"SELECT count(*) AS n FROM {table}")[0]["n"]


def rows_of(daemon, sql, *args):
    sock = (daemon.home / "pg.run").resolve()
    with contextlib.closing(psycopg2.connect(host=str(sock), user="sluice", dbname="postgres")) as connection, connection.cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchall()


def lineage(daemon, run):
    return rows_of(
        daemon,
        "SELECT task_id, attempt, namespace || '.' || name, state, rows_added, rows_removed FROM sluice.commits WHERE run_id = %s ORDER BY id", run,
    )


def test_seen_by_the_run_then_by_all(daemon, folder):
    daemon.flow(
        "whole",
        "id: whole\ntasks:\n"
        "  - {id: a, type: curate, into: x.a, sql: SELECT 1 AS n UNION ALL SELECT 2}\n"
        "  - {id: b, type: curate, mode: overwrite, depends_on: [a], into: x.b, sql: SELECT sum(n)::BIGINT AS n FROM x.a}\n"
        "  - {id: v, type: validate, depends_on: [b], sql: SELECT n FROM x.b, checks: [{row_count: {equals: 1}}, {range: {column: n, min: 3, max: 6}}]}\n"
        + gate(folder, after=["v"]),
    )
    run = at_gate(daemon, "whole")
    assert names(daemon) == []
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    assert names(daemon) == ["x.a", "x.b"] and count(daemon, "x.b") == 1
    assert lineage(daemon, run) == [("a", 1, "x.a", "visible", 2, 0), ("b", 1, "x.b", "visible", 1, 0)]
    states = [e["state"] for e in events(daemon, run) if e["kind"] == "run"]
    assert states == ["queued", "running", "publishing", "success"]
    (folder / "gate").unlink()
    run = at_gate(daemon, "whole")  # and on top of what is there
    assert count(daemon, "x.a") == 2
    (folder / "gate").touch()
    assert daemon.ended(run)["state"] == "success" and count(daemon, "x.a") == 4


def events(daemon, run):
    keys = ("kind", "state", "task")
    return [dict(zip(keys, row)) for row in rows_of(daemon, "SELECT kind, state, task FROM sluice.events WHERE run = %s ORDER BY id", run)]


@pytest.mark.parametrize("how", ["fails", "cancelled"])
def test_nothing_of_a_run_that_does_not_succeed(daemon, folder, how):
    daemon.flow(
        "half",
        "id: half\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1 AS n}\n" + gate(folder, after=["a"])
        + "  - {id: z, type: command, depends_on: [gate], command: [/bin/false]}\n",
    )
    run = at_gate(daemon, "half")
    if how == "fails":
        (folder / "gate").touch()
    else:
        daemon.post(f"/api/v1/runs/{run}/cancel")
    assert daemon.ended(run)["state"] == ("failed" if how == "fails" else "cancelled")
    assert names(daemon) == [] and [row[3] for row in lineage(daemon, run)] == ["abandoned"]


def test_a_failed_attempt_leaves_nothing_to_the_next(daemon, folder):
    """Also with an engine that knows nothing of attempts: what it committed before it failed is taken back."""
    daemon.flow("make", "id: make\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1 AS n}\n")
    assert daemon.trigger("make")["state"] == "success"
    daemon.flow(
        "twice",
        "id: twice\ntasks:\n"
        "  - id: c\n    type: command\n    retry: {max_attempts: 2, interval: 10ms}\n    command: |\n"
        "      curl -sf -H \"Authorization: Bearer $SLUICE_CATALOG_TOKEN\" -H 'Content-Type: application/json' "
        "-d '{\"updates\": [{\"action\": \"set-properties\", \"updates\": {\"try'$SLUICE_ATTEMPT'\": \"yes\"}}]}' "
        "$SLUICE_CATALOG_URI/v1/namespaces/x/tables/a || exit 3\n"
        "      [ $SLUICE_ATTEMPT = 2 ]\n",
    )
    run = daemon.trigger("twice")
    assert run["state"] == "success", why(run)
    properties = daemon.get("/iceberg/v1/namespaces/x/tables/a")["metadata"]["properties"]
    assert properties.get("try2") == "yes" and "try1" not in properties
    assert [row[3] for row in lineage(daemon, run["id"])] == ["abandoned", "visible"]


# Two commands of one run that append to the same table, as foreign engines; what each waits for is a file.
APPENDER = """\
import os, pathlib, sys, time
import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
me, n, after, fails = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "fails" and os.environ["SLUICE_ATTEMPT"] == "1"
folder = pathlib.Path(sys.argv[0]).parent
def wait(name):
    while not (folder / name).exists():
        time.sleep(0.02)
if os.environ["SLUICE_ATTEMPT"] == "1" and after != "-":
    wait(after)
catalog = RestCatalog("local", uri=os.environ["SLUICE_CATALOG_URI"], token=os.environ["SLUICE_CATALOG_TOKEN"])
catalog.load_table("x.a").append(pa.table({"n": pa.array([n], pa.int32())}))
(folder / f"{me}.wrote").touch()
if fails:
    wait("fail")
    sys.exit(3)
wait(f"{me}.go")
"""


@pytest.mark.parametrize("other", ["ended", "running", "adopted"])
def test_what_was_built_upon_a_failed_attempt_goes_with_it(daemon, folder, other):
    """Nothing is doubled and nothing lost, though b appended on top of a, which then failed."""
    daemon.flow("make", "id: make\ntasks:\n  - {id: m, type: curate, into: x.a, sql: SELECT 1::INT AS n}\n")
    assert daemon.trigger("make")["state"] == "success"
    script = folder / "append.py"
    script.write_text(APPENDER)
    task = "  - {{id: {0}, type: command, retry: {{max_attempts: 3, interval: 10ms}}, command: [{1}, {2}, {0}, '{3}', {4}, {5}]}}\n"
    daemon.flow(
        "two",
        "id: two\ntasks:\n" + task.format("a", sys.executable, script, 2, "-", "fails") + task.format("b", sys.executable, script, 3, "a.wrote", "-")
        + "  - {id: c, type: curate, depends_on: [b], into: x.c, sql: SELECT max(n) AS n FROM x.a}\n",
    )
    (folder / "a.go").touch()
    run = daemon.post("/api/v1/flows/two/runs")["id"]
    wait_until(lambda: (folder / "b.wrote").exists() or why_over(daemon.run(run)), "b's commit")
    if other == "ended":
        (folder / "b.go").touch()
        wait_until(lambda: task_of(daemon.run(run), "c")["state"] == "success", "b's and c's end")
    (folder / "fail").touch()
    wait_until(lambda: task_of(daemon.run(run), "a")["state"] == "success", "the second attempt")
    if other == "adopted":
        daemon.kill()
        daemon.start()
    (folder / "b.go").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    assert {t["id"]: len(t["attempts"]) for t in ended["tasks"]} == {"a": 2, "b": 2, "c": 2 if other == "ended" else 1}
    first = task_of(ended, "b")["attempts"][0]
    assert (first["state"], first["cause"]) == (("success", "exit") if other == "ended" else ("failed", "conflict"))
    assert sorted(r["n"] for r in daemon.sql("SELECT n FROM x.a")) == [1, 2, 3] and daemon.sql("SELECT n FROM x.c") == [{"n": 3}]


def test_isolation_task(daemon, folder):
    daemon.flow(
        "steps",
        "id: steps\nisolation: task\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1 AS n}\n" + gate(folder, after=["a"])
        + "  - {id: b, type: curate, depends_on: [gate], into: x.a, sql: SELECT error('no') AS n}\n",
    )
    run = at_gate(daemon, "steps")
    assert names(daemon) == ["x.a"] and count(daemon, "x.a") == 1
    (folder / "gate").touch()
    assert daemon.ended(run)["state"] == "failed" and count(daemon, "x.a") == 1


def test_appends_are_put_on_top(daemon, folder, catalog):
    daemon.flow("make", "id: make\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1::INT AS n}\n")
    assert daemon.trigger("make")["state"] == "success"
    daemon.flow(
        "more",
        "id: more\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2::INT AS n}\n"
        "  - {id: b, type: curate, depends_on: [a], into: x.a, sql: SELECT 3::INT AS n}\n" + gate(folder, after=["b"]),
    )
    run = at_gate(daemon, "more")
    table = catalog.load_table("x.a")
    for n in (10, 11):
        table.append(pa.table({"n": pa.array([n], pa.int32())}))
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    assert [len(t["attempts"]) for t in ended["tasks"]] == [1, 1, 1]
    assert sorted(r["n"] for r in daemon.sql("SELECT n FROM x.a")) == [1, 2, 3, 10, 11]
    table = catalog.load_table("x.a")
    assert sorted(table.scan().to_arrow()["n"].to_pylist()) == [1, 2, 3, 10, 11]
    assert len(table.snapshots()) == 5 and table.current_snapshot().summary["total-records"] == "5"
    table.append(pa.table({"n": pa.array([12], pa.int32())}))  # and others go on from there
    assert count(daemon, "x.a") == 6


def test_appends_to_a_table_of_version_1(daemon, folder, catalog):
    """Its manifest lists have fewer fields, whoever wrote them, and nothing in it has sequence numbers."""
    catalog.create_namespace("x")
    row = lambda n: pa.table({"n": pa.array([n], pa.int32())})
    table = catalog.create_table("x.a", row(0).schema, properties={"format-version": "1"})
    table.append(row(1))
    # Flows themselves write versions 2 and 3: this is what another engine does in a run's name.
    script = folder / "append.py"
    script.write_text(
        "import os, pyarrow as pa\nfrom pyiceberg.catalog.rest import RestCatalog\n"
        "catalog = RestCatalog('local', uri=os.environ['SLUICE_CATALOG_URI'], token=os.environ['SLUICE_CATALOG_TOKEN'])\n"
        "for n in (2, 3):\n    catalog.load_table('x.a').append(pa.table({'n': pa.array([n], pa.int32())}))\n"
    )
    daemon.flow("more", f"id: more\ntasks:\n  - {{id: a, type: command, command: [{sys.executable}, {script}]}}\n" + gate(folder, after=["a"]))
    run = at_gate(daemon, "more")
    table.append(row(10))
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    table.refresh()
    assert table.metadata.format_version == 1 and sorted(table.scan().to_arrow()["n"].to_pylist()) == [1, 2, 3, 10]
    for snapshot in table.snapshots():
        path = snapshot.manifest_list.removeprefix("file://")
        assert b"format-version\x021" in pathlib.Path(path).read_bytes(), path
        assert not snapshot.sequence_number and {m.sequence_number for m in snapshot.manifests(table.io)} == {0}
    with table.transaction() as change:
        change.upgrade_table_version(2)
    table.append(row(11))
    assert count(daemon, "x.a") == 5 and catalog.load_table("x.a").scan().to_arrow().num_rows == 5


def overwriting(folder, retry):
    return (
        "id: over\ntasks:\n  - {id: other, type: curate, into: x.b, sql: SELECT 1 AS n}\n"
        f"  - {{id: a, type: curate, mode: overwrite, into: x.a, sql: SELECT max(n) + 1 AS n FROM x.a, retry: {retry}}}\n" + gate(folder, after=["a"])
        + "  - {id: last, type: curate, depends_on: [gate], into: x.c, sql: SELECT n FROM x.a}\n"
    )


def test_a_conflict_is_done_again(daemon, folder, catalog):
    daemon.flow("make", "id: make\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1::INT AS n}\n")
    assert daemon.trigger("make")["state"] == "success"
    daemon.flow("over", overwriting(folder, "{max_attempts: 2, interval: 10ms}"))
    run = at_gate(daemon, "over")
    catalog.load_table("x.a").append(pa.table({"n": pa.array([10], pa.int32())}))
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    assert {t["id"]: len(t["attempts"]) for t in ended["tasks"]} == {"other": 1, "a": 2, "gate": 2, "last": 2}
    assert [(a["state"], a["cause"]) for a in task_of(ended, "a")["attempts"]] == [("failed", "conflict"), ("success", "exit")]
    assert daemon.sql("SELECT n FROM x.a") == [{"n": 11}] and daemon.sql("SELECT n FROM x.c") == [{"n": 11}]
    assert count(daemon, "x.b") == 1


def test_a_conflict_without_another_attempt(daemon, folder, catalog):
    daemon.flow("make", "id: make\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1::INT AS n}\n")
    assert daemon.trigger("make")["state"] == "success"
    daemon.flow("over", overwriting(folder, "1"))
    run = at_gate(daemon, "over")
    catalog.load_table("x.a").append(pa.table({"n": pa.array([10], pa.int32())}))
    (folder / "gate").touch()
    ended = daemon.ended(run)
    assert ended["state"] == "failed" and "conflict: another writer changed x.a" in ended["error"]
    assert task_of(ended, "a")["state"] == "failed" and task_of(ended, "a")["attempts"][0]["cause"] == "conflict"
    assert names(daemon) == ["x.a"] and sorted(r["n"] for r in daemon.sql("SELECT n FROM x.a")) == [1, 10]


def test_drop_and_rename_within_a_run(daemon, folder):
    daemon.flow("make", "id: make\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1 AS n}\n  - {id: b, type: curate, into: x.b, sql: SELECT 1 AS n}\n")
    assert daemon.trigger("make")["state"] == "success"
    curl = 'curl -sf -o /dev/null -w "%{http_code} " -H "Authorization: Bearer $SLUICE_CATALOG_TOKEN" -H "Content-Type: application/json"'
    daemon.flow(
        "move",
        "id: move\ntasks:\n  - id: m\n    type: command\n    command: |\n"
        f"      {curl} -X DELETE $SLUICE_CATALOG_URI/v1/namespaces/x/tables/a\n"
        f"      {curl} -d '{{\"source\": {{\"namespace\": [\"x\"], \"name\": \"b\"}}, \"destination\": {{\"namespace\": [\"x\"], \"name\": \"c\"}}}}' "
        "$SLUICE_CATALOG_URI/v1/tables/rename\n"
        '      curl -sf -H "Authorization: Bearer $SLUICE_CATALOG_TOKEN" $SLUICE_CATALOG_URI/v1/namespaces/x/tables\n'
        + gate(folder, after=["m"]),
    )
    run = at_gate(daemon, "move")
    log = daemon.task_log(run, "m")
    assert log.startswith("204 204 ") and '"c"' in log and '"a"' not in log and '"b"' not in log
    assert names(daemon) == ["x.a", "x.b"]
    (folder / "gate").touch()
    assert daemon.ended(run)["state"] == "success" and names(daemon) == ["x.c"]


@pytest.mark.parametrize("point", ["lake.publish.before", "lake.publish.after", "store.commit.before"])
def test_the_daemon_dies_while_it_publishes(make_daemon, folder, point):
    fault = folder / "fault"
    fault.write_text("")
    daemon = make_daemon(env={"SLUICE_FAULT": fault})
    daemon.flow(
        "two",
        "id: two\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 1 AS n}\n  - {id: b, type: curate, depends_on: [a], into: x.b, sql: SELECT 1 AS n}\n"
        + gate(folder, after=["b"]),
    )
    run = at_gate(daemon, "two")
    fault.write_text(f"{point}=kill\n")
    (folder / "gate").touch()
    daemon.process.wait(30)
    daemon.start()
    ended = daemon.ended(run)
    assert ended["state"] == "success", why(ended)
    assert count(daemon, "x.a") == 1 and count(daemon, "x.b") == 1
    assert [row[3] for row in lineage(daemon, run)] == ["visible", "visible"]
    assert [e["state"] for e in events(daemon, run) if e["kind"] == "run"][-1] == "success"


# ---- undo ----


@pytest.fixture
def lake(daemon):
    """x.a with the rows 1, 2 by two runs; the second one also made x.b, overwrote x.c and changed its columns, and dropped x.d."""
    drop = 'curl -sf -X DELETE -H "Authorization: Bearer $SLUICE_CATALOG_TOKEN" $SLUICE_CATALOG_URI/v1/namespaces/x/tables/d'
    daemon.flow("one", "id: one\ntasks:\n" + "".join(f"  - {{id: {t}, type: curate, into: x.{t}, sql: SELECT 1 AS n}}\n" for t in "acd"))
    daemon.flow(
        "two",
        "id: two\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 2 AS n}\n  - {id: b, type: curate, into: x.b, sql: SELECT 2 AS n}\n"
        "  - {id: c, type: curate, into: x.c, mode: replace, properties: {p: q}, sql: \"SELECT 'new' AS word\"}\n"
        f"  - {{id: d, type: command, command: '{drop}'}}\n",
    )
    runs = [daemon.trigger(f) for f in ("one", "two")]
    for run in runs:
        assert run["state"] == "success", why(run)
    assert names(daemon) == ["x.a", "x.b", "x.c"]
    daemon.runs = [run["id"] for run in runs]
    return daemon


def test_undo(lake, catalog):
    shown = lake.cli("show", lake.runs[1]).stdout.partition("tables that it wrote\n")[2]
    assert "undone" not in shown and "x.a  append by a, +1 row, +1 file\n    snapshot " in shown and "x.d  dropped by d\n" in shown
    assert lake.run(lake.runs[1])["undone"] is None
    before = [row[2] for row in lineage(lake, lake.runs[1])]
    answer = lake.post(f"/api/v1/runs/{lake.runs[1]}/undo")
    shown = lake.cli("show", lake.runs[1]).stdout  # while it is "just now"
    assert {t["table"]: t["outcome"] for t in answer["tables"]} == {"x.a": "rolled back", "x.b": "dropped", "x.c": "rolled back", "x.d": "restored"}
    assert names(lake) == ["x.a", "x.c", "x.d"] and len(before) == 4
    assert [lake.sql(f"SELECT * FROM x.{t}") for t in "acd"] == [[{"n": 1}]] * 3
    table = catalog.load_table("x.c")
    assert table.scan().to_arrow().to_pylist() == [{"n": 1}] and "p" not in table.properties
    assert len(table.snapshots()) == 2 and len(table.history()) == 3  # what was undone can still be looked at
    assert {row[3] for row in lineage(lake, lake.runs[1])} == {"undone"}
    items = lake.get(f"/api/v1/runs/{lake.runs[1]}/tables")["items"]
    undone = lake.run(lake.runs[1])["undone"]
    assert {i["state"] for i in items} == {"undone"} and {i["undone_by"] for i in items} == {"token admin"}
    assert undone == {"at": max(i["undone_at"] for i in items), "by": "token admin", "whole": True} and undone["at"] > items[0]["visible_at"]
    a = next(i for i in items if i["table"] == "x.a")
    assert shown.count("undone just now by token admin\n") == 5 and f"snapshot {a['snapshot_before']} -> {a['snapshot_after']}\n" in shown
    assert lake.run(lake.runs[0])["undone"] is None
    again = lake.request("POST", f"/api/v1/runs/{lake.runs[1]}/undo", {})
    assert again.status == 409 and "undone already" in again.json["detail"]
    assert lake.trigger("two")["state"] == "success"  # and it can be done again
    newest = lake.get("/api/v1/runs?limit=1")["items"][0]["id"]
    lake.post(f"/api/v1/runs/{lake.runs[0]}/undo", {"with_later": True})
    assert names(lake) == ["x.b"]
    assert lake.run(newest)["undone"]["whole"] is False  # x.b, which the other run never saw, stayed
    assert ", but not all of it" in lake.cli("show", newest).stdout


def test_undo_is_refused_when_somebody_came_after(lake, catalog):
    catalog.load_table("x.a").append(pa.table({"n": pa.array([9], pa.int32())}))
    refused = lake.request("POST", f"/api/v1/runs/{lake.runs[1]}/undo", {})
    assert refused.status == 409 and "table x.a was changed after the run by token" in refused.json["detail"] and "--with-later" in refused.json["detail"]
    assert names(lake) == ["x.a", "x.b", "x.c"]  # all or nothing
    refused = lake.request("POST", f"/api/v1/runs/{lake.runs[0]}/undo", {})
    assert refused.status == 409 and f"by run {lake.runs[1]}" in refused.json["detail"]
    lake.post(f"/api/v1/runs/{lake.runs[1]}/undo", {"with_later": True})
    assert lake.sql("SELECT n FROM x.a") == [{"n": 1}] and names(lake) == ["x.a", "x.c", "x.d"]


def keep(daemon, **steps):
    daemon.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "x.*", **steps}]}))
    run = daemon.trigger("keep")
    assert run["state"] == "success", why(run)
    return run["id"]


def test_undo_looks_through_maintenance(lake, catalog):
    """What keeps a table in order changes none of its rows: it is not in the way of an undo, nor is what was undone already."""
    run = keep(lake, compact={}, rewrite_manifests="always")
    shown = lake.cli("show", run).stdout
    assert "x.a  maintained, replace by keep" in shown, shown
    lake.flow("three", "id: three\ntasks:\n  - {id: a, type: curate, into: x.a, sql: SELECT 3 AS n}\n")
    third = lake.trigger("three")["id"]
    keep(lake, rewrite_manifests="always")
    refused = lake.request("POST", f"/api/v1/runs/{lake.runs[1]}/undo", {})
    assert refused.status == 409 and refused.json["detail"].count("was changed") == refused.json["detail"].count(f"by run {third} at") == 1
    for later in (third, lake.runs[1]):
        lake.post(f"/api/v1/runs/{later}/undo")
    assert names(lake) == ["x.a", "x.c", "x.d"] and [lake.sql(f"SELECT * FROM x.{t}") for t in "acd"] == [[{"n": 1}]] * 3
    assert catalog.load_table("x.c").scan().to_arrow().to_pylist() == [{"n": 1}]


def test_undo_of_what_was_expired(lake):
    keep(lake, expire_snapshots={"older_than": "0s", "keep_last": 1}, remove_orphan_files={"older_than": "3d"})
    refused = lake.request("POST", f"/api/v1/runs/{lake.runs[1]}/undo", {})
    assert refused.status == 409 and "table x.a: the snapshot" in refused.json["detail"] and "has been expired" in refused.json["detail"]
    assert names(lake) == ["x.a", "x.b", "x.c"]


def test_undo_of_nothing(daemon):
    daemon.flow("none", "id: none\ntasks:\n  - {id: a, type: command, command: [/bin/true]}\n")
    run = daemon.trigger("none")
    refused = daemon.request("POST", f"/api/v1/runs/{run['id']}/undo", {})
    assert refused.status == 409 and "nothing to take back" in refused.json["detail"]
    assert daemon.request("POST", "/api/v1/runs/20200101-000000-aaaaaa/undo", {}).status == 404
