"""docs/catalog.md: each of its snippets works as it stands there, with this daemon's address and token in the place of those shown."""

import json
import re
import subprocess

import duckdb
import pytest

import spark
from engines import BUILD
from harness import ROOT, why

PAGE = (ROOT / "docs" / "catalog.md").read_text()
TABLES = """
    id: docs
    tasks:
      - {id: stg, type: curate, into: stg.active_employees, mode: replace, sql: "SELECT 1 AS id, 'Ana' AS name, 'sales' AS department"}
      - {id: cur, type: curate, depends_on: [stg], into: cur.employee_counts, mode: replace, sql: "SELECT department, count(*) AS cnt FROM stg.active_employees GROUP BY 1"}
"""


def snippets(title):
    """Pairs of language and text under a heading."""
    part = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M).group(1)
    return re.findall(r"^```(\w+)\n(.*?)^```", part, re.S | re.M)


@pytest.fixture(scope="module")
def shown(lake):
    """What turns the page's words into this daemon's."""
    lake.daemon.flow("docs", TABLES)
    run = lake.daemon.trigger("docs")
    assert run["state"] == "success", why(run)
    made = json.loads(lake.daemon.cli("token", "create", "--scope", "admin", "--json").stdout)
    words = {
        "http://127.0.0.1:8080/iceberg": lake.rest,
        "127.0.0.1:5432": f"127.0.0.1:{lake.database.port}",
        "YOUR-TOKEN": made["token"],
        "ITS-ID": made["id"],
        "USER": "sluice",
        "PASSWORD": lake.database.password,
        "file:///WAREHOUSE": lake.warehouse,
    }

    def put(text):
        for word, real in words.items():
            text = text.replace(word, real)
        return text

    return put


def statements(text):
    return [s for s in re.split(r";\s*", text) if s.strip()]


def load_here(db):
    for extension in ("avro", "httpfs", "iceberg"):  # what INSTALL and LOAD would fetch
        db.execute(f"LOAD '{BUILD}/lib/{extension}.duckdb_extension'")


def test_duckdb(shown):
    db = duckdb.connect()
    load_here(db)
    ((_, text),) = snippets("DuckDB")
    install, *rest = text.splitlines()
    assert install == "INSTALL iceberg; LOAD iceberg;"
    for statement in statements(shown("\n".join(rest))):
        answer = db.execute(statement).fetchall()
    assert answer == [(2, "two")]
    db.execute('CREATE SCHEMA lake."eu.sales"; CREATE TABLE lake."eu.sales".orders AS SELECT 1 AS id')
    assert db.execute('SELECT * FROM lake."eu.sales".orders').fetchall() == [(1,)]
    (secret,) = re.findall(r"`(CREATE SECRET sluice [^`]*CLIENT_ID[^`]*)`", PAGE)
    other = duckdb.connect()
    load_here(other)
    other.execute(shown(secret))
    other.execute(next(shown(s) for s in statements(text) if s.startswith("ATTACH")))
    assert other.execute("SELECT count(*) FROM lake.cur.employee_counts").fetchall() == [(1,)]


def test_pyiceberg(shown):
    ((_, text),) = snippets("PyIceberg")
    names = {}
    exec(shown(text), names)
    assert names["made"].scan().to_arrow()["id"].to_pylist() == [3]
    (options,) = re.findall(r"`\*\*(\{[^`]*\})`", PAGE)
    instead = shown(text.replace('token="YOUR-TOKEN"', f"**{options}").splitlines()[3])
    exec(f"from pyiceberg.catalog import load_catalog\n{instead}\ncatalog.load_table('cur.employee_counts')")


def test_polars(shown):
    python = BUILD / "engines-home" / "engines" / "polars" / "bin" / "python"
    if not python.exists():
        pytest.skip("the engine polars is not installed: tools/engines build polars")
    ((_, text),) = snippets("Polars")
    done = subprocess.run([python, "-c", shown(text) + "\nprint(pl.scan_iceberg(made).collect().height)"], capture_output=True, text=True, timeout=100)
    assert done.stdout.split()[-1:] == ["2"], done.stdout + done.stderr


def test_jdbc_of_pyiceberg(shown):
    text = next(t for language, t in snippets("Without the daemon: JDBC") if language == "python")
    exec(shown(text))


@pytest.mark.parametrize("version", spark.SPARKS)
def test_spark(engines, shown, version):
    jvm = next((e.jvm for name, e in engines.items() if name == f"spark{version}-rest"), None)
    if jvm is None:
        pytest.skip(f"Spark {version} takes no part: {spark.missing(version)}")
    (_, settings), (_, text) = snippets("Spark 3.5 and 4.1")
    assert "IcebergSparkSessionExtensions" in settings.splitlines()[0]  # the JVM has it: it is static
    jvm.ask(f"docs-{version}", "conf", shown("\n".join(settings.splitlines()[1:])))
    for statement in statements(text):
        answer = jvm.ask(f"docs-{version}", "sql", statement)
        if "VERSION AS OF" in statement:
            assert len(answer["rows"]) == 2
    jvm.ask(f"docs-{version}", "sql", "DROP TABLE local.stg.spark")
    settings = next(t for language, t in snippets("Without the daemon: JDBC") if language == "properties")
    jvm.ask(f"docs-{version}-jdbc", "conf", shown(settings))
    assert len(jvm.ask(f"docs-{version}-jdbc", "sql", "SELECT * FROM local.cur.employee_counts")["rows"]) == 1
