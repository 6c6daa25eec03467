"""The catalog against the published OpenAPI document of the Iceberg REST specification (catalog_spec.json, a reduced copy):
every operation that the catalog says it has, every status that can be brought about, every answer against its schema."""

import base64
import contextlib
import gzip
import json
import pathlib
import re
import shutil
import urllib.parse

import jsonschema
import pytest

from conftest import Daemon, http, new_folder, postgres, wait_until

DOCUMENT = json.loads((pathlib.Path(__file__).parent / "catalog_spec.json").read_text())
COMPONENTS = {"components": {"schemas": DOCUMENT["schemas"]}}
# What is for other kinds of catalogs: those that plan scans, sign requests, or know functions.
NOT_SERVED = re.compile(r"/(functions|plan|tasks|sign|unregister)\b")
SCHEMA = {"type": "struct", "fields": [{"id": 1, "name": "id", "type": "long", "required": False}]}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def valid(value, schema):
    jsonschema.validate(value, {**schema, **COMPONENTS}, cls=jsonschema.Draft202012Validator)


def quoted(text):
    return urllib.parse.quote(text, safe="")


class Client:
    def __init__(self, daemon, prefix=""):
        self.daemon, self.prefix = daemon, prefix

    def __call__(self, operation, *names, status=200, type=None, body=None, headers=None, token=None, **query):
        """One operation of the document; its answer must be one that the document knows."""
        method, where = operation.split(" ")
        op = DOCUMENT["operations"][operation]
        names = list(names)
        where = re.sub(r"\{prefix\}/", f"{self.prefix}/" if self.prefix else "", where)
        where = re.sub(r"\{[^}]+\}", lambda _: quoted("\x1f".join(n) if isinstance(n := names.pop(0), tuple) else n), where)
        assert not names
        if query:
            where += "?" + urllib.parse.urlencode({k.replace("_", "-"): v for k, v in query.items()})
        if body is not None and not isinstance(body, bytes) and status < 400:
            valid(body, op["body"])  # a good request must be one by the document
        auth = {} if token == "" else {"Authorization": f"Bearer {token or self.daemon.token}"}
        answer = http(method, self.daemon.url + "/iceberg" + where, body, {**auth, **(headers or {})})
        assert answer.status == status, answer
        assert str(status) in op["responses"], f"{operation} has no answer {status}"
        if method == "HEAD" or status in (204, 304):
            assert answer.body == b""
            return answer
        if status >= 400 and "oauth" not in operation:
            # For views the document names the inner object; all clients read the outer one.
            valid(answer.json, {"$ref": "#/components/schemas/IcebergErrorResponse"})
            assert answer.json["error"]["code"] == status and (type is None or answer.json["error"]["type"] == type), answer
        else:
            valid(answer.json, op["responses"][str(status)])
        return answer


@pytest.fixture(scope="module")
def folder(binary):
    path = new_folder()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(folder):
    (folder / "flows").mkdir()
    daemon = Daemon(folder / "home", folder / "flows").start()
    # Until the tokens of attempts are known an unknown one is 503.
    wait_until(lambda: http("GET", daemon.url + "/iceberg/v1/config", headers={"Authorization": "Bearer no"}).status == 401, "the tokens")
    yield daemon
    daemon.clean_up()


@pytest.fixture(scope="module")
def viewer(daemon):
    return daemon.post("/api/v1/tokens", {"scope": "viewer"})


@pytest.fixture(scope="module")
def ask(daemon):
    return Client(daemon)


CONFIG = "GET /v1/config"
NAMESPACES, NEW_NAMESPACE = "GET /v1/{prefix}/namespaces", "POST /v1/{prefix}/namespaces"
NS = "/v1/{prefix}/namespaces/{namespace}"
TABLES, NEW_TABLE, TABLE = f"GET {NS}/tables", f"POST {NS}/tables", NS + "/tables/{table}"
GET, HEAD, POST, DELETE = f"GET {TABLE}", f"HEAD {TABLE}", f"POST {TABLE}", f"DELETE {TABLE}"
RENAME, COMMIT_ALL = "POST /v1/{prefix}/tables/rename", "POST /v1/{prefix}/transactions/commit"


def make(ask, namespace, *tables, **more):
    ask(NEW_NAMESPACE, body={"namespace": list(namespace) if isinstance(namespace, tuple) else [namespace]})
    return [ask(NEW_TABLE, namespace, body={"name": t, "schema": SCHEMA, **more}).json for t in tables]


def updates(*list_, requirements=()):
    return {"requirements": list(requirements), "updates": list(list_)}


def local(location):
    return pathlib.Path(location.removeprefix("file://"))


# ---- the catalog itself ----


def test_config(ask, daemon, viewer):
    endpoints = ask(CONFIG).json["endpoints"]
    served = {op for op in DOCUMENT["operations"] if "{prefix}" in op and not NOT_SERVED.search(op)}
    assert set(endpoints) == served
    warehouse = local(make(ask, "where", "t")[0]["metadata"]["location"]).parents[1]
    for name in ("", "local", str(warehouse), f"file://{warehouse}/"):
        ask(CONFIG, warehouse=name)
    ask(CONFIG, warehouse="another", status=404, type="NoSuchWarehouseException")
    ask(CONFIG, token="", status=401, type="NotAuthorizedException")
    ask(CONFIG, token=viewer["token"], status=403, type="ForbiddenException")


