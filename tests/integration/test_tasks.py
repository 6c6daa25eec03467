"""Each native task type with what people feed it; PyIceberg reads what was written."""

import json
import os
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.rest import RestCatalog

from conftest import task_of, why


@pytest.fixture
def go(daemon):
    """go(tasks): runs a flow of these tasks (YAML) to its end."""
    count = iter(range(1000))

    def go(tasks, **kw):
        name = f"f{next(count)}"
        daemon.flow(name, f"id: {name}\ntasks:\n" + textwrap.indent(textwrap.dedent(tasks).strip(), "  ") + "\n")
        return daemon.trigger(name, **kw)

    go.daemon, go.folder = daemon, daemon.flows
    return go


@pytest.fixture
def catalog(daemon):
    return RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)


def stage(go, source, keys="", target="{path: out.parquet}"):
    return go(f"- id: s\n  type: stage\n  source: {source}\n  target: {target}\n" + textwrap.indent(textwrap.dedent(keys).strip(), "  "))


def curate(go, sql, mode="append", into="stg.t", keys=""):
    return go(
        f"- id: c\n  type: curate\n  into: {into}\n  mode: {mode}\n"
        + textwrap.indent(textwrap.dedent(keys).strip(), "  ")
        + "\n  sql: |\n"
        + textwrap.indent(sql, "    ")
    )


def good(run):
    assert run["state"] == "success", why(run)
    return run["tasks"][-1]["attempts"][-1]


def bad(run, *words):
    assert run["state"] == "failed", why(run)
    message = json.dumps(run["tasks"][-1]["error"], ensure_ascii=False)
    for word in words:
        assert word.lower() in message.lower(), f"{word!r} is not in: {message}"
    return message


def rows(path):
    return pq.read_table(path, partitioning=None).to_pylist()


# ---- stage ----


def test_csv_is_text_unless_asked(go):
    (go.folder / "a.csv").write_bytes(b'\xef\xbb\xbfid,name,pay\r\n001,"Al ""x"", an",10.5\r\n2,,\r\n')
    good(stage(go, "{format: csv, path: a.csv}"))
    assert rows(go.folder / "out.parquet") == [{"id": "001", "name": 'Al "x", an', "pay": "10.5"}, {"id": "2", "name": None, "pay": None}]
    good(
        stage(
            go,
            "{format: csv, path: a.csv}",
            """\
            cast: {id: int}
            select: [id, "upper(name) AS big", {twice: "pay::double * 2"}]
            rename: {big: name}
            where: id < 2
            """,
        )
    )
    assert rows(go.folder / "out.parquet") == [{"id": 1, "name": 'AL "X", AN', "twice": 21.0}]


def test_csv_without_header_and_with_columns(go):
    (go.folder / "a.tsv").write_text("1\ta\n2\t'b\tc'\n")
    source = """{format: csv, path: a.tsv, delimiter: "\\t", quote: "'", header: false, columns: {i: int, t: varchar}}"""
    good(stage(go, source))
    assert rows(go.folder / "out.parquet") == [{"i": 1, "t": "a"}, {"i": 2, "t": "b\tc"}]


def test_every_kind_of_bad_csv_line_is_told(go):
    (go.folder / "a.csv").write_bytes(b"id,name\n1,ok\nx,type\n3\n4,too,many,columns\n,nothing\n6,ok\n")
    schema = "schema: {id: int not null, name: varchar}\n"
    bad(stage(go, "{format: csv, path: a.csv}", schema), "a.csv:3", "x", "id", "4 rows")
    assert not (go.folder / "out.parquet").exists()
    attempt = good(stage(go, "{format: csv, path: a.csv}", schema + "on_reject: quarantine"))
    assert attempt["metrics"]["rows_rejected"] == 4 and attempt["metrics"]["rows_out"] == 2
    rejects = rows(go.folder / "out.parquet.rejects.parquet")
    assert [r["line"] for r in rejects] == [3, 4, 5, 6]
    assert {os.path.basename(r["file"]) for r in rejects} == {"a.csv"}
    assert "no value" in rejects[3]["message"] and "nothing" in rejects[3]["text"]
    bad(stage(go, "{format: csv, path: a.csv}", schema + "on_reject: skip\nmax_rejects: 3"), "max_rejects is 3", "4 rows")
    bad(stage(go, "{format: csv, path: a.csv}", schema + "on_reject: skip\nmax_rejects: 0"), "max_rejects is 0")
    good(stage(go, "{format: csv, path: a.csv}", schema + "on_reject: skip\nmax_rejects: 4"))
    assert rows(go.folder / "out.parquet") == [{"id": 1, "name": "ok"}, {"id": 6, "name": "ok"}]


