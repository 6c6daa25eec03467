"""A micro-batch of a million messages from Kafka into an Iceberg table, by Sluice and by Spark's structured streaming."""
import json
import os
import shutil
import statistics
import subprocess

from daemon import Daemon, Failed, read, write
from measure_tasks import moment
from results import HERE, ROOT

PARTITIONS = 4
# The same to both, in Sluice's words and in Spark's.
COLUMNS = [("id", "BIGINT", "BIGINT"), ("customer", "VARCHAR", "STRING"), ("amount", "DECIMAL(12,2)", "DECIMAL(12,2)"), ("currency", "VARCHAR", "STRING"),
           ("ordered_at", "TIMESTAMPTZ", "TIMESTAMP"), ("country", "VARCHAR", "STRING"), ("paid", "BOOLEAN", "BOOLEAN"), ("note", "VARCHAR", "STRING")]
# 300 bytes a message.
ROWS = """SELECT i AS id, 'customer-' || i % 50000 AS customer, (i * 37 % 100000 / 100)::DECIMAL(12,2) AS amount, 'EUR' AS currency,
  strftime(TIMESTAMP '2026-11-01' + to_seconds(i), '%Y-%m-%dT%H:%M:%SZ') AS ordered_at, ['DE', 'FR', 'SI', 'JP'][i % 4 + 1] AS country, i % 3 = 0 AS paid,
  left(md5(i::VARCHAR) || md5((i + 1)::VARCHAR) || md5((i + 2)::VARCHAR) || md5((i + 3)::VARCHAR) || md5((i + 4)::VARCHAR), 150) AS note FROM range({}) t(i)"""


def jars(build):
    """The class path of Spark with Kafka; None where it cannot be had."""
    spark, own = os.path.join(build, "interop", "spark-3.5"), os.path.join(HERE, "spark-kafka")
    kafka = os.path.join(build, "services", "spark-kafka")
    if not os.path.exists(os.path.join(spark, ".complete")) or shutil.which("mvn") is None:
        return None
    if not os.path.isdir(kafka):
        made = subprocess.run(["mvn", "-B", "-q", "-f", os.path.join(own, "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=" + kafka])
        if made.returncode != 0:
            shutil.rmtree(kafka, ignore_errors=True)
            return None
    check = subprocess.run(["sha256sum", "--quiet", "--strict", "-c", os.path.join(own, "SHA256SUMS")], cwd=kafka)
    if check.returncode != 0:
        raise Failed(f"the jars in {kafka} are not those that were pinned")
    return f"{spark}/*:{kafka}/*"


def write_flows(flows, brokers, messages, rounds):
    write(os.path.join(flows, "fill.yaml"), json.dumps({"id": "fill", "tasks": [
        {"id": "send", "type": "export", "from": {"sql": ROWS.format(messages)}, "to": {"format": "kafka", "brokers": brokers, "topic": "orders", "options": {"batch.size": "1000000"}}}]}))
    for n in range(rounds):
        staged = os.path.join(flows, f"staged-{n}.parquet")
        write(os.path.join(flows, f"stream{n}.yaml"), json.dumps({"id": f"stream{n}", "tasks": [
            {"id": "read", "type": "stage", "source": {"format": "kafka", "brokers": brokers, "topic": "orders", "columns": {c: t for c, t, _ in COLUMNS}}, "target": {"path": staged}},
            {"id": "publish", "type": "publish", "depends_on": ["read"], "from": staged, "into": f"stg.orders{n}", "mode": "append"}]}))


def run_of(daemon, flow):
    run, _ = daemon.run(flow)
    return run, moment(run["ended_at"]) - moment(run["started_at"])


def spark_stream(classes, brokers, folder):
    """Seconds of the session, and of the query."""
    shutil.rmtree(folder, ignore_errors=True)
    made = os.path.join(folder, "classes")
    os.makedirs(made)
    subprocess.run(["javac", "-cp", classes, "-d", made, os.path.join(HERE, "KafkaStream.java")], check=True)
    opens = [f"--add-opens=java.base/{p}=ALL-UNNAMED" for p in ("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util",
                                                               "java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar")]
    ddl = ", ".join(f"{c} {t}" for c, _, t in COLUMNS)
    done = subprocess.run(["java", "-Xmx3g", *opens, "-cp", f"{made}:{classes}", "KafkaStream", brokers, "orders", folder, ddl], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        raise Failed(f"Spark's stream failed:\n{done.stderr[-3000:]}")
    return [float(word) for word in done.stdout.split()[-3:]]


def measure_kafka(binary, folder, messages, rounds, results):
    folder = os.path.join(folder, "kafka")
    flows, broker, build = os.path.join(folder, "flows"), os.path.join(folder, "broker"), os.path.dirname(binary)
    os.makedirs(flows)
    os.chmod(folder, 0o755)
    service = os.path.join(ROOT, "tests", "services", "kafka")
    env = {**os.environ, "SLUICE_BUILD": build, "TOPICS": f"orders:{PARTITIONS}", "TIERED": "4"}
    started = subprocess.run([service, "start", broker], env=env, capture_output=True, text=True)
    if started.returncode == 3:
        print("bench: " + started.stderr.strip())
        return
    try:
        brokers = read(os.path.join(broker, "address"))
        write_flows(flows, brokers, messages, rounds)
        daemon = Daemon(binary, folder)
        try:
            size = f"{messages:,} messages"
            run, elapsed = run_of(daemon, "fill")
            results.add(f"{size} of 300 bytes, exported in one transaction", elapsed)
            ours, cpu, peak = [], [], []
            for n in range(rounds):
                run, elapsed = run_of(daemon, f"stream{n}")
                last = [task["attempts"][-1] for task in run["tasks"]]
                if last[0]["metrics"]["rows_out"] != messages:
                    raise Failed(f"{last[0]['metrics']['rows_out']} rows of {messages} messages")
                ours.append(elapsed)
                cpu.append(sum(a["user_us"] + a["system_us"] for a in last) / 1e6)
                peak.append(max(a["max_rss_bytes"] for a in last) / 1e6)
            middle = results.add(f"{size} into an Iceberg table, the run", ours)
            results.add("processor time of its attempts", cpu)
            results.add("most memory of one of them", peak, "MB")
        finally:
            daemon.stop()
        classes = jars(build)
        if classes is None:
            print("bench: no Spark with Kafka (tools/interop BUILD 3.5 and mvn)")
            return
        took = [spark_stream(classes, brokers, os.path.join(folder, "spark")) for _ in range(min(rounds, 2))]
        if any(rows != messages for _, _, rows in took):
            raise Failed(f"Spark's table has {took} rows of {messages} messages")
        results.add("Spark 3.5's session and an empty table, before", [session for session, _, _ in took])
        theirs = results.add("Spark's availableNow, from its start to its end", [query for _, query, _ in took])
        results.add("Spark's time over Sluice's", theirs / statistics.median(ours), "", at_least=5, digits=1)
    finally:
        subprocess.run([service, "stop", broker], env=env, check=True)