def test_every_operation_with_a_prefix(daemon):
    ask = Client(daemon, prefix="local")
    make(ask, ("pre", "fix"), "t")
    assert ask(TABLES, ("pre", "fix")).json["identifiers"] == [{"namespace": ["pre", "fix"], "name": "t"}]
    ask(HEAD, ("pre", "fix"), "t", status=204)
    assert ask(GET, ("pre", "fix"), "t").json == Client(daemon)(GET, ("pre", "fix"), "t").json
    ask(DELETE, ("pre", "fix"), "t", status=204)
    other = Client(daemon, prefix="other")
    other(NAMESPACES, status=404)
    for path in ("/iceberg/v1/local/local/namespaces", "/iceberg/v1/local/nothing", "/iceberg/v1/nothing/at/all"):
        assert daemon.request("GET", path).status == 404


def test_every_operation_asks_who_it_is(ask, viewer):
    for op in DOCUMENT["operations"]:
        if "{prefix}" in op and not NOT_SERVED.search(op):
            names = ["x"] * (op.count("{") - 1)
            body = {} if op.startswith("POST") else None
            ask(op, *names, body=body, token="", status=401, type="NotAuthorizedException")
            ask(op, *names, body=body, token="no", status=401, type="NotAuthorizedException")
            if op != "HEAD /v1/{prefix}/namespaces/{namespace}/views/{view}":  # for which the document knows no 403
                ask(op, *names, body=body, token=viewer["token"], status=403, type="ForbiddenException")


def test_what_is_not_served_says_so(daemon):
    for op in DOCUMENT["operations"]:
        if NOT_SERVED.search(op):
            method, where = op.split(" ")
            answer = daemon.request(method, "/iceberg" + re.sub(r"\{[^}]+\}", "x", where.replace("{prefix}/", "")), {} if method == "POST" else None)
            assert answer.status in (404, 405, 501), op
            assert answer.json["error"]["code"] == answer.status


