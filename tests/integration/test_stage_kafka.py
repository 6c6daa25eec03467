"""stage from Kafka: micro-batches whose offsets move with the run's tables, and what becomes of poison, gaps, lost data and refusals."""

import json

import pyarrow.parquet as pq
import pytest

from conftest import postgres, task_of, wait_until, why
from kafka_broker import kafka  # noqa: F401
from ports import free_port

COUNT = iter(range(10**6))
COLUMNS = {"id": "BIGINT", "name": "VARCHAR"}


def rows(first, last):
    return [{"id": i, "name": f"n{i}"} for i in range(first, last)]


class Stream:
    """A flow that reads a topic into a table."""

    def __init__(self, daemon, kafka, topic, source=None, flow=None, **keys):
        self.daemon, self.kafka, self.topic = daemon, kafka, topic
        self.id = f"k{next(COUNT)}"
        self.table = f"stg.{self.id}"
        self.target = daemon.home.parent / f"{self.id}.parquet"
        self.source = {"format": "kafka", "brokers": kafka.address, "topic": topic, "columns": COLUMNS, "timeout": "20s", **(source or {})}
        self.source = {k: v for k, v in self.source.items() if v is not None}
        self.tasks = [
            {"id": "read", "type": "stage", "source": self.source, "target": {"path": str(self.target)}, **keys},
            {"id": "add", "type": "publish", "depends_on": ["read"], "from": str(self.target), "into": self.table, "mode": "append"},
        ]
        self.flow = flow or {}
        self.write()

    def write(self):
        self.daemon.flow(self.id, json.dumps({"id": self.id, "tasks": self.tasks, **self.flow}))

    def run(self, **kw):
        return self.daemon.trigger(self.id, **kw)

    def good(self, **kw):
        run = self.run(**kw)
        assert run["state"] == "success", why(run)
        return run

    def outputs(self, run):
        return task_of(run, "read")["outputs"]

    @property
    def ids(self):
        return [r["id"] for r in self.daemon.sql(f"SELECT id FROM {self.table} ORDER BY id")]

    @property
    def offsets(self):
        with postgres(self.daemon).cursor() as c:
            c.execute("SELECT partition, next FROM sluice.offsets WHERE stream = %s ORDER BY 1", (f"{self.id}.read",))
            return dict(c.fetchall())


def error(run):
    assert run["state"] == "failed", run
    return task_of(run, "read")["attempts"][-1]["error"]


# ---- batches ----


def test_each_run_reads_what_is_new(shared, kafka):
    topic = kafka.topic(2)
    s = Stream(shared, kafka, topic)
    kafka.send(topic, rows(0, 10))
    kafka.send(topic, rows(10, 15), partition=1)
    run = s.good()
    assert s.ids == list(range(15)) and s.offsets == {0: 10, 1: 5}
    assert s.outputs(run)["messages"] == 15 and s.outputs(run)["lag"] == 0
    assert s.outputs(s.good())["messages"] == 0 and s.offsets == {0: 10, 1: 5}, "an empty batch is a success of no rows"
    kafka.send(topic, rows(15, 20), partition=1)
    s.good()
    assert s.ids == list(range(20)) and s.offsets == {0: 10, 1: 10}


def test_an_empty_topic_is_read(shared, kafka):
    s = Stream(shared, kafka, kafka.topic(3))
    assert s.outputs(s.good())["messages"] == 0
    assert s.offsets == {0: 0, 1: 0, 2: 0}


def test_a_failed_run_moves_nothing(shared, kafka):
    topic = kafka.topic()
    s = Stream(shared, kafka, topic)
    kafka.send(topic, rows(0, 3))
    s.tasks.append({"id": "fail", "type": "command", "depends_on": ["add"], "command": ["/bin/false"]})
    s.write()
    assert s.run()["state"] == "failed"
    assert s.offsets == {}
    s.tasks.pop()
    s.write()
    s.good()
    assert s.ids == [0, 1, 2] and s.offsets == {0: 3}


