"""stage from PostgreSQL, MySQL and SQLite: rows and types as they are, what is handed on to the server, and what goes wrong."""

import contextlib
import datetime as dt
import decimal
import json
import re
import sqlite3

import pyarrow.parquet as pq
import pytest

from conftest import task_of, wait_until, why
from databases import CODED, PASSWORD, MySQL, mysql, pg  # noqa: F401  fixtures


class Lake:
    """A daemon that knows the servers' addresses as secrets."""

    def __init__(self, make_daemon, folder, **secrets):
        self.folder, self.n = folder, 0
        self.names = list(secrets)
        self.daemon = make_daemon(env={k.upper(): v for k, v in secrets.items()})

    def run(self, source, **keys):
        self.n += 1
        self.out = self.folder / f"out{self.n}.parquet"
        flow = {
            "id": f"f{self.n}",
            "secrets": self.names,
            "tasks": [{"id": "s", "type": "stage", "source": source, "target": {"path": str(self.out)}, **keys}],
        }
        self.daemon.flow(flow["id"], json.dumps(flow, indent=1))
        return self.daemon.trigger(flow["id"])

    def rows(self, source, **keys):
        run = self.run(source, **keys)
        assert run["state"] == "success", why(run)
        self.attempt = task_of(run, "s")["attempts"][-1]
        return pq.read_table(self.out)

    def fails(self, source, **keys):
        run = self.run(source, **keys)
        assert run["state"] == "failed", run
        self.task = task_of(run, "s")
        self.log = self.daemon.task_log(run["id"], "s")
        return self.task["attempts"][-1]["error"]["message"]


@pytest.fixture
def lake(make_daemon, folder, pg):
    return Lake(make_daemon, folder, crm=pg.uri)


def from_pg(**keys):
    return {"format": "postgres", "uri": "${secrets.crm}", **keys}


def copies(pg, since):
    """The statements that fetched rows, as the server's own log has them."""
    return [line.split("statement: ", 1)[1] for line in pg.statements()[since:].splitlines() if "statement: COPY" in line and "pg_class" not in line and "pg_type" not in line]


@pytest.fixture(scope="module")
def orders(pg):
    pg.sql("CREATE SCHEMA sales; CREATE TABLE sales.orders AS SELECT i AS id, 'customer ' || i % 10 AS customer, i % 7 AS day, "
           "(i * 1.25)::numeric(12, 2) AS amount, repeat('x', 50) AS note FROM generate_series(1, 20000) i")  # fmt: skip
    return pg


def test_what_a_table_is_asked_for(lake, orders):
    since = len(orders.statements())
    table = lake.rows(from_pg(table="sales.orders"), select=["id", "amount"], where="id <= 30 AND customer = 'customer 3'")
    assert table.to_pylist() == [{"id": i, "amount": decimal.Decimal(i) * 5 / 4} for i in (3, 13, 23)]
    statements = copies(orders, since)
    assert statements and all('"id" <= ' in s and "'customer 3'" in s and '"note"' not in s and '"day"' not in s for s in statements), statements
    assert lake.attempt["metrics"]["rows_in"] == 3  # the server sent no others


def test_a_query_is_the_server_s(lake, orders):
    since = len(orders.statements())
    query = "SELECT customer, count(*) AS n, sum(amount)::numeric(20, 2) AS total\nFROM sales.orders GROUP BY customer;\n"
    table = lake.rows(from_pg(query=query), where="customer = 'customer 4'", rename={"n": "orders"}, cast={"total": "DOUBLE"})
    assert table.to_pylist() == [{"customer": "customer 4", "orders": 2000, "total": sum(i * 1.25 for i in range(4, 20001, 10))}]
    assert any("GROUP BY customer" in s for s in copies(orders, since)) or "GROUP BY customer" in orders.statements()[since:]
    table = lake.rows(from_pg(query="SELECT * FROM sales.orders"), select=["id"], limit=2)
    assert table.num_rows == 2 and table.column_names == ["id"]
    message = lake.fails(from_pg(query="SELECT id,\n  custmer FROM sales.orders"))
    assert 'column "custmer" does not exist' in message and "FROM (" not in message
    assert lake.task["attempts"][-1]["error"]["line"]


def test_many_rows_in_parallel(lake, orders):
    """Pages of the table are fetched by several connections at once, which see one state of it."""
    orders.sql("CREATE TABLE big AS SELECT i AS id, repeat('y', 300) AS note FROM generate_series(1, 60000) i; ANALYZE big")
    since = len(orders.statements())
    table = lake.rows(from_pg(table="big"), sql="SELECT count(*) AS n, count(DISTINCT id) AS ids FROM this", engine_options={"threads": 2, "memory_limit": "200MB"})
    assert table.to_pylist() == [{"n": 60000, "ids": 60000}]
    assert len({s.split("WHERE")[1] for s in copies(orders, since) if "ctid" in s}) > 1


