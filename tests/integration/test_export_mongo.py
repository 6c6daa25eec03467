"""export to MongoDB: each mode and type; what is refused, and what is left of it; killed attempts, a lost server, an end in the middle."""

import contextlib
import datetime as dt
import json
import math
import os
import pathlib
import signal
import socket
import threading
import uuid

import pytest

from conftest import pending, stopped, task_of, wait_until, why
from services import needs, running
from test_export import RETRY, Lake

needs("mongodb", "de.bwaldvogel:mongo-java-server")

import bson  # noqa: E402  from the service's own packages
import pymongo  # noqa: E402

PASSWORD = "s3cret/pass word"
MANY = 5000  # three batches


@pytest.fixture(scope="module")
def mongo():
    with running("mongodb") as address:
        yield address


@pytest.fixture(scope="module")
def client(mongo):
    with pymongo.MongoClient(mongo, tz_aware=True) as client:
        yield client


@pytest.fixture
def db(client):
    for name in client.shop.list_collection_names():
        client.shop.drop_collection(name)
    return client.shop


@pytest.fixture
def faults(folder):
    file = folder / "faults"
    file.write_text("")
    return file


@pytest.fixture
def lake(make_daemon, folder, mongo, faults):
    return Lake(make_daemon, folder, env={"SLUICE_FAULT": str(faults)}, out=f"{mongo}/shop")


def to(**keys):
    return {"format": "mongodb", "uri": "${secrets.out}", "collection": "items", **keys}


def ids(n, first=0, more=""):
    return f"SELECT i AS id, 'v' || i AS v{more} FROM range({first}, {first + n}) t(i)"


def test_modes(lake, db):
    left = set(pathlib.Path("/dev/shm").glob("mongoc-*"))
    metrics, outputs = lake.good(ids(5), to())
    assert metrics["rows_out"] == 5 and outputs == {"collection": "shop.items", "rows": 5}
    assert sorted(d["_id"] for d in db["items"].find()) == [f"{lake.last['id']}/e/{i}" for i in range(5)]
    assert db["items"].find_one({"id": 3}, {"_id": 0}) == {"id": 3, "v": "v3"}
    lake.good(ids(1, 5), to(mode="append", database="shop"))
    assert db["items"].count_documents({}) == 6 and [d["rows"] for d in db.sluice_exports.find().sort("rows")] == [1, 5]
    lake.good(ids(2), to(mode="replace"))
    assert db["items"].count_documents({}) == 2 and list(db["items"].index_information()) == ["_id_"]
    db["items"].create_index("id", unique=True)
    lake.good(ids(3, 7), to(mode="overwrite"))
    assert sorted(d["id"] for d in db["items"].find()) == [7, 8, 9]
    assert db["items"].index_information()["id_1"]["unique"] is True  # what the collection had is still there
    lake.good("SELECT 1 AS _id, 'own' AS v", to(mode="overwrite"))
    assert set(pathlib.Path("/dev/shm").glob("mongoc-*")) <= left
    assert list(db["items"].find()) == [{"_id": 1, "v": "own"}]
    lake.good(ids(0), to(mode="overwrite"))
    assert db["items"].count_documents({}) == 0
    assert sorted(db.list_collection_names()) == ["items", "sluice_exports"]
    lake.good(ids(MANY), to(mode="append"))
    assert len({d["id"] for d in db["items"].find({}, {"id": 1})}) == MANY


