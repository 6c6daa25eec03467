"""employees_pipeline as a team writes it for Spark: what the engine spark is measured against.

spark_script.py WHERE CATALOG_URI TOKEN CSV_GLOB STAGED NAMESPACE_SUFFIX [STEP], by an interpreter that has PySpark. Prints seconds by
step as JSON. WHERE is the address of a Spark Connect server that runs, or jars for a JVM of the script's own (local[*]). Imports are not
counted; each step has a session of its own, as when four tasks are four scripts.
"""

import json
import os
import sys
import time

CONNECT = sys.argv[1].startswith("sc://")
os.environ.update({"SPARK_CONNECT_MODE_ENABLED": "1"} if CONNECT else {"SPARK_LOCAL_IP": "127.0.0.1"})

from pyspark.sql import functions as F  # noqa: E402

if CONNECT:
    from pyspark.sql.connect.session import SparkSession  # noqa: E402
else:
    from pyspark.sql import SparkSession  # noqa: E402


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


def begin(where):
    if CONNECT:
        return SparkSession.builder.remote(where).create()
    return SparkSession.builder.master("local[*]").config("spark.driver.extraClassPath", where).config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()


def main():
    where, uri, token, raw, staged, suffix = sys.argv[1:7]
    active, counts, seconds = f"local.stg.active{suffix}", f"local.cur.counts{suffix}", {}
    at = "spark.sql.catalog.local"
    settings = {at: "org.apache.iceberg.spark.SparkCatalog", f"{at}.type": "rest", f"{at}.uri": uri, f"{at}.token": token}
    steps = {
        "stage": lambda spark: stage(spark, raw, staged),
        "publish": lambda spark: publish(spark, staged, active),
        "curate": lambda spark: curate(spark, active, counts),
        "validate": lambda spark: validate(spark, counts, staged),
    }
    for name in sys.argv[7:] or steps:
        began = time.monotonic()
        spark = begin(where)
        for key, value in settings.items():
            spark.conf.set(key, value)
        steps[name](spark)
        spark.stop()
        seconds[name] = time.monotonic() - began
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
