"""What is broken, too large, too late or oddly named: the specification's error, with the table and the file in it, and nothing
deleted or half visible."""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import subprocess
import urllib.parse

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog

from conftest import postgres

SCHEMA = {"type": "struct", "fields": [{"id": 1, "name": "id", "type": "long", "required": False}]}
SQL_VIEW = {
    "version-id": 1, "timestamp-ms": 1, "schema-id": 0, "summary": {}, "default-namespace": ["bad"],
    "representations": [{"type": "sql", "sql": "SELECT 1", "dialect": "duckdb"}],
}


def path(*namespace):
    return "/iceberg/v1/namespaces/" + urllib.parse.quote("\x1f".join(namespace), safe="")


def quoted(name):
    return urllib.parse.quote(name, safe="")


def error(answer, status, type):
    assert answer.status == status, answer
    told = answer.json["error"]
    assert (told["code"], told["type"]) == (status, type), told
    return told["message"]


def make(daemon, namespace, *tables):
    daemon.post("/iceberg/v1/namespaces", {"namespace": [namespace]})
    return [daemon.post(path(namespace) + "/tables", {"name": t, "schema": SCHEMA}) for t in tables]


def set_property(**values):
    return {"requirements": [], "updates": [{"action": "set-properties", "updates": values}]}


def local(location):
    return pathlib.Path(location.removeprefix("file://"))


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_metadata_that_cannot_be_used(daemon):
    """Damaged, gone, or of a later version; met by a load, a commit, a transaction and a drop."""
    made = make(daemon, "bad", *"abcd")
    view = daemon.post(path("bad") + "/views", {"name": "w", "schema": SCHEMA, "view-version": SQL_VIEW, "properties": {}})
    places = [local(m["metadata-location"]) for m in made]
    daemon.stop()
    places[0].write_text(places[0].read_text()[:100])
    places[1].unlink()
    places[2].write_text(json.dumps({**made[2]["metadata"], "format-version": 4}))
    local(view["metadata-location"]).write_text(json.dumps({**view["metadata"], "format-version": 2}))
    daemon.start()
    warehouse = local(made[0]["metadata"]["location"]).parents[1]
    before = files(warehouse)
    for name, place, status, type, words in (
        ("a", places[0], 500, "InternalServerError", "is damaged"),
        ("b", places[1], 500, "InternalServerError", "No such file"),
        ("c", places[2], 501, "UnsupportedOperationException", "format version 4"),
    ):
        where = f"{path('bad')}/tables/{name}"
        both = [
            {"identifier": {"namespace": ["bad"], "name": n}, **set_property(x="1")} for n in ("d", name)
        ]
        for answer in (
            daemon.request("GET", where),
            daemon.request("POST", where, set_property(x="1")),
            daemon.request("POST", "/iceberg/v1/transactions/commit", {"table-changes": both}),
        ):
            message = error(answer, status, type)
            assert words in message and str(place) in message and f"table bad.{name}" in message and message.count("table bad") == 1
    message = error(daemon.request("GET", path("bad") + "/views/w"), 501, "UnsupportedOperationException")
    assert "view bad.w" in message and "format version 2" in message
    # The others work, nothing of the transactions is to be seen, and nothing went.
    assert daemon.get(path("bad") + "/tables/d")["metadata"]["properties"] == {}
    assert files(warehouse) == before
    assert [i["name"] for i in daemon.get(path("bad") + "/tables")["identifiers"]] == list("abcd")
    # What cannot be read can be dropped, and put right.
    places[0].write_text(json.dumps(made[0]["metadata"]))
    assert daemon.get(path("bad") + "/tables/a")["metadata"] == made[0]["metadata"]
    assert daemon.request("DELETE", path("bad") + "/tables/b").status == 204
    assert files(warehouse) == before


WAYS = {
    "gone": lambda p: p.unlink(),
    "garbage": lambda p: p.write_bytes(b"this is another file " * 20),
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
}