def test_upsert(lake, db):
    keyed = to(mode="upsert", key=["id", "part"])
    lake.good("SELECT i AS id, 'p' AS part, 'one' AS v, 1 AS n FROM range(3) t(i)", keyed)  # makes the collection, and its index
    assert db["items"].index_information()["id_1_part_1"]["unique"] is True
    metrics, _ = lake.good("SELECT 'two' AS v, i AS id, 'p' AS part FROM range(1, 5) t(i)", keyed)
    assert metrics["rows_out"] == 4
    want = [(0, "p", "one", 1), (1, "p", "two", 1), (2, "p", "two", 1), (3, "p", "two", None), (4, "p", "two", None)]

    def there():
        return [(d["id"], d["part"], d.get("v"), d.get("n")) for d in db["items"].find().sort("id")]

    assert there() == want
    lake.good("SELECT 1 AS id, 'p' AS part", keyed)  # nothing but the key: nothing changes
    assert there() == want
    message = lake.fails("SELECT 1 AS id, 'p' AS part, v FROM (VALUES ('x'), ('y')) t(v)", keyed)
    assert "2 rows have the same key" in message and "1, p" in message
    assert "no value in their key" in lake.fails("SELECT NULL::INT AS id, 'p' AS part, 'x' AS v", keyed)
    assert 'no column "part" for the key' in lake.fails("SELECT 1 AS id", keyed)
    assert "cannot be part of a key" in lake.fails("SELECT [1] AS id, 'p' AS part", keyed)
    assert there() == want
    lake.good("SELECT 2 AS _id, 'x' AS v UNION ALL SELECT 3, 'y'", to(mode="upsert", key="_id", collection="by_id"))
    lake.good("SELECT 3 AS _id, 'z' AS v", to(mode="upsert", key="_id", collection="by_id"))
    assert list(db.by_id.find().sort("_id")) == [{"_id": 2, "v": "x"}, {"_id": 3, "v": "z"}]
    db.plain.insert_one({"id": 1})
    message = lake.fails("SELECT 1 AS id, 'x' AS v", to(mode="upsert", key="id", collection="plain"))
    assert "no unique index" in message and 'db.plain.createIndex({"id": 1}, {unique: true})' in message and len(lake.attempts) == 1


def test_types(lake, db):
    query = (
        "SELECT true AS b, 1::TINYINT AS i1, 3::INT AS i4, 4::UINTEGER AS u4, 5::BIGINT AS i8, sum(6)::HUGEINT AS h, 18446744073709551615::UBIGINT AS u8, 1.5::FLOAT AS f, "
        "'-inf'::DOUBLE AS d, -12345678901234567890.123456::DECIMAL(38, 6) AS n, 0.05::DECIMAL(3, 2) AS small, 'ñ' AS t, '\\x00\\xFF'::BLOB AS by, DATE '1969-12-31' AS day, "
        "TIME '10:00:00.5' AS ti, TIMESTAMP '1969-12-31 23:59:59.123456' AS ts, TIMESTAMPTZ '2024-02-29 10:00:00.123999+02' AS tz, "
        "'2024-02-29 10:00:00.123456789'::TIMESTAMP_NS AS ns, '2024-02-29 10:00:00'::TIMESTAMP_S AS s, 'b77a0b6c-6b5e-4b8e-9b0a-6a1c1d9e2f30'::UUID AS u, "
        "'x'::ENUM ('y', 'x') AS e, '{\"a\": 1}'::JSON AS j, NULL::INT AS none, [1, NULL, 3] AS list, [1.5, 2.5]::FLOAT[2] AS fixed, "
        "{'a': 1, 'deep': {'l': [{'x': DATE '2024-02-29'}], 'z': NULL}} AS st, MAP {'k': 1, 'l': NULL} AS m, MAP {1: 'one'} AS mi, []::INT[] AS nil"
    )
    lake.good(query, to(mode="replace"))
    got = db["items"].find_one({}, {"_id": 0})
    utc = dt.timezone.utc
    assert got["ns"] == dt.datetime(2024, 2, 29, 10, 0, 0, 123000, utc) and got["s"] == dt.datetime(2024, 2, 29, 10, tzinfo=utc)
    assert got["ts"] == dt.datetime(1969, 12, 31, 23, 59, 59, 123000, utc) and got["tz"] == dt.datetime(2024, 2, 29, 8, 0, 0, 123000, utc)
    assert got["day"] == dt.datetime(1969, 12, 31, tzinfo=utc) and got["ti"] == "10:00:00.5" and got["d"] == -math.inf
    assert {k: got[k] for k in ("b", "i1", "i4", "u4", "i8", "h", "f", "t", "by", "e", "j", "none")} == {
        "b": True, "i1": 1, "i4": 3, "u4": 4, "i8": 5, "h": 6, "f": 1.5, "t": "ñ", "by": b"\x00\xff", "e": "x", "j": '{"a": 1}', "none": None,
    }  # fmt: skip
    assert isinstance(got["i8"], bson.Int64) and isinstance(got["h"], bson.Int64) and not isinstance(got["i4"], bson.Int64)
    assert [str(got[k]) for k in ("u8", "n", "small")] == ["18446744073709551615", "-12345678901234567890.123456", "0.05"]
    assert got["u"] == bson.Binary(uuid.UUID("b77a0b6c-6b5e-4b8e-9b0a-6a1c1d9e2f30").bytes, 4)
    assert got["list"] == [1, None, 3] and got["fixed"] == [1.5, 2.5] and got["nil"] == []
    assert got["st"] == {"a": 1, "deep": {"l": [{"x": dt.datetime(2024, 2, 29, tzinfo=utc)}], "z": None}}
    assert got["m"] == {"k": 1, "l": None} and got["mi"] == [{"key": 1, "value": "one"}]


