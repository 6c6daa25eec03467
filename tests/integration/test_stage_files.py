"""Work on files by stage tasks: what is read of them, changed rows, one file of many, and results that take the place of what was read."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import duckdb
import pytest

from conftest import ROOT, sluice, task_of, why
from s3_stores import KEY, SECRET, running
from test_tasks import bad, catalog, curate, go, good, rows, stage  # noqa: F401 (fixtures)

WIDE = ", ".join(f"hash(i * {k}) AS c{k}" for k in range(1, 20))


@pytest.fixture(scope="module")
def wide():
    """20 columns, 40 row groups in the order of id: 30 MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "wide.parquet"
        duckdb.sql(f"COPY (SELECT i::INTEGER AS id, {WIDE} FROM range(200000) t(i)) TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 5000)")
        yield path


def share(attempt):
    """Of the bytes that the source has, how much was read."""
    assert attempt["metrics"]["bytes_in"] > 0
    return attempt["metrics"]["bytes_read"] / attempt["metrics"]["bytes_in"]


# ---- what is read ----

NARROW = "select: [id, c7]\nwhere: id >= 150000 AND id < 150100\n"


def test_what_a_task_does_not_need_is_not_read(go, wide):
    source = f"{{format: parquet, path: {wide}}}"
    every = good(stage(go, source))
    assert 0.98 < share(every) < 1.02, every["metrics"]
    assert every["metrics"]["bytes_in"] == wide.stat().st_size and every["metrics"]["rows_in"] == every["metrics"]["rows_out"] == 200_000
    pruned = good(stage(go, source, NARROW + "limit: 10"))
    assert share(pruned) < 0.02, pruned["metrics"]
    assert [r["id"] for r in rows(go.folder / "out.parquet")] == list(range(150_000, 150_010))
    assert pruned["metrics"]["files_in"] == pruned["metrics"]["files_read"] == 1
    # Columns alone, and the first rows alone.
    assert 0.05 < share(good(stage(go, source, "select: [id, c7]"))) < 0.12
    assert share(good(stage(go, source, "limit: 10"))) < 0.1


@pytest.mark.parametrize("on_reject", ["fail", "skip", "quarantine"])
def test_types_do_not_hinder(go, wide, on_reject):
    keys = f"on_reject: {on_reject}\nschema: {{id: int, c7: uint64}}\ncast: {{id: INTEGER}}\n"
    attempt = good(stage(go, f"{{format: parquet, path: {wide}}}", keys + NARROW))
    assert share(attempt) < 0.02, attempt["metrics"]
    assert len(rows(go.folder / "out.parquet")) == 100
    # Another type: the condition's own column is read whole, once more for rejects, and of the others no more than it leaves.
    attempt = good(stage(go, f"{{format: parquet, path: {wide}}}", f"on_reject: {on_reject}\ncast: {{id: bigint}}\n" + NARROW))
    assert share(attempt) < 0.08, attempt["metrics"]


def test_rejects_are_what_they_were(go):
    """A cast that can fail is still tried on every row, also where the condition leaves the row out."""
    duckdb.sql(f"COPY (SELECT i AS id, if(i = 900, 'x', i::VARCHAR) AS n FROM range(1000) t(i)) TO '{go.folder}/t.parquet' (FORMAT parquet)")
    keys = "cast: {n: int, id: bigint}\nwhere: id < 10\non_reject: quarantine"
    attempt = good(stage(go, "{format: parquet, path: t.parquet}", keys))
    assert attempt["metrics"]["rows_rejected"] == 1 and attempt["metrics"]["rows_out"] == 10
    bad(stage(go, "{format: parquet, path: t.parquet}", "schema: {n: int not null}"), "t.parquet:901", "not of type int")


