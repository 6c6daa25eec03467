"""The Iceberg REST catalog itself: what it promises to any client, over plain HTTP, and with PyIceberg where that is the point."""

import concurrent.futures
import contextlib
import json
import pathlib
import urllib.parse

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NamespaceNotEmptyError, NoSuchNamespaceError
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from conftest import http, postgres, wait_until

SCHEMA = {"type": "struct", "fields": [{"id": 1, "name": "id", "type": "long", "required": False}]}


def rest(daemon, token=None, **properties):
    return RestCatalog("local", uri=daemon.url + "/iceberg", token=token or daemon.token, **properties)


def path(*namespace):
    return "/iceberg/v1/namespaces/" + urllib.parse.quote("\x1f".join(namespace), safe="")


def ask(daemon, method, where, body=None, token=None, status=200, headers=None):
    """One request as a client makes it; the answer's JSON, or its error."""
    answer = http(method, daemon.url + where, body, {"Authorization": f"Bearer {token or daemon.token}", **(headers or {})})
    assert answer.status == status, answer
    if status >= 400:
        error = answer.json["error"]
        assert error["code"] == status and error["message"] and error["type"]
        return error
    return answer.json if answer.body else None


def make(daemon, namespace, *tables):
    ask(daemon, "POST", "/iceberg/v1/namespaces", {"namespace": [namespace]})
    return [ask(daemon, "POST", path(namespace) + "/tables", {"name": t, "schema": SCHEMA}) for t in tables]


def set_property(**values):
    return {"requirements": [], "updates": [{"action": "set-properties", "updates": values}]}


def table(daemon, namespace, name):
    return ask(daemon, "GET", f"{path(namespace)}/tables/{name}")


def local(location):
    assert location.startswith("file:///")
    return pathlib.Path(location.removeprefix("file://"))


# ---- the catalog, namespaces ----


def test_config_and_credentials(shared):
    config = ask(shared, "GET", "/iceberg/v1/config")
    assert "POST /v1/{prefix}/transactions/commit" in config["endpoints"]
    assert http("GET", shared.url + "/iceberg/v1/config").status == 401
    # A token may be one of a running attempt until those are known: 503 in the first moment.
    nobody = lambda: http("GET", shared.url + "/iceberg/v1/namespaces", headers={"Authorization": "Bearer no"}).status
    wait_until(lambda: nobody() != 503, "the tokens")
    assert nobody() == 401
    # A client that knows credentials only gets its secret back as a token, and works with it.
    tokens = shared.url + "/iceberg/v1/oauth/tokens"
    credential = {"credential": f"admin:{shared.token}", "oauth2-server-uri": tokens}
    assert RestCatalog("local", uri=shared.url + "/iceberg", **credential).list_namespaces() is not None
    assert http("POST", tokens, b"grant_type=password&username=me").status == 400
    assert http("POST", tokens, b"grant_type=client_credentials&client_id=me").status == 401


def test_namespaces(shared):
    catalog = rest(shared)
    catalog.create_namespace(("deep", "er"), {"owner": "ana", "exists": "no"})
    assert ("deep",) in catalog.list_namespaces()
    assert catalog.list_namespaces(("deep",)) == [("deep", "er")]
    assert catalog.namespace_exists(("deep",)) and not catalog.namespace_exists(("de",))
    assert catalog.load_namespace_properties(("deep", "er")) == {"owner": "ana"}
    summary = catalog.update_namespace_properties(("deep", "er"), removals={"owner", "none"}, updates={"city": "Lugo"})
    assert (summary.removed, summary.updated, summary.missing) == (["owner"], ["city"], ["none"])
    assert catalog.load_namespace_properties(("deep", "er")) == {"city": "Lugo"}
    with pytest.raises(NamespaceNotEmptyError):
        catalog.drop_namespace(("deep",))
    catalog.drop_namespace(("deep", "er"))
    with pytest.raises(NoSuchNamespaceError):
        catalog.drop_namespace(("deep", "er"))