def test_types_of_postgresql(lake, pg):
    pg.sql("""
        CREATE TYPE mood AS ENUM ('well', 'so so'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE DOMAIN price AS numeric(8, 2);
        CREATE TYPE spot AS (a int, b text);
        CREATE TABLE types (b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric(20, 4), t text, vc varchar(9), c char(3), by bytea, d date,
          ti time, ts timestamp, tz timestamptz, u uuid, j json, jb jsonb, e mood, p positive, pr price, s spot, ia int[], ta text[], na numeric(9, 1)[]);
        INSERT INTO types VALUES (true, -2, 3, 4000000000, 1.5, 2.25, 1234567890.1234, 'ñ', 'v', 'c', '\\x00ff', '2024-02-29', '10:00:00.5', '2024-02-29 10:00:00.123456',
          '2024-02-29 10:00+02', '00000000-0000-0000-0000-000000000001', '{"a": 1}', '{"a": 1}', 'so so', 7, 9.5, (1, 'x'), '{1,null,3}', '{a,b}', '{1.5}');
        INSERT INTO types DEFAULT VALUES""")
    table = lake.rows(from_pg(table="types"))
    row, empty = table.to_pylist()
    assert {v for v in empty.values()} == {None}
    assert str(row.pop("u")) == "00000000-0000-0000-0000-000000000001" and row == {
        "b": True, "i2": -2, "i4": 3, "i8": 4000000000, "f4": 1.5, "f8": 2.25, "n": decimal.Decimal("1234567890.1234"), "t": "ñ", "vc": "v", "c": "c",
        "by": b"\x00\xff", "d": dt.date(2024, 2, 29), "ti": dt.time(10, 0, 0, 500000), "ts": dt.datetime(2024, 2, 29, 10, 0, 0, 123456),
        "tz": dt.datetime(2024, 2, 29, 8, 0, tzinfo=dt.timezone.utc), "j": '{"a": 1}', "jb": '{"a": 1}', "e": "so so", "p": 7, "pr": decimal.Decimal("9.50"),
        "s": {"a": 1, "b": "x"}, "ia": [1, None, 3], "ta": ["a", "b"], "na": [decimal.Decimal("1.5")],
    }  # fmt: skip
    assert str(table.schema.field("p").type) == "int32" and str(table.schema.field("pr").type) == "decimal128(8, 2)"
    for column, kind, words in (
        ("x", "numeric", "more digits"), ("x", "numeric(50, 2)", "more digits"), ("x", "inet", "inet"), ("x", "interval", "interval"), ("x", "money", "money"),
        ("x", "timetz", "time with time zone"), ("x", "tsvector", "tsvector"), ("x", "int4range", "int4range"), ("x", "point", "point"), ("x", "bit(3)", "bit"),
        ("x", "inet[]", "inet"), ("x", "xml", "xml"),
    ):  # fmt: skip
        for where in ({"query": f"SELECT 1 AS id, NULL::{kind} AS {column}"}, {"table": "odd"}):
            pg.sql(f"DROP TABLE IF EXISTS odd; CREATE TABLE odd (id int, {column} {kind})")
            message = lake.fails(from_pg(**where))
            assert f'column "{column}"' in message and words in message and "cast it in `query`" in message, (kind, message)
    pg.sql("DROP TABLE IF EXISTS odd; CREATE TABLE odd (id int, a int[]); INSERT INTO odd VALUES (1, '{{1,2},{3,4}}')")
    assert 'column "a" has a value that does not fit its type' in lake.fails(from_pg(table="odd"))


def test_rows_that_do_not_fit(lake, pg):
    pg.sql("CREATE TABLE loose (id text, amount text); INSERT INTO loose VALUES ('1', '2.5'), ('two', '3'), (NULL, '4'), ('4', 'x')")
    shape = {"schema": {"id": "int not null", "amount": "decimal(9,2)"}}
    message = lake.fails(from_pg(table="loose"), **shape)
    assert 'column "id"' in message and "nothing was written" in message and not lake.out.exists()
    table = lake.rows(from_pg(table="loose"), on_reject="quarantine", **shape)
    assert table.to_pylist() == [{"id": 1, "amount": decimal.Decimal("2.50")}]
    assert pq.read_table(f"{lake.out}.rejects.parquet").num_rows == 3 == lake.attempt["metrics"]["rows_rejected"]