def test_a_missing_value_fails_with_its_line(go):
    (go.folder / "a.csv").write_text("id,name\n1,a\n,b\n")
    bad(stage(go, "{format: csv, path: a.csv}", "schema: {id: int not null, name: varchar}"), "a.csv:3", '\\"id\\" has no value')


def test_odd_csv_files(go):
    for name, content, words in (
        ("empty", b"", ["empty.csv is empty"]),
        ("twice", b"id,ID\n1,2\n", ["twice.csv:1", "twice"]),
        ("latin", b"id,name\n1,caf\xe9\n", ["latin.csv:2", "utf-8"]),
    ):
        (go.folder / f"{name}.csv").write_bytes(content)
        bad(stage(go, f"{{format: csv, path: {name}.csv}}"), *words)
    (go.folder / "one.csv").write_text("id,name\n")
    (go.folder / "two.csv").write_text("id,nome\n1,a\n")
    bad(stage(go, "{format: csv, path: [one.csv, two.csv]}"), "two.csv", "header", "one.csv")
    good(stage(go, "{format: csv, path: one.csv}"))
    assert rows(go.folder / "out.parquet") == []
    (go.folder / "unnamed.csv").write_text(",n,\n0,a,x\n")
    good(stage(go, "{format: csv, path: unnamed.csv}"))
    assert rows(go.folder / "out.parquet") == [{"column0": "0", "n": "a", "column2": "x"}]


def test_json_and_parquet_values_that_do_not_fit(go):
    (go.folder / "a.json").write_text('{"id": 1, "v": "5", "n": {"a": 1}}\n{"id": 2, "v": "x", "n": {"a": 2}}\n')
    bad(stage(go, "{format: json, path: a.json}", "cast: {v: int}"), "a.json:2", "x", '\\"v\\"')
    good(stage(go, "{format: json, path: a.json}", "cast: {v: int}\non_reject: quarantine"))
    assert rows(go.folder / "out.parquet") == [{"id": 1, "v": 5, "n": {"a": 1}}]
    assert [r["line"] for r in rows(go.folder / "out.parquet.rejects.parquet")] == [2]
    # The next good run leaves no old rejects behind.
    good(stage(go, "{format: json, path: a.json}", "cast: {v: varchar}\non_reject: quarantine"))
    assert not (go.folder / "out.parquet.rejects.parquet").exists()
    bad(stage(go, "{format: parquet, path: out.parquet}", "cast: {v: int}", "{path: two.parquet}"), "out.parquet:2", "not of type int")


def test_a_type_that_there_is_not_points_into_the_yaml(go):
    (go.folder / "a.csv").write_text("id\n1\n")
    run = stage(go, "{format: csv, path: a.csv}", "cast: {id: itn}")
    bad(run, "itn", "id")
    assert task_of(run, "s")["attempts"][-1]["error"]["line"] == 7


def test_a_target_takes_nothing_with_it(go):
    (go.folder / "a.csv").write_text("id,day\n1,mo\n2,tu\n")
    (go.folder / "docs").mkdir()
    (go.folder / "docs" / "thesis.txt").write_text("years of work")
    bad(stage(go, "{format: csv, path: a.csv}", "", "{path: docs}"), "docs is a folder")
    bad(stage(go, "{format: csv, path: a.csv}", "", "{path: docs, partition_by: day}"), "not Parquet")
    assert (go.folder / "docs" / "thesis.txt").read_text() == "years of work"
    for _ in range(2):
        good(stage(go, "{format: csv, path: a.csv}", "", "{path: days, partition_by: day}"))
    assert sorted(p.name for p in (go.folder / "days").iterdir()) == ["day=mo", "day=tu"]
    bad(stage(go, "{format: parquet, path: days/day=mo/*.parquet}", "", "{path: days, partition_by: day}"), "1 that it does not")
    # Only the target and what was there: no temporary files.
    assert not [p.name for p in go.folder.iterdir() if ".tmp-" in p.name]


