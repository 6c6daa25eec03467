"""Tables as people and scripts look at them: the API's and the command line's lists, states of the past, diff, rollback, tags and branches."""

import concurrent.futures
import json
import os
import pathlib
import time
import urllib.parse

import duckdb
import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.types import IntegerType, LongType, StringType

from conftest import BINARY, why


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
    Story(shared, "list")
    rest(shared).create_table("list.void", schema=rows([1]).schema)
    items = {i["name"]: i for i in shared.get("/api/v1/tables")["items"]}
    t, void = items["look.t"], items["list.void"]
    assert (t["namespace"], t["table"], t["rows"], t["files"], t["snapshots"], t["format_version"]) == ("look", "t", 4, 2, 4, 2)
    assert t["snapshot_id"] == str(story.third) and t["changed_at"].startswith("20") and t["bytes"] > 0
    assert (void["rows"], void["snapshot_id"]) == (0, None)

    names, cursor = [], ""
    while cursor is not None:
        page = shared.get(f"/api/v1/tables?namespace=list&limit=1&cursor={cursor}")
        assert len(page["items"]) == 1
        names.append(page["items"][0]["name"])
        cursor = page["next"]
    assert names == ["list.t", "list.void"]
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


def test_partitions_by_value(shared, story):
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


# ---- files and rows of a state, by API and command line ----


def test_files_partitions_manifests_preview(shared, story):
    answer = story.get("/files?at=v1")
    assert answer["snapshot_id"] == str(story.first) and [f["record_count"] for f in answer["items"]] == [3] and answer["next"] is None
    first = story.get("/files?limit=1")
    second = story.get(f"/files?limit=1&cursor={first['next']}")
    assert first["items"] != second["items"] and second["next"] is None
    assert {f["file_path"] for f in first["items"] + second["items"]} == {t.file.file_path for t in story.table.scan().plan_files()}
    assert story.get("/partitions?at=exp")["items"] == [
        {**story.get("/partitions?at=exp")["items"][0], "partition": {}, "record_count": 6, "file_count": 3, "delete_file_count": 0}
    ]
    assert sum(m["added_rows_count"] for m in story.get("/manifests?at=v1")["items"]) == 3
    rows_of = story.get("/preview?at=v1")
    assert [c["name"] for c in rows_of["columns"]] == ["id", "name"] and len(rows_of["rows"]) == 3 and not rows_of["truncated"]
    assert story.get("/preview?limit=1")["truncated"]
    assert "no snapshot 7" in story.refused("GET", "/preview?at=7", 404)
    void = rest(shared).create_table_if_not_exists("look.void", schema=rows([1]).schema)
    assert void and shared.get("/api/v1/tables/look.void/files")["items"] == [] and shared.get("/api/v1/tables/look.void/preview")["rows"] == []


def test_cli_files(story):
    assert story.cli("tables", "files", story.name).stdout.count(".parquet") == 2
    assert "(not partitioned)" in story.cli("tables", "partitions", story.name).stdout
    assert ".avro" in story.cli("tables", "manifests", story.name, "--at", "previous").stdout
    done = story.cli("tables", "preview", story.name, "--at", "v1", "--csv")
    assert sorted(done.stdout.splitlines()) == ["1,n1", "2,n2", "3,n3", "id,name"]
    assert len(json.loads(story.cli("tables", "preview", story.name, "--json").stdout)) == 4


def test_odd_names(shared, story):
    catalog = rest(shared)
    catalog.create_namespace_if_not_exists("look.deep")
    for name in ("dotted.name", "o'clock", 'quo"ted', "blank space", "Ünï", "50%"):
        table = catalog.create_table(("look", "deep", name), schema=rows([1]).schema)
        table.append(rows([1, 2]))
        where = "/api/v1/tables/" + urllib.parse.quote(f"look.deep.{name}")
        assert shared.get(where)["rows"] == 2 and shared.get(where)["table"] == name
        assert len(shared.get(where + "/preview")["rows"]) == 2, name
        assert "2 in 1 file" in shared.cli("tables", "show", f"look.deep.{name}").stdout


# ---- rollback, tags, branches ----


