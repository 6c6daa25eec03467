"""Spark's session of one attempt: the JVM, what it is told, and its end.

Nothing else in the engine knows how the session came to be: only this module uses Spark's context, of which Spark Connect has
none. The JVM is started here and not by Spark's own scripts, so that no setting stands in its arguments. What is secret (the
attempt's token, keys of the store) is set in the session alone, where `spark.redaction.regex` hides it from pages and event logs.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Optional, Union

import pyspark
from pyspark.sql import SparkSession

from sluice import report
from sluice.engines import spark_cluster, spark_connect, spark_told
from sluice.engines.common import Job
from sluice.report import Failure

REDACTED = "(?i)secret|passw|token|credential|access[._-]?key|authorization|signature"
_ANY_FILES = "org.apache.iceberg.io.ResolvingFileIO"  # S3 by Iceberg's own client, all others by Hadoop's
ARCHIVE = "classes.jsa"  # in the engine's folder
LOG_STORE = "sluice-delta.jar"  # in its jars
_START_S = 120  # seconds that the JVM may take to listen
_LOOK_S = 1.0  # seconds between two looks at how far the jobs are
_END_S = 5.0  # seconds that the JVM may take to end
_OPENED = (
    "java.lang java.lang.invoke java.lang.reflect java.io java.net java.nio java.util java.util.concurrent java.util.concurrent.atomic "
    "jdk.internal.ref sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar"
)
_ICEBERG = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
DELTA = "io.delta.sql.DeltaSparkSessionExtension"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
#: The engine's folder by its own name: the archive of classes holds for one path only.
HOME = os.path.realpath(sys.prefix)


class Session:
    """The session, where it can be looked at, and the process that it lives in."""

    def __init__(self, spark: SparkSession, job: Job, jvm: Optional[subprocess.Popen[bytes]]) -> None:
        self.spark, self.job, self.jvm = spark, job, jvm
        context = spark.sparkContext
        self.application: str = context.applicationId
        self.ui: Optional[str] = context.uiWebUrl
        self.told = spark_told.info({k: spark.conf.get(k, None) for k in spark_told.SETTINGS}, spark.version, self.ui)
        self._tracker = context.statusTracker()
        self._cluster = spark_cluster.Watch(str(context.master))
        self.group = f"{job.run_id}.{job.task_id}.{job.attempt}"
        context.setJobGroup(self.group, f"{job.doc['flow']}: {job.task_id}", interruptOnCancel=True)
        self._ended = threading.Event()
        self._said: Optional[tuple[int, ...]] = None
        print(f"Spark {spark.version}, application {self.application}" + (f", its page is {self.ui}" if self.ui else ""), flush=True)
        threading.Thread(target=self._watch, name="progress", daemon=True).start()

    def _watch(self) -> None:
        """Reports how far the jobs are, for as long as the attempt goes on."""
        self._tell()
        while not self._ended.wait(_LOOK_S):
            try:
                self._tell()
                if self._cluster.look():
                    self.spark.sparkContext.cancelAllJobs()
            except Exception:  # the JVM is ending
                return

    def _tell(self) -> None:
        stages = done = tasks = tasks_done = 0
        for job_id in self._tracker.getJobIdsForGroup(self.group):
            job = self._tracker.getJobInfo(job_id)
            for stage_id in job.stageIds if job else ():
                stage = self._tracker.getStageInfo(stage_id)
                stages += 1
                if stage:
                    tasks, tasks_done = tasks + stage.numTasks, tasks_done + stage.numCompletedTasks
                    done += stage.numTasks == stage.numCompletedTasks
        if (stages, done, tasks, tasks_done) == self._said:
            return
        self._said = (stages, done, tasks, tasks_done)
        where = f"{self.application} {self.ui}" if self.ui else self.application
        message = f"stages {done} of {stages}, tasks {tasks_done} of {tasks}, {where}" if stages else where
        report.line("progress", {"done": tasks_done if stages else None, "total": tasks or None, "message": message})

    def why_ended(self, e: BaseException) -> Optional[Failure]:
        """The failure to report where the cluster has gone, whatever Spark says of that."""
        return self._cluster.why()

    def stop(self, cancelled: bool = False, patience: float = _END_S) -> None:
        """Ends jobs, application and JVM; what these took is counted as the attempt's, since they are waited for."""
        self._ended.set()
        with contextlib.suppress(Exception):
            if cancelled:
                self.spark.sparkContext.cancelAllJobs()
            self.spark.stop()
        if self.jvm:
            end_jvm(self.jvm, patience)


AnySession = Union[Session, spark_connect.Connected]


