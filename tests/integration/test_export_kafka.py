"""export to Kafka: a message a row, all in one transaction, once however often the task is tried."""

import json

import pytest

from conftest import PATIENCE, task_of, wait_until, why
from kafka_broker import kafka  # noqa: F401

COUNT = iter(range(10**6))
SQL = "SELECT i AS id, 'n' || i AS name, (i / 4)::DECIMAL(9,3) AS amount, CASE WHEN i % 2 = 0 THEN ['a', 'b'] END AS tags FROM range({}) t(i)"


def export(daemon, kafka, topic, sql=SQL.format(5), flow=None, run=None, retry=None, **to):
    fid = f"x{next(COUNT)}"
    task = {"id": "send", "type": "export", "from": {"sql": sql}, "to": {"format": "kafka", "brokers": kafka.address, "topic": topic, "timeout": "20s", **to}}
    daemon.flow(fid, json.dumps({"id": fid, "tasks": [{**task, **({"retry": retry} if retry else {})}], **(flow or {})}))
    return fid if run is False else daemon.trigger(fid, **(run or {}))


def good(run):
    assert run["state"] == "success", why(run)
    return task_of(run, "send")


def error(run):
    assert run["state"] == "failed", run
    return task_of(run, "send")["attempts"][-1]["error"]


def test_a_message_a_row(shared, kafka):
    topic = kafka.topic(3)
    task = good(export(shared, kafka, topic, key="id"))
    assert task["outputs"] == {"topic": topic, "rows": 5} and task["attempts"][-1]["metrics"]["rows_out"] == 5
    messages = kafka.read(topic)
    assert sorted(m[0] for m in messages) == [b"0", b"1", b"2", b"3", b"4"]
    values = {int(m[0]): m[1] for m in messages}
    assert values[1] == b'{"id":1,"name":"n1","amount":0.25,"tags":null}'
    assert json.loads(values[2]) == {"id": 2, "name": "n2", "amount": 0.5, "tags": ["a", "b"]}
    good(export(shared, kafka, topic))
    assert sum(m[0] is None for m in kafka.read(topic)) == 5, "another run adds its own"


def test_a_rehearsal_sends_nothing(shared, kafka):
    topic = kafka.topic()
    assert export(shared, kafka, topic, run={"rehearsal": True})["state"] == "success"
    assert kafka.read(topic) == []


def test_who_reads_next_sees_all_of_it(shared, kafka):
    """Brokers answer a commit before readers see it; here somebody else's transaction makes that long."""
    topic = kafka.topic()
    other = kafka.producer(**{"transactional.id": f"other-{topic}"})
    other.init_transactions()
    other.begin_transaction()
    other.produce(topic, b"of somebody else")
    assert other.flush(PATIENCE) == 0
    run = shared.post(f"/api/v1/flows/{export(shared, kafka, topic, run=False)}/runs")
    wait_until(lambda: kafka.end(topic) == 1 + 5 + 1, "the end of our transaction")
    good(export(shared, kafka, kafka.topic()))
    assert shared.run(run["id"])["state"] == "running"
    other.abort_transaction()
    good(shared.ended(run["id"]))
    assert len(kafka.read(topic)) == 5


def test_what_the_brokers_refuse_is_named_and_nothing_is_left(shared, kafka):
    topic = kafka.topic(**{"max.message.bytes": "2000"})
    told = error(export(shared, kafka, topic, "SELECT i AS id, repeat('x', 1000 * i) AS x FROM range(4) t(i)", options={"linger.ms": "0"}))
    assert f'is not taken by topic "{topic}"' in told["message"] and "max.message.bytes" in told["message"] and told["final"], told
    assert kafka.read(topic) == []
    told = error(export(shared, kafka, "nowhere"))
    assert 'topic "nowhere"' in told["message"] and told["final"]
    told = error(export(shared, kafka, topic, key="idd"))
    assert 'no column "idd" for the key; did you mean "id"?' in told["message"]


@pytest.mark.parametrize("point", ["export.commit.before", "export.commit.after", "task.end"])
def test_a_retry_doubles_nothing(make_daemon, kafka, folder, point):
    faults = folder / "faults"
    faults.write_text(f"{point}=kill")
    daemon = make_daemon(env={"SLUICE_FAULT": str(faults)})
    topic = kafka.topic()
    task = good(export(daemon, kafka, topic, retry={"max_attempts": 2, "interval": "0s"}))
    assert [a["state"] for a in task["attempts"]] == ["failed", "success"]
    assert task["outputs"]["rows"] == 5
    assert len(kafka.read(topic)) == 5, "nobody waits for a transaction that nobody ends"
