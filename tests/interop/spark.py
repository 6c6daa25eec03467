"""Spark in a JVM that stays for all tests, spoken to by lines: Driver.java is its side."""

import base64
import itertools
import json
import os
import pathlib
import queue
import shutil
import subprocess
import threading

from harness import die_with_parent

HERE = pathlib.Path(__file__).parent
BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD") or HERE.parents[1] / "build")
# `make check` leaves Spark 3.5 out: SLUICE_INTEROP_SPARKS says which take part.
SPARKS = os.environ.get("SLUICE_INTEROP_SPARKS", "4.1 3.5").split()
OPEN = "lang lang.invoke lang.reflect io net nio util util.concurrent util.concurrent.atomic".split()
OPEN_SUN = ["sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar"]
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.datetime.java8API.enabled": "true",
    "spark.sql.shuffle.partitions": "2",
    # The tests' queries are small and each is another one: compiling them takes longer than running them.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.adaptive.enabled": "false",
    "spark.log.level": "WARN",
    "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
}


def missing(version):
    """What a Spark of this version lacks here, or None."""
    for program in ("java", "javac"):
        if not shutil.which(program):
            return f"{program} (a JDK from 17 on: default-jdk-headless)"
    return None if (BUILD / "interop" / f"spark-{version}" / ".complete").exists() else f"the jars of Spark {version}: tools/interop gets them with mvn"


class SparkError(Exception):
    pass


class Jvm:
    """Begins to start; made by the thread that lives longest, since the JVM ends with it."""

    def __init__(self, version, folder):
        conf = folder / f"spark-{version}.conf"
        work = folder / f"spark-{version}"
        work.mkdir()
        conf.write_text("".join(f"{k}={v}\n" for k, v in {**SETTINGS, "spark.sql.warehouse.dir": str(work), "spark.local.dir": str(work)}.items()))
        opens = [f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in [f"java.{o}" for o in OPEN] + OPEN_SUN]
        self.log = folder / f"spark-{version}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["java", *opens, "-Xmx1g", "-Xss4m", "-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=256m", "-XX:+UseSerialGC", "-Djava.net.preferIPv4Stack=true", f"-Djava.io.tmpdir={work}", "-cp", f"{BUILD}/interop/spark-{version}/*",
                 str(HERE / "Driver.java"), str(conf)],
                env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"}, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", preexec_fn=die_with_parent,
            )
        self.answers, self.lock, self.ids = {"ready": queue.Queue()}, threading.Lock(), itertools.count()
        threading.Thread(target=self._listen, daemon=True).start()

    def ready(self):
        self._answer("ready", 120)
        return self

    def _listen(self):
        for line in self.process.stdout:
            answer = json.loads(line)
            self.answers[answer["id"]].put(answer)
        for waiting in list(self.answers.values()):
            waiting.put({"error": f"Spark's JVM has ended; the end of its log:\n{self.log.read_text(errors='replace')[-3000:]}"})

    def _answer(self, id, timeout):
        answer = self.answers[id].get(timeout=timeout)
        del self.answers[id]
        if "error" in answer:
            raise SparkError(answer["error"])
        return answer

    def ask(self, session, verb, text, timeout=120):
        id = str(next(self.ids))
        self.answers[id] = queue.Queue()
        with self.lock:
            self.process.stdin.write(f"{id}\t{session}\t{verb}\t{base64.b64encode(text.encode()).decode()}\n")
            self.process.stdin.flush()
        return self._answer(id, timeout)

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