def connected(job: Job) -> Optional[spark_connect.Connected]:
    """A session for the attempt on a Spark Connect server, where the task asks for one."""
    connect = job.engine_options.get("connect")
    if connect and job.catalog.get("type") == "glue" and (job.doc.get("s3") or {}).get("access_key"):
        raise Failure("the keys of `s3` do not reach Glue through Spark Connect, which tasks share: leave out engine_options.connect")
    if isinstance(connect, str):
        return spark_connect.begin(job, spark_connect.named(connect), _session_settings(job))
    if not connect:
        return None
    home = os.path.dirname(os.path.dirname(job.scratch))
    server = spark_connect.shared(home, _application_settings(job), lambda folder: _command(job, folder, _archive()))
    return spark_connect.begin(job, server, _session_settings(job))


def begin(job: Job, archive: Optional[list[str]] = None) -> Session:
    """A session for the attempt in a JVM of its own. `archive`: what the JVM is told of its archive of classes, instead of where it is."""
    own = _application_settings(job)
    jvm = start_jvm(job, own["spark.driver.bindAddress"], _archive() if archive is None else archive)
    try:
        builder = SparkSession.builder
        for key, value in own.items():
            builder = builder.config(key, value)
        spark = builder.getOrCreate()
        for key, value in _session_settings(job).items():
            spark.conf.set(key, value)
        for tag in spark_told.tags(job):
            (spark.sparkContext.addJobTag if pyspark.__version__ < "4" else spark.addTag)(tag)
        _lend_keys(spark, job)
        return Session(spark, job, jvm)
    except BaseException:
        end_jvm(jvm)
        raise


# ---- settings ----


def _application_settings(job: Job) -> dict[str, str]:
    """Those, and where executors find the application. Raises a Failure where there is no cluster."""
    own = _settings(job)
    address = spark_cluster.require(own["spark.master"])
    return {"spark.driver.host": address, "spark.driver.bindAddress": address, **own}


def _settings(job: Job) -> dict[str, str]:
    """What the application is started with: shown on Spark's pages, so nothing secret."""
    o = job.engine_options
    threads = o.get("threads")
    jars = os.path.join(HOME, "jars", "*")
    named = {
        "spark.app.name": f"{job.doc['flow']}/{job.task_id} {job.run_id} attempt {job.attempt}",
        "spark.master": o.get("master") or f"local[{threads or '*'}]",
        "spark.ui.port": "0",
        "spark.ui.showConsoleProgress": "false",
        "spark.local.dir": job.scratch,
        "spark.sql.warehouse.dir": os.path.join(job.scratch, "spark-warehouse"),
        "spark.redaction.regex": REDACTED,
        "spark.sql.redaction.options.regex": REDACTED,
        "spark.executor.extraClassPath": jars,
        "spark.executor.memory": _mebibytes(o.get("executor_memory")),
        "spark.executor.cores": o.get("executor_cores"),
        "spark.cores.max": o.get("max_cores"),
        "spark.memory.offHeap.enabled": "true" if o.get("off_heap") else None,
        "spark.memory.offHeap.size": _mebibytes(o.get("off_heap")),
        "spark.default.parallelism": o.get("parallelism"),
        # Row groups are of different sizes: in halves, one core would wait for the other. By Spark's usual cost of a file that is
        # opened, 4 MB, the last part of a small one would be a smaller part.
        "spark.sql.files.minPartitionNum": 2 * (threads or os.cpu_count() or 1) if not o.get("master") else None,
        "spark.sql.files.openCostInBytes": 1 << 20 if not o.get("master") else None,
        "spark.sql.extensions": ",".join(_extensions(job)),
        "spark.delta.logStore.s3a.impl": "sluice.DeltaLogStore" if has_jar(LOG_STORE) and not names_log_store(job) else None,
        "spark.serializer": "org.apache.spark.serializer.KryoSerializer" if o.get("version") == "3.5" else None,  # Hudi's
    }
    made = {k: str(v) for k, v in named.items() if v is not None}
    made.update((k, _text(v)) for k, v in (o.get("conf") or {}).items() if not _is_for_session(k))
    return made


def _extensions(job: Job) -> list[str]:
    """Of Spark's SQL. A session that tasks share has them all, another one those that it takes time for."""
    formats = {(job.spec.get(place) or {}).get("format") for place in ("source", "to") if isinstance(job.spec.get(place), dict)}
    delta = "delta" in formats or job.engine_options.get("connect")
    return [_ICEBERG, DELTA] if delta else [_ICEBERG]


