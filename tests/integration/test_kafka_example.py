"""examples/kafka by its one command, and its flows as they stand."""

import re

import examples
from kafka_broker import kafka  # noqa: F401


def test_by_one_command(folder, kafka):
    example = examples.copied(folder, "kafka")
    kafka.make("orders", 3)
    done = examples.run(example / "run", BROKERS=kafka.address)
    assert "1000 messages of 3 partitions" in done.stdout and "500 messages of 3 partitions" in done.stdout, done.stdout
    assert re.search(r"(?m)^ *1500 +1500 +71672.50", done.stdout), done.stdout
