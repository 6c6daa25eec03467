"""export: a table, files or a query into files and into other databases; each mode; what an attempt that was killed leaves."""

import contextlib
import csv
import datetime as dt
import decimal
import fnmatch
import gzip
import itertools
import json
import sqlite3

import pyarrow.parquet as pq
import pytest

from conftest import task_of, wait_until, why
from databases import CODED, PASSWORD, mysql, pg  # noqa: F401  fixtures
from s3_stores import BUCKET, running
from test_s3_ways import config, keys

RETRY = {"max_attempts": 3, "interval": "0s"}
SAMPLE = "SELECT i AS id, 'ñ ' || i AS name, (i * 1.25)::DECIMAL(12, 2) AS amount, DATE '2024-02-28' + i::INT AS day FROM range(1, 6) t(i)"


class Sqlite:
    """The same questions as to the servers."""

    def __init__(self, path):
        self.path = path

    def sql(self, text):
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            return [tuple(r) for r in db.executescript(text).fetchall()] if ";" in text else [tuple(r) for r in db.execute(text).fetchall()]


class Lake:
    def __init__(self, make_daemon, folder, env=None, config=None, **secrets):
        self.folder, self.names = folder, list(secrets)
        self.daemon = make_daemon(config=config, env={**{k.upper(): v for k, v in secrets.items()}, **(env or {})})

    def run(self, origin, to, name="x", **keys):
        origin = {"sql": origin} if isinstance(origin, str) else origin
        flow = {"id": name, "secrets": self.names, "tasks": [{"id": "e", "type": "export", "from": origin, "to": to, **keys}]}
        self.daemon.flow(name, json.dumps(flow, indent=1))
        self.last = self.daemon.trigger(name)
        return self.last

    def good(self, origin, to, **keys):
        run = self.run(origin, to, **keys)
        assert run["state"] == "success", why(run)
        self.attempts = task_of(run, "e")["attempts"]
        return self.attempts[-1]["metrics"], task_of(run, "e")["outputs"]

    def fails(self, origin, to, **keys):
        run = self.run(origin, to, **keys)
        assert run["state"] == "failed", run
        self.attempts = task_of(run, "e")["attempts"]
        return self.attempts[-1]["error"]["message"]


@pytest.fixture
def lake(make_daemon, folder):
    return Lake(make_daemon, folder)


# ---- files ----


def test_files_of_each_format(lake, folder):
    out = folder / "out"
    metrics, outputs = lake.good(SAMPLE, {"format": "csv", "path": str(out / "a.csv")})
    assert metrics["rows_out"] == 5 and metrics["files_out"] == 1 and metrics["bytes_out"] == (out / "a.csv").stat().st_size
    assert outputs == {"path": str(out / "a.csv"), "rows": 5}
    rows = list(csv.reader(open(out / "a.csv", encoding="utf-8")))
    assert rows[0] == ["id", "name", "amount", "day"] and rows[1] == ["1", "ñ 1", "1.25", "2024-02-29"] and len(rows) == 6
    lake.good(SAMPLE, {"format": "csv", "path": str(out / "b.csv.gz"), "header": False, "delimiter": ";"})
    assert gzip.open(out / "b.csv.gz", "rt", encoding="utf-8").readline() == "1;ñ 1;1.25;2024-02-29\n"
    lake.good("SELECT 1 AS id, [1, 2] AS list, {'a': NULL} AS s", {"format": "json", "path": str(out / "a.json")})
    assert json.loads((out / "a.json").read_text()) == {"id": 1, "list": [1, 2], "s": {"a": None}}
    lake.good(SAMPLE, {"format": "parquet", "path": str(out / "a.parquet"), "compression": "snappy"})
    table = pq.read_table(out / "a.parquet")
    assert table.num_rows == 5 and table.to_pylist()[4] == {"id": 5, "name": "ñ 5", "amount": decimal.Decimal("6.25"), "day": dt.date(2024, 3, 4)}
    assert pq.ParquetFile(out / "a.parquet").metadata.row_group(0).column(0).compression == "SNAPPY"
    lake.good({"path": str(out / "*.parquet")}, {"format": "json", "path": str(out / "b.json.zst"), "compression": "zstd"})
    assert sorted(p.name for p in out.iterdir()) == ["a.csv", "a.json", "a.parquet", "b.csv.gz", "b.json.zst"]