def test_namespace_errors(shared):
    make(shared, "ns_err")
    assert ask(shared, "POST", "/iceberg/v1/namespaces", {"namespace": ["ns_err"]}, status=409)["type"] == "AlreadyExistsException"
    for body in ({}, {"namespace": []}, {"namespace": [""]}, {"namespace": ["a/b"]}, {"namespace": [1]}, {"namespace": ["x" * 300]}, b"[", b"[]"):
        assert ask(shared, "POST", "/iceberg/v1/namespaces", body, status=400)["type"] == "BadRequestException"
    body = {"removals": ["a"], "updates": {"a": "1"}}
    assert ask(shared, "POST", path("ns_err") + "/properties", body, status=422)["type"] == "UnprocessableEntityException"
    assert "too long" in ask(shared, "POST", path("ns_err") + "/properties", {"updates": {"a": "x" * 1001}}, status=400)["message"]
    assert ask(shared, "GET", path("nowhere") + "/tables", status=404)["type"] == "NoSuchNamespaceException"
    assert ask(shared, "POST", path("nowhere") + "/tables", {"name": "t", "schema": SCHEMA}, status=404)["type"] == "NoSuchNamespaceException"
    assert ask(shared, "GET", "/iceberg/v1/namespaces?parent=nowhere", status=404)["type"] == "NoSuchNamespaceException"


def test_odd_names(shared):
    """Bytes that are no text, quotes, blanks, letters of any alphabet."""
    for where in (path("a") + "%FF", path("a") + "/tables/%FF%FE", "/iceberg/v1/namespaces/%1F%1F", "/iceberg/v1/namespaces/%00"):
        assert shared.request("GET", where).status in (400, 404), where
    assert http("POST", shared.url + "/iceberg/v1/oauth/tokens", b"grant_type=client_credentials&client_secret=%FF").status == 401
    make(shared, "it's \"ñ\" 数")
    ask(shared, "POST", path("it's \"ñ\" 数") + "/tables", {"name": "t 'x' é", "schema": SCHEMA})
    catalog = rest(shared)
    t = catalog.load_table(("it's \"ñ\" 数", "t 'x' é"))
    t.append(pa.table({"id": pa.array([1], pa.int64())}))
    assert shared.sql('SELECT id FROM "it\'s ""ñ"" 数"."t \'x\' é"') == [{"id": 1}]


def test_lists_come_in_pages(shared):
    make(shared, "paged", *(f"t{i}" for i in range(5)))
    make(shared, "paged_too")
    seen, token = [], ""
    while token is not None:
        page = ask(shared, "GET", f"{path('paged')}/tables?pageSize=2&pageToken={token}")
        assert len(page["identifiers"]) <= 2
        seen += [i["name"] for i in page["identifiers"]]
        token = page.get("next-page-token")
    assert seen == [f"t{i}" for i in range(5)]
    first = ask(shared, "GET", "/iceberg/v1/namespaces?pageToken=&pageSize=1")
    assert len(first["namespaces"]) == 1
    assert first["namespaces"] != ask(shared, "GET", f"/iceberg/v1/namespaces?pageSize=1&pageToken={urllib.parse.quote(first['next-page-token'])}")["namespaces"]


# ---- tables ----


def test_load_exists_and_not_modified(shared):
    (made,) = make(shared, "load", "t")
    where = shared.url + path("load") + "/tables/t"
    auth = {"Authorization": f"Bearer {shared.token}"}
    answer = http("GET", where, headers=auth)
    assert answer.json["metadata"] == made["metadata"]
    assert answer.json["metadata-location"] == made["metadata-location"]
    assert json.loads(local(made["metadata-location"]).read_text()) == made["metadata"]
    assert http("GET", where, headers={**auth, "If-None-Match": answer.headers["ETag"]}).status == 304
    ask(shared, "POST", path("load") + "/tables/t", set_property(a="1"))
    changed = http("GET", where, headers={**auth, "If-None-Match": answer.headers["ETag"]})
    assert changed.status == 200 and changed.json["metadata"]["properties"] == {"a": "1"}
    assert http("HEAD", where, headers=auth).status == 204
    assert http("HEAD", where + "x", headers=auth).status == 404
    # DuckDB asks for whatever stands behind FROM.
    assert ask(shared, "GET", path("load") + "/tables/%2Ftmp%2Fa.parquet", status=404)["type"] == "NoSuchTableException"