@pytest.fixture
def changing(shared, request):
    """A table that the test may change."""
    return Story(shared, "c_" + request.node.name[5:25])


def ids(story, **kw):
    story.table.refresh()
    return sorted(story.table.scan(**kw).to_arrow()["id"].to_pylist())


def test_rollback(shared, changing):
    s = changing
    answer = shared.post(s.path + "/rollback", {"to": str(s.second)})
    assert answer == {"table": s.name, "name": "main", "type": "branch", "before": str(s.third), "snapshot_id": str(s.second)}
    assert ids(s) == [1, 2, 3, 4, 5] and told(shared, f"SELECT count(*) FROM {s.name}") == [[5]]
    history = s.get("/history")["items"]
    assert [(h["snapshot_id"], h["ancestor"]) for h in history[:2]] == [(str(s.second), True), (str(s.third), False)]
    told_now = s.cli("rollback", s.name, "--to", s.made(s.first))
    assert f"is at {s.first} now, was at {s.second}" in told_now.stdout and f"sluice rollback {s.name} --to {s.second}" in told_now.stderr
    assert ids(s) == [1, 2, 3]
    s.cli("rollback", s.name, "--to", s.third)  # forward again
    assert ids(s) == [2, 3, 4, 5]
    s.cli("rollback", s.name, "--to", "previous")
    assert s.table.refresh().current_snapshot().snapshot_id == s.second
    assert "as before" in s.cli("rollback", s.name, "--to", str(s.second)).stdout
    s.table.append(rows([7], [70]))  # what comes next builds on it
    assert ids(s) == [1, 2, 3, 4, 5, 7]


def test_rollback_refused(shared, changing):
    s = changing
    assert "belongs to a branch" in s.refused("POST", "/rollback", 409, {"to": "exp"})
    assert "is no branch" in s.refused("POST", "/rollback", 404, {"to": "never"})
    for body in ({}, {"to": ""}, {"to": 5}):
        assert '"to"' in s.refused("POST", "/rollback", 400, body)
    assert shared.request("POST", "/api/v1/tables/no.such/rollback", {"to": "x"}).status == 404
    assert "--to" in s.cli("rollback", s.name, check=False).stderr
    viewer = shared.post("/api/v1/tokens", {"scope": "runner"})["token"]
    assert shared.request("POST", s.path + "/rollback", {"to": "v1"}, headers={"Authorization": f"Bearer {viewer}"}).status == 403
    assert s.table.refresh().current_snapshot().snapshot_id == s.third


def test_previous_of_a_replaced_table(daemon):
    """A replaced table's snapshot has no parent, or one: what was there before is meant all the same."""
    daemon.flow("twice", 'id: twice\nparams: {n: {type: int, default: 1}}\ntasks:\n  - {id: c, type: curate, into: a.t, mode: replace, sql: "SELECT ${params.n} AS n"}\n')
    for n in (1, 2):
        assert daemon.trigger("twice", {"n": n})["state"] == "success"
    assert daemon.sql("SELECT n FROM as_of('a.t', 'previous')") == [{"n": 1}]
    daemon.cli("rollback", "a.t", "--to", "previous")
    assert daemon.sql("SELECT n FROM a.t") == [{"n": 1}]


def test_tags(shared, changing):
    s = changing
    assert "made at" in s.cli("tag", s.name, "eoy", "--at", str(s.second), "--retain", "30d").stdout
    ref = s.table.refresh().metadata.refs["eoy"]
    assert (ref.snapshot_id, ref.snapshot_ref_type, ref.max_ref_age_ms) == (s.second, "tag", 30 * 86400 * 1000)
    assert ids(s, snapshot_id=s.table.snapshot_by_name("eoy").snapshot_id) == [1, 2, 3, 4, 5]
    assert "has a tag eoy already" in s.cli("tag", s.name, "eoy", check=False).stderr
    s.cli("tag", s.name, "eoy", "--replace")
    ref = s.table.refresh().metadata.refs["eoy"]
    assert (ref.snapshot_id, ref.max_ref_age_ms) == (s.third, 30 * 86400 * 1000), "moved, and kept as long as before"
    assert "kept 30d" in s.cli("tag", s.name).stdout and "exp" not in s.cli("tag", s.name).stdout
    assert "removed" in s.cli("tag", s.name, "eoy", "--delete").stdout
    assert "eoy" not in s.table.refresh().metadata.refs
    assert s.cli("tag", s.name, "eoy", "--delete", check=False).returncode == 2
    assert "is a branch, not a tag" in s.cli("tag", s.name, "exp", "--delete", check=False).stderr