@pytest.mark.parametrize("form, suffix", [("parquet", ".parquet"), ("csv", ".csv.gz")])
def test_folders_by_column(lake, folder, form, suffix):
    to = {"format": form, "path": str(folder / "parts"), "partition_by": ["k"], **({"compression": "gzip"} if "gz" in suffix else {})}
    query = "SELECT i AS id, i % %d AS k FROM range(10) t(i)"
    metrics, outputs = lake.good(query.replace("%d", "3"), to)
    assert metrics["files_out"] == 3 and outputs["path"] == f"{folder}/parts/**/*{suffix}"
    lake.good(query.replace("%d", "2"), to)  # the whole folder is replaced
    assert sorted(p.name for p in (folder / "parts").iterdir()) == ["k=0", "k=1"]
    assert all(p.name.endswith(suffix) for p in (folder / "parts").rglob("*") if p.is_file())
    (folder / "parts" / "notes.txt").write_text("mine")
    assert "notes.txt" in lake.fails(query.replace("%d", "2"), to) and (folder / "parts" / "notes.txt").exists()


def test_tables_of_the_catalog(lake, folder):
    lake.daemon.flow("make", json.dumps({"id": "make", "params": {"n": 1}, "tasks": [
        {"id": "c", "type": "curate", "into": "m.t", "mode": "append", "sql": "SELECT ${params.n}::INT AS n"}]}))  # fmt: skip
    for n in (1, 2):
        assert lake.daemon.trigger("make", {"n": n})["state"] == "success"
    out = folder / "t.csv"
    lake.good({"table": "m.t"}, {"format": "csv", "path": str(out)})
    assert sorted(out.read_text().split()) == ["1", "2", "n"]
    lake.good({"table": "local.m.t", "at": "previous"}, {"format": "csv", "path": str(out)})
    assert out.read_text().split() == ["n", "1"]
    lake.good("SELECT sum(n) AS total FROM m.t;", {"format": "csv", "path": str(out)})
    assert out.read_text().split() == ["total", "3"]
    before = out.read_bytes()
    assert "no such luck" in lake.fails("SELECT error('no such luck') FROM m.t", {"format": "csv", "path": str(out)})
    assert lake.fails("SELECT m FROM m.t", {"format": "csv", "path": str(out)}) and out.read_bytes() == before
    assert lake.attempts[-1]["error"]["line"]


def test_to_a_store(make_daemon, folder):
    """A file takes its place in one step; a folder's old files go with its new ones."""
    with running("seaweedfs") as store:
        lake = Lake(make_daemon, folder, env=keys(), config=config(store.endpoint))

        def text(key):
            return store.request("GET", f"/{BUCKET}/{key}")[1]

        for n in (1, 2):
            lake.good(f"SELECT {n} AS n", {"format": "csv", "path": f"s3://{BUCKET}/out/a.csv"})
            assert text("out/a.csv").split() == [b"n", b"%d" % n]
        to = {"format": "csv", "path": f"s3://{BUCKET}/parts", "partition_by": "k", "compression": "gzip"}
        lake.good("SELECT i AS id, i % 3 AS k FROM range(9) t(i)", to)
        first = set(store.keys(BUCKET, "parts/"))
        _, outputs = lake.good("SELECT i AS id, i % 2 AS k FROM range(9) t(i)", to)
        there = set(store.keys(BUCKET, "parts/"))
        files = sorted(k for k in there if k.endswith(".csv.gz"))
        assert "parts/_SUCCESS" in there and len(files) == 2 and not (set(files) & first)
        assert all(fnmatch.fnmatch(f"s3://{BUCKET}/{f}", outputs["path"].replace("**", "*")) for f in files)
        assert sum(len(gzip.decompress(text(f)).split()) - 1 for f in files) == 9


# ---- databases ----