def test_tokens(ask, daemon, viewer):
    op = "POST /v1/oauth/tokens"
    access = "urn:ietf:params:oauth:token-type:access_token"
    form = lambda **fields: urllib.parse.urlencode(fields).encode()
    credentials = lambda **fields: form(grant_type="client_credentials", scope="catalog", **fields)
    exchange = lambda **fields: form(grant_type="urn:ietf:params:oauth:grant-type:token-exchange", **fields)
    mine = daemon.post("/api/v1/tokens", {"scope": "admin"})

    def given(body, **headers):
        answer = ask(op, body=body, headers={**FORM, **headers}, token="")
        assert answer.json["token_type"] == "bearer" and answer.json["expires_in"] > 0 and answer.headers["Cache-Control"] == "no-store"
        ask(NAMESPACES, token=answer.json["access_token"])
        return answer.json["access_token"]

    def refused(body, status, error, **headers):
        answer = ask(op, body=body, headers={**FORM, **headers}, token="", status=status)
        assert answer.json["error"] == error, answer

    assert given(credentials(client_id=mine["id"], client_secret=mine["token"])) == mine["token"]
    assert given(credentials(client_secret=mine["token"])) == mine["token"]
    assert given(credentials(client_id="admin", client_secret=daemon.token)) == daemon.token
    basic = lambda user, password: {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    assert given(credentials(), **basic(mine["id"], mine["token"])) == mine["token"]
    assert given(exchange(subject_token=mine["token"], subject_token_type=access), Authorization=f"Bearer {mine['token']}") == mine["token"]
    refused(credentials(client_id="another", client_secret=mine["token"]), 401, "invalid_client")
    refused(credentials(client_id="admin", client_secret="no"), 401, "invalid_client")
    refused(credentials(client_id="admin"), 401, "invalid_client")
    refused(credentials(), 401, "invalid_client", **basic(mine["id"], "no"))
    refused(credentials(), 401, "invalid_client", Authorization="Basic ???")
    refused(credentials(client_id=viewer["id"], client_secret=viewer["token"]), 400, "unauthorized_client")
    refused(exchange(subject_token="no", subject_token_type=access), 401, "invalid_client")
    refused(exchange(subject_token=mine["token"]), 400, "invalid_request")
    refused(exchange(), 400, "invalid_request")
    refused(form(grant_type="password"), 400, "unsupported_grant_type")
    refused(b"", 400, "invalid_request")
    assert daemon.request("DELETE", f"/api/v1/tokens/{mine['id']}").status == 204
    refused(credentials(client_id=mine["id"], client_secret=mine["token"]), 401, "invalid_client")


# ---- namespaces ----


def test_namespaces(ask, viewer):
    made = ask(NEW_NAMESPACE, body={"namespace": ["n", "a"], "properties": {"owner": "ana"}}).json
    assert made == {"namespace": ["n", "a"], "properties": {"owner": "ana"}}
    for deep in (["n", "b"], ["n", "a", "x"], ["n", "a", "y"], ["nn"]):
        ask(NEW_NAMESPACE, body={"namespace": deep})
    ask(NEW_NAMESPACE, body={"namespace": ["n", "a"]}, status=409, type="AlreadyExistsException")
    ask(NEW_NAMESPACE, body={}, status=400, type="BadRequestException")
    names = lambda **query: ask(NAMESPACES, **query).json["namespaces"]
    assert ["n"] in names() and ["n", "a"] not in names() and names(parent="") == names()
    assert names(parent="n") == [["n", "a"], ["n", "b"]]
    assert names(parent="n\x1fa") == [["n", "a", "x"], ["n", "a", "y"]] and names(parent="n\x1fb") == []
    ask(NAMESPACES, parent="no", status=404, type="NoSuchNamespaceException")

    assert ask(f"GET {NS}", ("n", "a")).json == made
    ask(f"GET {NS}", ("n", "no"), status=404, type="NoSuchNamespaceException")
    ask(f"HEAD {NS}", ("n", "a"), status=204)
    ask(f"HEAD {NS}", "no", status=404)
    ask(f"DELETE {NS}", "n", status=409, type="NamespaceNotEmptyException")
    ask(f"DELETE {NS}", ("n", "b"), status=204)
    ask(f"DELETE {NS}", ("n", "b"), status=404, type="NoSuchNamespaceException")
    for op, more in ((NAMESPACES, {}), (NEW_NAMESPACE, {"body": {"namespace": ["x"]}})):
        ask(op, token="no", status=401, **more)
        ask(op, token=viewer["token"], status=403, type="ForbiddenException", **more)


def test_properties_of_namespaces(ask):
    op = f"POST {NS}/properties"
    ask(NEW_NAMESPACE, body={"namespace": ["props"], "properties": {"a": "1", "b": "2"}})
    answer = ask(op, "props", body={"removals": ["b", "none"], "updates": {"a": "3", "c": "4"}}).json
    assert answer == {"updated": ["a", "c"], "removed": ["b"], "missing": ["none"]}
    assert ask(f"GET {NS}", "props").json["properties"] == {"a": "3", "c": "4"}
    ask(op, "props", body={"removals": ["a"], "updates": {"a": "5"}}, status=422, type="UnprocessableEntityException")
    ask(op, "no", body={"updates": {"a": "1"}}, status=404, type="NoSuchNamespaceException")
    for wrong in ({"updates": {"a": 1}}, {"updates": []}, {"removals": {}}, {"removals": [1]}, b"{"):
        ask(op, "props", body=wrong, status=400, type="BadRequestException")
    assert ask(f"GET {NS}", "props").json["properties"] == {"a": "3", "c": "4"}


def pages(ask, op, key, *names, **query):
    """All parts of a list, as the specification's paging goes: an empty token begins it."""
    token, out = "", []
    while token is not None:
        answer = ask(op, *names, pageToken=token, **query).json
        out.append(answer[key])
        token = answer.get("next-page-token")
    return out


def test_lists_in_pages(ask):
    names = [f"t{i}" for i in range(5)]
    make(ask, "pages", *names)
    whole = ask(TABLES, "pages").json
    assert [i["name"] for i in whole["identifiers"]] == names and whole.get("next-page-token") is None
    assert ask(TABLES, "pages", pageSize=2).json == whole  # no token: the client knows nothing of pages
    parts = pages(ask, TABLES, "identifiers", "pages", pageSize=2)
    assert [len(p) for p in parts] == [2, 2, 1] and sum(parts, []) == whole["identifiers"]
    assert pages(ask, TABLES, "identifiers", "pages") == [whole["identifiers"]]
    for i in range(5):
        ask(NEW_NAMESPACE, body={"namespace": ["pages", f"n {i}"]})
    assert [len(p) for p in pages(ask, NAMESPACES, "namespaces", parent="pages", pageSize=3)] == [3, 2]
    for wrong in ("0", "-1", "x", "", "1x"):
        ask(TABLES, "pages", pageToken="", pageSize=wrong, status=400, type="BadRequestException")
        ask(NAMESPACES, pageToken="", pageSize=wrong, status=400, type="BadRequestException")


# ---- tables ----


def test_tables(ask, viewer):
    make(ask, "tab")
    body = {
        "name": "t",
        "schema": SCHEMA,
        "partition-spec": {"fields": [{"source-id": 1, "transform": "bucket[4]", "name": "b"}]},
        "write-order": {"order-id": 1, "fields": [{"source-id": 1, "transform": "identity", "direction": "asc", "null-order": "nulls-first"}]},
        "properties": {"k": "v"},
    }
    made = ask(NEW_TABLE, "tab", body=body).json
    assert made["metadata"]["properties"] == {"k": "v"} and made["metadata"]["format-version"] == 2
    staged = ask(NEW_TABLE, "tab", body={"name": "s", "schema": SCHEMA, "stage-create": True}).json
    assert staged.get("metadata-location") is None
    assert ask(TABLES, "tab").json["identifiers"] == [{"namespace": ["tab"], "name": "t"}]
    assert ask(GET, "tab", "t").json == made
    ask(HEAD, "tab", "t", status=204)
    ask(NEW_TABLE, "tab", body=body, status=409, type="AlreadyExistsException")
    ask(NEW_TABLE, "tab", body={"name": "x"}, status=400, type="BadRequestException")
    ask(NEW_TABLE, "no", body=body, status=404, type="NoSuchNamespaceException")
    ask(TABLES, "no", status=404, type="NoSuchNamespaceException")
    ask(GET, "tab", "no", status=404, type="NoSuchTableException")
    ask(HEAD, "tab", "no", status=404)
    ask(POST, "tab", "no", body=updates(), status=404, type="NoSuchTableException")
    ask(DELETE, "tab", "no", status=404, type="NoSuchTableException")
    for op in (GET, HEAD, DELETE):
        ask(op, "tab", "t", token="no", status=401)
        ask(op, "tab", "t", token=viewer["token"], status=403)

    name = lambda n, table: {"namespace": [n], "name": table}
    ask(RENAME, body={"source": name("tab", "t"), "destination": name("tab", "u")}, status=204)
    ask(RENAME, body={"source": name("tab", "t"), "destination": name("tab", "u")}, status=404, type="NoSuchTableException")
    ask(RENAME, body={"source": name("tab", "u"), "destination": name("no", "u")}, status=404, type="NoSuchNamespaceException")
    ask(NEW_TABLE, "tab", body={"name": "t", "schema": SCHEMA})
    ask(RENAME, body={"source": name("tab", "t"), "destination": name("tab", "u")}, status=409, type="AlreadyExistsException")
    ask(RENAME, body={"source": name("tab", "t")}, status=400, type="BadRequestException")

    ask(DELETE, "tab", "u", status=204)
    register = f"POST {NS}/register"
    ask(register, "tab", body={"name": "u", "metadata-location": made["metadata-location"]})
    ask(register, "tab", body={"name": "u", "metadata-location": made["metadata-location"]}, status=409, type="AlreadyExistsException")
    ask(register, "tab", body={"name": "u", "metadata-location": made["metadata-location"], "overwrite": True})
    ask(register, "no", body={"name": "u", "metadata-location": made["metadata-location"]}, status=404, type="NoSuchNamespaceException")
    ask(register, "tab", body={"name": "w"}, status=400, type="BadRequestException")
    ask(DELETE, "tab", "u", status=204, purgeRequested="true")
    assert not local(made["metadata-location"]).exists()


def snapshot(number, parent=None, **more):
    made = {"snapshot-id": number, "sequence-number": number, "timestamp-ms": 1700000000000 + number, "manifest-list": "file:///none", "schema-id": 0}
    made |= {"summary": {"operation": "append"}, **more}
    return made | ({"parent-snapshot-id": parent} if parent else {})


def add(snapshot, ref="main", type="branch"):
    return [
        {"action": "add-snapshot", "snapshot": snapshot},
        {"action": "set-snapshot-ref", "ref-name": ref, "type": type, "snapshot-id": snapshot["snapshot-id"]},
    ]


def test_load_only_what_changed_or_is_referenced(ask):
    make(ask, "load", "t")
    ask(POST, "load", "t", body=updates(*add(snapshot(1)), *add(snapshot(2, 1)), *add(snapshot(3, 2)), *add(snapshot(4, 3)), *add(snapshot(5, 1), "tag", "tag")))
    whole, refs = ask(GET, "load", "t", snapshots="all"), ask(GET, "load", "t", snapshots="refs")
    ids = lambda answer: [s["snapshot-id"] for s in answer.json["metadata"]["snapshots"]]
    assert ids(whole) == ids(ask(GET, "load", "t")) == [1, 2, 3, 4, 5] and ids(refs) == [4, 5]
    rest = lambda answer: {k: v for k, v in answer.json["metadata"].items() if k != "snapshots"}
    assert rest(whole) == rest(refs) and whole.headers["ETag"] != refs.headers["ETag"]
    for answer, query in ((whole, {}), (refs, {"snapshots": "refs"})):
        ask(GET, "load", "t", status=304, headers={"If-None-Match": answer.headers["ETag"]}, **query)
    ask(GET, "load", "t", headers={"If-None-Match": refs.headers["ETag"]})
    ask(GET, "load", "t", snapshots="some", status=400, type="BadRequestException")
    changed = ask(POST, "load", "t", body=updates({"action": "set-properties", "updates": {"a": "1"}}))
    assert ask(GET, "load", "t", headers={"If-None-Match": whole.headers["ETag"]}).headers["ETag"] == changed.headers["ETag"]
    ask(GET, "load", "t", status=304, headers={"If-None-Match": changed.headers["ETag"]})


def test_metadata_in_gzip_is_read(ask, folder):
    (made,) = make(ask, "packed", "t")
    file = local(made["metadata-location"]).with_name("00007-x.gz.metadata.json")
    file.write_bytes(gzip.compress(json.dumps(made["metadata"]).encode()))
    ask(f"POST {NS}/register", "packed", body={"name": "z", "metadata-location": f"file://{file}"})
    assert ask(GET, "packed", "z").json["metadata"] == made["metadata"]
    assert ask(POST, "packed", "z", body=updates({"action": "set-properties", "updates": {"a": "1"}})).json["metadata"]["properties"] == {"a": "1"}
    file = file.with_name("broken.gz.metadata.json")
    file.write_bytes(gzip.compress(json.dumps(made["metadata"]).encode())[:-20])
    answer = ask.daemon.request("POST", "/iceberg/v1/namespaces/packed/register", {"name": "y", "metadata-location": f"file://{file}"})
    assert answer.status >= 400 and "broken.gz" in answer.json["error"]["message"] and "damaged" in answer.json["error"]["message"]


def test_credentials_and_reports(ask):
    credentials, metrics = f"GET {TABLE}/credentials", f"POST {TABLE}/metrics"
    make(ask, "extra", "t")
    assert ask(credentials, "extra", "t").json == {"storage-credentials": []}
    ask(credentials, "extra", "no", status=404, type="NoSuchTableException")
    assert ask(GET, "extra", "t", headers={"X-Iceberg-Access-Delegation": "vended-credentials"}).json["config"] == {}
    scan = {"report-type": "scan-report", "table-name": "extra.t", "snapshot-id": 1, "filter": True, "schema-id": 0}
    scan |= {"projected-field-ids": [1], "projected-field-names": ["id"], "metrics": {"total-planning-duration": {"count": 1, "time-unit": "nanoseconds", "total-duration": 5}}}
    commit = {"report-type": "commit-report", "table-name": "extra.t", "snapshot-id": 1, "sequence-number": 1, "operation": "append", "metrics": {"attempts": {"unit": "count", "value": 1}}}
    for report in (scan, commit):
        ask(metrics, "extra", "t", body=report, status=204)
    ask(metrics, "extra", "no", body=commit, status=404, type="NoSuchTableException")
    for wrong in ({}, {**commit, "report-type": "other"}, {"report-type": "commit-report"}, b"{"):
        ask(metrics, "extra", "t", body=wrong, status=400, type="BadRequestException")


def test_old_reports_go(ask, daemon):
    report = {"report-type": "commit-report", "table-name": "old.t", "snapshot-id": 1, "sequence-number": 1, "operation": "append", "metrics": {}}
    make(ask, "old", "t")
    with contextlib.closing(postgres(daemon)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sluice.metrics_reports (at, catalog, namespace, name, kind, report) SELECT"
            " now() - CASE WHEN i <= 3 THEN interval '31 days' ELSE interval '1 hour' END, 'local', 'old', 't', 'scan', '{}' FROM generate_series(1, 20) i"
        )
        count = lambda: cursor.execute("SELECT count(*) FROM sluice.metrics_reports WHERE kind = 'scan' AND namespace = 'old'") or cursor.fetchone()[0]
        for _ in range(100):  # every hundredth looks
            ask(f"POST {TABLE}/metrics", "old", "t", body=report, status=204)
        assert count() == 17
        cursor.execute("ALTER TABLE sluice.metrics_reports ALTER COLUMN id RESTART WITH 20100")
        ask(f"POST {TABLE}/metrics", "old", "t", body=report, status=204)
        assert count() == 0
    assert "old metrics reports were removed" in daemon.log


# ---- commits ----


def test_every_requirement(ask):
    spec = {"spec-id": 0, "fields": [{"source-id": 1, "transform": "identity", "name": "id"}]}
    (made,) = make(ask, "req", "t", **{"partition-spec": spec})
    ask(POST, "req", "t", body=updates(*add(snapshot(7))))
    holds = {
        "assert-table-uuid": ({"uuid": made["metadata"]["table-uuid"]}, {"uuid": "00000000-0000-4000-8000-000000000000"}),
        "assert-ref-snapshot-id": ({"ref": "main", "snapshot-id": 7}, {"ref": "main", "snapshot-id": 8}),
        "assert-last-assigned-field-id": ({"last-assigned-field-id": 1}, {"last-assigned-field-id": 2}),
        "assert-current-schema-id": ({"current-schema-id": 0}, {"current-schema-id": 1}),
        "assert-last-assigned-partition-id": ({"last-assigned-partition-id": 1000}, {"last-assigned-partition-id": 999}),
        "assert-default-spec-id": ({"default-spec-id": 0}, {"default-spec-id": 1}),
        "assert-default-sort-order-id": ({"default-sort-order-id": 0}, {"default-sort-order-id": 1}),
        "assert-create": (None, {}),
    }
    known = {n for n in DOCUMENT["schemas"] if n.startswith("Assert") and n != "AssertViewUUID"}
    assert len(known) == len(holds)
    for kind, (good, bad) in holds.items():
        if good is not None:
            ask(POST, "req", "t", body=updates(requirements=[{"type": kind, **good}]))
        ask(POST, "req", "t", body=updates(requirements=[{"type": kind, **bad}]), status=409, type="CommitFailedException")
        if good:
            ask(POST, "req", "t", body=updates(requirements=[{"type": kind}]), status=400, type="BadRequestException")
    assert "already" in ask(POST, "req", "t", body=updates(requirements=[{"type": "assert-create"}]), status=409).json["error"]["message"]
    for wrong in ({"type": "assert-nothing"}, {}, {"type": 1}):
        ask(POST, "req", "t", body=updates(requirements=[wrong]), status=400, type="BadRequestException")


def commit(ask, *changes, table="t", namespace="upd"):
    return ask(POST, namespace, table, body=updates(*changes)).json["metadata"]


def refused(ask, *changes, words="", status=400, table="t"):
    error = ask(POST, "upd", table, body=updates(*changes), status=status, type={400: "BadRequestException", 409: "CommitFailedException"}[status]).json["error"]
    assert words in error["message"], error


def test_every_update(ask):
    (made,) = make(ask, "upd", "t")
    column = lambda id, name, type="long", **more: {"id": id, "name": name, "type": type, "required": False, **more}
    schema = lambda *fields, id=1: {"type": "struct", "schema-id": id, "fields": [*SCHEMA["fields"], *fields]}
    tried = set()

    def does(action, check, **fields):
        tried.add(action)
        metadata = commit(ask, {"action": action, **fields})
        assert check(metadata), metadata
        return metadata

    does("assign-uuid", lambda m: m["table-uuid"] == made["metadata"]["table-uuid"], uuid=made["metadata"]["table-uuid"])
    refused(ask, {"action": "assign-uuid", "uuid": "00000000-0000-4000-8000-000000000000"}, words="uuid")
    does("add-schema", lambda m: len(m["schemas"]) == 2 and m["last-column-id"] == 2, schema=schema(column(2, "b")))
    does("set-current-schema", lambda m: m["current-schema-id"] == 1, **{"schema-id": 1})
    does("add-spec", lambda m: len(m["partition-specs"]) == 2, spec={"fields": [{"source-id": 2, "transform": "identity", "name": "b"}]})
    does("set-default-spec", lambda m: m["default-spec-id"] == 1, **{"spec-id": 1})
    order = {"order-id": 1, "fields": [{"source-id": 1, "transform": "identity", "direction": "desc", "null-order": "nulls-last"}]}
    does("add-sort-order", lambda m: len(m["sort-orders"]) == 2, **{"sort-order": order})
    does("set-default-sort-order", lambda m: m["default-sort-order-id"] == 1, **{"sort-order-id": 1})
    does("add-snapshot", lambda m: len(m["snapshots"]) == 1 and "current-snapshot-id" not in m, snapshot=snapshot(1))
    does("set-snapshot-ref", lambda m: m["current-snapshot-id"] == 1, **{"ref-name": "main", "type": "branch", "snapshot-id": 1})
    commit(ask, *add(snapshot(2, 1)), {"action": "set-snapshot-ref", "ref-name": "v1", "type": "tag", "snapshot-id": 1, "max-ref-age-ms": 5})
    does("remove-snapshot-ref", lambda m: set(m["refs"]) == {"main"}, **{"ref-name": "v1"})
    file = {"snapshot-id": 1, "statistics-path": "file:///s", "file-size-in-bytes": 1, "file-footer-size-in-bytes": 1, "blob-metadata": []}
    does("set-statistics", lambda m: len(m["statistics"]) == 1, statistics=file)
    does("remove-statistics", lambda m: m["statistics"] == [], **{"snapshot-id": 1})
    file = {"snapshot-id": 1, "statistics-path": "file:///s", "file-size-in-bytes": 1}
    does("set-partition-statistics", lambda m: len(m["partition-statistics"]) == 1, **{"partition-statistics": file})
    does("remove-partition-statistics", lambda m: m["partition-statistics"] == [], **{"snapshot-id": 1})
    does("remove-snapshots", lambda m: [s["snapshot-id"] for s in m["snapshots"]] == [2], **{"snapshot-ids": [1]})
    does("set-properties", lambda m: m["properties"]["a"] == "1", updates={"a": "1"})
    does("remove-properties", lambda m: "a" not in m["properties"], removals=["a"])
    does("set-location", lambda m: m["location"].endswith("/there"), location=made["metadata"]["location"] + "/there")
    refused(ask, {"action": "remove-partition-specs", "spec-ids": [1]}, words="in use")
    does("remove-partition-specs", lambda m: [s["spec-id"] for s in m["partition-specs"]] == [1], **{"spec-ids": [0]})
    refused(ask, {"action": "remove-schemas", "schema-ids": [1]}, words="in use")
    does("remove-schemas", lambda m: [s["schema-id"] for s in m["schemas"]] == [1], **{"schema-ids": [0]})

    # What only version 3 has is refused before, and there afterwards.
    key = {"key-id": "k", "encrypted-key-metadata": "AAAA"}
    new = {"action": "add-schema", "schema": schema(column(2, "b"), column(3, "n", "timestamp_ns"), column(4, "v", "variant"), id=2)}
    defaulted = {"action": "add-schema", "schema": schema(column(2, "b"), column(5, "d", "int", **{"initial-default": 7, "write-default": 8}), id=3)}
    refused(ask, {"action": "add-encryption-key", "encryption-key": key}, words="version 3")
    refused(ask, new, words="timestamp_ns")
    refused(ask, defaulted, words="initial-default")
    refused(ask, {"action": "add-schema", "schema": schema(column(9, "x", "strange"))}, words="strange")
    does("upgrade-format-version", lambda m: m["format-version"] == 3 and m["next-row-id"] == 0, **{"format-version": 3})
    refused(ask, {"action": "upgrade-format-version", "format-version": 2}, words="back")
    refused(ask, {"action": "upgrade-format-version", "format-version": 4}, words="not supported")
    commit(ask, new)
    fields = next(s for s in commit(ask, defaulted)["schemas"] if s["fields"][-1]["name"] == "d")["fields"]
    assert fields[-1]["initial-default"] == 7 and fields[-1]["write-default"] == 8
    does("add-encryption-key", lambda m: m["encryption-keys"] == [key], **{"encryption-key": key})
    does("add-encryption-key", lambda m: m["encryption-keys"] == [key], **{"encryption-key": key})
    refused(ask, {"action": "add-encryption-key", "encryption-key": {**key, "encrypted-key-metadata": "BBBB"}}, words="another")
    does("remove-encryption-key", lambda m: m["encryption-keys"] == [], **{"key-id": "k"})
    refused(ask, *add(snapshot(3, 2)), words="first-row-id")
    metadata = commit(ask, *add(snapshot(3, 2, **{"first-row-id": 0, "added-rows": 10})))
    assert metadata["next-row-id"] == 10
    refused(ask, *add(snapshot(4, 3, **{"first-row-id": 5, "added-rows": 1})), words="first-row-id", status=409)
    refused(ask, *add(snapshot(3, 2, **{"first-row-id": 10, "added-rows": 1})), words="already")
    refused(ask, *add(snapshot(5, 3, **{"first-row-id": 10, "added-rows": 1, "sequence-number": 2})), words="sequence number", status=409)

    for wrong in ({"action": "do-nothing"}, {}, {"action": 3}):
        refused(ask, wrong)
    known = {u["properties"]["action"]["const"] for n, u in DOCUMENT["schemas"].items() if n.endswith("Update") and "const" in u.get("properties", {}).get("action", {})}
    assert tried == known - {"add-view-version", "set-current-view-version"}


# ---- views ----

VIEWS, NEW_VIEW, VIEW = f"GET {NS}/views", f"POST {NS}/views", NS + "/views/{view}"


def test_ids_that_a_client_gives_to_what_it_adds(ask):
    """Some call what they add by the number after the newest they know, and then choose it by that number, whatever it became."""
    make(ask, "given", "t")
    column = lambda id, name: {"id": id, "name": name, "type": "long", "required": False}
    schema = lambda id, *fields: {"action": "add-schema", "schema": {"type": "struct", "schema-id": id, "fields": [*SCHEMA["fields"], *fields]}}
    change = lambda *updates: commit(ask, *updates, namespace="given")
    current = lambda m: next([f["name"] for f in s["fields"]] for s in m["schemas"] if s["schema-id"] == m["current-schema-id"])
    choose = lambda id: {"action": "set-current-schema", "schema-id": id}

    assert current(change(schema(1, column(2, "a")), choose(1))) == ["id", "a"]
    assert current(change(schema(2), choose(2))) == ["id"]  # as the first one was
    m = change(schema(1, column(3, "b")), choose(1))  # the number of a schema that is another one
    assert current(m) == ["id", "b"] and m["current-schema-id"] == 2 and len(m["schemas"]) == 3
    assert current(change(choose(1))) == ["id", "a"]
    spec = lambda id, column: {"action": "add-spec", "spec": {"spec-id": id, "fields": [{"source-id": column, "transform": "identity", "name": f"p{column}"}]}}
    fields = lambda m: next([f["source-id"] for f in s["fields"]] for s in m["partition-specs"] if s["spec-id"] == m["default-spec-id"])
    assert fields(change(spec(1, 1), {"action": "set-default-spec", "spec-id": 1})) == [1]
    assert fields(change(spec(1, 2), {"action": "set-default-spec", "spec-id": 1})) == [2]
    assert fields(change(spec(7, 1), {"action": "set-default-spec", "spec-id": 7})) == [1]


def version(*queries, id=1, schema=0, **more):
    made = {"version-id": id, "timestamp-ms": 1700000000000 + id, "schema-id": schema, "summary": {"engine-name": "x"}, "default-namespace": ["v"]}
    return made | {"representations": [{"type": "sql", "sql": sql, "dialect": dialect} for dialect, sql in queries], **more}


def test_views(ask):
    make(ask, "v", "t")
    body = {"name": "w", "schema": SCHEMA, "view-version": version(("spark", "SELECT 1"), ("duckdb", "SELECT 2")), "properties": {"comment": "c"}}
    made = ask(NEW_VIEW, "v", body=body).json
    assert made["metadata"]["current-version-id"] == 1 and made["metadata"]["version-log"] == [{"version-id": 1, "timestamp-ms": 1700000000001}]
    assert json.loads(local(made["metadata-location"]).read_text()) == made["metadata"]
    assert ask(f"GET {VIEW}", "v", "w").json == made
    ask(f"HEAD {VIEW}", "v", "w", status=204)
    assert ask(VIEWS, "v").json["identifiers"] == [{"namespace": ["v"], "name": "w"}]
    assert ask(TABLES, "v").json["identifiers"] == [{"namespace": ["v"], "name": "t"}]
    # One name is a table or a view.
    ask(NEW_VIEW, "v", body=body, status=409, type="AlreadyExistsException")
    ask(NEW_VIEW, "v", body={**body, "name": "t"}, status=409, type="AlreadyExistsException")
    ask(NEW_TABLE, "v", body={"name": "w", "schema": SCHEMA}, status=409, type="AlreadyExistsException")
    ask(GET, "v", "w", status=404, type="NoSuchTableException")
    ask(f"GET {VIEW}", "v", "t", status=404, type="NoSuchViewException")
    ask(DELETE, "v", "w", status=404, type="NoSuchTableException")
    ask(POST, "v", "w", body=updates(), status=404, type="NoSuchTableException")
    for op in ("GET", "DELETE"):
        ask(f"{op} {VIEW}", "v", "no", status=404, type="NoSuchViewException")
    ask(f"HEAD {VIEW}", "v", "no", status=404)
    ask(VIEWS, "no", status=404, type="NoSuchNamespaceException")
    ask(NEW_VIEW, "no", body=body, status=404, type="NoSuchNamespaceException")
    for wrong in (
        {},
        {**body, "name": "x", "view-version": {}},
        {**body, "name": "x", "schema": {}},
        {**body, "name": "x", "view-version": version()},
        {**body, "name": "x", "view-version": version(("duckdb", "SELECT 1"), ("DuckDB", "SELECT 2"))},
    ):
        ask(NEW_VIEW, "v", body=wrong, status=400, type="BadRequestException")

    rename = "POST /v1/{prefix}/views/rename"
    name = lambda n, view: {"namespace": [n], "name": view}
    ask(rename, body={"source": name("v", "w"), "destination": name("v", "t")}, status=409, type="AlreadyExistsException")
    ask(rename, body={"source": name("v", "t"), "destination": name("v", "x")}, status=404, type="NoSuchViewException")
    ask(rename, body={"source": name("v", "w"), "destination": name("no", "x")}, status=404, type="NoSuchNamespaceException")
    ask(rename, body={}, status=400, type="BadRequestException")
    ask(rename, body={"source": name("v", "w"), "destination": name("v", "x")}, status=204)
    ask(f"DELETE {VIEW}", "v", "x", status=204)
    ask(f"DELETE {VIEW}", "v", "x", status=404, type="NoSuchViewException")
    assert local(made["metadata-location"]).exists()

    register = f"POST {NS}/register-view"
    again = {"name": "y", "metadata-location": made["metadata-location"]}
    assert ask(register, "v", body=again).json["metadata"] == made["metadata"]
    ask(register, "v", body=again, status=409, type="AlreadyExistsException")
    ask(register, "v", body={"name": "z", "metadata-location": ask(GET, "v", "t").json["metadata-location"]}, status=400, type="BadRequestException")
    ask(f"POST {NS}/register", "v", body={**again, "name": "z"}, status=400, type="BadRequestException")
    for i in range(4):
        ask(NEW_VIEW, "v", body={**body, "name": f"p{i}"})
    assert [len(p) for p in pages(ask, VIEWS, "identifiers", "v", pageSize=2)] == [2, 2, 1]


def test_commits_to_views(ask):
    make(ask, "vc")
    query = lambda i: version(("duckdb", f"SELECT {i}"), id=i)
    made = ask(NEW_VIEW, "vc", body={"name": "w", "schema": SCHEMA, "view-version": query(1), "properties": {}}).json
    uuid = made["metadata"]["view-uuid"]
    change = lambda *all, uuid=uuid, **kw: ask(f"POST {VIEW}", "vc", "w", body=updates(*all, requirements=[{"type": "assert-view-uuid", "uuid": uuid}]), **kw)
    replace = lambda v: ({"action": "add-view-version", "view-version": v}, {"action": "set-current-view-version", "view-version-id": -1})

    got = change(*replace(query(2))).json["metadata"]
    assert got["current-version-id"] == 2 and [v["version-id"] for v in got["versions"]] == [1, 2]
    got = change(*replace(query(1))).json["metadata"]  # the same as the first one: that becomes current again
    assert got["current-version-id"] == 1 and len(got["versions"]) == 2 and [e["version-id"] for e in got["version-log"]] == [1, 2, 1]
    got = change({"action": "set-properties", "updates": {"a": "1", "b": "2"}}, {"action": "remove-properties", "removals": ["b"]}).json["metadata"]
    assert got["properties"] == {"a": "1"}
    wider = {"type": "struct", "schema-id": 5, "fields": [*SCHEMA["fields"], {"id": 2, "name": "v", "type": "variant", "required": False}]}
    got = change({"action": "add-schema", "schema": wider}, *replace(version(("duckdb", "SELECT 1, 2"), id=3, schema=-1))).json["metadata"]
    assert got["versions"][-1]["schema-id"] == got["schemas"][-1]["schema-id"] and "last-column-id" not in got
    change({"action": "assign-uuid", "uuid": uuid}, {"action": "upgrade-format-version", "format-version": 1}, {"action": "set-current-view-version", "view-version-id": 2})
    moved = change({"action": "set-location", "location": made["metadata"]["location"] + "/there"}).json
    assert local(moved["metadata-location"]).parts[-3] == "there"

    # An engine's query goes only if that is meant.
    other = replace(version(("trino", "SELECT 1"), id=9))
    assert "duckdb" in change(*other, status=400).json["error"]["message"]
    got = change({"action": "set-properties", "updates": {"replace.drop-dialect.allowed": "true"}}, *other).json["metadata"]
    for i in range(20, 30):
        got = change(*replace(query(i))).json["metadata"]
    assert len(got["versions"]) == 10 and got["current-version-id"] == 29 and [e["version-id"] for e in got["version-log"]] == list(range(20, 30))

    change(uuid="00000000-0000-4000-8000-000000000000", status=409, type="CommitFailedException")
    ask(f"POST {VIEW}", "vc", "no", body=updates(), status=404, type="NoSuchViewException")
    for wrong in (
        {"action": "add-snapshot", "snapshot": {}},
        {"action": "do-nothing"},
        {},
        {"action": "assign-uuid", "uuid": "00000000-0000-4000-8000-000000000000"},
        {"action": "upgrade-format-version", "format-version": 2},
        {"action": "set-current-view-version", "view-version-id": 77},
        {"action": "set-current-view-version", "view-version-id": -1},
        {"action": "add-view-version", "view-version": version(("duckdb", "x"), id=99, schema=77)},
        {"action": "add-view-version"},
    ):
        change(wrong, status=400, type="BadRequestException")
    for wrong in ({"type": "assert-create"}, {"type": "assert-view-uuid"}, {}):
        ask(f"POST {VIEW}", "vc", "w", body=updates(requirements=[wrong]), status=400, type="BadRequestException")
    assert ask(f"GET {VIEW}", "vc", "w").json["metadata"] == got


def test_format_versions(ask):
    make(ask, "fmt")
    for version in (1, 2, 3):
        made = ask(NEW_TABLE, "fmt", body={"name": f"v{version}", "schema": SCHEMA, "properties": {"format-version": str(version)}}).json["metadata"]
        assert made["format-version"] == version and "format-version" not in made["properties"]
        assert ("last-sequence-number" in made) == (version > 1) and ("next-row-id" in made) == (version > 2)
        assert ("schema" in made) == (version == 1)
    for version in (2, 3):
        got = ask(POST, "fmt", "v1", body=updates({"action": "upgrade-format-version", "format-version": version})).json["metadata"]
        assert got["format-version"] == version and "schema" not in got


def test_transactions(ask):
    made = make(ask, "tx", "a", "b")
    change = lambda name, uuid=None, **values: {
        "identifier": {"namespace": ["tx"], "name": name},
        "requirements": [{"type": "assert-table-uuid", "uuid": uuid}] if uuid else [],
        "updates": [{"action": "set-properties", "updates": values}],
    }
    ask(COMMIT_ALL, body={"table-changes": [change("a", made[0]["metadata"]["table-uuid"], x="1"), change("b", x="1")]}, status=204)
    ask(COMMIT_ALL, body={"table-changes": [change("a", x="2"), change("b", "another", x="2")]}, status=409, type="CommitFailedException")
    ask(COMMIT_ALL, body={"table-changes": [change("a", x="2"), change("c", x="2")]}, status=404, type="NoSuchTableException")
    ask(COMMIT_ALL, body={"table-changes": []}, status=400, type="BadRequestException")
    ask(COMMIT_ALL, body={"table-changes": [change("a", x="2")]}, token="no", status=401)
    assert [ask(GET, "tx", t).json["metadata"]["properties"] for t in "ab"] == [{"x": "1"}] * 2
