"""Maintenance side by side with Spark's procedures on tables of the same rows, and with DuckDB reading and writing these rows."""
import base64
import contextlib
import json
import os
import shutil
import subprocess
import time

from daemon import Daemon, Failed, read, write
from programs import number_of
from results import ROOT

FILES, SNAPSHOTS, ORPHANS, TABLES = 1000, 1000, 10000, 1000
TARGET = 128 << 20
ROWS = 40_000_000  # about 1 GB
LARGE_FILES, LARGE_SNAPSHOTS = 100_000, 10_000
OLD = 10 * 86400
WRITERS, RATE = 2, 24  # commits a second, of all
MODULES = "lang lang.invoke lang.reflect io net nio util util.concurrent util.concurrent.atomic".split()
SETTINGS = {
    "spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1", "spark.sql.session.timeZone": "UTC",
    "spark.log.level": "ERROR", "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
}


class Spark:
    """Spark as it is out of the box, with 6 GB and both processors, on our catalog."""

    def __init__(self, jars, folder, daemon):
        conf = os.path.join(folder, "spark.conf")
        uri, token = read(os.path.join(daemon.home, "url")).strip() + "/iceberg", read(os.path.join(daemon.home, "token")).strip()
        catalog = {"": "org.apache.iceberg.spark.SparkCatalog", ".type": "rest", ".uri": uri, ".token": token, ".cache-enabled": "false"}
        settings = {**SETTINGS, "spark.local.dir": folder, "spark.sql.warehouse.dir": folder, **{f"spark.sql.catalog.local{k}": v for k, v in catalog.items()}}
        write(conf, "".join(f"{k}={v}\n" for k, v in settings.items()))
        opens = [f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in [f"java.{m}" for m in MODULES] + ["sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar"]]
        started = time.perf_counter()
        self.log = open(os.path.join(folder, "spark.log"), "wb")
        self.process = subprocess.Popen(
            ["java", *opens, "-Xmx6g", f"-Djava.io.tmpdir={folder}", "-cp", f"{jars}/*", os.path.join(ROOT, "tests", "interop", "Driver.java"), conf],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=folder, env={**os.environ, "SPARK_LOCAL_IP": "127.0.0.1"})
        self.answer()
        self.start_seconds = time.perf_counter() - started

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"Spark ended:\n{read(self.log.name)[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"Spark: {answer['error']}")
        return answer

    def sql(self, text):
        """(its rows, seconds)"""
        started = time.perf_counter()
        self.process.stdin.write(f"1\tbench\tsql\t{base64.b64encode(text.encode()).decode()}\n")
        self.process.stdin.flush()
        rows = self.answer()["rows"]
        return rows, time.perf_counter() - started

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def rows_sql(folder):
    return (f"COPY (SELECT i AS id, (hash(i) >> 1)::BIGINT AS k, (hash(i + 1) % 1000000000)::BIGINT AS a, (hash(i + 2) / 1e17)::DOUBLE AS x, 'customer ' || (hash(i + 3) % 100000) AS name, "
            f"DATE '2005-01-01' + (i % 7000)::INTEGER AS at FROM range({ROWS}) t(i)) TO '{folder}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROWS // FILES}, "
            f"FILE_SIZE_BYTES '600KB', FILENAME_PATTERN 'part-{{i}}');\n")


def floor_sql(source, target):
    return f"COPY (SELECT * FROM read_parquet('{source}/*.parquet')) TO '{target}' (FORMAT parquet, COMPRESSION zstd, FILE_SIZE_BYTES {TARGET}, OVERWRITE);\n"


def flow(daemon, name, tasks):
    path = os.path.join(daemon.flows, f"{name}.yaml")
    write(path, json.dumps({"id": name, "concurrency": {"max_active_runs": 1}, "tasks": tasks}))
    until = time.monotonic() + 20
    while daemon.request("GET", f"/api/v1/flows/{name}")[0] != 200:
        if time.monotonic() > until:
            raise Failed(f"the flow {name} is not taken")
        time.sleep(0.05)


def run(daemon, name):
    """As Daemon.run, for what takes longer than one request may wait."""
    started = time.perf_counter()
    status, text = daemon.request("POST", f"/api/v1/flows/{name}/runs?wait=60s", {})
    one = json.loads(text)
    while one["state"] in ("queued", "running", "publishing"):
        one = json.loads(daemon.request("GET", f"/api/v1/runs/{one['id']}?wait=60s")[1])
    if one["state"] != "success":
        raise Failed(f"{name}: {one['state']}: {one.get('error')}")
    return one, time.perf_counter() - started


def maintain(daemon, name, **keys):
    flow(daemon, name, [{"id": "keep", "type": "maintain", "wait_for_writers": "0s", **keys}])
    one, seconds = run(daemon, name)
    report = json.loads(daemon.request("GET", f"/api/v1/runs/{one['id']}/tasks/keep/artifacts/maintenance.json")[1])
    return report, seconds, one["tasks"][0]["attempts"][0]