@pytest.fixture(params=["postgres", "mysql", "sqlite"])
def target(request, make_daemon, folder):
    """A lake, what `to` begins with, and the database for questions."""
    if request.param == "sqlite":
        server = Sqlite(folder / "out.db")
        lake = Lake(make_daemon, folder)
        return lake, {"format": "sqlite", "path": str(folder / "out.db")}, server
    server = request.getfixturevalue("pg" if request.param == "postgres" else "mysql")
    server.sql("DROP TABLE IF EXISTS items; DROP TABLE IF EXISTS sluice_exports")
    return Lake(make_daemon, folder, out=server.uri), {"format": request.param, "uri": "${secrets.out}"}, server


def rows(server, query):
    got = server.sql(query)
    if isinstance(got, str):
        got = [tuple(line.split("\t")) for line in got.splitlines()]
    return [tuple(str(v) for v in r) for r in got]


def test_modes(target):
    lake, to, server = target
    to = {**to, "table": "items"}
    assert lake.good(SAMPLE, {**to, "mode": "append"})[0]["rows_out"] == 5
    assert rows(server, "SELECT id, name, amount, day FROM items ORDER BY id")[0] == ("1", "ñ 1", "1.25", "2024-02-29")
    lake.good("SELECT 6 AS id, 'six' AS name", to)  # append is the default; what is not given has no value
    assert rows(server, "SELECT id, name FROM items WHERE amount IS NULL") == [("6", "six")]
    assert rows(server, "SELECT count(*), sum(rows) FROM sluice_exports" if to["format"] != "mysql" else "SELECT count(*), sum(`rows`) FROM sluice_exports") == [("2", "6")]
    lake.good("SELECT 7 AS id, 'seven' AS name, 1.5::DECIMAL(12,2) AS amount", {**to, "mode": "overwrite"})
    assert rows(server, "SELECT id, name, amount FROM items") == [("7", "seven", "1.50")]
    lake.good("SELECT 'a' AS k, 1.5::DOUBLE AS v UNION ALL SELECT 'b', 2", {**to, "mode": "replace"})
    assert rows(server, "SELECT k, v FROM items ORDER BY k") == [("a", "1.5"), ("b", "2.0" if to["format"] != "mysql" else "2")]
    message = lake.fails("SELECT 'c' AS kk, 1 AS v", to)
    assert 'has no column "kk"; did you mean "k"?' in message and len(lake.attempts) == 1
    assert len(rows(server, "SELECT * FROM items")) == 2


def test_upsert(target):
    lake, to, server = target
    to = {**to, "table": "items", "mode": "upsert", "key": ["id", "part"]}
    lake.good("SELECT i AS id, 'p' AS part, 'one' AS v, 1 AS n FROM range(3) t(i)", to)  # makes the table, and its key
    lake.good("SELECT i AS id, 'p' AS part, 'two' AS v FROM range(1, 5) t(i)", to)
    want = [("0", "p", "one", "1"), ("1", "p", "two", "1"), ("2", "p", "two", "1"), ("3", "p", "two", "-"), ("4", "p", "two", "-")]
    question = "SELECT id, part, v, coalesce(n, '-') FROM items ORDER BY id" if to["format"] != "postgres" else "SELECT id, part, v, coalesce(n::text, '-') FROM items ORDER BY id"
    assert rows(server, question) == want
    lake.good("SELECT 1 AS id, 'p' AS part", to)  # nothing but the key: nothing changes
    assert rows(server, question) == want
    message = lake.fails("SELECT 1 AS id, 'p' AS part, v FROM (VALUES ('x'), ('y')) t(v)", to)
    assert "2 rows have the same key" in message and "1, p" in message
    assert "no value in their key" in lake.fails("SELECT NULL::INT AS id, 'p' AS part, 'x' AS v", to)
    assert 'no column "part" for the key' in lake.fails("SELECT 1 AS id", to)
    assert rows(server, question) == want
    if to["format"] != "sqlite":  # which would otherwise add rows without a word
        server.sql("DROP TABLE items; CREATE TABLE items (id int, part varchar(9), v varchar(9))")
        assert "no unique index" in lake.fails("SELECT 1 AS id, 'p' AS part, 'x' AS v", to)