def test_branches(shared, changing):
    s = changing
    s.cli("branch", s.name, "trial", "--at", "v1", "--keep-snapshots", "3", "--snapshot-age", "7d")
    ref = s.table.refresh().metadata.refs["trial"]
    assert (ref.snapshot_ref_type, ref.snapshot_id, ref.min_snapshots_to_keep, ref.max_snapshot_age_ms) == ("branch", s.first, 3, 7 * 86400 * 1000)
    s.table.append(rows([8], [80]), branch="trial")
    assert ids(s, snapshot_id=s.table.snapshot_by_name("trial").snapshot_id) == [1, 2, 3, 8] and ids(s) == [2, 3, 4, 5]
    assert told(shared, f"SELECT count(*) FROM as_of('{s.name}', 'trial')") == [[4]]
    s.cli("branch", s.name, "trial", "--delete")
    assert "trial" not in s.table.refresh().metadata.refs
    assert "cannot be removed" in s.cli("branch", s.name, "main", "--delete", check=False).stderr


def test_names_that_cannot_be_given(changing):
    s = changing
    for name, body, status, word in (
        ("123", {"type": "tag"}, 400, "reads as a snapshot id"),
        ("2026-01-01", {"type": "tag"}, 400, "reads as a snapshot id or a time"),
        ("previous", {"type": "tag"}, 400, "hide"),
        ("main", {"type": "branch"}, 409, "rollback"),
        ("x", {"type": "twig"}, 400, '"tag" or "branch"'),
        ("x", {"type": "tag", "retain": "soon"}, 400, "duration"),
        ("x", {"type": "tag", "keep_snapshots": 3}, 400, "for branches"),
        ("x", {"type": "branch", "keep_snapshots": 0}, 400, "whole number"),
        ("x", {"type": "tag", "at": "nowhere"}, 404, "is no branch"),
        ("exp", {"type": "tag", "replace": True}, 409, "has a branch exp already"),
    ):
        assert word in s.refused("PUT", f"/refs/{name}", status, body), name
    s.daemon.request("PUT", s.path + "/refs/a%20%22b%22", {"type": "tag"})
    assert s.table.refresh().metadata.refs['a "b"'].snapshot_id == s.third


def test_a_change_meets_another(shared, changing):
    """Twenty people tag and one rolls back at the same time: each is refused with a reason or done, none is lost."""
    s = changing

    def one(i):
        if i == 10:
            return shared.request("POST", s.path + "/rollback", {"to": "v1"}).status
        return shared.request("PUT", f"{s.path}/refs/t{i}", {"type": "tag", "at": str(s.first)}).status

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(20))) == {200}
    assert {f"t{i}" for i in range(20) if i != 10} <= set(s.table.refresh().metadata.refs) and ids(s) == [1, 2, 3]


# ---- diff ----


def changes(answer):
    """{(sign, id)} of the rows that differ."""
    return {(r["change"], (r["after"] or r["before"])["id"], r["times"]) for r in answer["rows"]}


def test_diff(story):
    answer = story.get("/diff?from=v1")
    assert (answer["from"]["snapshot_id"], answer["to"]["snapshot_id"]) == (str(story.first), str(story.third))
    assert answer["schema"] == [{"change": "added", "column": "age", "type": "int"}] and answer["columns"] == ["id", "name", "age"]
    assert answer["counts"] == {"before": 3, "after": 4, "added": 2, "removed": 1, "changed": 0}
    assert changes(answer) == {("removed", 1, 1), ("added", 4, 1), ("added", 5, 1)}
    assert changes(story.get("/diff")) == {("removed", 1, 1)}, "what changed last"
    assert changes(story.get("/diff?from=main&to=v1")) == {("added", 1, 1), ("removed", 4, 1), ("removed", 5, 1)}
    assert story.get("/diff?from=v1&to=v1")["rows"] == []
    page = story.get("/diff?from=v1&limit=2")
    assert len(page["rows"]) == 2 and page["truncated"] and page["counts"]["added"] == 2