@pytest.mark.parametrize("what", ["data file", "manifest", "manifest list"])
def test_files_of_a_table_that_cannot_be_read(daemon, what):
    """Whoever meets them, in a statement of anybody or while it writes, is told which table and which file it is."""

    def task(**keys):
        source = json.dumps({"id": "f", "tasks": [{"id": "t", **keys}]})
        run = daemon.ended(daemon.post("/api/v1/runs", {"file": "f.yaml", "source": source})["id"])
        return run["state"], run["tasks"][0]["attempts"][0]["error"] or {}

    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    warehouse = daemon.home / "warehouse"
    for way, damage in WAYS.items():
        name = f"bad.t_{way}"
        assert task(type="curate", into=name, partition_by=["p"], sql="SELECT range::INT AS id, 1 AS p, 'x' || range AS s FROM range(100)")[0] == "success"
        table = catalog.load_table(name)
        snapshot = table.current_snapshot()
        (manifest,) = snapshot.manifests(table.io)
        (entry,) = manifest.fetch_manifest_entry(table.io)
        file = local({"data file": entry.data_file.file_path, "manifest": manifest.manifest_path, "manifest list": snapshot.manifest_list}[what])
        damage(file)
        before = {p for p in files(warehouse) if "other" not in str(p)}
        told = [daemon.cli("sql", f"SELECT count(s) FROM {name}", check=False).stderr]
        told += [daemon.request("GET", f"/api/v1/tables/{name}/preview").json["detail"]]
        if what != "data file":
            told += [daemon.request("GET", f"/api/v1/tables/{name}/files").json["detail"]]
        row = "SELECT 1 AS id, 1 AS p, 'y' AS s"
        for keys in (
            {"type": "curate", "into": "bad.other", "mode": "overwrite", "sql": f"SELECT max(s) AS s FROM {name}"},
            {"type": "validate", "table": name, "checks": [{"unique": ["s"]}]},
            {"type": "curate", "into": name, "mode": "upsert", "key": ["id"], "sql": row},
            *([] if what == "data file" else [{"type": "curate", "into": name, "mode": "overwrite_partitions", "sql": row}]),
        ):
            state, error = task(**keys)
            assert state == "failed", keys
            told.append(error["message"])
        for text in told:
            assert file.name in text and name in text and "signal" not in text and len(text) < 900, text
        assert {p for p in files(warehouse) if "other" not in str(p)} == before, "what failed tasks wrote is gone, and nothing else"
        assert len(catalog.load_table(name).snapshots()) == 1


