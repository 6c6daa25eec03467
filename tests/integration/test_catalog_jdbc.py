"""A JDBC catalog's database, as PyIceberg's SqlCatalog wrote it, served as it is: both work on the same tables in turns."""

import contextlib

import psycopg2
import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog

from conftest import postgres

ROWS = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "city": ["Lugo", "Soria", "Teruel"]})


class Lake:
    """A database of its own in another daemon's cluster, and what names it."""

    def __init__(self, daemon, folder):
        self.folder = folder
        with contextlib.closing(postgres(daemon)) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE DATABASE lake")
        sock = (daemon.home / "pg.run").resolve()
        self.where = {"host": str(sock), "port": next(sock.glob(".s.PGSQL.*[0-9]")).name.rsplit(".", 1)[1]}
        self.query = f"host={sock}&port={self.where['port']}"
        self.warehouse = folder / "lake"
        self.warehouse.mkdir()

    def catalog(self, name="lake"):
        return SqlCatalog(name, uri=f"postgresql+psycopg2://sluice@/lake?{self.query}", warehouse=f"file://{self.warehouse}")

    def config(self, user="sluice", extra=""):
        return f"""
            catalog:
              name: lake
              jdbc_uri: "jdbc:postgresql:///lake?{self.query}"
              user: {user}
              password: hunter2
              warehouse: {self.warehouse}
            {extra}
        """

    def sql(self, text, user="sluice"):
        with contextlib.closing(psycopg2.connect(dbname="lake", user=user, **self.where)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(text)
            return cursor.fetchall() if cursor.description else None


@pytest.fixture
def lake(make_daemon, folder):
    return Lake(make_daemon(name="other"), folder)


def rest(daemon):
    return RestCatalog("lake", uri=daemon.url + "/iceberg", token=daemon.token)


def rows(table):
    return sorted(table.scan().to_arrow().to_pylist(), key=lambda r: (r["id"], r["city"]))


def test_both_in_turns(lake, make_daemon):
    theirs = lake.catalog()
    theirs.create_namespace("geo", {"owner": "ana"})
    theirs.create_namespace("geo.deep")
    theirs.create_table("geo.city", ROWS.schema).append(ROWS)
    lake.catalog("another").create_namespace("hidden")

    daemon = make_daemon(config=lake.config())
    ours = rest(daemon)
    assert ours.list_namespaces() == [("geo",)] and ours.list_namespaces(("geo",)) == [("geo", "deep")]
    assert ours.load_namespace_properties("geo") == {"owner": "ana"}
    assert ours.list_tables("geo") == [("geo", "city")]
    table = ours.load_table("geo.city")
    assert rows(table) == ROWS.to_pylist()
    assert daemon.sql("SELECT id, city FROM geo.city ORDER BY id") == ROWS.to_pylist()

    # Ours, then theirs, then ours on top of it.
    table.append(pa.table({"id": pa.array([4], pa.int64()), "city": ["Huesca"]}))
    back = theirs.load_table("geo.city")
    assert len(back.snapshots()) == 2 and rows(back)[3] == {"id": 4, "city": "Huesca"}
    back.append(pa.table({"id": pa.array([5], pa.int64()), "city": ["Cuenca"]}))
    with table.refresh().update_schema() as update:
        update.add_column("people", pa_long())
    assert len(rows(theirs.load_table("geo.city"))) == 5 and theirs.load_table("geo.city").schema().find_field("people")

    # What each makes, renames and drops the other sees.
    ours.create_table("geo.river", ROWS.schema).append(ROWS)
    theirs.create_table("geo.deep.lake", ROWS.schema)
    assert rows(theirs.load_table("geo.river")) == ROWS.to_pylist()
    ours.rename_table("geo.river", "geo.deep.river")
    assert sorted(theirs.list_tables("geo.deep")) == sorted(ours.list_tables("geo.deep")) == [("geo", "deep", "lake"), ("geo", "deep", "river")]
    theirs.drop_table("geo.deep.river")
    ours.drop_table("geo.deep.lake")
    assert theirs.list_tables("geo.deep") == ours.list_tables("geo.deep") == []
    ours.update_namespace_properties("geo", removals={"owner"}, updates={"city": "Lugo"})
    assert {k: v for k, v in theirs.load_namespace_properties("geo").items() if k != "exists"} == {"city": "Lugo"}

    # A flow writes there, too, and its run lies beside the pointers.
    daemon.flow("f", """
        id: f
        tasks:
          - {id: c, type: curate, into: lake.geo.count, mode: overwrite, sql: SELECT count(*) AS n FROM geo.city}
    """)
    assert daemon.trigger("f")["state"] == "success"
    assert theirs.load_table("geo.count").scan().to_arrow().to_pylist() == [{"n": 5}]
    assert lake.sql("SELECT count(*) FROM sluice.runs") == [(1,)]
    assert "hunter2" not in daemon.log


def pa_long():
    from pyiceberg.types import LongType

    return LongType()


def test_tables_of_the_first_schema(lake, make_daemon):
    """V0 has no column that tells tables from views."""
    theirs = lake.catalog()
    theirs.create_namespace("geo")
    theirs.create_table("geo.city", ROWS.schema).append(ROWS)
    lake.sql("ALTER TABLE iceberg_tables DROP COLUMN iceberg_type")
    daemon = make_daemon(config=lake.config())
    rest(daemon).load_table("geo.city").append(ROWS)
    assert len(rows(lake.catalog().load_table("geo.city"))) == 6
    # A program that knows the first schema only goes on writing as it did.
    location = lake.sql("SELECT metadata_location FROM iceberg_tables")[0][0]
    lake.sql("INSERT INTO iceberg_tables (catalog_name, table_namespace, table_name, metadata_location)" f" VALUES ('lake', 'geo', 'copy', '{location}')")
    assert len(rows(rest(daemon).load_table("geo.copy"))) == 6


def test_a_user_who_owns_nothing(lake, make_daemon):
    lake.catalog().create_namespace("geo")
    lake.sql("CREATE ROLE guest LOGIN; GRANT CREATE ON DATABASE lake TO guest; GRANT CREATE, USAGE ON SCHEMA public TO guest;"
             "GRANT SELECT, INSERT, UPDATE, DELETE ON iceberg_tables, iceberg_namespace_properties TO guest")
    daemon = make_daemon(config=lake.config(user="guest"))
    rest(daemon).create_table("geo.city", ROWS.schema).append(ROWS)
    assert rows(lake.catalog().load_table("geo.city")) == ROWS.to_pylist()


def test_two_databases_are_refused(lake, make_daemon):
    daemon = make_daemon(config=lake.config(extra="server: {database: dbname=x}"), start=False)
    with pytest.raises(AssertionError, match="both a database for the daemon and catalog.jdbc_uri"):
        daemon.start()
    daemon = make_daemon(name="mysql", config="catalog: {jdbc_uri: 'jdbc:mysql://127.0.0.1/lake', password: hunter2}", start=False)
    with pytest.raises(AssertionError, match="only PostgreSQL is possible"):
        daemon.start()
    assert "hunter2" not in daemon.log