def test_what_has_no_place_there(lake, db):
    for query, word in [
        ("SELECT INTERVAL 1 DAY AS d", 'no type for column "d", INTERVAL'),
        ('SELECT 1 AS "a.b"', 'column "a.b" has a name that MongoDB reads otherwise'),
        ('SELECT 1 AS "$a"', 'column "$a" has a name'),
        ("SELECT 1 AS _id", "write mode: upsert with key: _id"),
        ("SELECT i AS id, 1.0::DECIMAL(38,0) * CASE WHEN i = 7 THEN 10::DECIMAL(38,0)**37 + 1 ELSE 1 END AS n FROM range(9) t(i)", None),
        ("SELECT i AS id, CASE WHEN i = 7 THEN 99999999999999999999999999999999999::DECIMAL(38, 0) ELSE 1 END AS n FROM range(9) t(i)", "with id = 7 has a value that is a number of more than the 34"),
        ("SELECT i AS id, CASE WHEN i = 7 THEN 'infinity'::DATE END AS n FROM range(9) t(i)", "with id = 7 has a value that is a date or a time of infinity"),
        ("SELECT i AS id, repeat('x', CASE WHEN i = 7 THEN 17000000 ELSE 1 END) AS n FROM range(9) t(i)", "with id = 7 becomes a document of 170000"),
    ]:  # fmt: skip
        if word:
            assert word in lake.fails(query, to(), retry=RETRY), query
            assert len(lake.attempts) == 1, query
    assert db["items"].count_documents({}) == 0


def test_keys_that_are_there_already(lake, db):
    """A unique index of the user's: an append and an overwrite leave all as it was, an upsert does all the others."""
    db["items"].create_index("email", unique=True)
    db["items"].insert_one({"email": "e3000"})
    mail = ids(MANY, 0, ", 'e' || i AS email")
    message = lake.fails(mail, to(), retry=RETRY)
    assert "does not take 1 of 5000 rows (so it keeps none of them): id = 3000: " in message and "E11000" in message and "e3000" in message
    assert len(lake.attempts) == 1 and db["items"].count_documents({}) == 1 and db.sluice_exports.count_documents({}) == 0
    message = lake.fails(mail + " UNION ALL SELECT 1000000 + i, 'x', 'e1' FROM range(7) t(i)", to(mode="overwrite"), retry=RETRY)
    assert "does not take 7 of 5007 rows" in message and "and 2 more" in message
    assert db["items"].count_documents({}) == 1 and sorted(db.list_collection_names()) == ["items"]
    db["items"].create_index("id", unique=True)
    message = lake.fails(mail, to(mode="upsert", key="id"), retry=RETRY)
    assert "does not take 1 of 5000 rows (the others are there; writing them again changes nothing): id = 3000: " in message
    assert db["items"].count_documents({}) == MANY and len(lake.attempts) == 1
    db["items"].delete_one({"id": {"$exists": False}})
    lake.good(mail, to(mode="upsert", key="id"))
    assert db["items"].count_documents({}) == MANY == len(db["items"].distinct("email"))