def test_partitioned_files_keep_their_column_when_published(go, catalog):
    (go.folder / "a.csv").write_text("id,day\n1,mo\n2,tu\n")
    good(
        go(
            """\
            - {id: s, type: stage, source: {format: csv, path: a.csv}, target: {path: days, partition_by: day}}
            - {id: p, type: publish, depends_on: [s], from: "${tasks.s.outputs.path}", into: stg.days}
            """
        )
    )
    assert sorted((r["id"], r["day"]) for r in catalog.load_table("stg.days").scan().to_arrow().to_pylist()) == [("1", "mo"), ("2", "tu")]


# ---- publish, curate ----


def content(catalog, table="stg.t", **kw):
    return catalog.load_table(table).scan(**kw).to_arrow().to_pylist()


def test_the_modes(go, catalog):
    good(curate(go, "SELECT range::int AS id, 'n' || range AS name FROM range(3);", keys="properties: {owner: me}"))
    good(curate(go, "SELECT 'z' AS name, 7::bigint AS id"))
    good(curate(go, "SELECT 8 AS id"))
    assert sorted((r["id"], r["name"]) for r in content(catalog)) == [(0, "n0"), (1, "n1"), (2, "n2"), (7, "z"), (8, None)]
    table = catalog.load_table("stg.t")
    assert table.properties["owner"] == "me" and len(table.metadata.snapshots) == 3
    first = table.metadata.snapshots[0].snapshot_id

    # Somebody else writes and deletes; the task goes on from there.
    table.append(pa.table({"id": pa.array([9], pa.int32()), "name": ["py"]}))
    table.delete("id = 1")
    good(curate(go, "SELECT id + 10 AS id, name FROM local.stg.t WHERE id <> 8", mode="overwrite"))
    assert sorted((r["id"], r["name"]) for r in content(catalog)) == [(10, "n0"), (12, "n2"), (17, "z"), (19, "py")]
    summary = catalog.load_table("stg.t").current_snapshot().summary
    assert summary["deleted-records"] == "5" and summary["total-records"] == "4"

    good(curate(go, "SELECT name, 1.5::decimal(9,2) AS amount FROM stg.t", mode="replace"))
    assert {r["amount"] for r in content(catalog)} and "id" not in content(catalog)[0]
    table = catalog.load_table("stg.t")
    # Columns that stay keep their id, so that the past is still readable, with the columns of its time.
    assert [(f.field_id, f.name) for f in table.schema().fields] == [(2, "name"), (3, "amount")]
    assert sorted(r["id"] for r in content(catalog, snapshot_id=first)) == [0, 1, 2]
    assert go.daemon.sql(f"SELECT count(*)::int AS n FROM stg.t AT (VERSION => {first})") == [{"n": 3}]
    assert len({s.sequence_number for s in table.metadata.snapshots}) == len(table.metadata.snapshots)

    good(curate(go, "SELECT * FROM stg.t WHERE false", mode="overwrite"))
    assert content(catalog) == []
    good(curate(go, "SELECT 'again' AS name", mode="append"))
    assert [r["name"] for r in content(catalog)] == ["again"]


def test_every_type_and_nesting_is_read_by_pyiceberg(go, catalog):
    sql = """\
SELECT true AS bo, 1::tinyint AS ti, 2::hugeint AS hu, 3::ubigint AS ub, 1.25::float AS fl, 2.5::double AS do, 12.345::decimal(12,3) AS de,
    DATE '2020-02-29' AS da, TIME '10:00:01' AS tm, TIMESTAMP '2020-01-01 00:00:00' AS ts, TIMESTAMPTZ '2020-01-01 00:00:00+01' AS tz,
    'ä' AS st, 'x'::blob AS bl, [1, NULL, 3] AS li, {'a': 1, 'b c': [{'d': DATE '2020-01-01'}]} AS ro, map {'k': 1.5::double} AS ma
"""
    for mode in ("append", "append", "overwrite", "replace"):
        good(curate(go, sql, mode=mode))
    (row,) = content(catalog)
    assert row["li"] == [1, None, 3] and row["ro"]["b c"][0]["d"].year == 2020 and row["ma"] == [("k", 1.5)]
    assert str(row["de"]) == "12.345" and row["tz"].isoformat() == "2019-12-31T23:00:00+00:00" and row["hu"] == 2 and row["st"] == "ä"
    assert go.daemon.sql("SELECT li, ro FROM stg.t") == [{"li": [1, None, 3], "ro": {"a": 1, "b c": [{"d": "2020-01-01"}]}}]


