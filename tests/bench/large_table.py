"""
Makes a table of so many files and snapshots as years of appends by a writer that merges manifests leave it, without these commits.
    large_table.py URI TOKEN TABLE FILES SNAPSHOTS
"""
import json
import os
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry, ManifestEntryStatus, write_manifest, write_manifest_list
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType, NestedField, StringType

PARTITIONS, ROWS, MERGED = 100, 3, 100
MINUTE = 60_000
AGE = 20 * 24 * 60 * MINUTE  # of the newest snapshot

uri, token, name, files, snapshots = sys.argv[1:4] + [int(a) for a in sys.argv[4:]]
catalog = RestCatalog("local", uri=uri, token=token)
catalog.create_namespace_if_not_exists(name.split(".")[0])
schema = Schema(NestedField(1, "p", IntegerType()), NestedField(2, "n", LongType()), NestedField(3, "s", StringType()))
table = catalog.create_table(name, schema=schema, partition_spec=PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "p")))
folder, io, spec, arrow = table.location(), table.io, table.spec(), schema.as_arrow()
for p in range(PARTITIONS):
    os.makedirs(f"{folder.removeprefix('file://')}/data/p={p}")


def data_file(i):
    p, n = i % PARTITIONS, range(i * ROWS, (i + 1) * ROWS)
    url = f"{folder}/data/p={p}/f{i}.parquet"
    path = url.removeprefix("file://")
    pq.write_table(pa.table({"p": pa.array([p] * ROWS, pa.int32()), "n": pa.array(n, pa.int64()), "s": [f"row {x}" for x in n]}, schema=arrow), path)
    return DataFile.from_args(
        content=DataFileContent.DATA, file_path=url, file_format=FileFormat.PARQUET, partition=Record(p), record_count=ROWS, file_size_in_bytes=os.path.getsize(path), column_sizes={},
        value_counts={}, null_value_counts={}, nan_value_counts={}, lower_bounds={2: n[0].to_bytes(8, "little")}, upper_bounds={2: n[-1].to_bytes(8, "little")}, split_offsets=[4],
        sort_order_id=0, equality_ids=None, key_metadata=None)


def manifest(file, snapshot, entries):
    with write_manifest(2, spec, schema, io.new_output(f"{folder}/metadata/{file}.avro"), snapshot, "deflate") as writer:
        for by, sequence, added in entries:
            status = ManifestEntryStatus.EXISTING if sequence else ManifestEntryStatus.ADDED
            entry = ManifestEntry.from_args(status=status, snapshot_id=by, sequence_number=sequence, file_sequence_number=sequence, data_file=added)
            writer.existing(entry) if sequence else writer.add(entry)
    return writer.to_manifest_file()


merged, fresh, history, parent, made = [], [], [], None, 0
newest = int(time.time() * 1000) - AGE
for k in range(1, snapshots + 1):
    snapshot, added = k * 1_000_003, [data_file(i) for i in range(made, made + files // snapshots)]
    made += len(added)
    if len(fresh) == MERGED:
        merged.append(manifest(f"merged-{k}", snapshot, [(by, sequence, f) for _, by, sequence, fs in fresh for f in fs]))
        fresh = []
    fresh.append((manifest(f"m-{k}", snapshot, [(snapshot, None, f) for f in added]), snapshot, k, added))
    path = f"{folder}/metadata/snap-{snapshot}.avro"
    listed = [*merged, *(m for m, *_ in fresh)]
    with write_manifest_list(2, io.new_output(path), snapshot, parent, k, "deflate") as writer:
        writer.add_manifests(listed)
    for m in listed:  # what came now has its numbers from here on
        for at in (4, 5):
            if m[at] in (None, -1):
                m[at] = k
    history.append({
        "snapshot-id": snapshot, "sequence-number": k, "timestamp-ms": newest - (snapshots - k) * MINUTE, "manifest-list": path, "schema-id": 0,
        "summary": {"operation": "append", "total-data-files": str(made), "total-records": str(made * ROWS)}, **({"parent-snapshot-id": parent} if parent else {})})
    parent = snapshot
md = json.loads(table.metadata.model_dump_json()) | {
    "snapshots": history, "snapshot-log": [{k: s[k] for k in ("snapshot-id", "timestamp-ms")} for s in history], "current-snapshot-id": parent,
    "refs": {"main": {"type": "branch", "snapshot-id": parent}}, "last-sequence-number": snapshots, "last-updated-ms": int(time.time() * 1000)}
catalog.drop_table(name)
path = f"{folder}/metadata/00001-11111111-1111-4111-8111-111111111111.metadata.json"
with open(path.removeprefix("file://"), "w", encoding="utf-8") as f:
    json.dump(md, f)
catalog.register_table(name, path)