def test_staged_create(shared):
    make(shared, "staged")
    body = {"name": "t", "schema": SCHEMA, "stage-create": True}
    staged = ask(shared, "POST", path("staged") + "/tables", body)
    assert "metadata-location" not in staged
    folder = local(staged["metadata"]["location"])
    assert (folder / "data").is_dir() and (folder / "metadata").is_dir()
    assert ask(shared, "GET", path("staged") + "/tables")["identifiers"] == []
    commit = {
        "requirements": [{"type": "assert-create"}],
        "updates": [
            {"action": "assign-uuid", "uuid": staged["metadata"]["table-uuid"]},
            {"action": "add-schema", "schema": SCHEMA},
            {"action": "set-current-schema", "schema-id": -1},
            {"action": "set-location", "location": staged["metadata"]["location"]},
        ],
    }
    done = ask(shared, "POST", path("staged") + "/tables/t", commit)
    assert done["metadata"]["table-uuid"] == staged["metadata"]["table-uuid"]
    assert ask(shared, "POST", path("staged") + "/tables/t", commit, status=409)["type"] == "CommitFailedException"
    assert ask(shared, "POST", path("staged") + "/tables", body, status=409)["type"] == "AlreadyExistsException"
    assert ask(shared, "POST", path("staged") + "/tables/u", set_property(a="1"), status=404)["type"] == "NoSuchTableException"


def test_bad_tables_are_refused(shared):
    make(shared, "bad")
    for body, words in (
        ({"name": "t"}, "schema"),
        ({"schema": SCHEMA}, "name"),
        ({"name": "a/b", "schema": SCHEMA}, "no /"),
        ({"name": "..", "schema": SCHEMA}, ".."),
        ({"name": "t", "schema": SCHEMA, "properties": {"format-version": "7"}}, "not supported"),
    ):
        assert words in ask(shared, "POST", path("bad") + "/tables", body, status=400)["message"]
    error = ask(shared, "POST", path("bad") + "/tables", {"name": "t", "schema": SCHEMA, "location": "gs://bucket/t"}, status=501)
    assert "gs://bucket/t" in error["message"]
    assert ask(shared, "GET", path("bad") + "/tables")["identifiers"] == []


def test_a_commit_that_changes_nothing_writes_nothing(shared):
    make(shared, "same", "t")
    first = ask(shared, "POST", path("same") + "/tables/t", set_property(a="1"))
    again = ask(shared, "POST", path("same") + "/tables/t", set_property(a="1"))
    assert first == again
    assert len(list(local(first["metadata-location"]).parent.glob("*.metadata.json"))) == 2


def test_rename_leaves_the_files_and_a_new_table_gets_others(shared):
    (old,) = make(shared, "moved", "t")
    make(shared, "target", "taken")
    move = lambda ns, name: {"source": {"namespace": ["moved"], "name": "t"}, "destination": {"namespace": [ns], "name": name}}
    assert ask(shared, "POST", "/iceberg/v1/tables/rename", move("target", "taken"), status=409)["type"] == "AlreadyExistsException"
    assert ask(shared, "POST", "/iceberg/v1/tables/rename", move("nowhere", "t"), status=404)["type"] == "NoSuchNamespaceException"
    ask(shared, "POST", "/iceberg/v1/tables/rename", move("target", "t2"), status=204)
    assert ask(shared, "POST", "/iceberg/v1/tables/rename", move("target", "t3"), status=404)["type"] == "NoSuchTableException"
    (new,) = [ask(shared, "POST", path("moved") + "/tables", {"name": "t", "schema": SCHEMA})]
    assert new["metadata"]["location"] != old["metadata"]["location"]
    # So dropping the one with its files does the other no harm.
    ask(shared, "DELETE", path("moved") + "/tables/t?purgeRequested=true", status=204)
    assert not local(new["metadata"]["location"]).exists()
    assert table(shared, "target", "t2")["metadata"]["table-uuid"] == old["metadata"]["table-uuid"]
    assert local(old["metadata-location"]).exists()