def test_a_rehearsal_moves_nothing(shared, kafka):
    topic = kafka.topic()
    s = Stream(shared, kafka, topic)
    kafka.send(topic, rows(0, 3))
    assert s.run(rehearsal=True)["state"] == "success"
    assert s.offsets == {}
    s.good()
    assert s.ids == [0, 1, 2]


def test_tasks_that_are_transactions_of_their_own(shared, kafka):
    topic = kafka.topic()
    s = Stream(shared, kafka, topic, flow={"isolation": "task"})
    kafka.send(topic, rows(0, 3))
    s.good()
    kafka.send(topic, rows(3, 5))
    s.good()
    assert s.ids == [0, 1, 2, 3, 4] and s.offsets == {0: 5}


def test_who_comes_second_reads_from_the_new_offsets(shared, kafka):
    """Two runs began from the same offsets: one has them, the other is done again behind them."""
    topic = kafka.topic()
    gate = shared.home.parent / f"gate-{topic}"
    s = Stream(shared, kafka, topic, flow={"concurrency": {"overlap": "allow"}}, retry={"max_attempts": 3, "interval": "0s"})
    s.tasks[1:1] = [{"id": "wait", "type": "command", "depends_on": ["read"], "command": f"while [ ! -e {gate} ]; do sleep 0.05; done"}]
    s.tasks[2]["depends_on"] = ["wait"]
    s.tasks[0]["target"]["path"] = s.tasks[2]["from"] = str(s.target) + "-${run.id}"
    s.write()
    kafka.send(topic, rows(0, 5))
    runs = [shared.post(f"/api/v1/flows/{s.id}/runs", {})["id"] for _ in range(2)]
    wait_until(lambda: all(task_of(shared.run(r), "wait")["state"] == "running" for r in runs), "both have read")
    kafka.send(topic, rows(5, 7))
    gate.touch()
    ended = [shared.ended(r) for r in runs]
    assert [r["state"] for r in ended] == ["success"] * 2, "\n".join(map(why, ended))
    assert s.ids == list(range(7)) and s.offsets == {0: 7}
    again = [task_of(r, "read")["attempts"] for r in ended]
    assert sorted(map(len, again)) == [1, 2]
    assert next(a for a in again if len(a) == 2)[0]["cause"] == "conflict"


ATTEMPTS = ["stage.kafka.read", "stage.finish.after", "task.end", "write.commit.after"]
DAEMONS = ["attempt.exit.heard:2", "catalog.commit.after", "lake.publish.before", "lake.publish.after"]


@pytest.mark.parametrize("isolation, points", [("run", ATTEMPTS + DAEMONS), ("task", DAEMONS[2:])])
def test_each_message_counts_once_whoever_dies(make_daemon, kafka, folder, isolation, points):
    """In turns one of the processes is killed, around each commit of a micro-batch; then the table has every message once."""
    faults = folder / "faults"
    faults.write_text("")
    daemon = make_daemon(env={"SLUICE_FAULT": str(faults)}, args=["--listen", f"127.0.0.1:{free_port()}"])  # where attempts find the next daemon
    topic = kafka.topic(2)
    s = Stream(daemon, kafka, topic, flow={"isolation": isolation}, retry={"max_attempts": 3, "interval": "0s"})
    s.tasks[1]["retry"] = {"max_attempts": 3, "interval": "0s"}
    s.write()
    for n, point in enumerate(points):
        kafka.send(topic, rows(10 * n, 10 * n + 6))
        kafka.send(topic, rows(10 * n + 6, 10 * n + 10), partition=1)
        faults.write_text(f"{point}=kill")
        run = daemon.post(f"/api/v1/flows/{s.id}/runs", {})["id"]
        if point in DAEMONS:
            wait_until(lambda: daemon.process.poll() is not None, f"the daemon's death at {point}")
            daemon.start()
        assert daemon.ended(run)["state"] == "success", f"{point}: {why(daemon.run(run))}"
        assert "kill" not in faults.read_text(), f"{point} was passed"
        assert s.ids == list(range(10 * n + 10)), point
        assert s.offsets == {0: 6 * n + 6, 1: 4 * n + 4}, point


