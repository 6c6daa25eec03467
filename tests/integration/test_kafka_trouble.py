"""Kafka when it is in trouble: a broker that goes in the middle, topics that were compacted, retention that overtakes a reader, TLS."""

import json
import os
import shutil
import signal

import pytest

from conftest import stopped, task_of, wait_until, why
from kafka_broker import Kafka, kafka  # noqa: F401
from test_export_kafka import export
from test_export_mongo import children
from test_stage_kafka import Stream, error

MANY = 2000
# So that little waits in the attempt when the broker goes.
LITTLE = {"fetch.message.max.bytes": "500", "queued.min.messages": "100"}
AGAIN = {"max_attempts": 30, "interval": "1s"}


@pytest.fixture
def faults(folder):
    path = folder / "faults"
    path.write_text("")
    return path


@pytest.fixture
def daemon(make_daemon, faults):
    return make_daemon(env={"SLUICE_FAULT": str(faults), "GOOD": "s3cr3t-of-admin", "BAD": "wr0ng-password"})


def stopped_attempts(daemon):
    """The processes of attempts that a fault point has stopped."""
    return [p for p in children(daemon) if stopped(p)]


def fill(kafka, topic, first, last, partition=0):
    """In batches of 10, since a batch is the least that a broker hands on."""
    producer = kafka.producer(**{"batch.num.messages": 10})
    for i in range(first, last):
        producer.produce(topic, json.dumps({"id": i, "name": f"n{i}"}).encode(), partition=partition)
    assert producer.flush(60) == 0


# ---- a broker that goes ----


@pytest.mark.parametrize("timeout, patient", [("60s", True), ("2s", False)])
def test_the_broker_goes_in_the_middle(daemon, kafka, faults, timeout, patient):
    """It is back in time: the attempts go on. It is not: they fail, and the next ones do the same again. Either way each message is read, and each row sent, once."""
    topic, out = kafka.topic(2), kafka.topic(2)
    s = Stream(daemon, kafka, topic, {"options": LITTLE, "timeout": timeout}, retry=AGAIN)
    fill(kafka, topic, 0, MANY)
    fill(kafka, topic, MANY, 2 * MANY, partition=1)
    sql = f"SELECT i AS id, repeat('x', 200) AS x FROM range({10 * MANY}) t(i)"
    flow = export(daemon, kafka, out, sql, run=False, retry=AGAIN, timeout=timeout, options={"queue.buffering.max.messages": "1000", "linger.ms": "0"})
    faults.write_text("stage.kafka.batch=stop\nexport.messages.sent:5=stop")
    runs = [(daemon.post(f"/api/v1/flows/{f}/runs", {})["id"], task) for f, task in ((s.id, "read"), (flow, "send"))]
    pids = wait_until(lambda: len(p := stopped_attempts(daemon)) == 2 and p, "the first messages of both")
    kafka.kill()
    try:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        if not patient:
            wait_until(lambda: all(len(task_of(daemon.run(r), t)["attempts"]) > 1 for r, t in runs), "the end of their patience")
        faults.write_text("stage.kafka.read=stop")  # until there is more than it has seen
    finally:
        kafka.start()
    fill(kafka, topic, 2 * MANY, 2 * MANY + 10)
    os.kill(wait_until(lambda: stopped_attempts(daemon), "the end of its reading")[0], signal.SIGCONT)
    ended = [daemon.ended(r) for r, _ in runs]
    for run, (_, task) in zip(ended, runs, strict=True):
        tried = task_of(run, task)["attempts"]
        assert run["state"] == "success" and (len(tried) == 1) == patient, why(run)
        if not patient:
            assert kafka.address in tried[0]["error"]["message"] and not tried[0]["error"].get("final"), tried[0]
    assert s.outputs(ended[0])["messages"] == 2 * MANY and s.outputs(ended[0])["lag"] == 10, "what came while it ran is left to the next"
    s.good()
    n = 2 * MANY + 10
    assert daemon.sql(f"SELECT count(*) AS n, count(DISTINCT id) AS d, max(id) AS m FROM {s.table}") == [{"n": n, "d": n, "m": n - 1}]
    assert sorted(json.loads(m[1])["id"] for m in kafka.read(out)) == list(range(10 * MANY))


# ---- what is gone of a topic ----