def test_drop_and_register(shared):
    (made,) = make(shared, "dropped", "t")
    ask(shared, "DELETE", path("dropped") + "/tables/t", status=204)
    assert ask(shared, "DELETE", path("dropped") + "/tables/t", status=404)["type"] == "NoSuchTableException"
    body = {"name": "back", "metadata-location": made["metadata-location"]}
    assert ask(shared, "POST", path("dropped") + "/register", body)["metadata"] == made["metadata"]
    assert table(shared, "dropped", "back")["metadata-location"] == made["metadata-location"]
    assert ask(shared, "POST", path("dropped") + "/register", body, status=409)["type"] == "AlreadyExistsException"
    ask(shared, "POST", path("dropped") + "/register", {**body, "overwrite": True})
    body = {"name": "none", "metadata-location": "file:///nowhere/v1.metadata.json"}
    assert "/nowhere/" in ask(shared, "POST", path("dropped") + "/register", body, status=500)["message"]


def test_purge_never_leaves_the_warehouse(shared, folder):
    make(shared, "outside")
    away = folder / "away"
    body = {"name": "t", "schema": SCHEMA, "location": str(away)}
    made = ask(shared, "POST", path("outside") + "/tables", body)
    assert made["metadata"]["location"] == str(away) and (away / "data").is_dir()
    ask(shared, "DELETE", path("outside") + "/tables/t?purgeRequested=true", status=204)
    assert pathlib.Path(made["metadata-location"]).exists()


# ---- commits ----


def test_schema_and_partition_evolution(shared):
    catalog = rest(shared)
    catalog.create_namespace("evolve")
    schema = Schema(NestedField(1, "id", LongType(), required=False), NestedField(2, "city", StringType(), required=False))
    t = catalog.create_table("evolve.t", schema, partition_spec=PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "city")))
    with t.update_schema() as update:
        update.add_column("people", LongType())
        update.rename_column("city", "town")
    with t.update_schema() as update:
        update.delete_column("people")
    with t.update_spec() as update:
        update.remove_field("city")
    again = catalog.load_table("evolve.t")
    assert [(f.field_id, f.name) for f in again.schema().fields] == [(1, "id"), (2, "town")]
    assert len(again.schemas()) == 3 and again.spec().fields == ()
    assert [entry.metadata_file.rsplit("/", 1)[1][:5] for entry in again.metadata.metadata_log] == ["00000", "00001", "00002"]


def test_concurrent_commits_lose_nothing(shared):
    """Changes that do not touch each other all land, each on top of another."""
    make(shared, "busy", "t")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: shared.request("POST", path("busy") + "/tables/t", set_property(**{f"k{i}": str(i)})), range(24)))
    assert [a.status for a in answers] == [200] * 24
    metadata = table(shared, "busy", "t")["metadata"]
    assert metadata["properties"] == {f"k{i}": str(i) for i in range(24)}
    assert len(metadata["metadata-log"]) == 24


def test_a_commit_follows_a_pointer_that_another_program_moved(daemon):
    (made,) = make(daemon, "moving", "t")
    theirs = local(made["metadata-location"]).with_name("00001-theirs.metadata.json")
    theirs.write_text(json.dumps({**made["metadata"], "properties": {"theirs": "1"}}))
    with contextlib.closing(postgres(daemon)) as holder, holder.cursor() as hold, contextlib.closing(postgres(daemon)) as other, other.cursor() as look:
        holder.autocommit = False
        hold.execute("UPDATE iceberg_tables SET metadata_location = %s WHERE table_name = 't'", (f"file://{theirs}",))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            commit = pool.submit(ask, daemon, "POST", path("moving") + "/tables/t", set_property(ours="1"))

            def waits():
                look.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                return look.fetchone()[0]

            wait_until(waits, "the commit to wait for the row")
            holder.commit()
            done = commit.result()
    assert done["metadata"]["properties"] == {"theirs": "1", "ours": "1"}
    assert done["metadata"]["metadata-log"][-1]["metadata-file"] == f"file://{theirs}"
    assert local(done["metadata-location"]).name.startswith("00002-")
    # What was written in vain is gone.
    wait_until(lambda: len(list(theirs.parent.iterdir())) == 3, "the removal of the file written in vain")