@pytest.mark.parametrize("point", ["export.rows.after", "export.commit.before", "export.commit.after"])
def test_killed(make_daemon, folder, pg, mysql, point):
    """kill -9 before the commit leaves nothing, and after it nothing is done twice, in each mode and each of the databases."""
    faults = folder / "faults"
    faults.write_text("")
    lake = Lake(make_daemon, folder, env={"SLUICE_FAULT": str(faults)}, pg=pg.uri, my=mysql.uri)
    servers = [
        ("postgres", {"uri": "${secrets.pg}"}, pg),
        ("mysql", {"uri": "${secrets.my}"}, mysql),
        ("sqlite", {"path": str(folder / "out.db")}, Sqlite(folder / "out.db")),
    ]
    for mode, (form, where, server) in itertools.product(("append", "overwrite", "replace", "upsert"), servers):
        server.sql("DROP TABLE IF EXISTS killed; CREATE TABLE killed (id bigint PRIMARY KEY, v varchar(20)); INSERT INTO killed VALUES (100, 'old');")
        to = {"format": form, **where, "table": "killed", "mode": mode, **({"key": "id"} if mode == "upsert" else {})}
        faults.write_text(f"{point}=kill")
        lake.good("SELECT i AS id, 'n' AS v FROM range(50) t(i)", to, name=f"{mode}_{form}", retry=RETRY)
        assert [a["signal"] for a in lake.attempts] == [9, None], (form, mode)
        want = 51 if mode in ("append", "upsert") else 50
        assert rows(server, "SELECT count(*), count(DISTINCT id) FROM killed") == [(str(want), str(want))], (form, mode)
    assert mysql.sql("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'sluice\\_2%'") == ""


def test_the_server_is_lost(make_daemon, folder, pg):
    lake = Lake(make_daemon, folder, out=pg.uri)
    pg.sql("DROP TABLE IF EXISTS held; CREATE TABLE held (id bigint)")
    to = {"format": "postgres", "uri": "${secrets.out}", "table": "held"}
    flow = {"id": "held", "secrets": ["out"], "tasks": [{"id": "e", "type": "export", "from": {"sql": "SELECT i AS id FROM range(9) t(i)"}, "to": to, "retry": RETRY}]}
    lake.daemon.flow("held", json.dumps(flow))
    with contextlib.closing(pg.connect()) as holder, holder.cursor() as cursor:
        cursor.execute("LOCK TABLE held IN SHARE MODE")
        run = lake.daemon.post("/api/v1/flows/held/runs", {})
        waiting = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sluice %' AND wait_event_type = 'Lock'"
        wait_until(lambda: pg.sql(waiting), "the export at the table")
        pg.sql(waiting.replace("pid FROM", "pg_terminate_backend(pid) FROM"))
        wait_until(lambda: len(task_of(lake.daemon.run(run["id"]), "e")["attempts"]) > 1, "the next attempt")
        holder.commit()
    run = lake.daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    first = task_of(run, "e")["attempts"][0]["error"]["message"]
    assert "terminating connection" in first or "server closed the connection" in first
    assert pg.sql("SELECT count(*) FROM held") == [(9,)]


@pytest.mark.parametrize("point", ["export.finish.before", "export.finish.after"])
def test_killed_at_a_file(make_daemon, folder, point):
    faults = folder / "faults"
    faults.write_text("")
    lake = Lake(make_daemon, folder, env={"SLUICE_FAULT": str(faults)})
    out = folder / "a.csv"
    lake.good("SELECT 1 AS n", {"format": "csv", "path": str(out)})
    faults.write_text(f"{point}=kill")
    run = lake.run("SELECT 2 AS n", {"format": "csv", "path": str(out)})
    assert run["state"] == "failed" and out.read_text().split() == ["n", "1" if "before" in point else "2"]
    lake.good("SELECT 3 AS n", {"format": "csv", "path": str(out)}, retry=RETRY)
    assert out.read_text().split() == ["n", "3"]
    faults.write_text(f"{point}=kill")
    lake.good("SELECT 4 AS n", {"format": "csv", "path": str(out)}, retry=RETRY)
    assert out.read_text().split() == ["n", "4"] and sorted(p.name for p in folder.glob("a.csv*")) == ["a.csv"] + ([f"a.csv.tmp-{run['id']}-1"] if "before" in point else [])


