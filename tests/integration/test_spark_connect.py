"""Spark Connect: one server that tasks share, with a session each, and nothing of it left over; servers of one's own."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket

import pyarrow.parquet as pq
import pytest

import spark_jobs
from conftest import alive, sluice, task_of, wait_until, why
from spark_jobs import SLOW, application, running_jobs
from test_maintain import age, maintain, steps_of


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = pathlib.Path(tmp_path_factory.mktemp("c"))
    (folder / "sluice.yaml").write_text("housekeeping: {expire_days: 0}\n")
    with spark_jobs.lake(folder) as daemon:
        yield daemon


def flow(name, sql="SELECT 1 AS id, 'a' AS name", connect="true", more=""):
    return f"""\
id: {name}
defaults: {{engine: spark}}
tasks:
  - id: t
    type: curate
    into: c.{name}
    mode: append
    engine_options: {{connect: "{connect}", threads: 2, memory_limit: 1GB}}
    {more}
    sql: "{sql}"
""".replace('"true"', "true")


def children(daemon, *names):
    """The nursery's children of these names."""
    nursery, found = int((daemon.home / "nursery.pid").read_text()), []
    for child in pathlib.Path(f"/proc/{nursery}/task/{nursery}/children").read_text().split():
        with contextlib.suppress(OSError):
            if pathlib.Path(f"/proc/{child}/comm").read_text().strip() in names:
                found.append(int(child))
    return found


def keepers(daemon):
    return children(daemon, "sluice-spark")


def server(daemon):
    """What the keeper tells a task."""
    lease = socket.socket(socket.AF_UNIX)
    lease.connect(str(next(daemon.home.glob("spark/*/socket"))))
    told = json.loads(lease.makefile().readline())
    return {**told, "lease": lease}  # the server stays while that is open


def go(daemon, name, **kw):
    daemon.flow(name, flow(name, **kw))
    run = daemon.trigger(name)
    return run, daemon.task_log(run["id"], "t")


def begin_slow(daemon, name):
    daemon.flow(name, flow(name, sql=SLOW))
    return spark_jobs.begin(daemon, name)


@pytest.mark.timeout(300)
def test_tasks_share_a_server_that_outlives_the_daemon(lake):
    """And that maintenance runs on, and tasks to whom its address is given."""
    run, first = go(lake, "one")
    assert run["state"] == "success", why(run)
    run, second = go(lake, "two")
    assert run["state"] == "success", why(run)
    assert application(first) == application(second) and len(keepers(lake)) == 1
    attempt = task_of(run, "t")["attempts"][0]
    assert attempt["tables"][0]["rows"] == 1 and lake.sql("SELECT * FROM c.two") == [{"id": 1, "name": "a"}]
    told = server(lake)
    assert told["token"] not in pathlib.Path(f"/proc/{told['jvm']}/cmdline").read_text()
    assert (next(lake.home.glob("spark/*")).stat().st_mode & 0o777) == 0o700
    lake.kill()
    lake.start()
    run, third = go(lake, "one")
    assert run["state"] == "success" and application(third) == application(first) and len(keepers(lake)) == 1, why(run)
    assert lake.sql("SELECT count(*) AS n FROM c.one") == [{"n": 2}]
    maintained_by_procedures(lake)
    a_server_of_ones_own(lake, told)


def maintained_by_procedures(lake):
    """With the duckdb engine's keys, order of steps and report."""
    orphan = next((lake.home / "warehouse").rglob("one*/data")) / "left-over.parquet"
    orphan.write_bytes(b"nobody's")
    age(lake)
    keys = {"tables": "c.one", "compact": {"min_input_files": 2}, "rewrite_manifests": "auto", "expire_snapshots": {}, "remove_orphan_files": {}}
    options = {"connect": True, "threads": 2, "memory_limit": "1GB"}
    report = maintain(lake, engine="spark_sql", engine_options=options, **keys)
    steps = steps_of(report, "c.one")
    assert [(n, s["state"]) for n, s in steps.items()] == [("compact", "done"), ("rewrite_manifests", "done"), ("expire_snapshots", "done"), ("remove_orphan_files", "done")], steps
    assert report["changed"] == 1 and report["failed"] == 0 and report["files_rewritten"] == 2 and report["orphans"] == 1 and not orphan.exists(), report
    table = next(i for i in lake.get("/api/v1/tables/health?match=c.one")["items"])
    (file,) = (lake.home / "warehouse").rglob("one*/data/*.parquet")
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == "ZSTD"  # for which Spark would take gzip
    assert table["snapshots"] == 1 and table["files"] == 1 and lake.sql("SELECT count(*) AS n, min(id) AS id FROM c.one") == [{"n": 2, "id": 1}]


