"""Tables as people and scripts look at them: the API's and the command line's lists, states of the past, diff, rollback, tags and branches."""

import json
import pathlib
import shutil
import tempfile
import time

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.types import IntegerType

from conftest import Daemon, wait_until


@pytest.fixture(scope="module")
def shared(binary):
    """One daemon for tests that have namespaces of their own."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "flows").mkdir()
    daemon = Daemon(folder / "home", folder / "flows")
    yield daemon.start()
    daemon.clean_up()
    shutil.rmtree(folder, ignore_errors=True)


def rest(daemon):
    return RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)


def rows(ids, ages=None):
    columns = {"id": pa.array(ids, pa.int64()), "name": [f"n{i}" for i in ids]}
    return pa.table({**columns, "age": pa.array(ages, pa.int32())} if ages else columns)


def iso(ms):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


class Story:
    """A table with a past: three rows (tag v1), a column more and two rows more, one row deleted; a branch that has a row of its own."""

    def __init__(self, daemon, namespace, table="t"):
        self.daemon, self.name = daemon, f"{namespace}.{table}"
        catalog = rest(daemon)
        catalog.create_namespace_if_not_exists(namespace)
        self.table = t = catalog.create_table(self.name, schema=rows([1]).schema)
        t.append(rows([1, 2, 3]))
        self.first = t.current_snapshot().snapshot_id
        t.manage_snapshots().create_tag(self.first, "v1").commit()
        with t.update_schema() as change:
            change.add_column("age", IntegerType())
        t.append(rows([4, 5], [40, 50]))
        self.second = t.current_snapshot().snapshot_id
        t.manage_snapshots().create_branch(self.second, "exp").commit()
        t.delete("id = 1")
        self.third = t.current_snapshot().snapshot_id
        t.append(rows([9], [90]), branch="exp")
        t.refresh()
        self.branch = t.metadata.refs["exp"].snapshot_id

    def made(self, snapshot):
        """When a snapshot was made, as text that names exactly this time."""
        return iso(self.table.snapshot_by_id(snapshot).timestamp_ms)

    @property
    def path(self):
        return f"/api/v1/tables/{self.name}"

    def get(self, part="", **kw):
        return self.daemon.get(self.path + part, **kw)

    def refused(self, method, part, status, body=None):
        """The sentence of a refusal."""
        answer = self.daemon.request(method, self.path + part, body)
        assert answer.status == status, answer
        return answer.json["detail"]

    def cli(self, *args, **kw):
        return self.daemon.cli(*args, **kw)


@pytest.fixture(scope="module")
def story(shared):
    """A table that tests only look at."""
    return Story(shared, "look")


# ---- what metadata tells ----


def test_list(shared, story):
    rest(shared).create_table("look.void", schema=rows([1]).schema)
    Story(shared, "look2")
    items = {i["name"]: i for i in shared.get("/api/v1/tables")["items"]}
    t, void = items["look.t"], items["look.void"]
    assert (t["namespace"], t["table"], t["rows"], t["files"], t["snapshots"], t["format_version"]) == ("look", "t", 4, 2, 4, 2)
    assert t["snapshot_id"] == str(story.third) and t["changed_at"].startswith("20") and t["bytes"] > 0
    assert (void["rows"], void["snapshot_id"]) == (0, None)

    names, cursor = [], ""
    while cursor is not None:
        page = shared.get(f"/api/v1/tables?namespace=look&limit=1&cursor={cursor}")
        assert len(page["items"]) == 1
        names.append(page["items"][0]["name"])
        cursor = page["next"]
    assert names == ["look.t", "look.void"]
    assert shared.request("GET", "/api/v1/tables?limit=0").status == 400


def test_show(shared, story):
    t = story.get()
    assert [(f["name"], f["type"], f["required"]) for f in t["schema"]["fields"]] == [("id", "long", False), ("name", "string", False), ("age", "int", False)]
    assert t["partition_spec"]["fields"] == [] and t["sort_order"]["fields"] == [] and t["properties"] == story.table.properties
    assert t["location"] == story.table.location() and t["uuid"] == str(story.table.metadata.table_uuid)
    assert t["current_snapshot"]["snapshot_id"] == str(story.third) and t["current_snapshot"]["operation"] == "overwrite"
    assert {(r["name"], r["type"], r["snapshot_id"]) for r in t["refs"]} == {
        ("main", "branch", str(story.third)),
        ("v1", "tag", str(story.first)),
        ("exp", "branch", str(story.branch)),
    }
    assert shared.get("/api/v1/tables/local.look.t") == t, "with the catalog's name before it"


def test_history_and_snapshots(story):
    history = story.get("/history")["items"]
    assert [h["snapshot_id"] for h in history] == [str(s) for s in (story.third, story.second, story.first)]
    assert [h["current"] for h in history] == [True, False, False] and all(h["ancestor"] for h in history)
    assert [h["rows"] for h in history] == [4, 5, 3]
    snapshots = story.get("/snapshots")["items"]
    assert [s["snapshot_id"] for s in snapshots] == [str(s) for s in (story.branch, story.third, story.second, story.first)]
    assert snapshots[0]["refs"] == ["exp"] and snapshots[0]["parent_id"] == str(story.second) and snapshots[2]["rows_added"] == 2
    page = story.get("/snapshots?limit=3")
    assert page["items"] == snapshots[:3] and story.get(f"/snapshots?limit=3&cursor={page['next']}") == {"items": snapshots[3:], "next": None}


def test_schemas(story):
    assert [len(s["fields"]) for s in story.get("/schemas")["items"]] == [2, 3]
    assert len(story.get("/schema")["fields"]) == 3 and len(story.get("/schema?at=v1")["fields"]) == 2


def test_every_way_to_name_a_state(story):
    """The schema tells which snapshot was meant: the first one has two columns."""
    for at in ("v1", str(story.first), story.made(story.first), "2999-01-01", "exp", "previous", "0s ago"):
        wanted = 2 if at in ("v1", str(story.first), story.made(story.first)) else 3
        assert len(story.get(f"/schema?at={at.replace(' ', '%20')}")["fields"]) == wanted, at
    assert "history begins" in story.refused("GET", "/schema?at=2020-01-01", 404)
    assert "no snapshot 12345" in story.refused("GET", "/schema?at=12345", 404)
    told = story.refused("GET", "/schema?at=v11", 404)
    assert '"v11" is no branch, tag, snapshot id or time' in told and "main" in told and "exp" in told and story.name in told


def test_a_table_that_is_not_there(shared, story):
    answer = shared.request("GET", "/api/v1/tables/look.tt")
    assert answer.status == 404 and answer.json["detail"] == 'there is no table look.tt; did you mean "look.t"?'
    for part in ("/history", "/refs", "/schema"):
        assert shared.request("GET", f"/api/v1/tables/nope.zzzzzzz{part}").status == 404
    done = story.cli("tables", "show", "look.tt", check=False)
    assert done.returncode == 2 and 'did you mean "look.t"' in done.stderr


def test_metadata_that_cannot_be_read(shared):
    """One such table does not hide the others, and is named."""
    lost = Story(shared, "lost")
    file = pathlib.Path(shared.get(lost.path)["metadata_location"].removeprefix("file://"))
    lost.table.transaction().set_properties(a="1").commit_transaction()
    file = pathlib.Path(shared.get(lost.path)["metadata_location"].removeprefix("file://"))
    text = file.read_bytes()
    shared.stop()  # what is in its memory goes
    file.write_bytes(text[: len(text) // 2])
    shared.start()
    item = next(i for i in shared.get("/api/v1/tables?namespace=lost")["items"])
    assert str(file) in item["error"]
    answer = shared.request("GET", lost.path)
    assert answer.status >= 500 and "lost.t" in answer.json["detail"] and str(file) in answer.json["detail"]
    assert shared.cli("tables").stdout.count("cannot be read") == 1
    file.write_bytes(text)


def test_cli_lists(story):
    told = story.cli("tables").stdout
    assert "look.t" in told and str(story.third) in told
    told = story.cli("tables", "show", story.name).stdout
    assert "4 in 2 files" in told and "exp" in told and "age" in told
    assert story.cli("tables", story.name).stdout == told, "a table's name alone shows it"
    told = story.cli("tables", "history", story.name).stdout
    assert str(story.first) in told and str(story.branch) not in told
    assert "+2 -3" in story.cli("tables", "snapshots", story.name).stdout
    assert "tag" in story.cli("tables", "refs", story.name).stdout
    done = story.cli("tables", "schema", story.name, "--at", "v1")
    assert "age" not in done.stdout and "another one" in done.stderr
    assert json.loads(story.cli("tables", "snapshots", story.name, "--json").stdout) == story.get("/snapshots")
    assert json.loads(story.cli("tables", "show", story.name, "--json").stdout) == story.get()


def test_cli_wrong_use(story):
    for args, word in (
        (("histori", story.name), 'did you mean "history"'),
        (("show",), "usage"),
        (("list", story.name), "takes no table"),
        (("refs", story.name, "--at", "v1"), "does not take --at"),
        (("snapshots", story.name, "--limit", "x"), "whole number"),
    ):
        done = story.cli("tables", *args, check=False)
        assert done.returncode == 2 and word in done.stderr and done.stdout == "", (args, done)


# ---- in SQL ----


def told(daemon, query):
    return [list(row.values()) for row in daemon.sql(query)]


def test_states_in_sql(shared, story):
    for state, want in (("v1", [1, 2, 3]), (str(story.second), [1, 2, 3, 4, 5]), (story.made(story.first), [1, 2, 3]), ("exp", [1, 2, 3, 4, 5, 9]), ("main", [2, 3, 4, 5])):
        assert told(shared, f"SELECT id FROM as_of('look.t', '{state}') ORDER BY id") == [[i] for i in want], state
    # The engine's own words work too, but know no names.
    assert told(shared, f"SELECT count(*) FROM look.t AT (VERSION => {story.first})") == [[3]]
    assert told(shared, f"SELECT count(*) FROM look.t AT (TIMESTAMP => TIMESTAMP '{story.made(story.first).rstrip('Z')}')") == [[3]]
    # Two states of one table in one statement.
    gone = "SELECT old.id FROM as_of('local.look.t', 'v1') old ANTI JOIN look.t USING (id)"
    assert told(shared, gone) == [[1]]


def test_tables_about_a_table(shared, story):
    assert told(shared, "SELECT snapshot_id, operation FROM snapshots('look.t') ORDER BY committed_at")[0] == [story.first, "append"]
    assert told(shared, "SELECT snapshot_id FROM history('look.t') WHERE is_current_ancestor ORDER BY made_current_at") == [[s] for s in (story.first, story.second, story.third)]
    assert told(shared, "SELECT name, type FROM refs('look.t') ORDER BY name") == [["exp", "branch"], ["main", "branch"], ["v1", "tag"]]
    assert told(shared, "SELECT sum(record_count) FROM files('look.t', 'v1')") == [[3]]
    assert told(shared, "SELECT count(*), sum(record_count) FROM files('look.t')") == [[2, 4]]
    assert told(shared, "SELECT partition, record_count FROM partitions('look.t', 'exp')") == [[{}, 6]]
    assert told(shared, "SELECT sum(added_rows_count) FROM manifests('look.t', 'v1')") == [[3]]
    assert told(shared, "SELECT operation FROM history('look.t') JOIN snapshots('look.t') USING (snapshot_id) ORDER BY made_current_at")[-1] == ["overwrite"]
    void = rest(shared).create_table_if_not_exists("look.void", schema=rows([1]).schema).name()
    for kind in ("snapshots", "history", "refs", "files", "partitions", "manifests"):
        assert told(shared, f"SELECT * FROM {kind}('{'.'.join(void)}')") == [], kind


def test_partitions_by_value(shared):
    catalog = rest(shared)
    table = catalog.create_table("look.parts", schema=rows([1]).schema)
    with table.update_spec() as change:
        change.add_identity("name")
    table.append(rows([1, 2, 2]))
    assert told(shared, "SELECT partition->>'name', record_count, file_count FROM partitions('look.parts') ORDER BY 1") == [["n1", 1, 1], ["n2", 2, 1]]
    with table.update_spec() as change:
        change.remove_field("name")
    table.append(rows([3]))
    assert told(shared, "SELECT record_count FROM partitions('look.parts') ORDER BY spec_id, partition::VARCHAR") == [[1], [1], [2]]


def test_a_state_that_is_not_there_in_sql(shared, story):
    for query, word in (
        ("SELECT * FROM as_of('look.t', 'v7')", '"v7" is no branch, tag, snapshot id or time of the table; its branches and tags are'),
        ("SELECT * FROM files('look.nope')", "there is no table look.nope"),
        ("SELECT * FROM snapshots('nope')", "write namespace.table"),
        ("SELECT * FROM as_of(NULL, 'v1')", "must be a table's name"),
        ("SELECT * FROM as_of('look.t', 'v1''; DROP TABLE look.t; --')", "is no branch"),
    ):
        answer = shared.request("POST", "/api/v1/sql", {"sql": query})
        assert answer.status >= 400 and word in answer.json["detail"], answer


def test_types_that_the_engine_has_no_text_for(shared):
    """A time with a zone came back empty, and others ended the child."""
    row = shared.sql("SELECT TIMESTAMPTZ '2026-11-21 06:00:00+00' AS t, '101'::BIT AS b, interval 1 day AS i, 'x'::ENUM('x') AS e, '2020-01-01'::TIMESTAMP_NS AS n")[0]
    assert row == {"t": "2026-11-21 06:00:00+00", "b": "101", "i": "1 day", "e": "x", "n": "2020-01-01 00:00:00"}


def test_states_in_a_flow(daemon):
    past = Story(daemon, "past")
    daemon.flow(
        "compare",
        """\
        id: compare
        tasks:
          - id: c
            type: curate
            into: past.gone
            mode: overwrite
            sql: SELECT old.id FROM as_of('past.t', 'v1') old ANTI JOIN past.t USING (id)
        """,
    )
    run = daemon.trigger("compare")
    assert run["state"] == "success", run
    assert daemon.sql("SELECT id FROM past.gone") == [{"id": 1}]
    assert past.first
