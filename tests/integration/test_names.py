"""Names of tables with dots and odd characters, from the flow to the command line: what the catalog takes works everywhere."""

import json

import pytest
from pyiceberg.catalog.rest import RestCatalog

from conftest import sluice, why

NAMES = ["a.b.c", "deep.er.and.deep-er", "Upper.Case", "ventas.año 2026", 'quo"ted.it\'s', "per.50%", "ünï.täble", "1st.2nd", "select.from", "under.__x", "dash-ed.a+b&c=d?e#f"]


@pytest.fixture(scope="module")
def quoted():
    def quote(name):
        """As in SQL: the whole namespace is one name, the table another."""
        ns, _, table = name.rpartition(".")
        return ".".join('"' + part.replace('"', '""') + '"' for part in (ns, table))

    return quote


def test_from_the_flow_to_the_command_line(daemon, quoted):
    flow = "id: names\ntasks:\n"
    for i, name in enumerate(NAMES):
        into, sql = json.dumps(name, ensure_ascii=False), json.dumps(f"SELECT count(*) AS n FROM {quoted(name)}", ensure_ascii=False)
        flow += f"  - {{id: w{i}, type: curate, into: {into}, mode: upsert, key: [id], partition_by: [k], sql: \"SELECT 1 AS id, 'x' AS k UNION ALL SELECT 2, 'y'\"}}\n"
        flow += f"  - {{id: v{i}, type: validate, depends_on: [w{i}], table: {into}, checks: [{{row_count: {{min: 2, max: 2}}}}]}}\n"
        flow += f"  - {{id: r{i}, type: curate, depends_on: [v{i}], into: out.r{i}, mode: overwrite, sql: {sql}}}\n"
    daemon.flow("names", flow)
    for _ in range(2):
        run = daemon.trigger("names")
        assert run["state"] == "success", why(run)
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    for i, name in enumerate(NAMES):
        assert daemon.sql(f"SELECT n FROM out.r{i}") == [{"n": 2}] == daemon.sql(f"SELECT count(*) AS n FROM local.{quoted(name)}"), name
        literal = "'" + name.replace("'", "''") + "'"
        assert len(daemon.sql(f"SELECT * FROM snapshots({literal})")) >= 1
        assert daemon.sql(f"SELECT count(*) AS n FROM as_of({literal}, 'main')") == [{"n": 2}]
        assert json.loads(daemon.cli("tables", "preview", name, "--json").stdout)
        assert name in json.loads(daemon.cli("tables", "show", name, "--json").stdout)["name"]
        assert ".parquet" in daemon.cli("tables", "files", name).stdout
        assert daemon.cli("diff", name).returncode == 0
        assert catalog.load_table(tuple(name.split("."))).scan().to_arrow().num_rows == 2
    assert {t["name"] for t in daemon.get("/api/v1/tables")["items"]} == set(NAMES) | {f"out.r{i}" for i in range(len(NAMES))}


def test_levels_without_quotes(daemon):
    """SQL has catalog, schema and table: a fourth level needs quotes, and that is said."""
    daemon.flow("f", "id: f\ntasks: [{id: a, type: curate, into: a.b.c, sql: SELECT 1 AS id}]")
    assert daemon.trigger("f")["state"] == "success"
    for sql in ("SELECT * FROM a.b.c", "SELECT * FROM local.a.b.c"):
        done = daemon.cli("sql", sql, check=False)
        assert done.returncode != 0 and '"a.b".c' in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["orders", "stg.", ".t", "a..b", "a/b.c", "a.b/c", "stg. t", "stg.t\u0007"])
def test_names_that_are_none(folder, name):
    path = folder / "f.yaml"
    path.write_text(f"id: f\ntasks:\n  - id: a\n    type: curate\n    into: {json.dumps(name)}\n    sql: SELECT 1 AS id\n")
    done = sluice("validate", path, check=False)
    assert done.returncode == 1 and 'f.yaml:5:12: error: "into" of task "a" must be a table, namespace.table' in done.stdout, done.stdout