def a_server_of_ones_own(lake, told):
    url = f"sc://localhost:{told['port']}/;token={told['token']}"
    run, log = go(lake, "own", connect=url)
    assert run["state"] == "success", why(run)
    assert told["token"] not in log
    run, _ = go(lake, "other", connect=f"sc://localhost:{told['port']}/;token=wrong")
    assert run["state"] == "failed" and "refuses the token" in why(run), why(run)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        run, _ = go(lake, "nobody", connect=f"sc://127.0.0.1:{nobody.getsockname()[1]}")
    assert run["state"] == "failed" and "no Spark Connect server answers at sc://127.0.0.1:" in why(run), why(run)


@pytest.mark.parametrize("keys, says", [
    ({"dry_run": True}, "`dry_run`"),
    ({"compact": {"max_bytes": "1GB"}}, "`compact.max_bytes`"),
    ({"compact": {"where": "a = 1"}}, "`compact.where"),
    ({"expire_snapshots": {"keep": {"daily": 1}}}, "`expire_snapshots.keep`"),
    ({"when_health_below": 80}, "`when_health_below`"),
])
def test_what_the_procedures_lack_is_told_at_load(folder, keys, says):
    path = folder / "keep.yaml"
    path.write_text(json.dumps({"id": "keep", "tasks": [{"id": "k", "type": "maintain", "engine": "spark", "tables": "*", **keys}]}))
    told = sluice("validate", path, check=False, env={"SLUICE_HOME": folder}).stdout
    assert re.search(r'error: engine "spark" does not do ' + re.escape(says) + r".* these can: duckdb", told), told


@pytest.mark.timeout(300)
def test_nothing_is_left_of_what_ends(lake):
    """What is cancelled or killed ends on the server; the server that dies ends what it runs; and the nursery's end ends both."""
    run, page, app = begin_slow(lake, "slow")
    lake.post(f"/api/v1/runs/{run}/cancel")
    assert lake.ended(run)["state"] == "cancelled"
    wait_until(lambda: running_jobs(page, app) == [], "the end of its job")
    run, page, app = begin_slow(lake, "slow")
    for pid in children(lake, "sluice-task", "python"):
        os.kill(pid, signal.SIGKILL)
    assert lake.ended(run)["state"] == "failed"
    wait_until(lambda: running_jobs(page, app) == [], "the end of its job", 60)
    assert len(keepers(lake)) == 1

    run, *_ = begin_slow(lake, "slow")
    os.kill(server(lake)["jvm"], signal.SIGKILL)
    ended = lake.ended(run)
    assert ended["state"] == "failed" and "Spark Connect server has ended in the middle" in why(ended), why(ended)
    run, _ = go(lake, "after")
    assert run["state"] == "success" and lake.sql("SELECT count(*) AS n FROM c.after") == [{"n": 1}], why(run)

    jvm, (keeper,) = server(lake)["jvm"], keepers(lake)
    lake.kill()
    os.kill(int((lake.home / "nursery.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not alive(jvm) and not alive(keeper), "the end of the server")
    lake.start()


def test_what_connect_may_be(lake):
    path = lake.write("wrong.yaml", flow("wrong", connect="localhost:15002"))
    told = lake.cli("validate", path, check=False).stdout
    assert re.search(r'wrong.yaml:8:\d+: error: "engine_options.connect" of task "t" must be true or the address', told), told


def test_what_spark_is_told_means_nothing_to_others(lake):
    text = flow("plain").replace("engine: spark", "engine: duckdb").replace("connect: true", "connect: true, shuffle_partitions: 4")
    lake.flow("plain", text)
    run = lake.trigger("plain")
    assert run["state"] == "success", why(run)
