"""An attempt that was given up, yet lives, is refused at every endpoint that the catalog says it has: nothing moves, nothing is told."""

import contextlib
import pathlib

import psycopg2
import pytest

from harness import http, task_of, wait_until

SCHEMA = {"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "id", "type": "long", "required": False}]}
VERSION = {"version-id": 1, "schema-id": 0, "timestamp-ms": 1, "summary": {}, "default-namespace": ["z"],
           "representations": [{"type": "sql", "sql": "SELECT 1 AS id", "dialect": "spark"}]}
PROPERTY = {"requirements": [], "updates": [{"action": "set-properties", "updates": {"late": "1"}}]}
NS = "/v1/{prefix}/namespaces"


def move(kind):
    return {"source": {"namespace": ["z"], "name": kind}, "destination": {"namespace": ["z"], "name": f"{kind}_late"}}


def bodies(metadata_location):
    """What would change something, were it let."""
    return {
        f"POST {NS}": {"namespace": ["z_late"]},
        f"POST {NS}/{{namespace}}/properties": {"updates": {"late": "1"}},
        f"POST {NS}/{{namespace}}/tables": {"name": "t_late", "schema": SCHEMA},
        f"POST {NS}/{{namespace}}/tables/{{table}}": PROPERTY,
        f"POST {NS}/{{namespace}}/tables/{{table}}/metrics": {"report-type": "scan-report", "table-name": "z.t", "snapshot-id": 1, "filter": {"type": "true"},
                                                              "schema-id": 0, "projected-field-ids": [1], "projected-field-names": ["id"], "metrics": {}},
        f"POST {NS}/{{namespace}}/register": {"name": "t_late", "metadata-location": metadata_location},
        f"POST {NS}/{{namespace}}/register-view": {"name": "v_late", "metadata-location": metadata_location},
        f"POST {NS}/{{namespace}}/views": {"name": "v_late", "schema": SCHEMA, "view-version": VERSION, "properties": {}},
        f"POST {NS}/{{namespace}}/views/{{view}}": PROPERTY,
        "POST /v1/{prefix}/tables/rename": move("t"),
        "POST /v1/{prefix}/views/rename": move("v"),
        "POST /v1/{prefix}/transactions/commit": {"table-changes": [{"identifier": {"namespace": ["z"], "name": "t"}, **PROPERTY}]},
    }


def everything(lake):
    """All that a request could have changed: the rows of the catalog, and the warehouse's files."""
    with contextlib.closing(psycopg2.connect(lake.database.dsn)) as connection, connection.cursor() as cursor:
        found = []
        for what in ("iceberg_tables", "iceberg_namespace_properties", "sluice.commits"):
            cursor.execute(f"SELECT t::text FROM {what} t ORDER BY 1")
            found.append(cursor.fetchall())
    root = pathlib.Path(lake.warehouse.removeprefix("file://"))
    return found, sorted(str(p) for p in root.rglob("*"))


@pytest.fixture
def attempt(lake):
    """A run whose task hands its token out and ignores SIGTERM; its run, its token, and the file that ends it."""
    token = lake.folder / "zombie.token"
    lake.daemon.flow(
        "zombie",
        f"""\
        id: zombie
        tasks:
          - id: hold
            type: command
            stop_grace: 60s
            command: |
              trap '' TERM
              printf '%s' "$SLUICE_CATALOG_TOKEN" >{token}.new
              mv {token}.new {token}
              while [ ! -e {token}.end ]; do sleep 0.05; done
        """,
    )
    run = lake.daemon.post("/api/v1/flows/zombie/runs")["id"]
    wait_until(token.exists, "the attempt's token")
    yield run, token.read_text()
    pathlib.Path(f"{token}.end").touch()
    lake.daemon.ended(run)


def ask(lake, endpoint, token, body=None):
    method, path = endpoint.split(" ")
    for name, value in (("prefix", lake.name), ("namespace", "z"), ("table", "t"), ("view", "v"), ("plan-id", "1")):
        path = path.replace(f"{{{name}}}", value)
    return http(method, lake.rest + path, body, {"Authorization": f"Bearer {token}"})


def test_a_zombie_is_refused_at_every_endpoint(lake, attempt):
    run, token = attempt
    assert ask(lake, f"POST {NS}", lake.token, {"namespace": ["z"]}).status == 200
    made = ask(lake, f"POST {NS}/{{namespace}}/tables", lake.token, {"name": "t", "schema": SCHEMA})
    assert made.status == 200, made
    body = bodies(made.json["metadata-location"])
    assert ask(lake, f"POST {NS}/{{namespace}}/views", lake.token, {**body[f"POST {NS}/{{namespace}}/views"], "name": "v"}).status == 200
    config = http("GET", lake.rest + "/v1/config", headers={"Authorization": f"Bearer {lake.token}"}).json
    table = f"{NS}/{{namespace}}/tables/{{table}}"
    assert ask(lake, f"GET {table}", token).status == 200  # while it is in office
    lake.daemon.post(f"/api/v1/runs/{run}/cancel")
    wait_until(lambda: task_of(lake.daemon.run(run), "hold")["attempts"][0]["state"] == "stopping", "the end of its office")
    wait_until(lambda: ask(lake, f"POST {table}", token, PROPERTY).status in (401, 403), "the fence")
    before, let = everything(lake), []
    for endpoint in ["GET /v1/config", *config["endpoints"]]:
        if endpoint.startswith("POST "):
            assert endpoint in body, f"say what a late attempt might send to {endpoint}"
        answer = ask(lake, endpoint, token, body.get(endpoint))
        if answer.status not in (401, 403):
            let.append((endpoint, answer))
    for secret in (token, f"x:{token}"):
        form = f"grant_type=client_credentials&client_secret={secret}&client_id=x".encode()
        answer = http("POST", lake.rest + "/v1/oauth/tokens", form, {"Content-Type": "application/x-www-form-urlencoded"})
        if answer.status not in (400, 401, 403):
            let.append(("oauth", answer))
    assert not let
    assert everything(lake) == before