def age(folder):
    for root, _, names in os.walk(folder):
        own = max((n for n in names if n.endswith(".metadata.json")), default=None)
        for name in names:
            if name == own:  # it tells the clock of the store
                continue
            path = os.path.join(root, name)
            os.utime(path, (os.path.getmtime(path) - OLD,) * 2)


def measure_compaction(daemon, program, base, spark, results):
    source, target, makes, copies = (os.path.join(base, n) for n in ("small", "floor", "rows.sql", "floor.sql"))
    write(makes, rows_sql(source))
    write(copies, floor_sql(source, target))
    number_of([program, base, makes])
    files = len(os.listdir(source))
    size = sum(os.path.getsize(os.path.join(source, f)) for f in os.listdir(source))
    flow(daemon, "take", [{"id": t, "type": "publish", "from": f"{source}/*.parquet", "into": f"b.{t}", "mode": "add_files"} for t in ("warm", "sluice", "spark")])
    run(daemon, "take")
    what = f"{files:,} files of {size / files / 1e6:.1f} MB into 128 MB"
    number_of([program, base, copies])  # the files are in memory then, for all
    floor = results.add(f"floor: {what}: read and written by one DuckDB process", number_of([program, base, copies]))
    shutil.rmtree(target)
    report, seconds, attempt = maintain(daemon, "compact", tables="b.sluice", compact={"target_file_size": f"{TARGET}B"})
    step = report["items"][0]["steps"][0]
    if step["files"] != files:
        raise Failed(f"compaction took {step}")
    results.add(f"compaction, {what}: trigger to answer ({step['new_files']} files)", seconds, floor=floor, ratio_at_most=1.3)
    results.add("compaction: most memory", attempt["max_rss_bytes"] / 1e6, "MB")
    if spark:
        rows, theirs = spark.sql(f"CALL local.system.rewrite_data_files(table => 'b.spark', options => map('target-file-size-bytes', '{TARGET}'))")
        results.add(f"Spark's rewrite_data_files of the same ({rows[0][1]} files)", theirs, floor=floor)
        results.add("compaction against Spark", theirs / seconds, "x", at_least=5, digits=1)


def rows_of(daemon, table):
    return next(i["records"] for i in json.loads(daemon.request("GET", f"/api/v1/tables/health?match={table}")[1])["items"])