def nowhere(lake, run_text, secrets):
    """No secret in what anybody is told, in no file of the state folder, and in no process's arguments."""
    for secret in secrets:
        assert secret not in run_text and secret not in lake.log and secret not in lake.daemon.log
        for path in lake.daemon.home.glob("runs/*/*/*/*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_what_goes_wrong(lake, orders):
    again = {"retry": {"max_attempts": 2, "interval": "0s"}}
    message = lake.fails(from_pg(table="sales.order"), **again)
    assert 'has no table "sales.order"; did you mean "sales.orders"?' in message
    assert len(lake.task["attempts"]) == 1  # a wrong name stays wrong
    nowhere(lake, json.dumps(lake.task), [PASSWORD, CODED])
    message = lake.fails(from_pg(table="sales.orders"), select=["customr"])
    assert 'did you mean "customer"?' in message


def test_addresses(make_daemon, folder, pg, orders):
    wrong = pg.uri.replace(CODED, "wr0ngpw")
    lake = Lake(make_daemon, folder, crm=wrong, gone="postgresql://app:hunt3r2@127.0.0.1:1/postgres", odd="http://x:hunt3r3@h/d", slash="postgresql://a:hunt3r4/x@h/d",
                nodb=pg.uri.replace("/postgres", "/nope"), words=f"host=127.0.0.1 port={pg.port} user=app dbname=postgres password='{PASSWORD}'",
                jdbc=f"jdbc:postgresql://127.0.0.1:{pg.port}/postgres?user=app&password={CODED}&ApplicationName=me")  # fmt: skip
    again = {"retry": {"max_attempts": 2, "interval": "0s"}}
    for name, words, attempts in (
        ("crm", "password authentication failed", 1), ("gone", "Connection refused", 2), ("odd", "begins with http://", 1), ("slash", "written %2F", 1),
        ("nodb", 'database "nope" does not exist', 1),
    ):  # fmt: skip
        message = lake.fails({"format": "postgres", "uri": "${secrets.%s}" % name, "table": "sales.orders"}, **again)
        assert words in message and len(lake.task["attempts"]) == attempts, message
        nowhere(lake, json.dumps(lake.task), ["wr0ngpw", "hunt3r2", "hunt3r3", "hunt3r4", CODED, PASSWORD])
    for name in ("words", "jdbc"):
        assert lake.rows({"format": "postgres", "uri": "${secrets.%s}" % name, "table": "sales.orders"}).num_rows == 20000


def test_the_server_is_lost(lake, pg, orders):
    """In the middle of the rows; the next attempt reads them all."""
    pg.sql("CREATE TABLE IF NOT EXISTS slow AS SELECT i AS id FROM generate_series(1, 5) i")
    lake.daemon.flow("lost", json.dumps({"id": "lost", "secrets": ["crm"], "tasks": [
        {"id": "s", "type": "stage", "source": from_pg(query="SELECT id, CASE WHEN (SELECT count(*) FROM patience) = 0 THEN pg_sleep(60)::text END AS z FROM slow"),
         "target": {"path": str(lake.folder / "lost.parquet")}, "retry": {"max_attempts": 2, "interval": "0s"}}]}))  # fmt: skip
    pg.sql("CREATE TABLE patience (i int)")
    run = lake.daemon.post("/api/v1/flows/lost/runs", {})
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: pg.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"), "the query")
    pg.sql("INSERT INTO patience VALUES (1)")
    pg.sql(kill)
    run = lake.daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    first, second = task_of(run, "s")["attempts"]
    assert "was lost in the middle" in first["error"]["message"] and second["state"] == "success"
    assert pq.read_table(lake.folder / "lost.parquet").num_rows == 5


def test_sqlite(make_daemon, folder):
    path = folder / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL, code VARCHAR(9), data BLOB, day DATE, at TIMESTAMP, big BIGINT, n NUMERIC)")
        db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [(i, f"ñ {i}", i / 2, None if i == 3 else "c", b"\0\xff", "2024-02-29", "2024-02-29 10:00:00", 2**40, 1.5) for i in range(1, 6)])
        db.execute("CREATE TABLE odd (id INTEGER, x)")
        db.execute("CREATE TABLE clock (id INTEGER, t TIME)")
        db.execute("CREATE TABLE liar (id INTEGER, amount REAL)")
        db.execute("INSERT INTO liar VALUES (1, 2.5), (2, 'much')")
    lake = Lake(make_daemon, folder)
    source = {"format": "sqlite", "path": str(path)}
    rows = lake.rows({**source, "table": "items"}).to_pylist()
    assert rows[2] == {"id": 3, "name": "ñ 3", "price": 1.5, "code": None, "data": b"\0\xff", "day": dt.date(2024, 2, 29), "at": dt.datetime(2024, 2, 29, 10), "big": 2**40, "n": 1.5}
    assert lake.rows({**source, "table": "items"}, where="id > 3", select=["name"]).to_pylist() == [{"name": "ñ 4"}, {"name": "ñ 5"}]
    assert lake.rows({**source, "query": "SELECT count(*) AS n, max(name) AS m FROM items"}, cast={"n": "int"}).to_pylist() == [{"n": 5, "m": "ñ 5"}]
    assert 'did you mean "items"?' in lake.fails({**source, "table": "item"})
    assert 'column "x" is of type (none)' in lake.fails({**source, "table": "odd"})
    assert 'column "t" is of type TIME' in lake.fails({**source, "table": "clock"})
    message = lake.fails({**source, "table": "liar"})
    assert 'column "amount"' in message and "much" in message and "SET " not in message
    table = lake.rows({**source, "query": "SELECT id, CAST(amount AS TEXT) AS amount FROM liar"}, schema={"id": "int", "amount": "double"}, on_reject="skip")
    assert table.to_pylist() == [{"id": 1, "amount": 2.5}]
    assert "cannot be read" in lake.fails({**source, "path": str(folder / "none.db"), "table": "items"}) and not (folder / "none.db").exists()
    (folder / "text.db").write_text("no database at all, but long enough to be taken for one" * 20)
    assert "not a database" in lake.fails({**source, "path": str(folder / "text.db"), "table": "items"})


