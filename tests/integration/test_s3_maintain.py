"""Maintenance of a lake on S3: what is needed stays, all else goes, and keys that may not delete are told."""

import json
import re

import pytest
from conftest import task_of, wait_until, why
from lake_files import needed, tables
from s3_stores import front
from test_maintain import GROW, maintain, report_of, rows, steps_of
from test_s3_ways import BUCKET, config, keys, running

FIELDS = [{"id": 1, "name": "n", "type": "long", "required": False}, {"id": 2, "name": "s", "type": "string", "required": False}]
ALL = {"compact": {"min_input_files": 2}, "rewrite_manifests": "always", "expire_snapshots": {"older_than": "0s"}, "remove_orphan_files": {"older_than": "0s"}}


@pytest.fixture(scope="module")
def store():
    with running("seaweedfs") as made:
        yield made


def key_of(location):
    return re.sub(rf"^s3[an]?://{BUCKET}/", "", location)


def missing_and_spare(daemon, store, prefix):
    need = {key_of(f) for t in tables(daemon) for f in needed(t)}
    have = set(store.keys(BUCKET, prefix))
    return need - have, have - need


def lake(make_daemon, store, prefix, endpoint=None, flow=GROW, times=3):
    """The tables of a flow, and two more, of which one calls its store s3a."""
    settings = config(endpoint or store.endpoint).replace(f"{BUCKET}/lake", f"{BUCKET}/{prefix}").replace("warehouse:", "cleanup_after: 100ms, warehouse:")
    daemon = make_daemon(config=settings, env=keys())
    assert daemon.request("POST", "/iceberg/v1/namespaces", {"namespace": ["m"]}).status == 200
    for name, scheme in (("spelled", "s3a"), ("other", "s3")):
        body = {"name": name, "location": f"{scheme}://{BUCKET}/{prefix}/m/{name}", "schema": {"type": "struct", "schema-id": 0, "fields": FIELDS}}
        answer = daemon.request("POST", "/iceberg/v1/namespaces/m/tables", body)
        assert answer.status == 200, answer
    more = "".join(f"  - {{id: {n}, type: curate, into: m.{n}, sql: \"SELECT ${{params.n}}::BIGINT AS n, 'x' AS s\"}}\n" for n in ("spelled", "other"))
    daemon.flow("grow", flow + more)
    for n in range(times):
        run = daemon.trigger("grow", params={"n": n})
        assert run["state"] == "success", why(run)
    return daemon


NAMES = ["m.merged", "m.parts", "m.plain", "m.sorted", "m.spelled", "m.other"]


def test_everything(make_daemon, store):
    daemon = lake(make_daemon, store, "whole")
    before = rows(daemon, NAMES)
    strays = [f"whole/m/{t}/{where}" for t in ("plain", "spelled") for where in ("data/lost.parquet", "metadata/lost-m0.avro", "data/p=1/ñ x.parquet")]
    for key in strays:
        store.put(BUCKET, key, b"x" * 10)
    dry = maintain(daemon, dry_run=True, **ALL)
    assert dry["orphans"] == 6 and set(strays) <= set(store.keys(BUCKET, "whole/"))
    report = maintain(daemon, **ALL)
    assert rows(daemon, NAMES) == before
    assert report["orphans"] == 6 and report["changed"] == 6, report
    missing, spare = missing_and_spare(daemon, store, "whole/")
    assert not missing and not spare, (missing, spare)
    assert maintain(daemon, **{**ALL, "rewrite_manifests": "auto"})["changed"] == 0


@pytest.fixture
def guard(store):
    """In front of the store: passes everything on, but the removal of what `guard.held` names, which gets `guard.answer`."""

    def meet(request, body):
        many = request.command == "POST" and request.path.endswith("delete=")
        held = guard.held and (request.command == "DELETE" or many) and guard.held.encode() in request.path.encode() + body
        if held and guard.answer == 403:
            return 403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
        if held:
            names = re.findall(rb"<Key>(.*?)</Key>", body)
            errors = b"".join(b"<Error><Key>%s</Key><Code>AccessDenied</Code><Message>no</Message></Error>" % k for k in names)
            return 200, b"<DeleteResult>" + errors + b"</DeleteResult>"
        return None

    with front(store, meet) as guard:
        guard.held, guard.answer = None, 403
        yield guard


def test_keys_that_may_not_delete(make_daemon, store, guard):
    names = ["m.plain", "m.spelled", "m.other"]
    flow = "".join(line for line in GROW.splitlines(True) if "into:" not in line or "m.plain" in line)
    daemon = lake(make_daemon, store, "held", guard.endpoint, flow, times=2)
    before = rows(daemon, names)
    guard.held = "held/m/plain/"
    for guard.answer in (403, 200):
        daemon.flow("keep", json.dumps({"id": "keep", "tasks": [{"id": "keep", "type": "maintain", "tables": "*", **ALL}]}))
        store.put(BUCKET, "held/m/plain/data/lost.parquet", b"x")
        run = daemon.trigger("keep")
        said = task_of(run, "keep")["error"]
        assert run["state"] == "failed" and "1 of 3 tables" in said and "m.plain" in said and "AccessDenied" in said and f"s3://{BUCKET}" in said, said
        report = report_of(daemon, run)
        assert report["failed"] == 1 and all(steps_of(report, n)["remove_orphan_files"]["state"] != "failed" for n in names if n != "m.plain")
        assert rows(daemon, names) == before
        assert not missing_and_spare(daemon, store, "held/")[0]
    guard.held = None
    assert maintain(daemon, **ALL)["failed"] == 0
    wait_until(lambda: missing_and_spare(daemon, store, "held/") == (set(), set()), "what was left")
    assert rows(daemon, names) == before
