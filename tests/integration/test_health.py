"""What tables are made of and how healthy that is, compared with what PyIceberg sees."""

import os
import pathlib

import pyarrow as pa
import pytest
from conftest import why
from lake_files import catalog_of, plain

FLOW = """\
id: grow
concurrency: {max_active_runs: 1}
tasks:
  - {id: small, type: curate, into: h.small, sql: SELECT range AS n FROM range(10)}
  - {id: parts, type: curate, into: h.parts, partition_by: [p], sql: "SELECT range % 3 AS p, range AS n FROM range(30)"}
  - {id: whole, type: curate, into: h.whole, mode: overwrite, sql: SELECT 1 AS n}
  - {id: merged, type: curate, into: h.merged, mode: upsert, key: [n], properties: {write.merge.mode: merge-on-read}, sql: "SELECT range AS n, random() AS x FROM range(20)"}
"""


def health(daemon, match="*"):
    return {i["table"]: i for i in daemon.get(f"/api/v1/tables/health?match={match}")["items"]}


@pytest.fixture
def grown(daemon):
    daemon.flow("grow", FLOW)
    for _ in range(4):
        run = daemon.trigger("grow")
        assert run["state"] == "success", why(run)
    return daemon


def test_numbers_and_score(grown):
    seen, catalog = health(grown, "h.*"), catalog_of(grown)
    assert sorted(seen) == ["h.merged", "h.parts", "h.small", "h.whole"]
    for name, item in seen.items():
        table = catalog.load_table(name)
        files, manifests = table.inspect.files().to_pylist(), table.inspect.manifests().to_pylist()
        data = [f for f in files if f["content"] == 0]
        assert item["files"] == len(data) and item["bytes"] == sum(f["file_size_in_bytes"] for f in data), name
        assert item["records"] == sum(f["record_count"] for f in data)
        assert item["delete_files"] == len(files) - len(data)
        assert item["manifests"] == len(manifests) and item["manifest_bytes"] == sum(m["length"] for m in manifests)
        assert item["snapshots"] == len(table.snapshots())
        assert item["metadata_bytes"] == pathlib.Path(plain(table.metadata_location)).stat().st_size
        assert 0 <= item["score"] <= 100 and item["expirable_snapshots"] == 0
    small, parts, whole, merged = seen["h.small"], seen["h.parts"], seen["h.whole"], seen["h.merged"]
    assert (small["files"], small["small_files"], small["files_needed"], small["partitions"]) == (4, 4, 1, 1) and small["parts"]["files"] == 25
    assert (parts["files"], parts["partitions"], parts["files_needed"]) == (12, 3, 3) and parts["largest_partition_bytes"] * 3 >= parts["bytes"]
    assert (whole["files"], whole["small_files"], whole["score"], whole["parts"]["files"]) == (1, 0, 100, 100)
    assert merged["delete_files"] > 0 and merged["parts"]["deletes"] < 100 and merged["score"] < whole["score"]


def test_what_the_policy_lets_go(make_daemon):
    daemon = make_daemon(config="housekeeping: {expire_days: 0, keep_last: 2, target_file_size: 1KB}\n")
    daemon.flow("grow", FLOW)
    for _ in range(4):
        assert daemon.trigger("grow")["state"] == "success"
    catalog = catalog_of(daemon)
    table = catalog.load_table("h.small")
    table.manage_snapshots().create_tag(table.snapshots()[0].snapshot_id, "first").commit()
    seen = health(daemon)
    assert seen["h.small"]["expirable_snapshots"] == 1  # of four: one has a name, two are the newest
    assert seen["h.whole"]["expirable_snapshots"] == len(catalog.load_table("h.whole").snapshots()) - 2
    assert seen["h.small"]["parts"]["snapshots"] == 75


def test_each_table_has_its_own_policy(make_daemon):
    daemon = make_daemon(config="""\
housekeeping:
  expire_days: 30
  target_file_size: 1KB
  tables:
    local.h.s*: {expire_days: 0, keep_last: 3}
    h.small: {keep_last: 2}
    h.merged: {target_file_size: 1B}
""")
    daemon.flow("grow", FLOW)
    for _ in range(4):
        assert daemon.trigger("grow")["state"] == "success"
    catalog_of(daemon).register_table("h.twin", catalog_of(daemon).load_table("h.small").metadata_location)
    seen = health(daemon)
    assert seen["h.small"]["expirable_snapshots"] == 2 and seen["h.twin"]["expirable_snapshots"] == 0
    assert seen["h.parts"]["expirable_snapshots"] == 0
    assert seen["h.merged"]["small_files"] == 0 and seen["h.merged"]["files_needed"] == seen["h.merged"]["bytes"]
    assert seen["h.small"]["small_files"] == seen["h.twin"]["small_files"] == 4
    assert seen["h.parts"]["small_files"] == 12


def test_one_that_cannot_be_read_spoils_no_other(grown):
    table = catalog_of(grown).load_table("h.small")
    manifest = plain(table.current_snapshot().manifests(table.io)[0].manifest_path)
    os.unlink(manifest)
    seen = health(grown)
    assert manifest.rsplit("/", 1)[1] in seen["h.small"]["error"]
    assert seen["h.parts"]["files"] == 12 and seen["h.whole"]["score"] == 100
    os.unlink(plain(table.metadata_location))
    assert table.metadata_location.rsplit("/", 1)[1] in health(grown)["h.small"]["error"]


def test_two_tables_of_the_same_files(grown):
    catalog = catalog_of(grown)
    for name in ("small", "parts", "merged"):
        catalog.register_table(f"h.twin_{name}", catalog.load_table(f"h.{name}").metadata_location)
    seen = health(grown)
    for name in ("small", "parts", "merged"):
        assert seen[f"h.twin_{name}"] | {"table": ""} == seen[f"h.{name}"] | {"table": ""}


def test_empty_tables_pages_and_the_command_line(grown):
    catalog_of(grown).create_table("h.empty", pa.schema([("n", pa.int64())]))
    assert health(grown, "h.empty")["h.empty"] | {"score": 100, "files": 0, "records": 0, "snapshots": 0} == health(grown, "local.h.empty")["h.empty"]
    page = grown.get("/api/v1/tables/health?limit=2")
    assert [i["table"] for i in page["items"]] == ["h.empty", "h.merged"] and page["next"] == "h.merged"
    assert [i["table"] for i in grown.get(f"/api/v1/tables/health?limit=2&cursor={page['next']}")["items"]] == ["h.parts", "h.small"]
    text = grown.cli("tables", "health").stdout
    assert "4 of 4" in text and max(map(len, text.splitlines())) <= 80
    assert len(grown.cli("tables", "health", "h.s*").stdout.splitlines()) == 2
    assert "no tables" in grown.cli("tables", "health", "nothing.*").stderr
