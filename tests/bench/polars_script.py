"""employees_pipeline as a team writes it with Polars and PyIceberg: what the engine polars is measured against, and what Prefect runs.

Run by an interpreter that has both: polars_script.py CATALOG_URI TOKEN CSV_GLOB STAGED NAMESPACE_SUFFIX. Prints seconds by step as JSON.
Imports are not counted.
"""

import json
import sys
import time

import polars as pl
from pyiceberg.exceptions import NamespaceAlreadyExistsError


def table(catalog, name, schema):
    try:
        catalog.create_namespace(name.split(".")[0])
    except NamespaceAlreadyExistsError:
        pass
    return catalog.create_table_if_not_exists(name, schema)


def stage(raw, staged):
    frame = pl.scan_csv(raw, infer_schema=False).filter(pl.col("status") == "active").select("id", "name", "department", "status")
    frame.sink_parquet(staged, compression="zstd")


def publish(catalog, staged, into):
    rows = pl.read_parquet(staged).to_arrow()
    table(catalog, into, rows.schema).overwrite(rows)


def curate(catalog, source, into):
    frame = pl.scan_iceberg(catalog.load_table(source))
    rows = frame.group_by("department").agg(pl.len().cast(pl.Int64).alias("cnt")).sort("department").collect().to_arrow()
    table(catalog, into, rows.schema).overwrite(rows)


def validate(catalog, name, staged):
    rows = pl.scan_iceberg(catalog.load_table(name)).collect()
    assert rows.height and not rows["department"].is_null().any() and not rows["cnt"].is_null().any()
    assert rows["department"].is_unique().all()
    assert rows["cnt"].sum() == pl.scan_parquet(staged).select(pl.len()).collect().item()
    return rows.height


def main():
    from pyiceberg.catalog.rest import RestCatalog

    uri, token, raw, staged, suffix = sys.argv[1:6]
    active, counts, seconds = "stg.active" + suffix, "cur.counts" + suffix, {}

    def catalog():
        return RestCatalog("local", uri=uri, token=token)

    steps = {
        "stage": lambda: stage(raw, staged),
        "publish": lambda: publish(catalog(), staged, active),
        "curate": lambda: curate(catalog(), active, counts),
        "validate": lambda: validate(catalog(), counts, staged),
    }
    for name, work in steps.items():
        begun = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - begun
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
