"""Every write mode with rows checked, and runs that die half-way, on S3 stores."""

import pyarrow as pa
import pytest
from pyiceberg.catalog.rest import RestCatalog

from conftest import task_of, wait_until, why
from ports import free_port
from test_s3_ways import BUCKET, STORES, config, keys, running
from test_write_modes import Lake


@pytest.fixture(scope="module", params=STORES)
def store(request):
    with running(request.param) as made:
        yield made


def start(make_daemon, store, **env):
    """At one address over its restarts: attempts wait for it there."""
    settings = config(store.endpoint).replace("warehouse:", "cleanup_after: 200ms, warehouse:")
    return make_daemon(config=settings, env=keys(**env), args=["--listen", f"127.0.0.1:{free_port()}"])


def part(store, prefix):
    return sorted(store.keys(BUCKET, prefix))


class FarLake(Lake):
    def __init__(self, daemon, folder):
        super().__init__(daemon, folder)
        self.catalog = RestCatalog("local", uri=f"{daemon.url}/iceberg", token=daemon.token)


@pytest.fixture
def lake(make_daemon, folder, store):
    made = FarLake(start(make_daemon, store), folder)
    yield made
    for namespace in made.catalog.list_namespaces():
        for table in made.catalog.list_tables(namespace):
            made.catalog.purge_table(table)


def rows(ids, value):
    return [{"id": i, "region": "eu" if i % 2 else "us", "v": value} for i in ids]


@pytest.mark.parametrize("how", ["copy-on-write", "merge-on-read"])
def test_every_mode(lake, store, how):
    properties = "{" + ", ".join(f"write.{verb}.mode: {how}" for verb in ("merge", "delete", "update")) + "}"
    lake.write(rows(range(10), "a"), partition_by="[region]", properties=properties)
    lake.write(rows(range(10, 14), "b"))
    model = {r["id"]: r for r in rows(range(10), "a") + rows(range(10, 14), "b")}
    lake.check(model.values())

    lake.write(rows([3, 20], "c"), mode="upsert", key="[id]")
    model.update({r["id"]: r for r in rows([3, 20], "c")})
    lake.check(model.values())
    deletes = [f for f in lake.files() if f["content"] != 0]
    assert bool(deletes) == (how == "merge-on-read") and all(f["file_path"].startswith(f"s3://{BUCKET}/lake/a/t/") for f in lake.files())

    lake.write(rows([1, 99], "d"), mode="overwrite_partitions")  # all of eu
    model = {i: r for i, r in model.items() if r["region"] == "us"} | {r["id"]: r for r in rows([1, 99], "d")}
    lake.check(model.values())

    wider = [{"id": 2**40, "region": "eu", "v": "e", "more": 1.5}]
    lake.write(wider, schema_evolution="add_columns")
    model = {i: {**r, "more": None} for i, r in model.items()} | {2**40: wider[0]}
    lake.check(model.values())

    lake.write(rows([7], "f"), mode="overwrite", schema_evolution="add_columns")
    lake.check([{**r, "more": None} for r in rows([7], "f")])
    lake.write([{"n": 1, "t": "x"}], mode="replace", partition_by='["bucket(2, n)"]')
    lake.check([{"n": 1, "t": "x"}])
    assert len(lake.table().history()) >= 6


def test_a_type_that_is_widened(lake):
    lake.write([{"n": 1}], schema=pa.schema([("n", pa.int32())]))
    lake.write([{"n": 2**40}], schema=pa.schema([("n", pa.int64())]), schema_evolution="widen")
    lake.check([{"n": 1}, {"n": 2**40}])


# ---- runs that die ----

TWO = """
id: two
tasks:
  - {id: a, type: curate, into: k.a, mode: MODE, sql: "SELECT i AS n FROM range(1000) r(i)"RETRY}
  - {id: b, type: curate, depends_on: [a], into: k.b, mode: MODE, sql: "SELECT i AS n FROM range(1000) r(i)"RETRY}
"""


def two(daemon, mode="append", retry=True):
    daemon.flow("two", TWO.replace("MODE", mode).replace("RETRY", ", retry: {max_attempts: 3, interval: 0s}" if retry else ""))


def counts(daemon):
    listed = {t["name"] for t in daemon.get("/api/v1/tables?namespace=k")["items"]}
    return {name: daemon.sql(f"SELECT count(*) AS n FROM {name}")[0]["n"] for name in sorted(listed)}


def needed(daemon, name):
    """Every file that the table's states name."""
    table = RestCatalog("local", uri=f"{daemon.url}/iceberg", token=daemon.token).load_table(name)
    found = {table.metadata_location, *(e.metadata_file for e in table.metadata.metadata_log)}
    for snapshot in table.metadata.snapshots:
        found.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(table.io):
            found.add(manifest.manifest_path)
            found |= {e.data_file.file_path for e in manifest.fetch_manifest_entry(table.io)}
    return {f.split(f"s3://{BUCKET}/", 1)[1] for f in found}