def test_concurrent_commits_with_one_requirement_have_one_winner(shared):
    make(shared, "race", "t")
    body = lambda i: {
        "requirements": [{"type": "assert-current-schema-id", "current-schema-id": 0}],
        "updates": [
            {"action": "add-schema", "schema": {"type": "struct", "fields": SCHEMA["fields"] + [{"id": 2, "name": f"c{i}", "type": "int", "required": False}]}},
            {"action": "set-current-schema", "schema-id": -1},
        ],
    }
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: shared.request("POST", path("race") + "/tables/t", body(i)), range(8)))
    assert sorted(a.status for a in answers) == [200] + [409] * 7
    assert len(table(shared, "race", "t")["metadata"]["schemas"]) == 2


def test_transactions_are_all_or_nothing(shared):
    make(shared, "tx", "a", "b")
    change = lambda name, uuid=None, **values: {
        "identifier": {"namespace": ["tx"], "name": name},
        "requirements": [{"type": "assert-table-uuid", "uuid": uuid}] if uuid else [],
        "updates": [{"action": "set-properties", "updates": values}],
    }
    commit = lambda *changes, status=204: ask(shared, "POST", "/iceberg/v1/transactions/commit", {"table-changes": list(changes)}, status=status)
    commit(change("a", x="1"), change("b", x="1"))
    error = commit(change("a", x="2"), change("b", uuid="another", x="2"), status=409)
    assert error["type"] == "CommitFailedException" and "tx.b" in error["message"]
    assert commit(change("a", x="2"), change("none", x="2"), status=404)["type"] == "NoSuchTableException"
    assert "twice" in commit(change("a", x="2"), change("a", x="3"), status=400)["message"]
    commit(status=400)
    assert [table(shared, "tx", t)["metadata"]["properties"] for t in "ab"] == [{"x": "1"}, {"x": "1"}]

    # With many at the same time neither is ever ahead of the other.
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda i: shared.request(
                    "POST", "/iceberg/v1/transactions/commit", {"table-changes": [change(t, x=f"n{i}") for t in ("ab" if i % 2 else "ba")]}
                ),
                range(12),
            )
        )
    assert [a.status for a in answers] == [204] * 12
    a, b = (table(shared, "tx", t)["metadata"] for t in "ab")
    assert a["properties"] == b["properties"]
    assert len(a["metadata-log"]) == len(b["metadata-log"]) == 13


def test_pyiceberg_and_duckdb_on_one_table(shared):
    catalog = rest(shared)
    catalog.create_namespace("shared")
    rows = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "city": ["Lugo", "Soria", "Teruel"]})
    t = catalog.create_table("shared.t", rows.schema)
    t.append(rows)
    t.overwrite(rows.slice(0, 2))
    assert shared.sql("SELECT id, city FROM shared.t ORDER BY id") == rows.slice(0, 2).to_pylist()
    with t.transaction() as tx:
        tx.append(rows.slice(2, 1))
        tx.set_properties({"k": "v"})
    assert catalog.load_table("shared.t").properties["k"] == "v"
    assert shared.sql("SELECT count(*)::INT AS n FROM shared.t") == [{"n": 3}]


# ---- who may write ----


def test_ad_hoc_queries_only_read(shared):
    make(shared, "adhoc", "t")
    answer = shared.request("POST", "/api/v1/sql", {"sql": "INSERT INTO adhoc.t VALUES (1)"})
    assert answer.status >= 400, answer
    assert shared.sql("SELECT count(*)::INT AS n FROM adhoc.t") == [{"n": 0}]


FLOW = """
    id: {name}
    tasks:
      - id: hold
        type: command
        stop_grace: 60s
        command: |
          trap '' TERM
          printf '%s\\n%s\\n' "$SLUICE_CATALOG_URI" "$SLUICE_CATALOG_TOKEN" >{token}.new
          mv {token}.new {token}
          while [ ! -e {token}.end ]; do sleep 0.05; done
"""


