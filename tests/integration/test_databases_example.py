"""examples/databases by its one command, with SQLite and a PostgreSQL server: rows against what the shop's own database says."""

import contextlib
import sqlite3

import pyarrow.parquet as pq

import examples
from databases import CODED, PASSWORD, Postgres

SPEND = """
    SELECT c.id, c.name, upper(c.city), count(*), printf('%.2f', sum(o.cents) / 100.0), max(o.day)
    FROM orders o JOIN customers c ON c.id = o.customer WHERE o.status = 'paid' GROUP BY c.id ORDER BY c.id"""


def ask(path, query):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(query).fetchall()


def test_its_one_command(binary, folder):
    example = examples.copied(folder, "databases")
    with Postgres() as pg:
        done = examples.run(example / "run", CRM=pg.uri)
        want = ask(example / "data" / "shop.db", SPEND)
        assert len(want) == 200
        assert ask(example / "data" / "reports.db", "SELECT * FROM spend ORDER BY customer") == want
        assert pg.sql("SELECT customer, name, city, orders, spend::text, last_order::text FROM shop_spend ORDER BY customer") == want
        best = (example / "data" / "best.csv").read_text().splitlines()
        assert best[0] == "name;city;spend" and len(best) == 11
        top = sorted(want, key=lambda r: (-float(r[4]), r[0]))[0]
        assert best[1] == f"{top[1]};{top[2]};{top[4]}"
        history = ask(example / "data" / "reports.db", "SELECT customers, orders FROM history ORDER BY orders")
        assert history == [(200, 16000), (200, sum(r[3] for r in want))]
        regulars = pq.read_table(example / "data" / "regulars.parquet").to_pylist()
        assert [(r["customer"], r["city"], str(r["spend"])) for r in sorted(regulars, key=lambda r: r["customer"])] == [
            (r[0], r[2], r[4]) for r in want if r[3] > 90 and r[2] == "SORIA"
        ]
        assert regulars
        cities = {r["city"]: r["customers"] for r in pq.read_table(example / "data" / "cities.parquet").to_pylist()}
        assert cities == {city: sum(r[2] == city for r in want) for city in ("LUGO", "SORIA", "TERUEL")}
        told = done.stdout + done.stderr + "".join(p.read_text(errors="replace") for p in (example / "data" / "home" / "runs").glob("*/*/*/*") if p.is_file())
        assert PASSWORD not in told and CODED not in told
