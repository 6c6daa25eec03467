"""
Appends one row at a time to a table, at a steady rate, until its input ends; then says what became of it. A lean client: PyIceberg writes
the files, but the catalog is asked as sparingly as it can be, and a commit that somebody else came before is tried again at once.
    appender.py URI TOKEN TABLE RATE
"""
import copy
import http.client
import json
import secrets
import select
import shutil
import sys
import time
import urllib.parse

import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, read_manifest_list, write_manifest, write_manifest_list

uri, token, name, rate = sys.argv[1:]
table = RestCatalog("local", uri=uri, token=token).load_table(name)
table.append(pa.Table.from_pylist([{f.name: None for f in table.schema().fields}], schema=table.schema().as_arrow()))
added = next(m for m in table.current_snapshot().manifests(table.io) if m.added_snapshot_id == table.current_snapshot().snapshot_id)
like = added.fetch_manifest_entry(table.io)[0].data_file
server = http.client.HTTPConnection(urllib.parse.urlsplit(uri).netloc)
place = f"{urllib.parse.urlsplit(uri).path}/v1/namespaces/{name.split('.')[0]}/tables/{name.split('.')[1]}"


def ask(method, body=None):
    server.request(method, place + ("?snapshots=refs" if body is None else ""), body and json.dumps(body), {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
    answer = server.getresponse()
    return answer.status, json.loads(answer.read())


def new_file(kind, end):
    return f"{table.location()}/{kind}/{secrets.token_hex(16)}.{end}"


def append():
    """A file of its own, by a commit on top of whatever is there."""
    file = copy.deepcopy(like)
    file[1] = new_file("data", "parquet")  # its path
    shutil.copy(like.file_path.removeprefix("file://"), file.file_path.removeprefix("file://"))
    snapshot = secrets.randbits(62)
    with write_manifest(2, table.spec(), table.schema(), table.io.new_output(new_file("metadata", "avro")), snapshot, "null") as writer:
        writer.add_entry(ManifestEntry.from_args(status=ManifestEntryStatus.ADDED, snapshot_id=snapshot, sequence_number=None, file_sequence_number=None, data_file=file))
    mine = writer.to_manifest_file()
    while True:
        md = ask("GET")[1]["metadata"]
        parent = next(s for s in md["snapshots"] if s["snapshot-id"] == md["current-snapshot-id"])
        sequence, path = md["last-sequence-number"] + 1, new_file("metadata", "avro")
        with write_manifest_list(2, table.io.new_output(path), snapshot, parent["snapshot-id"], sequence, "null") as lists:
            lists.add_manifests([copy.deepcopy(mine), *read_manifest_list(table.io.new_input(parent["manifest-list"]))])
        total = {k: str(int(parent["summary"][f"total-{k}"]) + 1) for k in ("records", "data-files")}
        status, answer = ask("POST", {
            "requirements": [{"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": parent["snapshot-id"]}],
            "updates": [{"action": "add-snapshot", "snapshot": {
                "snapshot-id": snapshot, "parent-snapshot-id": parent["snapshot-id"], "sequence-number": sequence, "timestamp-ms": int(time.time() * 1000), "manifest-list": path,
                "summary": {"operation": "append", "added-records": "1", "added-data-files": "1", **{f"total-{k}": v for k, v in total.items()}}, "schema-id": table.schema().schema_id}},
                {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": snapshot}]})
        if status == 200:
            return
        if status != 409:
            raise RuntimeError(f"{status}: {answer}")


done, failed, slowest = 0, [], 0
print("ready", flush=True)
sys.stdin.readline()
started = due = time.monotonic()
while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
    due = max(due + 1 / float(rate), time.monotonic() - 1)
    began = time.monotonic()
    try:
        append()
        done += 1
    except Exception as e:  # noqa: BLE001
        failed.append(f"{type(e).__name__}: {e}")
    slowest = max(slowest, time.monotonic() - began)
print(json.dumps({"done": done, "failed": failed, "seconds": time.monotonic() - started, "slowest": slowest}), flush=True)