@pytest.mark.parametrize("point", ["write.data.before", "write.data.after", "write.commit.before", "write.commit.after", "catalog.commit.before", "catalog.commit.after"])
def test_killed_at_every_step_of_a_write(make_daemon, folder, store, point):
    """The attempt (or the daemon, by the point's name) dies in the second task: nothing is seen of the run before it is done, no row is doubled,
    and what the dead left on the store is removed."""
    faults = folder / "faults"
    faults.write_text("")
    daemon = start(make_daemon, store, SLUICE_FAULT=faults)
    two(daemon)
    assert (first := daemon.trigger("two"))["state"] == "success", why(first)
    assert counts(daemon) == {"k.a": 1000, "k.b": 1000}
    faults.write_text(f"{point}:2=kill\n")
    run_id = daemon.post("/api/v1/flows/two/runs")["id"]
    if point.startswith("catalog"):
        daemon.process.wait(60)
        daemon.start()
    assert (run := daemon.ended(run_id))["state"] == "success", why(run)
    assert counts(daemon) == {"k.a": 2000, "k.b": 2000}
    for name in ("a", "b"):
        wanted = needed(daemon, f"k.{name}")
        wait_until(lambda: wanted == set(part(store, f"lake/k/{name}/")), f"a store with the files of k.{name} alone")
    drop(daemon)


def drop(daemon):
    catalog = RestCatalog("local", uri=f"{daemon.url}/iceberg", token=daemon.token)
    for table in catalog.list_tables("k"):
        catalog.purge_table(table)


def test_a_run_that_is_killed_and_not_tried_again(make_daemon, folder, store):
    faults = folder / "faults"
    faults.write_text("write.data.after:2=kill\n")
    daemon = start(make_daemon, store, SLUICE_FAULT=faults)
    two(daemon, retry=False)
    run = daemon.trigger("two")
    assert run["state"] == "failed" and task_of(run, "a")["state"] == "success" and "signal 9" in why(run), why(run)
    assert counts(daemon) == {}
    wait_until(lambda: part(store, "lake/k/") == [], "a store without files of the run")


# ---- folders of files ----

DAYS = f"""
id: days
tasks:
  - id: s
    type: stage
    retry: {{max_attempts: 2, interval: 0s}}
    source: {{format: csv, path: "s3://{BUCKET}/raw/days.csv"}}
    target: {{path: "s3://{BUCKET}/days", partition_by: [day]}}
  - {{id: p, type: publish, depends_on: [s], from: "${{tasks.s.outputs.path}}", into: stg.days, mode: overwrite}}
"""


def days(store, values):
    store.put(BUCKET, "raw/days.csv", b"n,day\n" + "".join(f"{n},{day}\n" for n, day in enumerate(values)).encode())


def test_a_folder_is_whole_or_not_marked(make_daemon, folder, store):
    faults = folder / "faults"
    faults.write_text("")
    daemon = start(make_daemon, store, SLUICE_FAULT=faults)
    daemon.flow("days", DAYS)
    days(store, ["mon", "tue", "wed"])
    assert (first := daemon.trigger("days"))["state"] == "success", why(first)
    before = part(store, "days/")
    assert "days/_SUCCESS" in before and len(before) == 4 and all(f"{first['id']}-s-1-" in k for k in before if k.endswith(".parquet"))

    # It dies when some of the new files are there: the next attempt makes the folder whole again, and what follows reads its files alone.
    days(store, ["mon", "tue", "thu", "fri"])
    faults.write_text("stage.send.between:2=kill\n")
    run = daemon.trigger("days")
    assert run["state"] == "success" and len(task_of(run, "s")["attempts"]) == 2, why(run)
    after = part(store, "days/")
    assert len(after) == 5 and "days/_SUCCESS" in after and all(f"{run['id']}-s-2-" in k for k in after if k.endswith(".parquet"))
    assert [r["day"] for r in daemon.sql("SELECT day FROM stg.days ORDER BY n::INT")] == ["mon", "tue", "thu", "fri"]

    # It dies, and nobody tries again: there is no mark, and the next run goes on from there.
    daemon.flow("days", DAYS.replace("max_attempts: 2", "max_attempts: 1"))
    faults.write_text("stage.send.between:2=kill\n")
    assert daemon.trigger("days")["state"] == "failed"
    assert "days/_SUCCESS" not in part(store, "days/")
    assert daemon.sql("SELECT count(*) AS n FROM stg.days") == [{"n": 4}]
    assert daemon.trigger("days")["state"] == "success"
    assert len(part(store, "days/")) == 5 and "days/_SUCCESS" in part(store, "days/")


def test_a_folder_of_somebody_else(make_daemon, store):
    daemon = start(make_daemon, store)
    daemon.flow("days", DAYS.replace(f"s3://{BUCKET}/days", f"s3://{BUCKET}/theirs"))
    days(store, ["mon"])
    store.put(BUCKET, "theirs/notes.txt", b"mine")
    said = why(daemon.trigger("days"))
    assert f"s3://{BUCKET}/theirs/notes.txt, which is not Parquet" in said and part(store, "theirs/") == ["theirs/notes.txt"]
    daemon.flow("days", DAYS.replace(f"s3://{BUCKET}/days", f"s3://{BUCKET}"))
    assert "which the result would replace" in why(daemon.trigger("days"))
    assert part(store, "theirs/") == ["theirs/notes.txt"]