def test_bytes_of_text_files(go):
    text = "id,name\n" + "".join(f"{i},name {i}\n" for i in range(50_000))
    (go.folder / "a.csv").write_text(text)
    (go.folder / "a.json").write_text("".join(f'{{"id": {i}}}\n' for i in range(50_000)))
    subprocess.run(["gzip", "-k", go.folder / "a.csv"], check=True)
    for name, format in (("a.csv", "csv"), ("a.csv.gz", "csv"), ("a.json", "json")):
        metrics = good(stage(go, f"{{format: {format}, path: {name}}}"))["metrics"]
        size = (go.folder / name).stat().st_size
        # The header, and the types of JSON, are looked up before.
        assert metrics["bytes_in"] == size and size <= metrics["bytes_read"] <= 3 * size, (name, metrics)
        assert metrics["rows_in"] == metrics["rows_out"] == 50_000 and metrics["files_read"] == 1
    assert good(stage(go, "{format: csv, path: a.csv}", "where: id::int % 2 = 0"))["metrics"]["rows_in"] == 50_000


def test_partitions_of_a_table_are_left_out(go):
    for day in range(4):
        good(curate(go, f"SELECT i AS id, {day} AS day FROM range(1000) t(i)", "append", "lake.days", "partition_by: [day]"))
    source = "{format: iceberg, table: lake.days}"
    every = good(stage(go, source))["metrics"]
    assert every["files_in"] == every["files_read"] == 4 and every["rows_in"] == 4000 and every["bytes_in"] > 0
    one = good(stage(go, source, "where: day = 2\nschema: {id: bigint, day: int}"))["metrics"]
    assert (one["files_in"], one["files_read"], one["rows_out"]) == (4, 1, 1000)
    assert one["bytes_read"] < every["bytes_read"]


def test_other_tasks_tell_what_they_read(go, wide):
    run = go(f"- {{id: p, type: publish, from: {wide}, into: lake.wide, mode: overwrite}}")
    assert 0.98 < good(run)["metrics"]["bytes_read"] / wide.stat().st_size < 1.05
    assert good(curate(go, "SELECT max(id) AS id FROM lake.wide", into="lake.one"))["metrics"]["bytes_read"] < wide.stat().st_size / 10


def test_limits(go):
    (go.folder / "a.csv").write_text("id\n3\n1\n2\n")
    good(stage(go, "{format: csv, path: a.csv}", "limit: 2"))
    assert rows(go.folder / "out.parquet") == [{"id": "3"}, {"id": "1"}]
    attempt = good(stage(go, "{format: csv, path: a.csv}", "limit: 0"))
    assert attempt["metrics"]["rows_out"] == 0 and rows(go.folder / "out.parquet") == []
    assert duckdb.sql(f"DESCRIBE FROM '{go.folder}/out.parquet'").fetchall()[0][:2] == ("id", "VARCHAR")
    good(stage(go, "{format: csv, path: a.csv}", "limit: 9"))
    assert len(rows(go.folder / "out.parquet")) == 3
    good(stage(go, "{format: csv, path: a.csv}", "sql: SELECT id FROM this ORDER BY id DESC\nlimit: 1"))
    assert rows(go.folder / "out.parquet") == [{"id": "3"}]


# ---- changed rows ----


def test_rows_are_changed_by_sql(go):
    (go.folder / "staff.csv").write_text("id,department,salary\n1,IT,1000\n2,HR,3000\n3,IT,5000\n4,,1\n")
    attempt = good(
        stage(
            go,
            "{format: csv, path: staff.csv}",
            """\
            cast: {id: int, salary: double}
            where: department <> ''
            rename: {department: unit}
            sql: |
              WITH raised AS (SELECT * REPLACE (if(unit = 'IT', salary * 1.1, salary) AS salary) FROM this)
              SELECT *, CASE WHEN salary >= 5000 THEN 'senior' ELSE 'junior' END AS level
              FROM raised ORDER BY id;
            """,
            "{path: out, partition_by: unit}",
        )
    )
    got = duckdb.sql(f"FROM read_parquet('{go.folder}/out/**/*.parquet', hive_partitioning = false) ORDER BY id").fetchall()
    assert got == [(1, "IT", pytest.approx(1100), "junior"), (2, "HR", 3000, "junior"), (3, "IT", pytest.approx(5500), "senior")]
    assert attempt["metrics"]["rows_in"] >= 3 and attempt["metrics"]["files_out"] == 2