def test_no_more_than_asked_for(shared, kafka):
    topic = kafka.topic(2)
    kafka.send(topic, rows(0, 15))
    kafka.send(topic, rows(15, 20), partition=1)
    s = Stream(shared, kafka, topic, {"max_messages": 8})
    run = s.good()
    assert s.outputs(run)["messages"] == 8 and s.outputs(run)["lag"] == 12 and s.offsets == {0: 6, 1: 2}
    for _ in range(2):
        s.good()
    assert s.ids == list(range(20))
    t = Stream(shared, kafka, topic, {"max_bytes": "200B"})
    assert 0 < t.outputs(t.good())["messages"] < 14
    for _ in range(2):
        t.good()
    assert t.ids == list(range(20))


@pytest.mark.parametrize("starting, ids", [("latest", []), ("earliest", [0, 1]), ("2001-01-01", [0, 1]), ("1h ago", [0, 1]), ("2100-01-01", [])])
def test_where_it_starts(shared, kafka, starting, ids):
    topic = kafka.topic()
    kafka.send(topic, rows(0, 2))
    s = Stream(shared, kafka, topic, {"starting": starting})
    s.good()
    assert s.ids == ids
    kafka.send(topic, rows(2, 3))
    s.good()
    assert s.ids == ids + [2]


def test_new_partitions_are_read_from_their_beginning(shared, kafka):
    topic = kafka.topic()
    s = Stream(shared, kafka, topic, {"starting": "latest"})
    s.good()
    kafka.add_partitions(topic, 3)
    kafka.send(topic, rows(0, 2), partition=2)
    s.good()
    assert s.ids == [0, 1] and s.offsets == {0: 0, 1: 0, 2: 2}


# ---- what messages become ----


def test_values_keep_their_digits_and_parts(shared, kafka):
    topic = kafka.topic()
    value = b'{"amount": 12345678901234567.1234567890,\n "note": 1.10, "tags": ["a", "b"], "at": "2026-11-21T06:00:00Z", "in": {"x": 1, "y": "\\u00e9"}, "more": 1}'
    kafka.send(topic, [value, {"amount": "7.5", "tags": None}])
    columns = {"amount": "DECIMAL(30,10)", "note": "VARCHAR", "tags": "VARCHAR[]", "at": "TIMESTAMPTZ", "in": "STRUCT(x INTEGER, y VARCHAR)", "none": "DATE"}
    s = Stream(shared, kafka, topic, {"columns": columns})
    s.good()
    first, second = pq.read_table(s.target).to_pylist()
    assert str(first["amount"]) == "12345678901234567.1234567890" and first["note"] == "1.10"
    assert first["tags"] == ["a", "b"] and first["in"] == {"x": 1, "y": "é"} and first["none"] is None
    assert first["at"].isoformat() == "2026-11-21T06:00:00+00:00"
    assert str(second["amount"]) == "7.5000000000" and second["tags"] is None


def test_key_headers_time_and_place(shared, kafka):
    topic = kafka.topic(2)
    kafka.send(topic, rows(0, 1), partition=1, keys=[b"k\xc3\xa9"], headers=[("h", b"1"), ("h", b"2"), ("n", None)], timestamp=1700000000123)
    s = Stream(shared, kafka, topic, {"metadata": True})
    s.good()
    meta = pq.read_table(s.target).to_pylist()[0]["_kafka"]
    assert meta.pop("timestamp").isoformat() == "2023-11-14T22:13:20.123000+00:00"
    headers = [{"key": "h", "value": "1"}, {"key": "h", "value": "2"}, {"key": "n", "value": None}]
    assert meta == {"topic": topic, "partition": 1, "offset": 0, "key": "ké", "headers": headers}