def test_rows_that_a_table_does_not_take(go, catalog):
    good(curate(go, "SELECT 1 AS id, 'a' AS name"))
    before = catalog.load_table("stg.t").metadata_location
    bad(curate(go, "SELECT 1 AS id, 'x' AS nmae"), "stg.t", "nmae", 'did you mean \\"name\\"')
    bad(curate(go, "SELECT 'abc' AS id"), "stg.t", "abc", "id")
    bad(curate(go, "SELECT 1 AS id, 2 AS ID", into="stg.new"), "two columns", "id")
    bad(curate(go, "SELECT INTERVAL 1 DAY AS span", into="stg.new"), "span", "INTERVAL")
    bad(curate(go, "SELECT 1 AS id", into="stg.new", keys="create: false"), "stg.new", "create: false")
    bad(curate(go, "SELECT CASE WHEN range > 90 THEN error('boom') ELSE range END AS id FROM range(100)", into="stg.new"), "stg.new", "boom")
    bad(curate(go, "SELECT 1 AS id; SELECT 2", into="stg.new"), "multiple statements")
    bad(curate(go, "DROP TABLE stg.t", into="stg.new"), "DROP")
    assert catalog.load_table("stg.t").metadata_location == before
    assert [t["name"] for t in go.daemon.get("/api/v1/tables")["items"]] == ["stg.t"]
    # Nothing of what failed lies about.
    left = [str(p) for p in (go.daemon.home / "warehouse").rglob("*") if p.is_file() and "/stg/t/" not in str(p)]
    assert left == []


def test_many_files(go, catalog):
    attempt = good(curate(go, "SELECT range AS id, md5(range::varchar) AS m FROM range(400000)", keys="target_file_size: 2MB\nengine_options: {threads: 2, memory_limit: 256MB}"))
    assert attempt["metrics"]["files_out"] > 1
    table = catalog.load_table("stg.t")
    assert len(table.inspect.files()) == attempt["metrics"]["files_out"]
    assert table.scan().to_arrow().num_rows == 400000
    assert go.daemon.sql("SELECT count(*)::int AS n, max(id) AS m FROM stg.t") == [{"n": 400000, "m": 399999}]


def test_writers_that_all_make_the_table(go, catalog):
    go.daemon.flow("race", "id: race\nconcurrency: {max_active_runs: 8}\ntasks:\n  - {id: c, type: curate, into: stg.race, sql: SELECT 1 AS id}\n")
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: go.daemon.trigger("race"), range(4)))
    for run in runs:
        good(run)
    assert len(content(catalog, "stg.race")) == 4


def test_a_commit_that_landed_is_not_made_again(go, catalog):
    """An attempt that committed and was lost before it could say so: the next one finds its snapshot."""
    good(curate(go, "SELECT 1 AS id"))
    flag = go.folder / "go"
    go.daemon.flow(
        "again",
        f"""\
        id: again
        tasks:
          - {{id: wait, type: command, command: "until [ -e {flag} ]; do sleep 0.02; done"}}
          - {{id: c, type: curate, depends_on: [wait], into: stg.t, sql: SELECT 2 AS id}}
        """,
    )
    run = go.daemon.post("/api/v1/flows/again/runs")
    table = catalog.load_table("stg.t")
    table.append(
        pa.table({"id": pa.array([2], pa.int32())}),
        snapshot_properties={"sluice.flow": "again", "sluice.run-id": run["id"], "sluice.task-id": "c", "sluice.attempt": "1"},
    )
    landed = table.current_snapshot().snapshot_id
    flag.touch()
    run = go.daemon.ended(run["id"])
    written = good(run)["tables"]
    assert [(t["snapshot_id"], t["rows"], t["landed_before"]) for t in written] == [(str(landed), 1, True)]
    assert sorted(r["id"] for r in content(catalog)) == [1, 2]


# ---- validate ----


@pytest.fixture
def check(go):
    good(
        curate(
            go,
            "SELECT range AS id, CASE WHEN range % 3 > 0 THEN 'd' || (range % 3) END AS dep, range * 1.5 AS pay, "
            "DATE '2020-01-01' + range::int AS day FROM range(9)",
        )
    )

    def check(checks, keys="table: stg.t"):
        run = go("- id: v\n  type: validate\n  " + keys + "\n  checks:\n" + "".join(f"    - {c}\n" for c in checks))
        return run, [(c["check"], c["passed"], c["message"]) for c in task_of(run, "v")["attempts"][-1].get("checks") or []]

    return check