def test_mysql(make_daemon, folder, mysql):
    mysql.sql("""
        CREATE TABLE items (id INT PRIMARY KEY, flag TINYINT(1), big BIGINT UNSIGNED, price DECIMAL(10, 2), name VARCHAR(20) CHARACTER SET utf8mb4, note TEXT, data BLOB,
          day DATE, at DATETIME(6), size ENUM('s', 'l'), f FLOAT, d DOUBLE, y YEAR, t TIME);
        INSERT INTO items VALUES (1, 5, 18446744073709551615, 1.25, 'ñ', 'n', X'00FF', '2024-02-29', '2024-02-29 10:00:00.5', 'l', 1.5, 2.25, 2024, '26:00:00');
        INSERT INTO items (id) VALUES (2);
        CREATE TABLE wide (id INT, d DECIMAL(60, 5)); CREATE TABLE place (id INT, g POINT)""")
    lake = Lake(make_daemon, folder, shop=mysql.uri, bad=mysql.uri.replace(CODED, "wr0ngpw"))
    source = {"format": "mysql", "uri": "${secrets.shop}"}
    rows = lake.rows({**source, "table": "items"}, sql="FROM this ORDER BY id").to_pylist()
    assert rows[0] == {
        "id": 1, "flag": 5, "big": 18446744073709551615, "price": decimal.Decimal("1.25"), "name": "ñ", "note": "n", "data": b"\x00\xff", "day": dt.date(2024, 2, 29),
        "at": dt.datetime(2024, 2, 29, 10, 0, 0, 500000), "size": "l", "f": 1.5, "d": 2.25, "y": 2024, "t": "26:00:00",
    }  # fmt: skip
    assert set(list(rows[1].values())[1:]) == {None}
    since = len(mysql.statements())
    assert lake.rows({**source, "table": "shop.items"}, where="id = 2", select=["id"]).to_pylist() == [{"id": 2}]
    assert re.search(r"SELECT `id` FROM `shop`.`items` WHERE .*2", mysql.statements()[since:])
    assert lake.rows({**source, "query": "SELECT count(*) AS n FROM items"}).to_pylist() == [{"n": 2}]
    assert 'did you mean "items"?' in lake.fails({**source, "table": "itms"})
    assert "more digits" in lake.fails({**source, "table": "wide"}) and "no counterpart" in lake.fails({**source, "table": "place"})
    assert "Access denied" in lake.fails({**source, "uri": "${secrets.bad}", "table": "items"}, retry={"max_attempts": 2, "interval": "0s"})
    assert len(lake.task["attempts"]) == 1
    nowhere(lake, json.dumps(lake.task), ["wr0ngpw", CODED, PASSWORD])


def test_what_the_loader_refuses(lake):
    for source, words in (
        ({"format": "postgres", "table": "t"}, "format: postgres needs uri"),
        ({"format": "postgres", "uri": "x"}, "needs one of table|query"),
        ({"format": "postgres", "uri": "x", "table": "t", "query": "SELECT 1"}, "needs one of table|query"),
        ({"format": "sqlite", "path": "a.db", "uri": "x", "table": "t"}, '"uri" does not go with format: sqlite'),
        ({"format": "csv", "query": "SELECT 1", "path": "a.csv"}, '"query" does not go with format: csv'),
    ):
        flow = {"id": "x", "tasks": [{"id": "s", "type": "stage", "source": source, "target": {"path": "o.parquet"}}]}
        answer = lake.daemon.request("POST", "/api/v1/validate", {"file": "x.yaml", "source": json.dumps(flow)}).json
        assert any(words in p["message"] for p in answer["problems"]), (source, answer)