def test_types_to_sqlite(lake, folder):
    query = (
        "SELECT true AS b, 1::TINYINT AS i1, 2::SMALLINT AS i2, 3::INT AS i4, 4::BIGINT AS i8, 18446744073709551615::UBIGINT AS u8, sum(5)::HUGEINT AS h, 1.5::FLOAT AS f, "
        "2.5::DOUBLE AS d, 12345678901234567890.123456::DECIMAL(38, 6) AS n, 'ñ' AS t, '\\x00\\xFF'::BLOB AS by, DATE '2024-02-29' AS day, TIME '10:00:00.5' AS ti, "
        "TIMESTAMP '2024-02-29 10:00:00.123456' AS ts, TIMESTAMPTZ '2024-02-29 10:00:00+02' AS tz, '00000000-0000-0000-0000-000000000001'::UUID AS u, 'x'::ENUM ('x') AS e"
    )
    to = {"format": "sqlite", "path": str(folder / "new" / "types.db"), "table": "types"}
    lake.good(query, to)
    db = Sqlite(folder / "new" / "types.db")
    assert db.sql("SELECT b, i1, i8, u8, h, f, n, t, hex(\"by\"), day, ti, ts, tz, u, e FROM types") == [
        (1, 1, 4, "18446744073709551615", 5, 1.5, "12345678901234567890.123456", "ñ", "00FF", "2024-02-29", "10:00:00.5", "2024-02-29 10:00:00.123456",
         "2024-02-29 08:00:00+00", "00000000-0000-0000-0000-000000000001", "x")]  # fmt: skip
    assert 'no type for column "s", STRUCT(a INTEGER)' in lake.fails("SELECT {'a': 1} AS s", to)


def test_types_to_servers(make_daemon, folder, pg, mysql):
    lake = Lake(make_daemon, folder, pg=pg.uri, my=mysql.uri)
    query = (
        "SELECT true AS b, 1::TINYINT AS i1, 18446744073709551615::UBIGINT AS u8, sum(5)::HUGEINT AS h, 12345678901234567890.123456::DECIMAL(38, 6) AS n, '\\x00\\xFF'::BLOB AS bin, "
        "TIME '10:00:00.5' AS ti, TIMESTAMP '2024-02-29 10:00:00.123456' AS ts, TIMESTAMPTZ '2024-02-29 10:00:00+02' AS tz, "
        "'00000000-0000-0000-0000-000000000001'::UUID AS u, 'x'::ENUM ('x') AS e"
    )
    lake.good(query.replace("AS b,", "AS b, [1, NULL] AS l,"), {"format": "postgres", "uri": "${secrets.pg}", "table": "types_out"})
    (got,) = pg.sql("SELECT b, l, i1, u8, h, n, bin, ti, ts, tz, u, e FROM types_out")
    assert got[:6] == (True, [1, None], 1, 18446744073709551615, 5, decimal.Decimal("12345678901234567890.123456")) and bytes(got[6]) == b"\0\xff"
    assert got[7:] == (dt.time(10, 0, 0, 500000), dt.datetime(2024, 2, 29, 10, 0, 0, 123456), dt.datetime(2024, 2, 29, 8, tzinfo=dt.timezone.utc), "00000000-0000-0000-0000-000000000001", "x")
    # into a table of other types the server casts, with all digits
    pg.sql("CREATE TYPE state AS ENUM ('on', 'off'); CREATE TABLE typed (id smallint PRIMARY KEY, n numeric, s state, j jsonb, d timestamptz DEFAULT '2020-01-01Z')")
    lake.good("SELECT 1 AS id, 12345678901234567890.123456::DECIMAL(38, 6) AS n, 'on' AS s, '{\"a\": 1}' AS j", {"format": "postgres", "uri": "${secrets.pg}", "table": "public.typed"})
    assert pg.sql("SELECT id, n, s, j, d IS NOT NULL FROM typed") == [(1, decimal.Decimal("12345678901234567890.123456"), "on", {"a": 1}, True)]
    message = lake.fails("SELECT 2 AS id, 1 AS n, 'ajar' AS s", {"format": "postgres", "uri": "${secrets.pg}", "table": "public.typed"})
    assert 'invalid input value for enum state: "ajar"' in message and PASSWORD not in message
    message = lake.fails("SELECT 1 AS id", {"format": "postgres", "uri": "${secrets.pg}", "table": "typed"})
    assert 'table typed: the rows are not taken: duplicate key value violates unique constraint "typed_pkey"; DETAIL:  Key (id)=(1) already exists.' in message
    mysql.sql("CREATE TABLE few (id int PRIMARY KEY, v varchar(3))")
    message = lake.fails("SELECT i AS id, repeat('x', i) AS v FROM range(9) t(i)", {"format": "mysql", "uri": "${secrets.my}", "table": "few"})
    assert message.endswith("Data too long for column 'v' at row 5") and "INSERT" not in message and mysql.sql("SELECT * FROM few") == ""
    lake.good(query, {"format": "mysql", "uri": "${secrets.my}", "table": "types_out"})
    assert rows(mysql, "SELECT b, i1, u8, h, n, hex(bin), ti, ts, tz, u, e FROM types_out") == [
        ("1", "1", "18446744073709551615", "5", "12345678901234567890.123456", "00FF", "10:00:00.500000", "2024-02-29 10:00:00.123456", "2024-02-29 08:00:00.000000",
         "00000000-0000-0000-0000-000000000001", "x")]  # fmt: skip