def test_a_stale_commit(daemon):
    (made,) = make(daemon, "stale", "t")
    where = path("stale") + "/tables/t"
    snapshot = lambda n, **more: {"snapshot-id": n, "timestamp-ms": 1700000000000 + n, "manifest-list": "file:///x", "summary": {"operation": "append"}, "schema-id": 0, **more}
    add = lambda s: [{"action": "add-snapshot", "snapshot": s}, {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": s["snapshot-id"]}]
    on = lambda parent: [{"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": parent}]
    daemon.post(where, {"requirements": on(None), "updates": add(snapshot(1, **{"sequence-number": 1}))})
    current = daemon.post(where, {"requirements": on(1), "updates": add(snapshot(2, **{"sequence-number": 2, "parent-snapshot-id": 1}))})
    before = files(local(made["metadata"]["location"]))
    late = {"requirements": on(1), "updates": add(snapshot(3, **{"sequence-number": 2, "parent-snapshot-id": 1}))}
    assert "main" in error(daemon.request("POST", where, late), 409, "CommitFailedException")
    late["requirements"] = []
    assert "sequence number" in error(daemon.request("POST", where, late), 409, "CommitFailedException")
    again = {"requirements": [], "updates": [*add(snapshot(9, **{"sequence-number": 9, "parent-snapshot-id": 2})), {"action": "unheard-of"}]}
    assert "unheard-of" in error(daemon.request("POST", where, again), 400, "BadRequestException")
    assert daemon.get(where) | {"config": 0} == current | {"config": 0}
    assert files(local(made["metadata"]["location"])) == before


def test_what_is_remembered_is_not_believed(daemon):
    """Where a table stands is remembered after a commit; another program may have moved, renamed or dropped it since."""
    make(daemon, "memo", "t", "u")
    where = path("memo") + "/tables/t"
    first = daemon.post(where, set_property(a="1"))["metadata-location"]
    second = daemon.post(where, set_property(b="1"))["metadata-location"]
    with contextlib.closing(postgres(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE iceberg_tables SET metadata_location = %s WHERE table_name = 't'", (first,))
        assert daemon.post(where, set_property(c="1"))["metadata"]["properties"] == {"a": "1", "c": "1"}
        cursor.execute("UPDATE iceberg_tables SET metadata_location = %s WHERE table_name = 't'", (second,))
        # A requirement that fails on what is remembered holds on what is there.
        on_b = daemon.get(where)["metadata"]
        assert on_b["properties"] == {"a": "1", "b": "1"}
        daemon.post(where, {"requirements": [{"type": "assert-current-schema-id", "current-schema-id": 0}], "updates": [{"action": "set-location", "location": on_b["location"]}]})
        cursor.execute("DELETE FROM iceberg_tables WHERE table_name = 't'")
        error(daemon.request("POST", where, set_property(d="1")), 404, "NoSuchTableException")
    daemon.post(path("memo") + "/tables/u", set_property(a="1"))
    assert daemon.request("POST", "/iceberg/v1/tables/rename", {"source": {"namespace": ["memo"], "name": "u"}, "destination": {"namespace": ["memo"], "name": "t"}}).status == 204
    error(daemon.request("POST", path("memo") + "/tables/u", set_property(a="2")), 404, "NoSuchTableException")
    assert daemon.post(where, set_property(b="2"))["metadata"]["properties"] == {"a": "1", "b": "2"}


def test_fifty_megabytes(daemon):
    make(daemon, "large", "t", "u")
    where = path("large") + "/tables/t"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        large = pool.submit(daemon.request, "POST", where, set_property(a="x" * (50 << 20)), timeout=60)
        while not large.done():  # others go on
            assert daemon.request("GET", "/healthz").status == 200
        assert large.result().status == 200
    assert len(daemon.get(where)["metadata"]["properties"]["a"]) == 50 << 20
    # More than that is refused before it is sent.
    at = urllib.parse.urlsplit(daemon.url)
    with contextlib.closing(http.client.HTTPConnection(at.hostname, at.port, timeout=30)) as connection:
        connection.putrequest("POST", where)
        connection.putheader("Authorization", f"Bearer {daemon.token}")
        connection.putheader("Content-Length", str(65 << 20))
        connection.endheaders()
        answer = connection.getresponse()
        told = json.loads(answer.read())["error"]
        assert (answer.status, told["code"], told["type"]) == (413, 413, "BadRequestException") and "67108864" in told["message"]
    for wrong in (b"[" * 100_000, b'{"updates": ' + b"[" * 5000, b"\xff" * 1000, b'{"a": "\\u0000"}', b'{"updates": [1e999]}'):
        error(daemon.request("POST", where, wrong), 400, "BadRequestException")
    assert daemon.request("POST", where, {"requirements": [], "updates": [{"action": "remove-properties", "removals": ["a"]}]}).status == 200
    assert daemon.post(path("large") + "/tables/u", set_property(a="1"))["metadata"]["properties"] == {"a": "1"}


ODD = ["100%", "%2F", "%1F", "a b", " ", "ñandú", "数据 🦆", "it's", 'say "hi"', "back\\slash", "a?b", "a#b", "a&b=c", "a+b", "*", "[x]", "{y}", "a:b", "semi;colon", "dots.in.it", "..."]


@pytest.mark.parametrize("kind", ["tables", "views"])
def test_odd_names(daemon, kind):
    daemon.post("/iceberg/v1/namespaces", {"namespace": ["odd", "100% ñ?#"]})
    where = path("odd", "100% ñ?#")
    for name in ODD:
        body = {"name": name, "schema": SCHEMA, "properties": {}} | ({"view-version": SQL_VIEW} if kind == "views" else {})
        made = daemon.post(f"{where}/{kind}", body)
        assert local(made["metadata-location"]).exists()
        assert not set('*?[]{}#%\\:"') & set(made["metadata"]["location"].removeprefix("file:"))
        assert daemon.post(f"{where}/{kind}/{quoted(name)}", {"requirements": [], "updates": [{"action": "set-properties", "updates": {name: name}}]})["metadata"]["properties"] == {name: name}
        assert daemon.get(f"{where}/{kind}/{quoted(name)}")["metadata"]["properties"] == {name: name}
    assert sorted(i["name"] for i in daemon.get(f"{where}/{kind}")["identifiers"]) == sorted(ODD)
    if kind == "tables":
        catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
        for name in ODD:
            if "." not in name:  # where PyIceberg splits
                catalog.load_table(("odd", "100% ñ?#", name)).append(pa.table({"id": pa.array([1], pa.int64())}))
        assert daemon.sql('SELECT count(*)::INT AS n FROM "odd.100% ñ?#"."a?b"') == [{"n": 1}]
    for name in ODD:
        identifier = lambda n: {"namespace": ["odd", "100% ñ?#"], "name": n}
        assert daemon.request("POST", f"/iceberg/v1/{kind}/rename", {"source": identifier(name), "destination": identifier(name + "2")}).status == 204
        assert daemon.request("DELETE", f"{where}/{kind}/{quoted(name + '2')}").status == 204
    for name in ("a/b", "..", ".", "", "x" * 256, "new\nline", "nul\x00", "del\x7f"):
        answer = daemon.request("POST", f"{where}/{kind}", {"name": name, "schema": SCHEMA, "properties": {}, "view-version": SQL_VIEW})
        error(answer, 400, "BadRequestException")
    for name in ("a%2Fb", "%2e%2e", "%0A", "%FF", "x" * 300):
        assert daemon.request("GET", f"{where}/{kind}/{name}").status == 404
    for level in (["a/b"], ["a", ""], ["x\x1fy"], ["x" * 300]):
        error(daemon.request("POST", "/iceberg/v1/namespaces", {"namespace": level}), 400, "BadRequestException")


def test_a_full_disk(daemon):
    (made,) = make(daemon, "full", "t")
    where, folder = path("full") + "/tables/t", local(made["metadata"]["location"]) / "metadata"
    kept = {p.name: p.read_bytes() for p in folder.iterdir()}
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=777", "none", folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        for name, content in kept.items():
            (folder / name).write_bytes(content)
        message = error(daemon.request("POST", where, set_property(a="x" * 100_000)), 500, "InternalServerError")
        assert "No space left on device" in message and str(folder) in message
        assert {p.name for p in folder.iterdir()} == set(kept)
        assert daemon.get(where)["metadata"] == made["metadata"]
        assert daemon.post(where, set_property(a="small"))["metadata"]["properties"] == {"a": "small"}
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
