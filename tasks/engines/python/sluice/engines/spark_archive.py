"""Makes what Spark's JVM finds in the engine's folder beside its jars; `sluice engines install spark` runs it last.

DeltaLogStore.java is compiled by the compiler that Spark has for its own code, since there may be no other. Then comes the archive of
classes: a JVM that maps it begins in a third of the time. It holds what a small session loads: SQL, files, a table's catalog. Without
it, or with another Java than it was made by, everything works, and begins slower.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import zipfile
from typing import Any

from pyspark.java_gateway import launch_gateway

from sluice import report
from sluice.engines import spark_session
from sluice.engines.common import Job

_PATIENCE = 300.0  # seconds for the JVM to write it


def make() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        nothing = os.open(os.devnull, os.O_WRONLY)
        if nothing != report.FD:
            os.dup2(nothing, report.FD)  # an attempt's report, which this is not
        doc: dict[str, Any] = {"run_id": "0", "flow": "install", "task_id": "archive", "attempt": 0, "scratch": scratch, "spec": {}}
        doc["engine_options"] = {"threads": 2, "conf": {"fs.s3a.attempts.maximum": 1, "fs.s3a.retry.limit": 0}}
        doc["s3"] = {"endpoint": "http://127.0.0.1:9", "access_key": "none", "secret_key": "none"}
        doc["catalog"] = {"name": "local", "uri": "http://127.0.0.1:9", "token": "none"}
        job = Job(doc)
        try:
            if spark_session.has_jar("delta-storage-"):
                _compile(job)
        finally:
            _archive(job)


def _compile(job: Job) -> None:
    with open(os.path.join(os.path.dirname(__file__), "DeltaLogStore.java"), encoding="utf-8") as f:
        source = f.read()
    jvm = spark_session.start_jvm(job, "127.0.0.1", [])
    try:
        gateway = launch_gateway()
        compiler = gateway.jvm.org.codehaus.janino.SimpleCompiler()
        compiler.cook(source)
        target = os.path.join(spark_session.HOME, "jars", spark_session.LOG_STORE)
        with zipfile.ZipFile(target + ".tmp", "w") as jar:
            for name, code in compiler.getBytecodes().items():
                jar.writestr(name.replace(".", "/") + ".class", bytes(code))
        os.rename(target + ".tmp", target)
        gateway.shutdown()
    finally:
        spark_session.end_jvm(jvm)


def _archive(job: Job) -> None:
    target = os.path.join(spark_session.HOME, spark_session.ARCHIVE)
    made = os.path.join(job.scratch, "classes.jsa")
    options = [f"-XX:ArchiveClassesAtExit={made}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
    with contextlib.redirect_stdout(io.StringIO()):
        session = spark_session.begin(job, options)
    try:
        _work(session.spark, job.scratch)
    finally:
        session.stop(patience=_PATIENCE)
    shutil.copyfile(made, target + ".tmp")
    os.rename(target + ".tmp", target)


def _work(spark: Any, scratch: str) -> None:
    """What tasks do: text and Parquet in and out, sums, joins, a look for a table."""
    csv, parquet = os.path.join(scratch, "a.csv"), os.path.join(scratch, "a.parquet")
    with open(csv, "w") as f:
        f.write("id,name\n1,a\n2,b\n")
    rows = spark.read.schema("id string, name string").option("header", "true").csv(csv)
    rows.selectExpr("try_cast(id AS bigint) AS id", "name").where("id > 0").coalesce(1).write.parquet(parquet)
    again = spark.read.parquet(parquet)
    again.createOrReplaceTempView("t0")
    spark.sql("SELECT name, count(*) AS n, sum(id) AS s FROM t0 GROUP BY name ORDER BY name").collect()
    again.join(again.withColumnRenamed("name", "other"), "id").orderBy("id").collect()
    warehouse = os.path.join(scratch, "warehouse")
    spark.conf.set("spark.sql.catalog.h", "org.apache.iceberg.spark.SparkCatalog")
    spark.conf.set("spark.sql.catalog.h.type", "hadoop")
    spark.conf.set("spark.sql.catalog.h.warehouse", warehouse)
    again.writeTo("h.a.t").create()
    spark.table("h.a.t").writeTo("h.a.t").append()
    spark.sql("MERGE INTO h.a.t t USING t0 s ON t.id = s.id + 5 WHEN NOT MATCHED THEN INSERT *")
    spark.sql("SELECT name, count(*) AS n FROM h.a.t GROUP BY name").collect()
    spark.sparkContext.setLogLevel("OFF")  # nobody answers there; the classes are loaded
    with contextlib.suppress(Exception):
        spark.table("local.a.t")
    with contextlib.suppress(Exception):
        spark.read.text("s3a://none/a.txt")  # nor here


if __name__ == "__main__":
    make()
