"""Sessions of a Spark Connect server: the user's own (`connect: sc://host:port`), or one that tasks share (`connect: true`).

Each attempt has a session of its own there: catalogs, the attempt's token and the keys of the store are settings of that session,
which no other session sees. What goes on in it carries the attempt's name as a tag, and ends with the attempt: by an interrupt where
it is told to end; where it is killed, the keeper of a server of ours ends its session.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional

from sluice import report
from sluice.engines import spark_told
from sluice.engines.common import Job
from sluice.report import Failure

if TYPE_CHECKING:
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.session import SparkSession

ANSWER_S = 10.0  # seconds in which a server must answer
START_S = 120.0  # seconds that a server of ours may take to start
LINGER_S = 90.0  # seconds that it stays when nobody uses it: flows run every minute
_ENDED_S = 3.0  # seconds in which the keeper has told why the server ended
#: What the JVM of a server of ours is told beside the application's own settings.
SERVER_SETTINGS = {
    "spark.app.name": "sluice",
    "spark.connect.grpc.binding.address": "127.0.0.1",
    "spark.connect.grpc.binding.port": "0",
    "spark.connect.execute.manager.detachedTimeout": "10s",
    "spark.connect.execute.manager.maintenanceInterval": "5s",
}
#: Settings of a session that others are cloned from; at its own first call it is too late for them. An attempt brings no classes along,
#: and with a class loader of its own Spark would compile anew each piece of Java that it makes of a plan, half of a small task's time.
_NO_CLASSES = {"spark.sql.artifact.isolation.enabled": "false", "spark.sql.artifact.isolation.alwaysApplyClassloader": "false"}


class Connected:
    """The attempt's session, as spark_session.Session is one."""

    jvm = None

    def __init__(self, job: Job, server: Server, settings: dict[str, str]) -> None:
        self.server = server
        self.spark = open_session(server, settings, spark_told.tags(job))
        names = ("spark.app.id", *spark_told.SETTINGS)
        settings = dict(zip(names, self.spark.client.get_config_with_defaults(*((n, None) for n in names))))
        self.application = settings["spark.app.id"] or ""
        self.ui = server.page
        self.told = spark_told.info(settings, self.spark.version, self.ui)
        self._done: dict[str, tuple[int, int, int, int]] = {}
        self.spark.registerProgressHandler(self._progress)
        print(
            f"Spark {self.told['spark_version']}, application {self.application}, at {server.shown}"
            + (f", its page is {self.ui}" if self.ui else ""),
            flush=True,
        )
        self._tell()

    def _progress(self, stages: Optional[Iterable[Any]], inflight_tasks: int, operation_id: Optional[str], done: bool) -> None:
        """What the server says of an operation, now and then while it runs."""
        at = list(stages or ())
        if not at:
            return
        whole = sum(s.num_tasks for s in at)
        self._done[operation_id or ""] = (len(at), sum(s.done for s in at), whole, sum(s.num_completed_tasks for s in at))
        self._tell()

    def _tell(self) -> None:
        stages, stages_done, tasks, tasks_done = (sum(of) for of in zip(*self._done.values())) if self._done else (0, 0, 0, 0)
        where = f"{self.application} {self.ui}" if self.ui else self.application
        message = f"stages {stages_done} of {stages}, tasks {tasks_done} of {tasks}, {where}" if stages else where
        report.line("progress", {"done": tasks_done if stages else None, "total": tasks or None, "message": message})

    def why_ended(self, e: BaseException) -> Optional[Failure]:
        """The failure to report where the server has gone, and what it would have done with it."""
        if "UNAVAILABLE" not in str(e) and "RETRIES_EXCEEDED" not in str(e):
            return None
        return self.server.why_ended() or Failure(f"the Spark Connect server at {self.server.shown} does not answer any more")

    def stop(self, cancelled: bool = False) -> None:
        """Ends the session, and with it whatever of the attempt still goes on there; the server stays."""
        with contextlib.suppress(Exception):
            if cancelled:
                self.spark.interruptAll()
            if not self.server.has_ended():
                self.spark.stop()
                self.server.tell("")
        self.server.release()


def begin(job: Job, server: Server, settings: dict[str, str]) -> Connected:
    """A session for the attempt. Files that it opens with the keys of a store are not handed to other sessions."""
    if job.doc.get("s3"):
        settings = {**settings, "fs.s3a.impl.disable.cache": "true", "fs.s3.impl.disable.cache": "true"}
    try:
        return Connected(job, server, settings)
    except BaseException:
        server.release()
        raise


