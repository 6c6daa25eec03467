"""The broker of tests/services/kafka, and what tests ask of it by a client of its own."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from conftest import PATIENCE, ROOT, alive, wait_until

SERVICES = pathlib.Path(os.environ.get("SLUICE_BUILD") or ROOT / "build") / "services"
SCRIPT = ROOT / "tests" / "services" / "kafka"


class Kafka:
    def __init__(self):
        sys.path.append(str(SERVICES / "kafka" / "python"))
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="sl-kafka-"))
        self.topics = 0

    def start(self):
        done = subprocess.run([SCRIPT, "start", self.folder], env={**os.environ, "SLUICE_BUILD": str(SERVICES.parent)}, capture_output=True, text=True)
        if done.returncode == 3:
            pytest.skip(done.stderr.strip())
        assert done.returncode == 0, done.stdout + done.stderr
        self.address, self.sasl = ((self.folder / name).read_text() for name in ("address", "address.sasl"))
        return self

    def make_certificates(self):
        """An authority of its own, which vouches for localhost; before the first start."""

        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=self.folder, check=True, capture_output=True)

        key = ["-newkey", "rsa:2048", "-nodes", "-subj"]
        (self.folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        openssl("req", "-x509", *key, "/CN=test authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem")
        openssl("req", *key, "/CN=localhost", "-keyout", "server.key", "-out", "server.csr")
        openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.pem")
        (self.folder / "tls.pem").write_text((self.folder / "server.key").read_text() + (self.folder / "server.pem").read_text())

    @property
    def tls(self):
        return (self.folder / "address.tls").read_text()

    def kill(self):
        """As a machine that goes: nobody is told."""
        pid = int((self.folder / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "the broker's death")

    def stop(self):
        subprocess.run([SCRIPT, "stop", self.folder], check=True)

    def close(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- topics ----

    @functools.cached_property
    def admin(self):
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def topic(self, partitions=1, **config):
        """A new one; its name."""
        self.topics += 1
        return self.make(f"t{self.topics}", partitions, config)

    def make(self, name, partitions=1, config=None):
        from confluent_kafka.admin import NewTopic

        self.admin.create_topics([NewTopic(name, partitions, 1, config=config or {})])[name].result(PATIENCE)
        self.wait_for_partitions(name, partitions)
        return name

    def wait_for_partitions(self, name, partitions):
        wait_until(lambda: len(self.admin.list_topics(name, timeout=PATIENCE).topics[name].partitions) == partitions, f"topic {name}")

    def add_partitions(self, name, partitions):
        from confluent_kafka.admin import NewPartitions

        self.admin.create_partitions([NewPartitions(name, partitions)])[name].result(PATIENCE)
        self.wait_for_partitions(name, partitions)

    def remove(self, name):
        self.admin.delete_topics([name])[name].result(PATIENCE)
        wait_until(lambda: name not in self.admin.list_topics(timeout=PATIENCE).topics, f"the end of topic {name}")

    def expire(self, name, partition, before):
        """As retention does it."""
        from confluent_kafka import TopicPartition

        at = TopicPartition(name, partition, before)
        next(iter(self.admin.delete_records([at]).values())).result(PATIENCE)

    def end(self, name, partition=0, level="READ_UNCOMMITTED"):
        """The offset of the next message."""
        from confluent_kafka import IsolationLevel, TopicPartition
        from confluent_kafka.admin import OffsetSpec

        at = TopicPartition(name, partition)
        return self.admin.list_offsets({at: OffsetSpec.latest()}, isolation_level=IsolationLevel[level])[at].result(PATIENCE).offset

    def settle(self, name):
        """Waits until readers see the end of the last transaction, which the brokers have answered before."""
        wait_until(lambda: self.end(name, level="READ_COMMITTED") == self.end(name), f"the end of transactions in {name}")

    # ---- messages ----

    def producer(self, **config):
        from confluent_kafka import Producer

        return Producer({"bootstrap.servers": self.address, "linger.ms": 0, "log_level": 0, **config})

    def send(self, name, values, partition=0, keys=None, **kw):
        """Values as they are: bytes and None; anything else as JSON."""
        producer, bad = self.producer(), []
        for i, value in enumerate(values):
            body = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
            producer.produce(name, body, key=keys[i] if keys else None, partition=partition, on_delivery=lambda e, m: e and bad.append(e), **kw)
        assert producer.flush(PATIENCE) == 0 and not bad, bad

    def committed(self, group, name, partition=0):
        """What the brokers have as the group's offset; None: nothing."""
        from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(name, partition)])
        offset = next(iter(self.admin.list_consumer_group_offsets([asked]).values())).result(PATIENCE).topic_partitions[0].offset
        return offset if offset >= 0 else None

    def read(self, name, **config):
        """All messages that are there: (key, value, headers, partition)."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "reader", "enable.partition.eof": True, "auto.offset.reset": "earliest", **config})
        parts = list(consumer.list_topics(name, timeout=PATIENCE).topics[name].partitions)
        consumer.assign([TopicPartition(name, p, 0) for p in parts])
        out, ends = [], 0
        while ends < len(parts):
            message = consumer.poll(PATIENCE)
            assert message is not None, "the broker says nothing"
            if message.error():
                assert message.error().name() == "_PARTITION_EOF", message.error()
                ends += 1
            else:
                out.append((message.key(), message.value(), message.headers(), message.partition()))
        consumer.close()
        return out


RUNNING = pytest.StashKey[Kafka]()


@pytest.fixture
def kafka(request):
    """One for all tests of a process, whatever module they are in; whoever stops it starts it again."""
    stash = request.config.stash
    if RUNNING not in stash:
        broker = Kafka()
        request.config.add_cleanup(broker.close)
        if shutil.which("openssl"):
            broker.make_certificates()
        stash[RUNNING] = broker.start()
    return stash[RUNNING]
