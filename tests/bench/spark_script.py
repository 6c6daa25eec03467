"""employees_pipeline as a team writes it for a Spark Connect server that runs: what the engine spark is measured against.

spark_script.py REMOTE CATALOG_URI TOKEN CSV_GLOB STAGED NAMESPACE_SUFFIX, by an interpreter that has PySpark. Prints seconds by step as
JSON. Imports are not counted; each step has a session of its own, as when four tasks are four scripts.
"""

import json
import os
import sys
import time

os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"

from pyspark.sql import functions as F  # noqa: E402
from pyspark.sql.connect.session import SparkSession  # noqa: E402


def stage(spark, raw, staged):
    frame = spark.read.csv(raw, header=True).filter(F.col("status") == "active").select("id", "name", "department", "status")
    frame.write.mode("overwrite").option("compression", "zstd").parquet(staged)


def publish(spark, staged, into):
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {into.rsplit('.', 1)[0]}")
    spark.read.parquet(staged).writeTo(into).using("iceberg").createOrReplace()


def curate(spark, source, into):
    spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {into.rsplit('.', 1)[0]}")
    frame = spark.table(source).groupBy("department").agg(F.count("*").alias("cnt")).orderBy("department")
    frame.writeTo(into).using("iceberg").createOrReplace()


def validate(spark, name, staged):
    rows = spark.table(name).collect()
    assert rows and all(r.department is not None and r.cnt is not None for r in rows)
    assert len({r.department for r in rows}) == len(rows)
    assert sum(r.cnt for r in rows) == spark.read.parquet(staged).count()


def main():
    remote, uri, token, raw, staged, suffix = sys.argv[1:7]
    active, counts, seconds = f"local.stg.active{suffix}", f"local.cur.counts{suffix}", {}
    at = "spark.sql.catalog.local"
    settings = {at: "org.apache.iceberg.spark.SparkCatalog", f"{at}.type": "rest", f"{at}.uri": uri, f"{at}.token": token}
    steps = {
        "stage": lambda spark: stage(spark, raw, staged),
        "publish": lambda spark: publish(spark, staged, active),
        "curate": lambda spark: curate(spark, active, counts),
        "validate": lambda spark: validate(spark, counts, staged),
    }
    for name, step in steps.items():
        began = time.monotonic()
        spark = SparkSession.builder.remote(remote).create()
        for key, value in settings.items():
            spark.conf.set(key, value)
        step(spark)
        spark.stop()
        seconds[name] = time.monotonic() - began
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