def test_checks_that_hold(check):
    run, told = check(
        [
            "{row_count: {min: 1, max: 10, equals: 9}}",
            "{not_null: [id, pay]}",
            "{unique: id}",
            "{unique: [dep, id]}",
            "{accepted_values: {column: dep, values: [d1, d2]}}",
            "{range: {column: id, min: 0, max: 8}}",
            '{range: {column: day, min: "2020-01-01"}}',
            "{schema: {id: bigint not null, dep: text, day: date}}",
            '{sql: "SELECT count(*) = 9 FROM this"}',
            '{sql: "SELECT * FROM this WHERE id > 8"}',
            "{same_rows: {count_of: local.stg.t}}",
        ]
    )
    good(run)
    assert len(told) == 11 and all(passed for _, passed, _ in told)
    assert task_of(run, "v")["outputs"]["passed"] is True


@pytest.mark.parametrize(
    "definition, words",
    [
        ("{row_count: {min: 10}}", ["9 rows", "at least 10"]),
        ("{row_count: {equals: 3}}", ["9 rows", "expected 3"]),
        ("{not_null: [id, dep]}", ["3 rows", "dep"]),
        ("{unique: [dep]}", ["2 duplicated", "stg.t", "d1"]),
        ("{accepted_values: {column: dep, values: [d1]}}", ["3 rows", "d2"]),
        ("{range: {column: id, min: 2}}", ["2 rows", "at least 2"]),
        ("{range: {column: id, min: 2, max: 7}}", ["3 rows", "between 2 and 7"]),
        ("{schema: {id: int}}", ["id", "BIGINT", "INTEGER"]),
        ("{schema: {dep: text not null}}", ["dep", "3 rows"]),
        ("{schema: {py: int}}", ["py", "pay"]),
        ('{sql: "SELECT count(*) = 8 FROM this"}', ["false"]),
        ('{sql: "SELECT * FROM this WHERE id > 6"}', ["2 rows"]),
        ('{same_rows: {count_of: stg.t, as: "SELECT 3"}}', ["9", "3", "differ"]),
    ],
)
def test_a_check_that_fails_says_what_was_found(check, definition, words):
    run, told = check(["{row_count: {min: 1}}", definition, "{row_count: {min: 2}}"])
    message = bad(run, *words)
    assert [passed for _, passed, _ in told] == [True, False, True], "the others are run and told all the same"
    assert "stg.t" in message or "statement" in message


def test_severities_and_wrong_checks(check, go):
    run, told = check(["{row_count: {min: 10}, severity: warn}"])
    good(run)
    assert told[0][1] is False
    good(check(["{row_count: {min: 10}}"], "table: stg.t\n  on_fail: warn")[0])
    good(check(["{row_count: {equals: 2}}", '{sql: "SELECT max(id) = 8 FROM this"}'], "sql: SELECT id FROM stg.t WHERE id > 6;")[0])
    bad(check(["{not_null: [idd]}"])[0], "not_null", "stg.t", "idd", "id")
    bad(check(["{schema: {id: bigitn}}"])[0], "bigitn", "bigint")
    bad(check(["{row_count: {min: 1}}"], "table: stg.nope")[0], "nope", "not exist")
    run, _ = check(['{sql: "SELECT count(*) FORM this"}'])
    bad(run, "this")
    assert task_of(run, "v")["attempts"][-1]["error"]["line"] == 7


# ---- query ----


def test_query_answers_are_limited_and_nested(daemon):
    answer = daemon.post("/api/v1/sql", {"sql": "SELECT range AS n, [range] AS l, {'a': 1} AS s, 1 AS x, 2 AS x FROM range(10000000) ORDER BY 1;", "limit": 3})
    assert answer["truncated"] is True
    assert [c["name"] for c in answer["columns"]] == ["n", "l", "s", "x", "x_1"]
    assert answer["rows"] == [{"n": n, "l": [n], "s": {"a": 1}, "x": 1, "x_1": 2} for n in range(3)]
    told = daemon.cli("sql", "SELECT 1 AS a FORM x.y", check=False)
    assert told.returncode != 0 and "1:" in told.stderr