def measure_writers(daemon, python, results):
    """The same compaction while others append to the table; they are PyIceberg, which tries a refused commit again, as it does by default."""
    uri, token = read(os.path.join(daemon.home, "url")).strip() + "/iceberg", read(os.path.join(daemon.home, "token")).strip()
    writers = []
    for _ in range(WRITERS):  # each says when it is ready, and begins when all are
        writers.append(subprocess.Popen([python, os.path.join(ROOT, "tests", "bench", "appender.py"), uri, token, "b.warm", str(RATE / WRITERS)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        writers[-1].stdout.readline()
    before = rows_of(daemon, "b.warm")
    for w in writers:
        w.stdin.write("go\n")
        w.stdin.flush()
    try:
        report, seconds, _ = maintain(daemon, "busy", tables="b.warm", compact={"target_file_size": f"{TARGET}B"})
    finally:
        told = [json.loads(w.communicate()[0].splitlines()[-1]) for w in writers]
    step = report["items"][0]["steps"][0]
    done, failed = sum(t["done"] for t in told), [f for t in told for f in t["failed"]]
    lost = before + done - rows_of(daemon, "b.warm")
    if step["state"] != "done" or failed:
        raise Failed(f"compaction among writers: {step}; {failed[:3]}")
    results.add(f"compaction while {WRITERS} others append, {done} commits: trigger to answer", seconds)
    results.add("appends meanwhile", sum(t["done"] / t["seconds"] for t in told), "commits/s", at_least=20)
    results.add("appends meanwhile: the slowest", max(t["slowest"] for t in told))
    results.add("rows lost, appends failed", lost + len(failed), "", at_most=0)


def measure_expiry(daemon, spark, results):
    tables = ["sluice", "spark"] if spark else ["sluice"]
    flow(daemon, "many", [{"id": f"{t}{i}", "type": "curate", "into": f"e.{t}", "sql": f"SELECT range AS n, {i} AS i FROM range(10)",
                           "depends_on": [f"{t}{i - 1}"] if i else []} for t in tables for i in range(100)])
    for _ in range(SNAPSHOTS // 100):
        run(daemon, "many")
    report, seconds, _ = maintain(daemon, "expire", tables="e.sluice", expire_snapshots={"older_than": "0s"})
    step = report["items"][0]["steps"][0]
    if step["snapshots"] != SNAPSHOTS - 1:
        raise Failed(f"expiry took {step}")
    floor = results.add(f"expiry of {step['snapshots']:,} snapshots ({step['files']:,} files removed): trigger to answer", seconds)
    if spark:
        _, theirs = spark.sql("CALL local.system.expire_snapshots(table => 'e.spark', older_than => now(), retain_last => 1)")
        results.add("Spark's expire_snapshots of the same", theirs, floor=floor)
        results.add("expiry against Spark", theirs / seconds, "x", at_least=5, digits=1)


def measure_orphans(daemon, spark, results):
    tables = ["sluice", "spark"] if spark else ["sluice"]
    for table in tables:
        folder = os.path.join(daemon.home, "warehouse", "e", table)
        for i in range(ORPHANS):
            write(os.path.join(folder, "data", f"lost-{i}.parquet"), "x")
        age(folder)
    report, seconds, _ = maintain(daemon, "orphans", tables="e.sluice", remove_orphan_files={})
    if report["orphans"] < ORPHANS:
        raise Failed(f"{report['orphans']} orphans were found")
    floor = results.add(f"removal of {ORPHANS:,} orphans: trigger to answer", seconds)
    if spark:
        rows, theirs = spark.sql("CALL local.system.remove_orphan_files(table => 'e.spark')")
        results.add(f"Spark's remove_orphan_files of the same ({len(rows):,} found)", theirs, floor=floor)
        results.add("orphans against Spark", theirs / seconds, "x", at_least=5, digits=1)


def measure_lake(daemon, results):
    for n in range(TABLES // 100):
        flow(daemon, f"lake{n}", [{"id": f"t{i}", "type": "curate", "into": f"lake{n}.t{i}", "sql": "SELECT range AS n FROM range(100)"} for i in range(100)])
        run(daemon, f"lake{n}")
    age(os.path.join(daemon.home, "warehouse"))
    best = []
    for _ in range(3):
        started = time.perf_counter()
        status, text = daemon.request("GET", "/api/v1/tables/health?match=lake*&limit=10000")
        best.append(time.perf_counter() - started)
        if status != 200 or len(json.loads(text)["items"]) != TABLES:
            raise Failed(f"health: {status} {text[:300]}")
    results.add(f"numbers and health of {TABLES:,} tables", best, at_most=2)
    took = []
    for _ in range(3):
        report, seconds, _ = maintain(daemon, "all", tables="lake*")
        if report["changed"] or report["failed"] or report["tables"] != TABLES:
            raise Failed(f"maintenance of what needs nothing: {[i for i in report['items'] if 'after' in i or 'error' in i][:2]}")
        took.append(seconds / TABLES * 1000)
    results.add(f"full maintenance of {TABLES:,} tables that need nothing: a table", took, "ms", at_most=5, digits=2)


def measure_large(binary, folder, results):
    """One table of 100,000 files and 10,000 snapshots, by every step, with no limit of memory set."""
    base = os.path.join(folder, "large")
    os.makedirs(os.path.join(base, "flows"))
    python = os.path.join(os.path.dirname(binary), "venv", "bin", "python")
    daemon = Daemon(binary, base)
    try:
        uri, token = read(os.path.join(daemon.home, "url")).strip() + "/iceberg", read(os.path.join(daemon.home, "token")).strip()
        subprocess.run([python, os.path.join(ROOT, "tests", "bench", "large_table.py"), uri, token, "l.large", str(LARGE_FILES), str(LARGE_SNAPSHOTS)], check=True)
        age(os.path.join(daemon.home, "warehouse"))
        before = rows_of(daemon, "l.large")
        report, seconds, attempt = maintain(daemon, "large", tables="l.large")
        done = {s["step"]: s for s in report["items"][0]["steps"]}
        if rows_of(daemon, "l.large") != before or report["snapshots_expired"] != LARGE_SNAPSHOTS or done["compact"]["files"] != LARGE_FILES:
            raise Failed(f"maintenance of the large table: {done}")
        results.add(f"full maintenance of {LARGE_FILES:,} files, {LARGE_SNAPSHOTS:,} snapshots ({report['files_removed']:,} files removed)", seconds)
        results.add("full maintenance of that table: most memory", attempt["max_rss_bytes"] / 1e6, "MB", at_most=1000)
    finally:
        daemon.stop()


def measure_maintain(binary, program, folder, results):
    base = os.path.join(folder, "maintain")
    os.makedirs(os.path.join(base, "flows"))
    jars = os.path.join(os.path.dirname(binary), "interop", "spark-4.1")
    daemon = Daemon(binary, base)
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.stop)
        spark = None
        if shutil.which("java") and os.path.exists(os.path.join(jars, ".complete")):
            spark = Spark(jars, base, daemon)
            stack.callback(spark.stop)
            results.add("Spark 4.1: start of its session, which is not in what follows", spark.start_seconds)
        else:
            print("maintain: Spark is not there, so it is left out: run tools/interop and install a JDK")
        measure_expiry(daemon, spark, results)
        measure_orphans(daemon, spark, results)
        if spark:  # what it does first takes a while longer
            spark.sql("CALL local.system.rewrite_data_files(table => 'e.spark')")
        measure_compaction(daemon, program, base, spark, results)
        python = os.path.join(os.path.dirname(binary), "venv", "bin", "python")
        if os.path.exists(python):
            measure_writers(daemon, python, results)
        else:
            print("maintain: PyIceberg is not there, so nobody writes during a compaction: run make check")
        measure_lake(daemon, results)
