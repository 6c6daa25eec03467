"""Tasks on a standalone Spark cluster: where they run, what is told of them, and what is left when parts of it die."""

import os
import pathlib
import re
import signal
import subprocess

import pytest

import spark_jobs
from conftest import ROOT, http, task_of, wait_until, why
from s3_stores import BUCKET, running
from spark_jobs import SLOW, application
from test_s3_ways import config, keys

pytestmark = pytest.mark.timeout(600)  # several JVMs on a machine with other work take their time
SERVICE = ROOT / "tests" / "services" / "spark-cluster"


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A folder of this machine that the worker does not see; None where it cannot be given disks of its own."""
    folder = tmp_path_factory.mktemp("hidden")
    tried = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", folder], capture_output=True)
    return folder if tried.returncode == 0 else None


@pytest.fixture(scope="module")
def cluster(hidden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    env = {**os.environ, "SPARK_CLUSTER_HIDES": str(hidden or "")}
    started = subprocess.run([SERVICE, "start", folder], capture_output=True, text=True, env=env)
    if started.returncode == 3:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    yield folder
    subprocess.run([SERVICE, "stop", folder], check=True)


@pytest.fixture(scope="module")
def lake(cluster, tmp_path_factory):
    folder = pathlib.Path(tmp_path_factory.mktemp("c"))
    with spark_jobs.lake(folder) as daemon:
        yield daemon


def flow(lake, cluster, name, sql, more=""):
    master = (cluster / "address").read_text().strip()
    lake.flow(name, f"""\
id: {name}
tasks:
  - id: t
    type: curate
    engine: spark
    engine_options: {{master: "{master}", driver_memory: 512MB, executor_memory: 512MB, executor_cores: 2}}
    into: c.{name}
    mode: append
    {more}
    sql: "{sql}"
""")


def applications(cluster):
    """The master's log has each application's begin and end."""
    log = (cluster / "master.log").read_text()
    begun = re.findall(r"Registered app .* with ID (\S+)", log)
    return [a for a in begun if not re.search(rf"Removing app {a}", log)]


def begin_slow(lake, cluster, name, **kw):
    flow(lake, cluster, name, SLOW, **kw)
    run, page, app = spark_jobs.begin(lake, name)
    executors = f"{page}/api/v1/applications/{app}/executors"
    wait_until(lambda: any(e["id"] != "driver" for e in http("GET", executors).json), "an executor", 100)
    return run, app


def executors(cluster):
    """Processes of executors, by what the worker started."""
    found = []
    for proc in pathlib.Path("/proc").iterdir():
        try:
            text = (proc / "cmdline").read_text()
        except OSError:
            continue
        if "CoarseGrainedExecutorBackend" in text and (cluster / "address").read_text().strip() and os.readlink(proc / "cwd").startswith(str(cluster)):
            found.append(int(proc.name))
    return found


def test_a_task_runs_on_the_cluster(lake, cluster):
    """And where an executor dies Spark starts another one and does its part again: the rows are there once."""
    flow(lake, cluster, "lost", SLOW.replace("100000", "500"))
    run = lake.post("/api/v1/flows/lost/runs")["id"]
    (victim,) = wait_until(lambda: executors(cluster), "an executor", 100)
    os.kill(victim, signal.SIGKILL)
    ended = lake.ended(run)
    assert ended["state"] == "success" and lake.sql("SELECT count(*) AS rows FROM c.lost") == [{"rows": 1}], why(ended)
    assert len(task_of(ended, "t")["attempts"]) == 1
    app = application(lake.task_log(run, "t"))
    assert app.startswith("app-") and re.search(rf"Launching executor {app}/1", (cluster / "master.log").read_text())
    wait_until(lambda: applications(cluster) == [], "the application's end")


APART = """\
id: apart
defaults: {{engine: spark, engine_options: {{master: "{master}", driver_memory: 512MB, executor_memory: 512MB, executor_cores: 2}}}}
tasks:
  - id: csv
    type: stage
    source: {{format: csv, path: "s3://{bucket}/raw/*.csv"}}
    cast: {{n: int}}
    on_reject: quarantine
    target: {{path: "s3://{bucket}/out/csv.parquet"}}
  - {{id: json, type: stage, source: {{format: json, path: "s3://{bucket}/raw/*.json"}}, target: {{path: "s3://{bucket}/out/json", partition_by: [dep]}}}}
  - {{id: rows, type: publish, engine: duckdb, depends_on: [csv], from: "${{tasks.csv.outputs.path}}", into: c.csv}}
  - {{id: parts, type: publish, engine: duckdb, depends_on: [json], from: "${{tasks.json.outputs.path}}", into: c.json}}