class Server:
    """Where a Spark Connect server is. `lease` is held for as long as it is used; None where it is the user's own."""

    def __init__(self, url: str, shown: str, page: Optional[str] = None, lease: Optional[socket.socket] = None) -> None:
        self.url, self.shown, self.page, self.lease = url, shown, page, lease
        self.ended = False

    def has_ended(self) -> bool:
        """Has its keeper said something since the server was there?"""
        self.ended = self.ended or (self.lease is not None and bool(select.select([self.lease], [], [], 0)[0]))
        return self.ended

    def why_ended(self) -> Optional[Failure]:
        """Why the server is gone, if it is: from its keeper, which hears of it first."""
        if self.lease is None:
            return None
        self.has_ended()
        told = _hear(self.lease, time.monotonic() + _ENDED_S)
        if told is None or "ended" not in told:
            return None
        if told.get("oom"):
            return Failure(
                "the Spark Connect server ran out of memory, which all tasks that use it share: "
                "give it more with engine_options.driver_memory",
                cause="oom",
            )
        return Failure(f"the Spark Connect server has ended in the middle of the task (status {told['ended']}); its log is in HOME/spark")

    def tell(self, session: str) -> None:
        """Tells the keeper which session is ours; empty: it is over. That of a task which is killed is ended by the keeper."""
        with contextlib.suppress(OSError):
            if self.lease:
                self.lease.sendall(f"{session}\n".encode())

    def release(self) -> None:
        if self.lease:
            self.lease.close()


def named(url: str) -> Server:
    """The user's own server; its token, if there is one, is not shown."""
    return Server(url, url.split("/;", 1)[0])


def open_session(server: Server, settings: dict[str, str], tags: Iterable[str]) -> SparkSession:
    """A session of the attempt's own. Where no server answers in time this says so; Spark's client would go on trying for ten minutes."""
    os.environ["SPARK_CONNECT_MODE_ENABLED"] = "1"  # which kind of columns pyspark.sql.functions makes
    import grpc
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import DefaultChannelBuilder, SparkConnectClient
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.conf import RuntimeConf
    from pyspark.sql.connect.session import SparkSession

    class Policy(DefaultPolicy):  # type: ignore[misc]
        """One that goes away in the middle is given up: another one after 40 s, ours at once, since it does not come back."""

        def can_retry(self, exception: BaseException) -> bool:
            return not server.has_ended() and bool(super().can_retry(exception))

    class Builder(DefaultChannelBuilder):  # type: ignore[misc]
        """Gives the channel that was found to work."""

        def toChannel(self) -> grpc.Channel:
            return channel

    try:
        channel = DefaultChannelBuilder(server.url).toChannel()
    except PySparkException as e:
        raise Failure(f'engine_options.connect is "{server.shown}": {str(e).splitlines()[0]}') from None
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
    except grpc.FutureTimeoutError:
        channel.close()
        raise server.why_ended() or Failure(
            f"no Spark Connect server answers at {server.shown} within {ANSWER_S:.0f} s: "
            "start it there, or have `connect: true` start one here"
        ) from None
    try:
        builder = Builder(server.url)
        policy = Policy(max_retries=8, initial_backoff=100, max_backoff=8000, backoff_multiplier=4)
        if server.lease:  # the user's own may be of another version, which cannot
            first = SparkConnectClient(connection=builder)
            first.set_retry_policies([policy])
            RuntimeConf(first)._set_all(_NO_CLASSES, silent=False)
            builder.set(Builder.PARAM_SESSION_ID, str(uuid.uuid4()))
            server.tell(builder.session_id)
            first.clone(builder.session_id).set_retry_policies([policy])  # at its end the process has all of them call the server
            first.release_session()
        spark = SparkSession.builder.channelBuilder(builder).create()
        spark.client.set_retry_policies([policy])
        spark.conf._set_all(settings, silent=False)
    except PySparkException as e:
        said = str(e)
        if "UNAUTHENTICATED" in said:
            raise Failure(
                f"the Spark Connect server at {server.shown} refuses the token: give it as {server.shown}/;token=${{secrets.NAME}}"
            ) from None
        raise
    for tag in tags:
        spark.addTag(tag)
    # It would ask the server; statements of megabytes there are none.
    spark.client._plan_compression_threshold, spark.client._plan_compression_algorithm = -1, "NONE"
    return spark


def sql(spark: SparkSession, text: str, views: Mapping[str, DataFrame]) -> DataFrame:
    """The rows of a query over views, as a part of what is asked for them. SparkSession.sql() would have the server look at it at once."""
    from pyspark.sql.connect.dataframe import DataFrame
    from pyspark.sql.connect.plan import SQL, SubqueryAlias

    return DataFrame(SQL(text, [], {}, [SubqueryAlias(frame._plan, name) for name, frame in views.items()]), spark)


# ---- a server of ours ----