def _session_settings(job: Job) -> dict[str, str]:
    """What the session is told once it is there: how SQL means what DuckDB means, tables, keys."""
    o = job.engine_options
    catalog = job.catalog.get("name") or "local"
    at = f"spark.sql.catalog.{catalog}"
    made = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.caseSensitive": "false",
        "spark.sql.storeAssignmentPolicy": "ANSI",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        "spark.sql.pyspark.jvmStacktrace.enabled": "true",
        at: "org.apache.iceberg.spark.SparkCatalog",
        f"{at}.cache-enabled": "false",
        # A staged file is read by as many tasks as it has of these, and of Parquet's usual 128 MB it would be one task's; smaller ones
        # take Spark's writer longer (a third at 0.4 MB).
        "parquet.block.size": str(8 << 20),
    }
    if spark_told.counts_reads(job):
        made["parquet.hadoop.vectored.io.enabled"] = "false"
    made.update(_store(at, job.doc.get("s3")))
    made.update((f"{at}.{key}", _text(value)) for key, value in _catalog(job.catalog).items() if value is not None)
    for key, value in snapshot_properties(job).items():
        made[f"spark.sql.iceberg.snapshot-property.{key}"] = value
    named = {"spark.sql.shuffle.partitions": o.get("shuffle_partitions"), "spark.sql.adaptive.enabled": o.get("adaptive")}
    made.update((k, _text(v)) for k, v in named.items() if v is not None)
    for key, value in (o.get("conf") or {}).items():
        name = key.removeprefix("spark.hadoop.")
        if name in made or _is_for_session(key) or name.startswith("fs."):
            made[name] = _text(value)
    return made


def snapshot_properties(job: Job) -> dict[str, str]:
    """What every snapshot of the attempt says about where it comes from."""
    return {
        "sluice.flow": job.doc["flow"],
        "sluice.run-id": job.run_id,
        "sluice.task-id": job.task_id,
        "sluice.mode": job.spec.get("mode") or "append",
        "sluice.attempt": str(job.attempt),
    }


def _catalog(given: dict[str, Any]) -> dict[str, Any]:
    """The catalog that the config names, as Iceberg's own libraries take it."""
    kind = given.get("type")
    if kind == "hive":
        return {"type": kind, "uri": given["uri"], "warehouse": given.get("warehouse"), "io-impl": _ANY_FILES}
    if kind == "glue":
        named = {"client.region": given.get("region"), "glue.endpoint": given.get("endpoint"), "glue.id": given.get("id")}
        return {"type": kind, "warehouse": given.get("warehouse"), "io-impl": _ANY_FILES, **named}
    plain = {k: v for k, v in given.items() if k not in ("name", "type") and not isinstance(v, (dict, list))}
    return {"type": "rest", "rest-metrics-reporting-enabled": False, "rest.auth.type": "oauth2", **plain}


def _lend_keys(spark: SparkSession, job: Job) -> None:
    """Glue's client takes keys from nowhere but the process: properties of the JVM, which Spark's pages do not show."""
    s3 = job.doc.get("s3") or {}
    named = {
        "aws.accessKeyId": s3.get("access_key"),
        "aws.secretAccessKey": s3.get("secret_key"),
        "aws.sessionToken": s3.get("session_token"),
    }
    for key, value in named.items():
        if value and job.catalog.get("type") == "glue":
            spark.sparkContext._jvm.System.setProperty(key, value)


def _store(at: str, s3: Optional[dict[str, Any]]) -> dict[str, str]:
    """The S3 store, for tables (Iceberg's own client) and for files (S3A)."""
    if not s3:
        return {}
    path_style = _text(bool(s3.get("path_style", True)))
    endpoint, region = s3.get("endpoint"), s3.get("region") or "us-east-1"
    named = {
        f"{at}.s3.endpoint": endpoint,
        f"{at}.client.region": region,
        f"{at}.s3.access-key-id": s3.get("access_key"),
        f"{at}.s3.secret-access-key": s3.get("secret_key"),
        f"{at}.s3.session-token": s3.get("session_token"),
        f"{at}.s3.path-style-access": path_style,
        "fs.s3a.endpoint": endpoint,
        "fs.s3a.endpoint.region": region,
        "fs.s3a.access.key": s3.get("access_key"),
        "fs.s3a.secret.key": s3.get("secret_key"),
        "fs.s3a.session.token": s3.get("session_token"),
        "fs.s3a.path.style.access": path_style,
        "fs.s3a.connection.ssl.enabled": _text(not (endpoint or "").startswith("http:")),
    }
    return {k: str(v) for k, v in named.items() if v}


def _is_for_session(key: str) -> bool:
    """Is it a secret that the session takes? Others (of Spark's own network) must be there from the start, hidden as well."""
    return re.search(REDACTED, key) is not None and key.startswith(("spark.sql.", "spark.hadoop.", "fs."))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _mebibytes(size: Any) -> Optional[str]:
    """A size in bytes as Spark takes it."""
    return f"{max(int(size) >> 20, 1)}m" if size else None