def test_it_sees_its_run(make_daemon, folder, pg):
    """What the run has written and nobody else sees yet; the address is told nobody."""
    lake = Lake(make_daemon, folder, out=pg.uri)
    lake.daemon.flow("own", json.dumps({"id": "own", "secrets": ["out"], "tasks": [
        {"id": "c", "type": "curate", "into": "own.t", "sql": "SELECT i AS id FROM range(7) t(i)"},
        {"id": "e", "type": "export", "depends_on": "c", "from": "own.t", "to": {"format": "postgres", "uri": "${secrets.out}", "table": "own_t"}}]}))  # fmt: skip
    run = lake.daemon.trigger("own")
    assert run["state"] == "success", why(run)
    assert task_of(run, "e")["outputs"] == {"table": "public.own_t", "rows": 7} and pg.sql("SELECT count(*) FROM own_t") == [(7,)]
    everything = json.dumps(run) + lake.daemon.log + "".join(p.read_text() for p in lake.daemon.home.glob("runs/*/*/*/*") if p.is_file())
    assert PASSWORD not in everything and CODED not in everything


def test_what_the_loader_refuses(lake):
    for origin, to, words in (
        ({"table": "a.b"}, {"format": "csv"}, "format: csv needs path"),
        ({"table": "a.b"}, {"format": "postgres", "uri": "x", "table": "t", "path": "p"}, '"path" does not go with format: postgres'),
        ({"table": "a.b"}, {"format": "postgres", "uri": "x", "table": "t", "mode": "upsert"}, 'needs \\"key\\"'),
        ({"table": "a.b"}, {"format": "postgres", "uri": "x", "table": "t", "key": "a"}, "goes with mode: upsert"),
        ({"table": "a.b", "sql": "SELECT 1"}, {"format": "csv", "path": "p"}, "exactly one of these keys: table path sql"),
        ({"sql": "SELECT 1", "at": "x"}, {"format": "csv", "path": "p"}, "goes with"),
        ({"table": "a.b"}, {"format": "json", "path": "p", "compression": "snappy"}, "take gzip and zstd"),
        ({"table": "a.b"}, {"format": "json", "path": "p", "header": True}, '"header" does not go with format: json'),
        ({"table": "a.b"}, {"format": "mongodb", "uri": "x", "table": "t"}, "\"table\" does not go with format: mongodb"),
    ):
        flow = {"id": "x", "tasks": [{"id": "e", "type": "export", "from": origin, "to": to}]}
        answer = lake.daemon.request("POST", "/api/v1/validate", {"file": "x.yaml", "source": json.dumps(flow)}).json
        assert any(words.replace("\\", "") in p["message"] for p in answer["problems"]), (to, answer)