def test_diff_by_key(shared):
    s = Story(shared, "keyed")
    catalog = rest(shared)
    t = catalog.load_table(s.name)
    before = t.current_snapshot().snapshot_id
    t.overwrite(pa.table({"id": pa.array([2, 3, 4, 6, 6], pa.int64()), "name": ["n2", "new", "n4", "a", "a"], "age": pa.array([None, None, 40, 1, 1], pa.int32())}))
    answer = shared.get(f"{s.path}/diff?from={before}&key=id")
    assert answer["counts"] == {"before": 4, "after": 5, "added": 2, "removed": 1, "changed": 1} and answer["key"] == ["id"]
    assert changes(answer) == {("changed", 3, 1), ("removed", 5, 1), ("added", 6, 2)}
    row = next(r for r in answer["rows"] if r["change"] == "changed")
    assert (row["before"]["name"], row["after"]["name"]) == ("n3", "new")
    # Without a key the changed row is one gone and one come.
    answer = shared.get(f"{s.path}/diff?from={before}")
    assert answer["counts"] == {"before": 4, "after": 5, "added": 3, "removed": 2, "changed": 0}
    told_now = shared.cli("diff", s.name, str(before), "main", "--key", "id")
    assert "n3 -> new" in told_now.stdout and "+2 times" in told_now.stdout and "1 changed" in told_now.stdout
    assert "--key" in shared.cli("diff", s.name, str(before)).stderr
    assert 'did you mean "name"' in shared.cli("diff", s.name, str(before), "--key", "id,nam", check=False).stderr
    assert json.loads(shared.cli("diff", s.name, str(before), "--json").stdout) == answer


def test_diff_over_a_changed_schema(shared):
    """A renamed column is one column; one that went and came again is two; a widened one compares by value."""
    s = Story(shared, "bent")
    t = rest(shared).load_table(s.name)
    before = t.current_snapshot().snapshot_id
    with t.update_schema() as change:
        change.rename_column("name", "title").update_column("age", LongType())
    t.append(pa.table({"id": pa.array([7], pa.int64()), "title": ["n7"], "age": pa.array([1 << 40], pa.int64())}))
    answer = shared.get(f"{s.path}/diff?from={before}&key=id")
    assert {(c["change"], c["column"], c["before"]) for c in answer["schema"]} == {("renamed", "title", "name"), ("type", "age", "int")}
    assert changes(answer) == {("added", 7, 1)}
    with t.update_schema() as change:
        change.delete_column("age")
    with t.update_schema() as change:
        change.add_column("age", StringType())
    t.append(pa.table({"id": pa.array([8], pa.int64()), "title": ["n8"], "age": ["old"]}))
    answer = shared.get(f"{s.path}/diff?from={before}&key=id")
    assert answer["columns"] == ["id", "title", "age", "age (before)"]
    assert {("changed", 4, 1), ("changed", 5, 1), ("added", 8, 1)} <= changes(answer)
    assert "column title was called name" in shared.cli("diff", s.name, str(before)).stdout


def test_diff_refused(shared, story):
    assert "is no branch" in story.refused("GET", "/diff?from=nowhere", 404)
    rest(shared).create_table_if_not_exists("look.void", schema=rows([1]).schema)
    answer = shared.request("GET", "/api/v1/tables/look.void/diff")
    assert answer.status == 404 and "no current snapshot" in answer.json["detail"]


# ---- states in flows ----