@pytest.mark.parametrize("point", ["export.batch.after:2", "export.rows.after", "export.commit.before", "export.commit.after"])
def test_killed(lake, db, faults, point):
    for mode in ("append", "overwrite", "replace", "upsert"):
        db.drop_collection("items")
        db["items"].create_index("id", unique=True)
        db["items"].insert_one({"id": -1, "v": "old"})
        faults.write_text(f"{point}=kill")
        lake.good(ids(MANY), to(mode=mode, **({"key": "id"} if mode == "upsert" else {})), name=mode, retry=RETRY)
        assert [a["signal"] for a in lake.attempts] == [9, None], mode
        assert {d["id"] for d in db["items"].find({}, {"id": 1})} == {*range(MANY), *([-1] if mode in ("append", "upsert") else [])}, mode
    assert sorted(db.list_collection_names()) == ["items", "sluice_exports"]


def test_the_rows_of_an_append_are_those_of_its_first_attempt(lake, db, faults, folder):
    """What it reads has changed when the second attempt begins."""
    lake.daemon.flow("make", json.dumps({"id": "make", "tasks": [{"id": "c", "type": "curate", "into": "m.t", "mode": "overwrite", "sql": f"{ids(MANY)} ORDER BY id DESC"}]}))
    assert lake.daemon.trigger("make")["state"] == "success"
    faults.write_text("export.batch.after:2=stop")
    flow = {"id": "x", "secrets": ["out"], "tasks": [{"id": "e", "type": "export", "from": {"table": "m.t"}, "to": to(), "retry": RETRY}]}
    lake.daemon.flow("x", json.dumps(flow))
    run = lake.daemon.post("/api/v1/flows/x/runs", {})
    wait_until(lambda: db["items"].count_documents({}) >= 4000, "two batches")
    assert lake.daemon.sql("SELECT count(*) AS n FROM m.t") == [{"n": MANY}]
    lake.daemon.flow("less", json.dumps({"id": "less", "tasks": [{"id": "c", "type": "curate", "into": "m.t", "mode": "overwrite", "sql": "SELECT 5 AS id, 'other' AS v"}]}))
    assert lake.daemon.trigger("less")["state"] == "success"
    pid = wait_until(lambda: stopped_attempts(lake.daemon, run["id"]), "the stopped attempt")[0]
    os.kill(pid, signal.SIGKILL)
    run = lake.daemon.ended(run["id"])
    assert run["state"] == "success", why(run)
    assert len(task_of(run, "e")["attempts"]) == 2 and {d["id"] for d in db["items"].find()} == set(range(MANY))
    assert not list((lake.daemon.home / "scratch").glob("*.kept/rows.duckdb"))


def test_cancelled(lake, db, faults):
    """What it has done is taken back."""
    for mode in ("append", "overwrite"):
        db.drop_collection("items")
        db["items"].insert_one({"id": -1})
        faults.write_text("export.batch.after=stop")
        flow = {"id": mode, "secrets": ["out"], "tasks": [{"id": "e", "type": "export", "from": {"sql": ids(MANY)}, "to": to(mode=mode)}]}
        lake.daemon.flow(mode, json.dumps(flow))
        run = lake.daemon.post(f"/api/v1/flows/{mode}/runs", {})
        pid = wait_until(lambda: stopped_attempts(lake.daemon, run["id"]), "the first batch")[0]
        assert lake.daemon.request("POST", f"/api/v1/runs/{run['id']}/cancel").status == 202
        wait_until(lambda: pending(pid, signal.SIGTERM), "the signal")
        os.kill(pid, signal.SIGCONT)
        assert lake.daemon.ended(run["id"])["state"] == "cancelled"
        wait_until(lambda: db.list_collection_names() == ["items"] and db["items"].count_documents({}) == 1, f"all of {mode} is taken back")