def holding(daemon, name, folder):
    """A run whose one task waits, and the token of its attempt."""
    token = folder / f"{name}.token"
    daemon.flow(name, FLOW.format(name=name, token=token))
    run = daemon.post(f"/api/v1/flows/{name}/runs", {})
    wait_until(token.exists, "the attempt's token")
    uri, secret = token.read_text().split()
    assert uri == daemon.url + "/iceberg"
    return run["id"], secret, pathlib.Path(f"{token}.end")


def snapshot(number, parent=None):
    made = {"snapshot-id": number, "sequence-number": number, "timestamp-ms": 1700000000000 + number, "manifest-list": "file:///none", "schema-id": 0}
    made["summary"] = {"operation": "append"}
    if parent:
        made["parent-snapshot-id"] = parent
    return {
        "requirements": [{"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": parent}],
        "updates": [
            {"action": "add-snapshot", "snapshot": made},
            {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": number},
        ],
    }


def test_an_attempt_signs_its_snapshots(daemon, folder):
    make(daemon, "signed", "t")
    run, secret, end = holding(daemon, "signer", folder)
    ask(daemon, "POST", path("signed") + "/tables/t", snapshot(1), token=secret)
    end.touch()
    assert daemon.ended(run)["state"] == "success"
    (made,) = table(daemon, "signed", "t")["metadata"]["snapshots"]
    assert made["summary"] == {"operation": "append", "sluice.run-id": run, "sluice.task-id": "hold", "sluice.attempt": "1"}
    # It is over: its token is worth nothing any more.
    answer = http("POST", daemon.url + path("signed") + "/tables/t", snapshot(2, 1), {"Authorization": f"Bearer {secret}"})
    assert answer.status in (401, 403), answer


def test_an_attempt_that_was_given_up_cannot_commit(daemon, folder):
    """It ignores TERM and lives on, but it is no longer current: nothing of it becomes visible."""
    make(daemon, "fenced", "t", "u")
    run, secret, end = holding(daemon, "stubborn", folder)
    ask(daemon, "POST", path("fenced") + "/tables/t", set_property(before="1"), token=secret)
    daemon.post(f"/api/v1/runs/{run}/cancel")

    def refused():
        answer = http("POST", daemon.url + path("fenced") + "/tables/t", set_property(after="1"), {"Authorization": f"Bearer {secret}"})
        return answer.status in (401, 403) and answer

    wait_until(refused, "the fence")
    where = daemon.url + path("fenced")
    auth = {"Authorization": f"Bearer {secret}"}
    files = sorted(p.name for p in local(table(daemon, "fenced", "t")["metadata"]["location"]).rglob("*"))
    for method, url, body in (
        ("POST", where + "/tables/t", snapshot(1)),
        ("POST", where + "/tables", {"name": "new", "schema": SCHEMA}),
        ("DELETE", where + "/tables/u?purgeRequested=true", None),
        ("POST", daemon.url + "/iceberg/v1/tables/rename", {"source": {"namespace": ["fenced"], "name": "u"}, "destination": {"namespace": ["fenced"], "name": "v"}}),
        ("POST", daemon.url + "/iceberg/v1/transactions/commit", {"table-changes": [{"identifier": {"namespace": ["fenced"], "name": "u"}, **set_property(a="1")}]}),
    ):
        answer = http(method, url, body, auth)
        assert answer.status in (401, 403), (method, url, answer)
    end.touch()
    daemon.ended(run)
    assert [i["name"] for i in ask(daemon, "GET", path("fenced") + "/tables")["identifiers"]] == ["t", "u"]
    metadata = table(daemon, "fenced", "t")["metadata"]
    assert "before" not in metadata["properties"] and metadata["snapshots"] == []
    wait_until(lambda: sorted(p.name for p in local(metadata["location"]).rglob("*")) <= files, "the removal of files written in vain")


# ---- what breaks ----


def test_old_metadata_goes_when_the_table_says_so(shared):
    make(shared, "tidy", "t")
    ask(shared, "POST", path("tidy") + "/tables/t", set_property(**{"write.metadata.previous-versions-max": "2"}))
    for i in range(4):
        ask(shared, "POST", path("tidy") + "/tables/t", set_property(i=str(i)))
    folder = local(table(shared, "tidy", "t")["metadata-location"]).parent
    assert len(list(folder.iterdir())) == 6
    for i in range(4):
        ask(shared, "POST", path("tidy") + "/tables/t", set_property(j=str(i), **{"write.metadata.delete-after-commit.enabled": "true"}))
    # What was forgotten before the table said so stays; since then there are two and the newest.
    wait_until(lambda: sorted(p.name[:5] for p in folder.iterdir()) == ["00000", "00001", "00002", "00007", "00008", "00009"], "the removal")
    kept = {local(entry["metadata-file"]) for entry in table(shared, "tidy", "t")["metadata"]["metadata-log"]}
    assert len(kept) == 2 and all(file.exists() for file in kept)


def test_a_daemon_that_stops_during_a_commit_keeps_the_table(daemon):
    make(daemon, "stopped", "t")
    before = table(daemon, "stopped", "t")
    with contextlib.closing(postgres(daemon)) as holder, holder.cursor() as hold, contextlib.closing(postgres(daemon)) as other, other.cursor() as look:
        holder.autocommit = False
        hold.execute("SELECT 1 FROM iceberg_tables WHERE table_name = 't' FOR UPDATE")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:

            def commit():
                try:
                    return daemon.request("POST", path("stopped") + "/tables/t", set_property(a="1")).status
                except OSError:
                    return None

            late = pool.submit(commit)

            def waits():
                look.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                return look.fetchone()[0]

            wait_until(waits, "the commit to wait for the row")
            assert daemon.stop() >= 0  # no signal
            answer = late.result()
            assert answer in (None, 500, 504)  # never 503: clients would make it anew
    daemon.start()
    # PostgreSQL ends both sessions at once; should the holder's be the first, the commit may still be made: whole, and not denied.
    after = table(daemon, "stopped", "t")
    assert after == before or after["metadata"]["properties"] == {"a": "1"}
    ask(daemon, "POST", path("stopped") + "/tables/t", set_property(b="1"))


def test_a_commit_survives_the_loss_of_its_connection(daemon):
    make(daemon, "lost", "t")
    with contextlib.closing(postgres(daemon)) as holder, holder.cursor() as hold, contextlib.closing(postgres(daemon)) as other, other.cursor() as look:
        holder.autocommit = False
        hold.execute("SELECT 1 FROM iceberg_tables WHERE table_name = 't' FOR UPDATE")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            commit = pool.submit(ask, daemon, "POST", path("lost") + "/tables/t", set_property(a="1"))

            def waiting():
                look.execute("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
                return look.fetchall()

            (pid,) = wait_until(waiting, "the commit to wait for the row")[0]
            look.execute("SELECT pg_terminate_backend(%s)", (pid,))
            # It comes again by itself, on a new connection.
            wait_until(lambda: [p for (p,) in waiting() if p != pid], "the commit's second coming")
            holder.rollback()
            assert commit.result()["metadata"]["properties"] == {"a": "1"}
    metadata = table(daemon, "lost", "t")["metadata"]
    assert metadata["properties"] == {"a": "1"} and len(metadata["metadata-log"]) == 1


def test_damaged_and_missing_metadata_are_told(shared):
    (made,) = make(shared, "damaged", "t")
    file = local(made["metadata-location"]).with_name("x.metadata.json")
    for text, words in (("{", "is damaged: line 1"), ('{"format-version": 9, "location": "x", "schemas": []}', "format version 9"), ("{}", "not the metadata")):
        file.write_text(text)
        answer = shared.request("POST", path("damaged") + "/register", {"name": "w", "metadata-location": f"file://{file}"})
        assert answer.status >= 400 and words in answer.json["error"]["message"], answer


# ---- a daemon that comes back ----


def test_tables_outlive_the_daemon(daemon):
    make(daemon, "kept", "t")
    ask(daemon, "POST", path("kept") + "/tables/t", set_property(a="1"))
    before = table(daemon, "kept", "t")
    daemon.kill()
    daemon.start()
    assert table(daemon, "kept", "t") == before
    ask(daemon, "POST", path("kept") + "/tables/t", set_property(b="2"))
    assert table(daemon, "kept", "t")["metadata"]["properties"] == {"a": "1", "b": "2"}