"""
HERE = """\
id: here
tasks:
  - id: t
    type: stage
    engine: spark
    engine_options: {{master: "{master}", driver_memory: 512MB, executor_memory: 512MB, executor_cores: 2}}
    source: {{format: csv, path: "s3://{bucket}/raw/*.csv"}}
    target: {{path: "{path}"}}
"""


def test_executors_do_not_see_the_disks_of_this_machine(hidden, cluster):
    """What a stage makes goes by the store. Where it must not, nothing is lost without a word."""
    if hidden is None:
        pytest.skip("the worker cannot be given disks of its own: `unshare --mount` needs root and the right to mount")
    master = (cluster / "address").read_text().strip()
    with running("seaweedfs") as store:
        (hidden / "sluice.yaml").write_text(config(store.endpoint))
        store.put(BUCKET, "raw/a.csv", b"id,n\n1,10\n2,x\n3,30\n")
        store.put(BUCKET, "raw/b.json", b'{"id": 1, "dep": "x"}\n{"id": 2, "dep": "y"}\n')
        with spark_jobs.lake(hidden, keys()) as lake:
            lake.flow("apart", APART.format(master=master, bucket=BUCKET))
            run = lake.trigger("apart")
            assert run["state"] == "success", why(run)
            assert lake.sql("SELECT * FROM c.csv ORDER BY id") == [{"id": "1", "n": 10}, {"id": "3", "n": 30}]
            assert lake.sql("SELECT id, dep FROM c.json ORDER BY id") == [{"id": 1, "dep": "x"}, {"id": 2, "dep": "y"}]
            made = {re.sub("run=[^/]*|[^/]*-json-1-part[^/]*", "*", k) for k in store.keys(BUCKET, "out/")}
            assert made == {"out/csv.parquet", "out/csv.parquet.rejects.parquet", "out/json/dep=x/*", "out/json/dep=y/*", "out/json/_SUCCESS"}, made
            lake.flow("here", HERE.format(master=master, bucket=BUCKET, path=hidden / "here.parquet"))
            run = lake.trigger("here")
            said = task_of(run, "t")["attempts"][-1]["error"]["message"]
            assert run["state"] == "failed" and "executors have written 3 rows, of which 0 are in" in said, said
            assert not list(hidden.glob("here.parquet*"))


def test_a_cancel_ends_the_application_and_a_cluster_that_is_gone_the_task(lake, cluster):
    run, _ = begin_slow(lake, cluster, "slow")
    lake.post(f"/api/v1/runs/{run}/cancel")
    assert lake.ended(run)["state"] == "cancelled"
    wait_until(lambda: applications(cluster) == [], "the application's end")
    run, _ = begin_slow(lake, cluster, "slow", more="retry: {max_attempts: 2, interval: 0s}")
    subprocess.run([SERVICE, "stop", cluster], check=True)
    ended = lake.ended(run)
    first, second = task_of(ended, "t")["attempts"]
    assert ended["state"] == "failed" and "is gone: its master has not answered" in first["error"]["message"], first
    assert "no Spark master answers at spark://127.0.0.1:" in second["error"]["message"], second
