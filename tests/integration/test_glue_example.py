"""examples/glue by its one command: what is in the tables afterwards, and what is told of them."""

import json
import subprocess

import pytest
import examples
from conftest import clean_env, link_engine
from services import needs, running

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-key-that-nobody-sees"}
ASK = """
import glob, json, sys
import polars as pl
from pyiceberg.catalog.glue import GlueCatalog
glue = sys.argv[1]
catalog = GlueCatalog("c", **{"glue.endpoint": glue, "glue.region": "us-east-1", "s3.endpoint": glue, "s3.region": "us-east-1"})
out = {t[1]: catalog.load_table(t).scan().to_arrow().to_pylist() for t in catalog.list_tables("hr")}
table = catalog.load_table("hr.employees_iceberg")
out["partitions"] = [f.name for f in table.spec().fields]
out["operations"] = [s.summary.operation.value for s in table.snapshots()]
out["codec"] = table.properties.get("write.parquet.compression-codec")
out["before"] = pl.read_parquet(glob.glob("data/before/run=*/part.parquet")).to_dicts()
json.dump(out, sys.stdout, default=str)
"""


@pytest.fixture
def glue():
    needs("glue", "moto")
    with running("glue") as address:
        yield address


@pytest.mark.timeout(300)
def test_its_one_command(binary, folder, glue):
    """By Polars. `./run spark` is five JVMs; what Spark does on Glue and Hive is in test_catalogs.py."""
    example = examples.copied(folder, "glue")
    link_engine(example / "data" / "home", "polars")
    done = examples.run(example / "run", timeout=240, GLUE=glue, **KEYS)
    assert "✓ catalog" in done.stdout and "hr.employees_iceberg: 6 rows" in done.stdout and "3 snapshots" in done.stdout
    assert "a-key-that-nobody-sees" not in done.stdout + (example / "data" / "serve.log").read_text()

    asked = subprocess.run([example / "data/home/engines/polars/bin/python", "-c", ASK, glue], env=clean_env(**KEYS), cwd=example, capture_output=True, text=True)
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    assert told["partitions"] == ["role", "hire_date_year"] and told["codec"] == "snappy"
    assert {r["name"]: (r["age"], r["salary"]) for r in told["employees_iceberg"]} == {
        "Alice": (34, None), "Bob": (45, None), "Carol": (29, None), "Eve": (38, None), "Frank": (27, 71000.5), "Dan": (52, 161000.0),
    }
    # Time travel: with the row that the overwrite of its partition took away, and the one that it corrected.
    assert {r["name"]: r["age"] for r in told["before"]}["Dan"] == 51 and "Grace" in {r["name"] for r in told["before"]} and len(told["before"]) == 7
    assert told["veterans"] == told["from_delta"] == [{"name": "Zoe", "years": 31}, {"name": "Yan", "years": 28}]