def test_sql_of_a_file_and_its_errors(go):
    (go.folder / "a.csv").write_text("id\n1\n")
    (go.folder / "twice.sql").write_text("SELECT id::int * 2 AS id FROM this")
    good(stage(go, "{format: csv, path: a.csv}", "sql_file: twice.sql"))
    assert rows(go.folder / "out.parquet") == [{"id": 2}]
    bad(stage(go, "{format: csv, path: a.csv}", "sql: |\n  SELECT id,\n    nome FROM this"), "nome", ".yaml:9:9")
    bad(stage(go, "{format: csv, path: a.csv}", "sql: DROP TABLE this"), "drop")
    go.daemon.write("both.yaml", "id: both\ntasks: [{id: s, type: stage, source: {format: csv, path: a.csv}, sql: FROM this, sql_file: twice.sql, target: {path: o}}]")
    said = go.daemon.cli("validate", str(go.folder / "both.yaml"), check=False)
    assert said.returncode != 0 and "sql_file" in said.stdout + said.stderr


def test_many_files_become_one(go):
    for month in range(1, 4):
        lines = "".join(f"{i},{month},{i * month}\n" for i in range(month * 100, month * 100 + 200))
        (go.folder / f"2024-0{month}.csv").write_text("id,month,pay\n" + lines)
        duckdb.sql(f"COPY (FROM '{go.folder}/2024-0{month}.csv') TO '{go.folder}/2024-0{month}.parquet'")
    keys = "sql: SELECT DISTINCT ON (id) * FROM this ORDER BY id, month DESC"
    metrics = good(stage(go, '{format: parquet, path: "2024-*.parquet"}', keys, "{path: q1.parquet}"))["metrics"]
    assert (metrics["files_in"], metrics["files_read"], metrics["rows_in"], metrics["rows_out"]) == (3, 3, 600, 400)
    assert metrics["bytes_in"] == sum(p.stat().st_size for p in go.folder.glob("2024-*.parquet"))
    assert metrics["files_out"] == 1
    got = rows(go.folder / "q1.parquet")
    assert [r["id"] for r in got] == list(range(100, 500))
    assert [r["month"] for r in got] == [1] * 100 + [2] * 100 + [3] * 200


def test_files_that_do_not_fit_together_or_are_not_there(go):
    duckdb.sql(f"COPY (SELECT 1 AS id, 2 AS pay) TO '{go.folder}/a.parquet'; COPY (SELECT 1 AS id, 2 AS wage) TO '{go.folder}/b.parquet'")
    bad(stage(go, '{format: parquet, path: "[ab].parquet"}'), "b.parquet has the column", "wage")
    # What only a later file has is not left out without a word.
    duckdb.sql(f"COPY (SELECT 2 AS id, 3 AS pay, 4 AS bonus) TO '{go.folder}/more.parquet'")
    bad(stage(go, "{format: parquet, path: [a.parquet, more.parquet]}"), "more.parquet has the column", "bonus", "a.parquet has not")
    bad(stage(go, "{format: parquet, path: [more.parquet, a.parquet]}"), "a.parquet", "bonus")
    assert not (go.folder / "out.parquet").exists()
    good(stage(go, "{format: parquet, path: [a.parquet, more.parquet], union_by_name: true}"))
    assert rows(go.folder / "out.parquet") == [{"id": 1, "pay": 2, "bonus": None}, {"id": 2, "pay": 3, "bonus": 4}]
    os.remove(go.folder / "out.parquet")
    (go.folder / "c.parquet").write_text("no Parquet at all")
    bad(stage(go, '{format: parquet, path: "[ac].parquet"}'), "c.parquet")
    bad(stage(go, "{format: parquet, path: none/*.parquet}"), "no file matches", "none/*.parquet")
    assert not (go.folder / "out.parquet").exists()


# ---- the example ----