def test_the_server_is_lost(make_daemon, folder, mongo, db):
    """In the middle, and then it is there again."""
    with Gate(mongo) as gate:
        lake = Lake(make_daemon, folder, out=f"{gate.address}/shop?socketTimeoutMS=5000")
        gate.bytes = 150_000  # then it hangs up, once
        lake.good(ids(MANY), to(), retry=RETRY)
        assert [a["state"] for a in lake.attempts] == ["failed", "success"]
        assert gate.address.rsplit("/", 1)[1] in lake.attempts[0]["error"]["message"] and not lake.attempts[0]["error"].get("final")
        assert {d["id"] for d in db["items"].find()} == set(range(MANY)) and db["items"].count_documents({}) == MANY
    message = Lake.fails(lake, ids(1), to(), retry={"max_attempts": 2, "interval": "0s"})
    assert len(lake.attempts) == 2 and "No suitable servers found" in message


def test_refused_at_the_door(make_daemon, folder, mongo):
    """A server that takes no password, an address that is none: final, and secrets are in no log, error or file."""
    door = mongo.replace("//", f"//app:{PASSWORD.replace('/', '%2F').replace(' ', '%20')}@")
    lake = Lake(make_daemon, folder, out=f"{door}/shop?serverSelectionTimeoutMS=3000", broken=f"mongodb://app:{PASSWORD}@127.0.0.1/shop", none=mongo)
    lake.fails(ids(1), to(), retry=RETRY)
    assert len(lake.attempts) == 1, lake.attempts
    assert "no address such as mongodb://" in lake.fails(ids(1), to(uri="${secrets.broken}"), retry=RETRY) and len(lake.attempts) == 1
    assert "neither to.database nor the address names a database" in lake.fails(ids(1), to(uri="${secrets.none}"))
    told = lake.daemon.log + "".join(lake.daemon.task_log(r["id"], "e") for r in lake.daemon.get("/api/v1/runs")["items"]) + json.dumps(lake.daemon.get("/api/v1/runs"))
    for secret in (PASSWORD, "s3cret", "pass%20word"):
        assert secret not in told
    bad = {"id": "bad", "tasks": [{"id": "e", "type": "export", "from": {"sql": "SELECT 1"}, "to": {"format": "mongodb", "uri": "x", "table": "t"}}]}
    answer = lake.daemon.post("/api/v1/validate", {"file": "bad.yaml", "source": json.dumps(bad)})
    said = " ".join(p["message"] for p in answer["problems"])
    assert 'format: mongodb needs collection' in said and '"table" does not go with format: mongodb' in said


# ---- helpers ----


def stopped_attempts(daemon, run_id):
    """The processes of the run's attempts that a fault point has stopped."""
    return [p for p in children(daemon) if run_id in open_files(p) and stopped(p)]


def children(daemon):
    nursery = (daemon.home / "nursery.pid").read_text().split()[0]
    with contextlib.suppress(OSError):
        return [int(p) for p in open(f"/proc/{nursery}/task/{nursery}/children").read().split()]
    return []


def open_files(pid):
    with contextlib.suppress(OSError):
        return " ".join(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))
    return ""


class Gate:
    """Between the program and the server: hands on, and hangs up after so many bytes."""

    def __init__(self, mongo):
        host, port = mongo.rsplit("/", 1)[1].split(":")
        self.server, self.bytes, self.open = (host, int(port)), math.inf, []

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"mongodb://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        for s in (self.listener, *self.open):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(self.server)
                self.open += [here, there]
                for a, b in ((here, there), (there, here)):
                    threading.Thread(target=self.hand_on, args=(a, b, a is here), daemon=True).start()

    def hand_on(self, a, b, counts):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                if counts:
                    self.bytes -= len(data)
                if self.bytes < 0:
                    self.bytes = math.inf
                    break
                b.sendall(data)
        for s in (a, b):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
