"""employees_pipeline as a flow of Prefect 3 over Polars, PyIceberg and a catalog in PostgreSQL: served as a deployment until it is stopped.

Run by an interpreter with prefect.txt: prefect_employees.py CATALOG_URI WAREHOUSE CSV_GLOB STAGED. PREFECT_API_URL names the server.
"""

import sys

from polars_script import curate, publish, stage, validate
from prefect import flow, task
from pyiceberg.catalog.sql import SqlCatalog

uri, warehouse, raw, staged = sys.argv[1:5] if len(sys.argv) > 4 else (None,) * 4


def catalog(parameters):
    return SqlCatalog("local", uri=parameters["uri"], warehouse=parameters["warehouse"])


@task
def stage_task(p):
    stage(p["raw"], p["staged"])


@task
def publish_task(p):
    publish(catalog(p), p["staged"], "stg.active")


@task
def curate_task(p):
    curate(catalog(p), "stg.active", "cur.counts")


@task
def validate_task(p):
    return validate(catalog(p), "cur.counts", p["staged"])


@flow
def employees_pipeline(p: dict):
    stage_task(p)
    publish_task(p)
    curate_task(p)
    return validate_task(p)


if __name__ == "__main__":
    employees_pipeline.serve(name="bench", parameters={"p": {"uri": uri, "warehouse": warehouse, "raw": raw, "staged": staged}})