def test_the_example(folder):
    example = folder / "files"
    shutil.copytree(ROOT / "examples" / "files", example, ignore=shutil.ignore_patterns("data"))
    subprocess.run([example / "generate"], check=True, capture_output=True)
    env = {"SLUICE_HOME": folder / "home"}
    said = sluice("run", example / "files.yaml", env=env)
    assert re.search(r"older .*100 rows out, [0-9.]+ KB of [0-9.]+ MB read", said.stdout + said.stderr)
    run = json.loads(sluice("run", example / "files.yaml", "--json", env=env).stdout)
    assert run["state"] == "success", why(run)
    data = example / "data"
    metrics = {t["id"]: t["attempts"][-1]["metrics"] for t in run["tasks"]}

    older = rows(data / "older.parquet")
    assert len(older) == 100 and all(r["age"] > 60 for r in older) and list(older[0]) == ["id", "name", "age"]
    assert metrics["older"]["bytes_in"] == (data / "employees.parquet").stat().st_size
    assert metrics["older"]["bytes_read"] < 0.25 * metrics["older"]["bytes_in"]

    people = {r["id"]: r for r in rows(data / "employees.parquet")}
    raised = [r for path in (data / "raised").glob("department=*/*.parquet") for r in rows(path)]
    assert len(people) == len(raised) == 100_000 and len(list((data / "raised").iterdir())) == 4
    for r in raised:
        assert r["new_salary"] == pytest.approx(people[r["id"]]["salary"] * (1.1 if r["department"] == "Engineering" else 1))
        assert r["level"] == ("senior" if r["new_salary"] >= 70_000 else "mid" if r["new_salary"] >= 45_000 else "junior")

    quarter = {r["employee_id"]: r["month"] for r in rows(data / "pay-2024-q1.parquet")}
    latest = [r for line in (data / "raw" / "pay.json").read_text().splitlines() if (r := json.loads(line))]
    assert quarter == {r["employee_id"]: r["month"] for r in latest}
    merged = metrics["quarter"]
    assert (merged["files_in"], merged["files_read"], merged["rows_in"], merged["rows_out"], merged["files_out"]) == (3, 3, 900, 400, 1)


# ---- targets that are read ----

RAISE = "sql: SELECT * REPLACE (pay * 10 AS pay) FROM this"


def pays(path):
    return duckdb.sql(f"SELECT pay FROM read_parquet('{path}', hive_partitioning = false) ORDER BY pay").fetchall()


def make_staff(folder, name="staff.parquet"):
    duckdb.sql(f"COPY (SELECT i AS pay, if(i < 2, 'x', 'y') AS unit FROM range(1, 4) t(i)) TO '{folder}/{name}' (FORMAT parquet)")


def test_a_file_is_written_back(go):
    make_staff(go.folder)
    before = (go.folder / "staff.parquet").read_bytes()
    bad(stage(go, "{format: parquet, path: staff.parquet}", "sql: SELECT error('no') FROM this", "{path: staff.parquet}"), "no")
    assert (go.folder / "staff.parquet").read_bytes() == before
    os.symlink(go.folder / "staff.parquet", go.folder / "alias.parquet")
    for source, last in (("staff", 10), ("alias", 100)):
        good(stage(go, f"{{format: parquet, path: {source}.parquet}}", RAISE, "{path: staff.parquet}"))
        assert pays(go.folder / "staff.parquet") == [(last,), (2 * last,), (3 * last,)]
    (go.folder / "a.csv").write_text("id\n1\n")
    bad(stage(go, "{format: csv, path: a.csv}", "", "{path: a.csv}"), "would be Parquet")
    assert not [p.name for p in go.folder.iterdir() if ".tmp-" in p.name]


def test_a_folder_is_written_back(go):
    make_staff(go.folder)
    good(stage(go, "{format: parquet, path: staff.parquet}", "", "{path: units, partition_by: unit}"))
    target = "{path: units, partition_by: unit}"
    good(stage(go, '{format: parquet, path: "units/**/*.parquet"}', RAISE, target))
    assert pays(f"{go.folder}/units/**/*.parquet") == [(10,), (20,), (30,)]
    bad(stage(go, '{format: parquet, path: "units/unit=x/*.parquet"}', RAISE, target), "1 files that this task reads and 1 that it does not")
    assert pays(f"{go.folder}/units/**/*.parquet") == [(10,), (20,), (30,)]