# ---- the JVM ----


def start_jvm(job: Job, address: str, archive: list[str]) -> subprocess.Popen[bytes]:
    """Starts the JVM, and has PySpark find it. It ends with us: by its input, and by the signal of a parent's death."""
    told = os.path.join(job.scratch, "gateway")
    command = [*_command(job, job.scratch, archive), "org.apache.spark.api.python.PythonGatewayServer"]
    env = {
        **os.environ,
        "SPARK_HOME": os.path.dirname(os.path.realpath(pyspark.__file__)),
        "_PYSPARK_DRIVER_CONN_INFO_PATH": told,
        "SPARK_LOCAL_IP": address,
    }
    jvm = subprocess.Popen(command, stdin=subprocess.PIPE, env=env, cwd=job.scratch, preexec_fn=_die_with_parent)
    deadline = time.monotonic() + _START_S
    while not os.path.exists(told):
        if jvm.poll() is not None:
            raise Failure(f"the JVM of Spark did not start (its status is {jvm.returncode}); the log has what it said")
        if time.monotonic() > deadline:
            end_jvm(jvm)
            raise Failure(f"the JVM of Spark did not answer within {_START_S} s of its start")
        time.sleep(0.005)
    with open(told, "rb") as f:
        port, length = struct.unpack(">ii", f.read(8))
        secret = f.read(length).decode()
    os.unlink(told)
    os.environ["PYSPARK_GATEWAY_PORT"], os.environ["PYSPARK_GATEWAY_SECRET"] = str(port), secret
    return jvm


def _command(job: Job, folder: str, more: list[str]) -> list[str]:
    """The JVM's command line up to its class. What it unpacks goes to the folder."""
    java = _java()
    o = job.engine_options
    spark_jars = os.path.join(os.path.dirname(os.path.realpath(pyspark.__file__)), "jars", "*")
    jars = os.path.join(HOME, "jars", "*")
    if not glob.glob(jars + ".jar"):
        raise Failure(f"the folder {jars[:-2]} has no jars: `sluice engines install spark` gets them")
    memory = _mebibytes(o.get("driver_memory") or _bytes(o.get("memory_limit")))
    command = [java, *([f"-Xmx{memory}"] if memory else []), *(f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in _OPENED.split())]
    command += ["-Djdk.reflect.useDirectMethodHandle=false", "-Dio.netty.tryReflectionSetAccessible=true", "-XX:-UsePerfData"]
    command += [f"-Djava.io.tmpdir={folder}", f"-Dlog4j2.configurationFile={os.path.dirname(__file__)}/spark_log4j2.properties"]
    command += [*more, *(o.get("java_options") or "").split()]
    return [*command, "-cp", f"{spark_jars}:{jars}"]


def names_log_store(job: Job) -> bool:
    """Does the task, or whoever runs the server, say how Delta commits?"""
    own = isinstance(job.engine_options.get("connect"), str)
    return own or any("delta.logStore." in key for key in job.engine_options.get("conf") or {})


def has_jar(name: str) -> bool:
    """Is there one in the engine's folder whose name begins so?"""
    return bool(glob.glob(os.path.join(HOME, "jars", name + "*")))


def _archive() -> list[str]:
    """Spark's classes as the JVM maps them when it has read them once: it begins in a third of the time."""
    made = os.path.join(HOME, ARCHIVE)
    return [f"-XX:SharedArchiveFile={made}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"] if os.path.exists(made) else []


def _java() -> str:
    """The program: of JAVA_HOME, of the path, or what `sluice engines install spark` has found."""
    named = os.environ.get("JAVA_HOME")
    found = None
    with contextlib.suppress(OSError, ValueError), open(os.path.join(HOME, "sluice-engine.json"), encoding="utf-8") as f:
        found = json.load(f).get("java")
    for home in (named, found):
        java = os.path.join(home, "bin", "java") if home else shutil.which("java")
        if java and os.access(java, os.X_OK):
            return java
    raise Failure("Spark needs Java 17 or newer, and there is no `java` on the PATH (nor in JAVA_HOME)")


def _bytes(limit: Any) -> Optional[int]:
    """memory_limit comes as "4000B"."""
    return int(str(limit).rstrip("B")) if limit else None


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_jvm(jvm: subprocess.Popen[bytes], patience: float = _END_S) -> None:
    """Has the JVM end, and waits for it."""
    with contextlib.suppress(OSError):
        if jvm.stdin:
            jvm.stdin.close()
    try:
        jvm.wait(patience)
    except subprocess.TimeoutExpired:
        jvm.kill()
        jvm.wait()