def test_a_compacted_topic(daemon, kafka):
    """Offsets are missing, and deleted keys have a message without a value."""
    topic = kafka.topic(**{"cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "max.compaction.lag.ms": "200", "delete.retention.ms": "86400000"})
    keys = [b"a", b"b", b"c", b"a", b"b", b"a"]
    kafka.send(topic, [{"id": i} for i in range(6)], keys=keys)
    kafka.send(topic, [None], keys=[b"b"])

    def compacted():
        kafka.send(topic, [{"id": 100}], keys=[b"last"])  # which closes the segment before it
        return len(kafka.read(topic)) < 7 and [m[1] for m in kafka.read(topic)][:3] == [b'{"id": 2}', b'{"id": 5}', None]

    wait_until(compacted, "compaction")
    s = Stream(daemon, kafka, topic)
    run = s.good()
    assert s.ids[:2] == [2, 5] and set(s.ids[2:]) == {100}
    assert task_of(run, "read")["attempts"][-1]["metrics"]["tombstones"] == 1 and s.outputs(run)["lag"] == 0
    before = s.offsets[0]
    assert before > len(s.ids) + 1, "offsets are missing in between"
    kafka.send(topic, [{"id": 7}], keys=[b"c"])
    s.good()
    assert s.ids.count(7) == 1 and s.offsets == {0: before + 1}


def test_retention_overtakes_the_reader(daemon, kafka, faults):
    """What the attempt was about to read went: the next one decides anew, by what the stream has committed."""
    topic = kafka.topic()
    fill(kafka, topic, 0, 10)
    s = Stream(daemon, kafka, topic, {"options": LITTLE}, retry={"max_attempts": 3, "interval": "0s"})
    s.good()
    for on, end in [("fail", "failed"), ("continue", "success")]:
        fill(kafka, topic, 10, MANY)
        s.source["on_data_loss"] = on
        s.write()
        faults.write_text("stage.kafka.batch=stop")
        run = daemon.post(f"/api/v1/flows/{s.id}/runs", {})["id"]
        (pid,) = wait_until(lambda: stopped_attempts(daemon), "the first messages")
        kafka.expire(topic, 0, kafka.end(topic) - 5)
        os.kill(pid, signal.SIGCONT)
        run = daemon.ended(run)
        tried = task_of(run, "read")["attempts"]
        assert run["state"] == end and len(tried) == 2, why(run)
        assert f'topic "{topic}", partition 0, from offset' in tried[0]["error"]["message"] and "retention" in tried[0]["error"]["message"]
        if on == "fail":
            assert "offsets are lost" in tried[1]["error"]["message"] and tried[1]["error"]["final"] and s.offsets == {0: 10}
    assert s.ids == [*range(10), *range(MANY - 5, MANY)] and s.offsets == {0: kafka.end(topic)}


# ---- who is let in, over TLS ----


def test_tls_with_users(daemon, kafka, folder):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: package openssl")
    topic = kafka.topic()
    kafka.send(topic, [{"id": 1}, {"id": 2}])
    retry = {"max_attempts": 3, "interval": "0s"}

    def over_tls(password, ca="ca.pem", protocol="sasl_ssl"):
        return {"brokers": kafka.tls, "security": {"protocol": protocol, "mechanism": "PLAIN", "username": "admin", "password": password, "ca": str(kafka.folder / ca)}}

    good = Stream(daemon, kafka, topic, over_tls("${secrets.good}"), {"secrets": ["good"]}, retry=retry)
    good.good()
    assert good.ids == [1, 2]
    told = error(Stream(daemon, kafka, topic, over_tls("${secrets.bad}"), {"secrets": ["bad"]}, retry=retry).run())
    assert "is security.username and .password right" in told["message"] and told["final"] and "wr0ng-password" not in json.dumps(told), told
    (kafka.folder / "other").mkdir()
    other = Kafka.__new__(Kafka)
    other.folder = kafka.folder / "other"
    other.make_certificates()
    told = error(Stream(daemon, kafka, topic, over_tls("${secrets.good}", "other/ca.pem"), {"secrets": ["good"]}, retry=retry).run())
    assert "certificate verify failed" in told["message"] and "security.ca" in told["message"] and told["final"], told
    told = error(Stream(daemon, kafka, topic, over_tls("${secrets.good}", "none.pem"), {"secrets": ["good"]}, retry=retry).run())
    assert "none.pem cannot be read: No such file" in told["message"] and told["final"], told
    sent = export(daemon, kafka, topic, "SELECT 3 AS id", {"secrets": ["good"]}, **over_tls("${secrets.good}"))
    assert sent["state"] == "success", why(sent)
    good.good()
    assert good.ids == [1, 2, 3]
    assert "s3cr3t" not in daemon.log