@pytest.mark.parametrize("point, partitioned", [("stage.finish.before", False), ("stage.finish.after", False), ("stage.finish.after", True)])
def test_what_is_written_back_is_changed_once(make_daemon, folder, point, partitioned):
    """Killed before its place is taken, or after that and before anybody was told: the next attempt ends with the same rows."""
    faults = folder / "faults"
    faults.write_text("")
    daemon = make_daemon(env={"SLUICE_FAULT": str(faults)})
    make_staff(daemon.flows)
    target, source = "{path: staff.parquet}", "staff.parquet"
    if partitioned:
        duckdb.sql(f"COPY (FROM '{daemon.flows}/staff.parquet') TO '{daemon.flows}/units' (FORMAT parquet, PARTITION_BY unit, WRITE_PARTITION_COLUMNS true)")
        target, source = "{path: units, partition_by: unit}", "units/**/*.parquet"
    daemon.flow(
        "back",
        f'id: back\ntasks: [{{id: s, type: stage, retry: {{max_attempts: 2, interval: 1ms}}, source: {{format: parquet, path: "{source}"}}, {RAISE}, target: {target}}}]',
    )
    faults.write_text(f"{point}=kill")
    run = daemon.trigger("back")
    assert run["state"] == "success", why(run)
    attempts = task_of(run, "s")["attempts"]
    assert [a["signal"] for a in attempts] == [int(signal.SIGKILL), None]
    assert task_of(run, "s")["outputs"]["rows"] == 3
    assert pays(f"{daemon.flows}/{source}") == [(10,), (20,), (30,)]
    # Another run is another wish.
    assert daemon.trigger("back")["state"] == "success"
    assert pays(f"{daemon.flows}/{source}") == [(100,), (200,), (300,)]


def test_a_target_that_the_next_run_would_read(go):
    (go.folder / "in").mkdir()
    make_staff(go.folder, "in/staff.parquet")
    source = '{format: parquet, path: "in/*.parquet"}'
    bad(stage(go, source, "", "{path: in/all.parquet}"), "also finds what is written", "in/*.parquet")
    bad(stage(go, source, "on_reject: quarantine", "{path: in/all}"), "also finds")
    bad(stage(go, '{format: parquet, path: "in/**/*.parquet"}', "", "{path: in/units, partition_by: unit}"), "also finds what is written")
    assert [p.name for p in (go.folder / "in").iterdir()] == ["staff.parquet"]
    good(stage(go, source, "", "{path: in/units, partition_by: unit}"))
    # Named one by one they are what was meant: new rows over old ones, again and again.
    make_staff(go.folder, "in/more.parquet")
    keys = "sql: SELECT DISTINCT ON (pay) * FROM this ORDER BY pay"
    for _ in range(2):
        good(stage(go, "{format: parquet, path: [in/staff.parquet, in/more.parquet]}", keys, "{path: in/staff.parquet}"))
        assert pays(go.folder / "in/staff.parquet") == [(1,), (2,), (3,)]


@contextlib.contextmanager
def small_disk(path, megabytes):
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def test_a_full_disk_leaves_what_was_there(go, wide):
    with small_disk(go.folder / "disk", 4):
        make_staff(go.folder, "disk/staff.parquet")
        before = (go.folder / "disk/staff.parquet").read_bytes()
        bad(stage(go, f"{{format: parquet, path: {wide}}}", "", "{path: disk/staff.parquet}"), "No space left", "disk/staff.parquet")
        assert [p.name for p in (go.folder / "disk").iterdir()] == ["staff.parquet"]
        assert (go.folder / "disk/staff.parquet").read_bytes() == before


# ---- on a store ----


@pytest.fixture(scope="module")
def store():
    with running("seaweedfs", "files") as made:
        yield made


