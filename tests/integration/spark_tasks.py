"""Run by the engine's own interpreter: tasks and statements, given as JSON on the standard input, in one session of Spark. A JVM takes seconds to begin.

    python spark_tasks.py PACKAGE < {"catalog": {...}, "s3": {...}, "conf": {...}, "scratch": "...", "tasks": [{"engine", "type", "spec"}], "queries": [sql]} > {"tasks": [...], "queries": [...]}
"""

import contextlib
import json
import os
import sys

sys.path.insert(0, sys.argv[1])

from sluice import report  # noqa: E402
from sluice.engines import duck, lake, spark, spark_errors, spark_lake, spark_publish, spark_session, spark_sql  # noqa: E402
from sluice.engines.common import Job  # noqa: E402
from sluice.engines.spark_work import Work  # noqa: E402

given = json.load(sys.stdin)
told = os.path.join(given["scratch"], "report")
os.dup2(os.open(told, os.O_RDWR | os.O_CREAT | os.O_APPEND), report.FD)
POSITIONS = {"sql": [10, 5], "source/path": [11, 5], "select/0": [12, 5], "key": [13, 5]}


def document(n, task):
    return {"run_id": f"r{n}", "flow": "f", "task_id": "t", "attempt": 1, "scratch": given["scratch"], "catalog": given["catalog"], "s3": given.get("s3"), "file": "f.yaml", "pos": POSITIONS, **task}


def reported(job, do):
    """What a task reports and how it fails."""
    os.truncate(told, 0)
    error = None
    try:
        do()
    except report.Failure as e:
        error = {"message": e.message, "line": e.line, "col": e.col, "cause": e.cause}
    except Exception as e:
        failure = spark_errors.failure(e, None)
        error = {"message": failure.message if failure else repr(e), "cause": failure.cause if failure else None}
    with open(told) as f:
        return {"error": error, "lines": [json.loads(line) for line in f if '"progress"' not in line]}


with contextlib.redirect_stdout(sys.stderr):
    options = {"threads": 2, "shuffle_partitions": 2, "conf": given.get("conf")}
    first = Job(document(0, {"engine": "spark", "type": "curate", "spec": given.get("spec", {}), "engine_options": options}))
    session = spark_session.begin(first)
    out = {"tasks": [], "queries": [], "conf": dict(session.spark.sparkContext.getConf().getAll()), "jvm": session.jvm.args}
    hadoop = session.spark._jsparkSession.sessionState().newHadoopConf()
    out["hadoop"] = {name.removeprefix("spark.hadoop."): hadoop.get(name.removeprefix("spark.hadoop.")) for name in given.get("conf") or ()}
    for n, task in enumerate(given["tasks"]):
        job = Job(document(n, task))
        duck._connection.cache_clear()  # each process has one
        for key, value in spark_session.snapshot_properties(job).items():
            session.spark.conf.set(f"spark.sql.iceberg.snapshot-property.{key}", value)
        writer = spark_sql.Writer if task["engine"] == "spark_sql" else spark_lake.Writer
        out["tasks"].append(reported(job, lambda job=job, writer=writer: spark._TASKS[job.doc["type"]](Work(job, session.spark, writer))))
    tables, work = lake.Lake(first), Work(first, session.spark, spark_lake.Writer)
    for sql in given["queries"]:
        duck._connection.cache_clear()
        try:
            frame, columns = spark_publish.query(work, tables, duck.Judge(first), sql, "sql")
            whole = [kind == "HUGEINT" for kind in columns.values()]  # Decimals to Python, which DuckDB gives as numbers
            rows = [tuple(int(v) if w and v is not None else v for v, w in zip(row, whole)) for row in frame.collect()]
            out["queries"].append({"columns": columns, "rows": [repr(row) for row in rows]})
        except report.Failure as e:
            out["queries"].append({"refused": e.message, "line": e.line, "col": e.col})
        except Exception as e:
            out["queries"].append({"error": repr(e)[:500]})
    session.stop()
print(json.dumps(out))