def shared(home: str, settings: dict[str, str], command: Callable[[str], list[str]]) -> Server:
    """The server for these settings, which is started if none runs. `command` gives the JVM's command, up to its class, for a folder."""
    env = _environment()
    settings = {**settings, **SERVER_SETTINGS, "spark.pyspark.python": sys.executable, "spark.local.dir": "", "spark.sql.warehouse.dir": ""}
    if settings.get("spark.master", "local").startswith("local"):
        settings["spark.authenticate"] = "true"  # other users of this machine reach its ports
    key = hashlib.sha256(json.dumps([settings, env, sys.prefix, _stamp(), command("")], sort_keys=True).encode()).hexdigest()[:16]
    folder = os.path.join(home, "spark", key)
    os.makedirs(folder, 0o700, exist_ok=True)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        lease = _connect(folder)
        if lease is None:
            with open(os.path.join(folder, "lock"), "ab") as lock, contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _start(folder, settings, env, command, lock.fileno())
            time.sleep(0.02)
            continue
        told = _hear(lease, deadline)
        if told and "port" in told:
            return Server(f"sc://localhost:{told['port']}/;token={told['token']}", "the shared server", told.get("page"), lease)
        lease.close()
        if told and not told.get("started"):
            print(told.get("said") or "", flush=True)
            raise Failure(f"the Spark Connect server did not start (its status is {told.get('ended')}); the log has what it said")
        # Without a word: it was just about to end. The next one is started.
    raise Failure(f"the Spark Connect server did not answer within {START_S:.0f} s of its start; its log is {folder}/log")


def _environment() -> dict[str, str]:
    """What the server's JVM sees: nothing of one attempt's own. By SPARK_LOCAL_IP its page is out of other machines' reach."""
    ours = {"SPARK_CONNECT_MODE_ENABLED", "PWD", "OLDPWD", "SHLVL", "_"}
    passed = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_") and k not in ours}
    return {"SPARK_LOCAL_IP": "127.0.0.1", **passed}


def _stamp() -> Optional[float]:
    """What changes when the engine is installed anew in the same place."""
    with contextlib.suppress(OSError):
        return os.stat(os.path.join(sys.prefix, "sluice-engine.json")).st_mtime
    return None


def _start(folder: str, settings: dict[str, str], env: dict[str, str], command: Callable[[str], list[str]], lock: int) -> None:
    """Starts the keeper, which takes the lock over."""
    properties, work = os.path.join(folder, "settings"), os.path.join(folder, "work")
    settings = {**settings, "spark.local.dir": work, "spark.sql.warehouse.dir": os.path.join(work, "warehouse")}
    with open(os.open(properties, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
        f.writelines(f"{_escaped(k)}={_escaped(v)}\n" for k, v in sorted(settings.items()))
    here = os.path.dirname(os.path.abspath(__file__))
    texts = ",".join(os.path.join(here, name) for name in ("spark_log4j2.properties", "spark_connect_log4j2.properties"))
    whole = [
        *command(work),
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dlog4j2.configurationFile={texts}",
        "org.apache.spark.deploy.SparkSubmit",
        "--properties-file",
        properties,
    ]
    whole += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
    # What it leaves when all else fails is known by this: scheduler/orphans.h.
    mark = {"SLUICE_REPORT": os.path.join(os.path.dirname(os.path.dirname(folder)), "runs", "")}
    given = {"command": whole, "env": {**env, **mark}, "folder": folder, "nursery": os.getppid(), "linger": LINGER_S}
    with open(os.path.join(folder, "log"), "wb") as log:
        done = subprocess.run(
            [sys.executable, "-I", "-u", os.path.join(here, "spark_server.py")],
            input=json.dumps(given).encode(),
            stdout=log,
            stderr=log,
            env={**env, **mark},
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        with open(os.path.join(folder, "log"), encoding="utf-8", errors="replace") as said:
            print(said.read(), flush=True)
        raise Failure("the program that keeps the Spark Connect server could not be started; the log has what it said")


def _escaped(text: str) -> str:
    """As a file of Java properties has it."""
    out = "".join("\\" + c if c in "\\:=#! " else {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}.get(c, c) for c in text)
    return "".join(c if " " <= c <= "~" else "".join(f"\\u{unit:04x}" for unit in _utf16(c)) for c in out)


def _utf16(c: str) -> list[int]:
    data = c.encode("utf-16-be")
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]


def _connect(folder: str) -> Optional[socket.socket]:
    """A connection to the keeper, by a short path: a socket's may have 107 bytes only."""
    at = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lease.connect(f"/proc/self/fd/{at}/socket")
        return lease
    except OSError:
        lease.close()
        return None
    finally:
        os.close(at)


def _hear(lease: socket.socket, deadline: float) -> Optional[dict[str, Any]]:
    """The next line of the keeper; None when there is none in time, or it has gone."""
    text = b""
    while not text.endswith(b"\n"):
        lease.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            data = lease.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        text += data
    told: dict[str, Any] = json.loads(text.splitlines()[-1])
    return told
