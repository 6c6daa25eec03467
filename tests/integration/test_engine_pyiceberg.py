"""PyIceberg, a client that is not ours, on the tables that a flow wrote: by the REST catalog and by the JDBC tables."""

from urllib.parse import quote

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError

from conftest import why


@pytest.fixture
def daemon(make_daemon, employees):
    daemon = make_daemon(flows=employees, config=employees / "sluice.yaml")
    run = daemon.trigger("employees_pipeline")
    assert run["state"] == "success", why(run)
    return daemon


def rest(daemon, **properties):
    return RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token, **properties)


def sql_catalog(daemon):
    """The same tables without the daemon in between: its private PostgreSQL, by the unix socket."""
    sock = next(p for p in (daemon.home / "pg.run", daemon.home / "pg" / "run", daemon.home / "pg") if list(p.glob(".s.PGSQL.*")))
    port = next(sock.glob(".s.PGSQL.*[0-9]")).name.rsplit(".", 1)[1]
    dsn = f"postgresql+psycopg2://sluice@/{database(sock, port)}?host={quote(str(sock))}&port={port}"
    return SqlCatalog("local", uri=dsn, warehouse=f"file://{daemon.home}/warehouse", init_catalog_tables="false")


def database(sock, port):
    import psycopg2

    for name in ("sluice", "postgres"):
        try:
            with psycopg2.connect(host=str(sock), port=port, user="sluice", dbname=name) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT to_regclass('iceberg_tables')")
                if cursor.fetchone()[0]:
                    return name
        except psycopg2.OperationalError:
            continue
    raise AssertionError("no database of the private cluster holds iceberg_tables")


def counts(table):
    rows = table.scan().to_arrow().to_pylist()
    return sorted((r["department"], r["cnt"]) for r in rows)


def test_rest_and_sql_catalog_read_what_the_flow_wrote(daemon):
    want = [(r["department"], r["cnt"]) for r in daemon.sql("SELECT department, cnt FROM cur.employee_counts ORDER BY department")]
    assert want
    for catalog in (rest(daemon), sql_catalog(daemon)):
        assert sorted(n[0] for n in catalog.list_namespaces()) == ["cur", "stg"]
        assert catalog.list_tables("cur") == [("cur", "employee_counts")]
        table = catalog.load_table("cur.employee_counts")
        assert counts(table) == want
        assert catalog.load_table("stg.active_employees").scan().to_arrow().num_rows == sum(n for _, n in want)
    # Who made the snapshot stands in it.
    summary = rest(daemon).load_table("cur.employee_counts").current_snapshot().summary
    assert summary["sluice.flow"] == "employees_pipeline" and summary["sluice.task-id"] == "curate"
    assert summary["sluice.run-id"] == daemon.get("/api/v1/runs")["items"][0]["id"]


def test_pyiceberg_writes_and_sluice_sql_reads(daemon):
    catalog = rest(daemon)
    catalog.create_namespace("own")
    data = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "city": ["Lugo", "Soria", "Teruel"]})
    table = catalog.create_table("own.cities", schema=data.schema)
    table.append(data)
    assert daemon.sql("SELECT id, city FROM own.cities ORDER BY id") == data.to_pylist()

    table.append(pa.table({"id": pa.array([4], pa.int64()), "city": ["Cuenca"]}))
    table.delete("id = 1")
    with table.update_schema() as update:
        update.add_column("people", pa_type())
    assert daemon.sql("SELECT id, city, people FROM own.cities ORDER BY id") == [
        {"id": 2, "city": "Soria", "people": None},
        {"id": 3, "city": "Teruel", "people": None},
        {"id": 4, "city": "Cuenca", "people": None},
    ]


def pa_type():
    from pyiceberg.types import LongType

    return LongType()


def test_the_sql_catalog_writes_and_the_daemon_sees_it(daemon):
    table = sql_catalog(daemon).load_table("cur.employee_counts")
    before = len(counts(table))
    table.append(pa.table({"department": ["visitors"], "cnt": pa.array([5], pa.int64())}))
    assert daemon.sql("SELECT cnt FROM cur.employee_counts WHERE department = 'visitors'") == [{"cnt": 5}]
    assert len(counts(rest(daemon).load_table("cur.employee_counts"))) == before + 1


def test_names_and_clashes(daemon):
    catalog = rest(daemon)
    data = pa.table({"id": pa.array([1], pa.int64())})
    catalog.create_namespace("own")
    catalog.create_table("own.a", schema=data.schema).append(data)
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table("own.a", schema=data.schema)
    catalog.rename_table("own.a", "own.b")
    assert catalog.list_tables("own") == [("own", "b")]
    with pytest.raises(NoSuchTableError):
        catalog.load_table("own.a")
    assert daemon.sql("SELECT count(*)::INT AS n FROM own.b") == [{"n": 1}]
    catalog.drop_table("own.b")
    assert catalog.list_tables("own") == []


def test_a_commit_on_an_old_state_is_refused(daemon):
    catalog = rest(daemon)
    schema = pa.schema([pa.field("id", pa.int64())])
    catalog.create_namespace("own")
    first = catalog.create_table("own.t", schema=schema)
    second = catalog.load_table("own.t")
    with first.update_schema() as update:
        update.add_column("a", pa_type())
    with pytest.raises(CommitFailedException):
        with second.update_schema() as update:
            update.add_column("b", pa_type())
    assert [f.name for f in catalog.load_table("own.t").schema().fields] == ["id", "a"]
