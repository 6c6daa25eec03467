"""The tables' numbers at /metrics: those of a survey in memory, which no scrape waits for."""

import os
import re
import signal
import time

from conftest import wait_until
from lake_files import catalog_of

FLOW = """\
id: grow
concurrency: {max_active_runs: 1}
tasks:
  - {id: small, type: curate, into: h.small, sql: SELECT range AS n FROM range(10)}
  - {id: merged, type: curate, into: h.merged, mode: upsert, key: [n], properties: {write.merge.mode: merge-on-read}, sql: "SELECT range AS n, random() AS x FROM range(2000)"}
"""
NAMES = {
    "bytes": "bytes",
    "files": "files",
    "small_files": "small_files",
    "delete_files": "delete_files",
    "snapshots": "snapshots",
    "metadata_bytes": "metadata_bytes",
    "health_score": "score",
}


def scrape(daemon):
    """{metric: {table: value}}; a metric without labels has the table ""."""
    out, begun = {}, time.monotonic()
    answer = daemon.request("GET", "/metrics")
    assert answer.status == 200 and time.monotonic() - begun < 2
    for line in answer.text.splitlines():
        match = re.fullmatch(r'(sluice_tables?\w*)(?:\{table="((?:[^"\\]|\\.)*)"\})? (-?\d+)', line)
        if match:
            out.setdefault(match[1], {})[match[2] or ""] = int(match[3])
    return out


def surveyed(daemon):
    return wait_until(lambda: (seen := scrape(daemon)).get("sluice_tables") and seen, "a survey of the tables")


def test_what_the_health_says(daemon):
    daemon.flow("grow", FLOW)
    for _ in range(3):
        assert daemon.trigger("grow")["state"] == "success"
    assert scrape(daemon) == {}  # it begins a survey and does not wait for it
    seen = surveyed(daemon)
    assert seen["sluice_tables"] == seen["sluice_tables_surveyed"] == {"": 2} and seen["sluice_tables_unreadable"] == {"": 0}
    assert abs(seen["sluice_tables_time_seconds"][""] - time.time()) < 60
    for item in daemon.get("/api/v1/tables/health")["items"]:
        for name, key in NAMES.items():
            assert seen[f"sluice_table_{name}"][item["table"]] == item[key], (item, name)
    assert seen["sluice_table_delete_files"]["h.merged"] > 0
    assert daemon.trigger("grow")["state"] == "success"
    assert scrape(daemon) == seen  # a minute long


def test_labels_are_bounded(daemon):
    daemon.flow("grow", FLOW)
    assert daemon.trigger("grow")["state"] == "success"
    catalog = catalog_of(daemon)
    for n in range(203):
        catalog.register_table(f'h.a"copy_{n}', catalog.load_table("h.small").metadata_location)
    os.unlink(catalog.load_table("h.merged").metadata_location.removeprefix("file://"))
    seen, one = surveyed(daemon), daemon.get("/api/v1/tables/health?match=h.small")["items"][0]
    assert seen["sluice_tables"] == {"": 205} and seen["sluice_tables_unreadable"] == {"": 1}
    assert len(seen["sluice_table_bytes"]) == 201 and len(seen["sluice_table_health_score"]) == 200
    assert sum('a\\"copy_' in table for table in seen["sluice_table_bytes"]) >= 199
    for name, key in NAMES.items():
        if name != "health_score":
            assert seen[f"sluice_table_{name}"]["(others)"] == 4 * one[key], name


def test_nothing_waits(daemon):
    """Neither a nursery that stands still nor a table that cannot be read holds a scrape up."""
    daemon.flow("grow", FLOW)
    assert daemon.trigger("grow")["state"] == "success"
    nursery = int((daemon.home / "nursery.pid").read_text())
    os.kill(nursery, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert scrape(daemon) == {}
    finally:
        os.kill(nursery, signal.SIGCONT)
    assert surveyed(daemon)["sluice_tables"] == {"": 2}