@pytest.mark.parametrize("value_format, value", [("text", 'a "b"\n'), ("bytes", b"\x00\xff\x01")])
def test_values_that_are_no_json(shared, kafka, value_format, value):
    topic = kafka.topic()
    kafka.send(topic, [value.encode() if isinstance(value, str) else value, None])
    s = Stream(shared, kafka, topic, {"value_format": value_format, "columns": None})
    s.good()
    assert pq.read_table(s.target).to_pylist() == [{"value": value}, {"value": None}]


def test_what_was_aborted_or_compacted_is_no_gap(shared, kafka):
    topic = kafka.topic()
    producer = kafka.producer(**{"transactional.id": topic})
    producer.init_transactions()
    for i, end in enumerate((producer.commit_transaction, producer.abort_transaction, producer.commit_transaction, producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(topic, json.dumps({"id": i}).encode(), partition=0)
        producer.flush()
        end()
    kafka.settle(topic)
    s = Stream(shared, kafka, topic)
    run = s.good()
    assert s.ids == [0, 2] and s.offsets == {0: 8} and s.outputs(run)["lag"] == 0
    producer.begin_transaction()
    producer.produce(topic, b'{"id": 4}', partition=0)
    producer.flush()
    s.good()
    assert s.ids == [0, 2], "what is not committed is not read"
    producer.commit_transaction()
    kafka.settle(topic)
    s.good()
    assert s.ids == [0, 2, 4]


# ---- bad input ----

POISON = [{"id": 1, "name": "a"}, b"\xff\x00", b'{"id": 2', b"[1]", {"id": "x"}, None, {"id": 3, "name": "b"}]


def test_poison_is_quarantined_with_its_place(shared, kafka):
    topic = kafka.topic()
    kafka.send(topic, POISON)
    s = Stream(shared, kafka, topic, on_reject="quarantine", max_rejects=4)
    run = s.good()
    assert s.ids == [1, 3]
    assert task_of(run, "read")["attempts"][-1]["metrics"]["rows_rejected"] == 4
    assert task_of(run, "read")["attempts"][-1]["metrics"]["tombstones"] == 1
    kept = shared.sql(f"SELECT file, line, reason, row FROM {s.table}__rejected ORDER BY line")
    assert [(r["file"], r["line"]) for r in kept] == [(f"topic {topic}, partition 0", n) for n in (1, 2, 3, 4)]
    assert "not JSON" in kept[0]["reason"] and kept[0]["row"] == "base64:/wA="
    assert "byte 9 of 8" in kept[1]["reason"] and kept[1]["row"] == '{"id": 2'
    assert "a list, not an object" in kept[2]["reason"]
    assert 'column "id": not of type BIGINT: x' in kept[3]["reason"]


def test_poison_fails_the_task_where_it_may_not(shared, kafka):
    topic = kafka.topic()
    kafka.send(topic, POISON)
    message = error(Stream(shared, kafka, topic).run())["message"]
    assert f"topic {topic}, partition 0, offset 4" in message or f"topic {topic}, partition 0, offset 1" in message
    s = Stream(shared, kafka, topic, on_reject="quarantine", max_rejects=3)
    assert "max_rejects is 3" in error(s.run())["message"]
    assert s.offsets == {}


def test_lost_data_is_told_and_decided_by_a_key(shared, kafka):
    topic = kafka.topic()
    s = Stream(shared, kafka, topic)
    kafka.send(topic, rows(0, 5))
    s.good()
    kafka.send(topic, rows(5, 20))
    kafka.expire(topic, 0, 12)
    told = error(s.run())
    assert "read to offset 5, and what is there begins at 12: 7 offsets are lost" in told["message"] and told["final"]
    assert "on_data_loss: continue" in told["message"]
    s.source["on_data_loss"] = "continue"
    s.write()
    s.good()
    assert s.ids == [*range(5), *range(12, 20)] and s.offsets == {0: 20}


def test_a_topic_that_was_made_anew(shared, kafka):
    topic = kafka.topic()
    s = Stream(shared, kafka, topic)
    kafka.send(topic, rows(0, 5))
    s.good()
    kafka.remove(topic)
    kafka.make(topic)
    kafka.send(topic, rows(5, 6))
    told = error(s.run())
    assert "it ends at 1: the topic was made anew" in told["message"] and told["final"]
    s.source["on_data_loss"] = "continue"
    s.write()
    s.good()
    assert s.ids == list(range(6)) and s.offsets == {0: 1}


def test_a_topic_that_is_not_there(shared, kafka):
    told = error(Stream(shared, kafka, "nowhere", retry={"max_attempts": 3, "interval": "0s"}).run())
    assert 'topic "nowhere"' in told["message"] and "kafka-topics --create" in told["message"] and told["final"]


def test_brokers_that_are_not_there_may_come(shared, kafka):
    s = Stream(shared, kafka, "x", {"brokers": "127.0.0.1:1", "timeout": "1s"}, retry={"max_attempts": 2, "interval": "0s"})
    run = s.run()
    told = error(run)
    assert "Kafka at 127.0.0.1:1" in told["message"] and "Connection refused" in told["message"] and not told.get("final")
    assert len(task_of(run, "read")["attempts"]) == 2


def secured(kafka, password):
    return {"brokers": kafka.sasl, "security": {"protocol": "sasl_plaintext", "mechanism": "PLAIN", "username": "reader", "password": password}}


def test_who_is_not_let_in_is_told_so(make_daemon, kafka):
    daemon = make_daemon(env={"GOOD": "s3cr3t-of-reader", "BAD": "wr0ng-password"})
    topic = kafka.topic()
    retry = {"max_attempts": 3, "interval": "0s"}
    told = error(Stream(daemon, kafka, topic, secured(kafka, "${secrets.bad}"), {"secrets": ["bad"]}, retry=retry).run())
    assert "security.password" in told["message"] or "security.username" in told["message"], told
    assert told["final"] and "wr0ng-password" not in json.dumps(told)
    s = Stream(daemon, kafka, topic, secured(kafka, "${secrets.good}"), {"secrets": ["good"]}, retry=retry)
    told = error(s.run())
    assert "kafka-acls --add --topic" in told["message"] and told["final"], told
    assert "s3cr3t" not in s.daemon.log


# ---- what is told elsewhere ----


def test_the_group_can_be_watched(shared, kafka):
    topic = kafka.topic()
    kafka.send(topic, rows(0, 4))
    s = Stream(shared, kafka, topic, {"group": f"watched-{topic}"})
    s.good()
    s.good()
    wait_until(lambda: kafka.committed(f"watched-{topic}", topic) == 4, "the group's offset")


def test_bad_settings_are_found_early(shared, folder):
    def problems(source):
        flow = {"id": "bad", "tasks": [{"id": "s", "type": "stage", "source": {"format": "kafka", "brokers": "x:1", "topic": "t", **source}, "target": {"path": "/x"}}]}
        answer = shared.post("/api/v1/validate", {"file": "bad.yaml", "source": json.dumps(flow)})
        return " ".join(p["message"] for p in answer["problems"])

    assert 'needs "columns"' in problems({})
    columns = {"columns": {"a": "INT"}}
    assert problems(columns) == ""
    assert "must be earliest, latest" in problems({**columns, "starting": "soon"})
    assert "is set by Sluice" in problems({**columns, "options": {"group.id": "x"}})
    assert 'needs "mechanism"' in problems({**columns, "security": {"protocol": "sasl_ssl"}})
    assert "does not go with format: kafka" in problems({**columns, "path": "x"})