@pytest.fixture
def far(make_daemon, store, folder):
    """far(source, keys, target): a stage task between objects of the bucket; far.faults: a file of fault points."""
    config = f"s3: {{endpoint: '{store.endpoint}', timeout: 10s}}\n"
    faults = folder / "faults"
    faults.write_text("")
    daemon = make_daemon(config=config, env={"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "SLUICE_FAULT": str(faults)})
    count = iter(range(100))

    def far(source, keys, target):
        n = next(count)
        text = f"id: f{n}\ntasks:\n  - id: s\n    type: stage\n    source: {{format: parquet, path: {source}}}\n    target: {target}\n"
        daemon.flow(f"f{n}", text + "".join(f"    {line}\n" for line in keys.strip().splitlines()))
        return daemon.trigger(f"f{n}")

    far.faults = faults
    return far


def fetch(store, folder, key):
    """The object's bytes as a file."""
    status, data = store.request("GET", f"/files/{key}")
    assert status == 200
    (folder / "fetched.parquet").write_bytes(data)
    return folder / "fetched.parquet"


def test_what_is_read_of_a_store(far, store, wide, folder):
    store.put("files", "wide.parquet", wide.read_bytes())
    every = good(far("s3://files/wide.parquet", "", "{path: s3://files/all.parquet}"))
    assert 0.98 < share(every) < 1.02 and every["metrics"]["bytes_in"] == wide.stat().st_size
    pruned = good(far('"s3://files/wide*.parquet"', NARROW + "limit: 10", "{path: s3://files/few.parquet}"))
    assert share(pruned) < 0.02, pruned["metrics"]
    assert [r["id"] for r in rows(fetch(store, folder, "few.parquet"))] == list(range(150_000, 150_010))


def test_objects_are_merged_and_written_back(far, store, folder):
    make_staff(folder)
    for name in ("a", "b"):
        store.put("files", f"staff/{name}.parquet", (folder / "staff.parquet").read_bytes())
    metrics = good(far('"s3://files/staff/*.parquet"', "", "{path: s3://files/both.parquet}"))["metrics"]
    assert (metrics["files_in"], metrics["files_read"], metrics["rows_in"], metrics["rows_out"]) == (2, 2, 6, 6)
    good(far("s3://files/both.parquet", RAISE, "{path: s3://files/both.parquet}"))
    assert pays(fetch(store, folder, "both.parquet")) == [(n,) for n in (10, 10, 20, 20, 30, 30)]
    bad(far('"s3://files/staff/*.parquet"', "", "{path: s3://files/staff/all.parquet}"), "also finds what is written")
    good(far("s3://files/both.parquet", "", "{path: s3://files/units, partition_by: unit}"))
    bad(far('"s3://files/units/**/*.parquet"', RAISE, "{path: s3://files/units, partition_by: unit}"), "which the result would replace", "another folder")


@pytest.mark.parametrize("point", ["stage.finish.before", "stage.finish.after"])
def test_an_object_is_changed_once(far, store, folder, point):
    make_staff(folder)
    store.put("files", "once.parquet", (folder / "staff.parquet").read_bytes())
    far.faults.write_text(f"{point}=kill")
    run = far("s3://files/once.parquet", RAISE + "\nretry: {max_attempts: 2, interval: 1ms}", "{path: s3://files/once.parquet}")
    assert len(good(run)) and len(run["tasks"][0]["attempts"]) == 2
    assert pays(fetch(store, folder, "once.parquet")) == [(10,), (20,), (30,)]


def test_rejects_of_an_earlier_run_are_gone(far, store, folder):
    for text, there in (("x", True), ("7", False)):
        duckdb.sql(f"COPY (SELECT '{text}' AS n UNION ALL SELECT '8') TO '{folder}/n.parquet'")
        store.put("files", "n.parquet", (folder / "n.parquet").read_bytes())
        run = far("s3://files/n.parquet", "cast: {n: int}\non_reject: quarantine", "{path: s3://files/ints.parquet}")
        assert good(run)["metrics"]["rows_out"] == (1 if there else 2)
        assert ("rejects" in run["tasks"][0]["outputs"]) == there
        assert ("ints.parquet.rejects.parquet" in store.keys("files", "ints")) == there
