"""examples/spark-to-polars: the same rows by DuckDB, by Polars and by Spark with a UDF, as a check of our own says; and its one command."""

import csv
import decimal
import re
import subprocess
from collections import Counter

import pyarrow.parquet as pq
import pytest

import examples
from conftest import link_engine, task_of, wait_until, why

COLUMNS = ["customer_id", "customer", "orders", "total_amount", "tier"]


@pytest.fixture
def example(folder):
    target = examples.copied(folder, "spark-to-polars")
    subprocess.run([str(target / "generate")], check=True)
    return target


def expected(example, gold, silver):
    spend, orders = Counter(), Counter()
    for row in csv.DictReader(open(example / "data" / "orders.csv")):
        if row["status"] == "paid":
            who = int(row["customer_id"]), row["customer"]
            spend[who] += decimal.Decimal(row["amount"])
            orders[who] += 1
    rows = [(*who, orders[who], total, "gold" if total >= gold else "silver" if total >= silver else "bronze") for who, total in spend.items()]
    return sorted(rows, key=lambda r: (r[3], r[0]))


def rows_of(path):
    return [tuple(r[c] for c in COLUMNS) for r in pq.read_table(path).to_pylist()]


def test_the_same_rows(make_daemon, example):
    """With tiers of the environment's own, which win over those of .env."""
    daemon = make_daemon(flows=example, config=example / "sluice.yaml", env={"TIER_GOLD": "7000", "SPARK_ENV": "none"}, start=False)
    link_engine(daemon.home, "polars")
    daemon.start()
    want = expected(example, 7000, 2500)
    assert len(want) == 72 and {r[4] for r in want} == {"gold", "silver", "bronze"}
    for engine in ("duckdb", "polars"):
        for flow, keys in (("customer_spend", {"engine": engine}), ("hand_out", {"params": {"as": engine}})):
            run = daemon.trigger(flow, **keys)
            assert run["state"] == "success", why(run)
        assert rows_of(example / "output" / engine / "customer_spend.parquet") == want, engine


@pytest.mark.timeout(300)
def test_the_baseline(make_daemon, example):
    daemon = make_daemon(flows=example, config=example / "sluice.yaml", env={"SPARK_ENV": str(example / "home" / "engines" / "spark")}, start=False)
    link_engine(example / "home", "spark")
    daemon.start()
    started = daemon.post("/api/v1/flows/baseline/runs", {})
    run = wait_until(lambda: (r := daemon.run(started["id"]))["ended_at"] and r, "the end of Spark", 200)
    assert run["state"] == "success", why(run)
    assert task_of(run, "spend")["outputs"]["rows"] == 72
    assert rows_of(example / "output" / "spark" / "customer_spend") == expected(example, 6000, 2500)


def test_its_one_command(binary, example):
    """The state folder lies among the flows, with files of Python packages in it that are none."""
    link_engine(example / "data" / "home", "polars")
    done = examples.run(example / "run", WITHOUT_SPARK="1")
    assert re.search(r"(?m)^polars .* equal ", done.stdout) and re.search(r"(?m)^ *72 +0$", done.stdout), done.stdout
    assert " error: " not in (example / "data" / "serve.log").read_text()
