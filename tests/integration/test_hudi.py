"""Hudi tables, read and written by Spark 3.5."""

import json
import os
import signal
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import alive, link_engine, task_of, wait_until, why
from test_delta import _attempt_of

pytestmark = pytest.mark.timeout(600)  # a JVM on a machine with other work takes its time

FLOW = """
id: hudi
defaults: {engine: spark, engine_options: {version: "3.5", threads: 2, shuffle_partitions: 2, memory_limit: 1GB}}
tasks:
  - id: load
    type: export
    retry: {max_attempts: 3, interval: 0s}
    from: {path: %(path)s-0.parquet}
    to: {format: hudi, path: %(path)s, key: id, partition_by: dep, order_by: ts}
  - id: merge
    type: export
    depends_on: load
    from: {path: %(path)s-1.parquet}
    to: {format: hudi, path: %(path)s, mode: upsert, key: id, partition_by: dep, order_by: ts}
  - id: leave
    type: export
    depends_on: merge
    from: {sql: SELECT 3 AS id}
    to: {format: hudi, path: %(path)s, mode: delete, key: id}
  - id: read
    type: stage
    depends_on: leave
    source: {format: hudi, path: %(path)s}
    cast: {ts: DOUBLE}
    target: {path: %(path)s.parquet}
"""
ROWS = [[(1, "x", 10.5, 1), (2, "y", 20.0, 1), (3, "x", 30.0, 1)], [(2, "x", 21.0, 2), (9, "z", 90.0, 1), (9, "z", 91.0, 5)]]


def test_rows_go_in_once_and_out(make_daemon, folder):
    """An append whose attempt is killed when its commit is there, an upsert that moves a row to another partition, a delete."""
    daemon = make_daemon()
    link_engine(daemon.home, "spark-3.5")
    path = folder / "t"
    for i, rows in enumerate(ROWS):
        pq.write_table(pa.table(dict(zip(("id", "dep", "v", "ts"), map(list, zip(*rows))))), f"{path}-{i}.parquet")
    daemon.flow("hudi", FLOW % {"path": path})
    run = daemon.post("/api/v1/flows/hudi/runs", {})
    wait_until(lambda: _attempt_of(run["id"]), "the attempt's process", 240)
    pid, deadline = _attempt_of(run["id"]), time.monotonic() + 120
    while not list(path.glob(".hoodie/timeline/*_*.commit")):
        assert time.monotonic() < deadline and alive(pid), why(daemon.run(run["id"]))
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    ended = daemon.ended(run["id"])
    assert ended["state"] == "success", why(ended)
    assert [a["state"] for a in task_of(ended, "load")["attempts"]] == ["failed", "success"]
    assert "an earlier attempt has made this change" in daemon.task_log(run["id"], "load")
    assert [task_of(ended, t)["outputs"]["rows"] for t in ("merge", "leave", "read")] == [3, 1, 3]
    rows = pq.read_table(f"{path}.parquet").to_pylist()
    assert sorted((r["id"], r["dep"], r["v"], r["ts"]) for r in rows) == [(1, "x", 10.5, 1), (2, "x", 21.0, 2), (9, "z", 91.0, 5)]
    assert set(rows[0]) == {"id", "dep", "v", "ts"}


def test_what_the_loader_refuses(make_daemon):
    daemon = make_daemon()
    old = {"engine_options": {"version": "3.5"}}
    for engine, more, to, words in (
        ("spark", {}, {}, 'format: hudi needs engine_options: {version: "3.5"}'),
        ("duckdb", {}, {}, 'engine "duckdb" does not do `to.format: hudi` of task "e"; these can: spark, spark_sql'),
        ("spark", old, {"format": "delta"}, "format: delta needs Spark 4.1"),
        ("spark", {"engine_options": {"version": "3.5", "connect": True}}, {}, "connect needs Spark 4.1"),
        ("spark", old, {"mode": "replace"}, "a Hudi table takes append, overwrite, upsert"),
        ("spark", old, {"mode": "upsert"}, 'mode: upsert needs "key"'),
    ):
        task = {"id": "e", "type": "export", "engine": engine, "from": {"sql": "SELECT 1 AS id"}, "to": {"format": "hudi", "path": "/tmp/x", **to}, **more}
        answer = daemon.request("POST", "/api/v1/validate", {"file": "x.yaml", "source": json.dumps({"id": "x", "tasks": [task]})}).json
        assert any(words in p["message"] for p in answer["problems"]), (to, answer)
    daemon.flow("x", json.dumps({"id": "x", "tasks": [{"id": "s", "type": "stage", "engine": "spark", **old, "source": {"format": "hudi", "path": "/x"}, "target": {"path": "/tmp/y"}}]}))
    assert b"`sluice engines install spark-3.5` makes it" in daemon.request("POST", "/api/v1/flows/x/runs", {}).body
