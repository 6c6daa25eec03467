"""Spend by customer as teams write it for Spark: DataFrames, and a UDF for the tier."""

import pathlib

import sluice
from pyspark.sql import SparkSession, functions as f, types as t

HERE = pathlib.Path(__file__).resolve().parent


def main(orders, gold, silver, into):
    gold, silver = float(gold), float(silver)
    spark = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "2")
        .getOrCreate()
    )

    @f.udf(t.StringType())
    def tier(total):
        return "gold" if total >= gold else "silver" if total >= silver else "bronze"

    spend = (
        spark.read.csv(str(HERE / orders), header=True)
        .where("status = 'paid'")
        .groupBy(f.col("customer_id").cast("int").alias("customer_id"), "customer")
        .agg(f.count("*").alias("orders"), f.sum(f.col("amount").cast("decimal(12,2)")).cast("decimal(18,2)").alias("total_amount"))
        .withColumn("tier", tier("total_amount"))
        .orderBy("total_amount", "customer_id")
    )
    spend.write.mode("overwrite").parquet(str(HERE / into))
    sluice.output(rows=spend.count(), spark=spark.version)
    spark.stop()