def test_stage_and_validate_at_a_state(daemon, folder):
    s = Story(daemon, "past")
    daemon.flow(
        "read",
        """\
        id: read
        params: {at: v1, rows: 3}
        tasks:
          - id: stage
            type: stage
            source: {format: iceberg, table: local.past.t, at: "${params.at}"}
            where: id > 1
            target: {path: out/part.parquet}
          - id: publish
            type: publish
            depends_on: [stage]
            from: ${tasks.stage.outputs.path}
            into: past.copy
            mode: replace
          - id: check
            type: validate
            depends_on: [publish]
            table: past.t
            at: ${params.at}
            checks:
              - row_count: {equals: "${params.rows}"}
              - unique: [id]
        """,
    )
    for at, rows_then, want in (("v1", 3, [2, 3]), (str(s.second), 5, [2, 3, 4, 5]), (s.made(s.first), 3, [2, 3]), ("exp", 6, [2, 3, 4, 5, 9]), ("main", 4, [2, 3, 4, 5])):
        run = daemon.trigger("read", {"at": at, "rows": rows_then})
        assert run["state"] == "success", why(run)
        assert told(daemon, "SELECT id FROM past.copy ORDER BY id") == [[i] for i in want], at
    run = daemon.trigger("read", {"at": "v1", "rows": 4})
    assert run["state"] == "failed" and "3 rows in past.t at v1, expected 4" in why(run)
    run = daemon.trigger("read", {"at": "never", "rows": 4})
    assert run["state"] == "failed" and "never" in run["error"] and "is no branch, tag, snapshot id or time of the table" in run["error"]


def test_stage_from_a_table_rejects_rows(daemon):
    """A cast that does not fit is found in a table as in a file."""
    Story(daemon, "past")
    flow = "id: cast\ntasks:\n  - {id: s, type: stage, source: {format: iceberg, table: past.t}, cast: {name: int}, on_reject: ON, target: {path: out.parquet}}\n"
    daemon.flow("cast", flow.replace("ON", "fail"))
    run = daemon.trigger("cast")
    assert run["state"] == "failed" and "past.t:" in why(run) and 'column "name": not of type int' in run["error"]
    daemon.flow("cast", flow.replace("ON", "skip"))
    run = daemon.trigger("cast")
    assert run["state"] == "success", why(run)
    assert run["tasks"][0]["attempts"][0]["metrics"]["rows_rejected"] == 4


def test_a_run_sees_its_own_state(daemon):
    """What as_of and snapshots tell inside a run is what the run has written so far, which nobody else sees yet."""
    Story(daemon, "past")
    daemon.flow(
        "own",
        """\
        id: own
        tasks:
          - {id: a, type: curate, into: past.t2, mode: append, sql: SELECT 1 AS n}
          - {id: b, type: curate, depends_on: [a], into: past.seen, mode: append, sql: "SELECT count(*) AS n FROM snapshots('past.t2')"}
          - {id: c, type: validate, depends_on: [b], sql: "SELECT * FROM as_of('past.t2', 'main')", checks: [{row_count: {equals: 1}}]}
        """,
    )
    run = daemon.trigger("own")
    assert run["state"] == "success", why(run)
    assert daemon.sql("SELECT n FROM past.seen") == [{"n": 1}]



def test_rows_that_were_deleted_beside_their_file(shared, story):
    """The engine's own DELETE writes down which rows are gone: files tell of both, rows are counted without them."""
    table = rest(shared).create_table("look.beside", schema=rows([1]).schema)
    table.append(rows([1, 2, 3]))
    build = os.environ.get("SLUICE_BUILD", str(BINARY.parent))
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as db:
        for extension in ("avro", "httpfs", "iceberg"):
            db.execute(f"LOAD '{build}/lib/{extension}.duckdb_extension'")
        db.execute(f"CREATE SECRET s (TYPE iceberg, TOKEN '{shared.token}')")
        db.execute(f"ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{shared.url}/iceberg', SECRET s)")
        db.execute("DELETE FROM lake.look.beside WHERE id = 2")
    assert shared.get("/api/v1/tables/look.beside")["rows"] == 2
    files = {f["content"]: f["record_count"] for f in shared.get("/api/v1/tables/look.beside/files")["items"]}
    assert files == {"data": 3, "position deletes": 1}
    assert changes(shared.get("/api/v1/tables/look.beside/diff?key=id")) == {("removed", 2, 1)}
    partition = shared.get("/api/v1/tables/look.beside/partitions")["items"][0]
    assert (partition["record_count"], partition["position_delete_record_count"]) == (3, 1)
    assert len(shared.get("/api/v1/tables/look.beside/preview")["rows"]) == 2
