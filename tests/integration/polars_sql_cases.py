"""Run by the engine's own interpreter: what a list of statements gives on DuckDB and, written for Polars, there. Prints what differs as JSON."""

import datetime
import decimal
import json
import re
import sys

sys.path.insert(0, sys.argv[1])

import duckdb  # noqa: E402
import polars as pl  # noqa: E402
from sluice.engines import duck, polars_sql, polars_types, statement  # noqa: E402
from sluice.engines.common import Job  # noqa: E402
from sluice.report import Failure  # noqa: E402

STAFF = pl.DataFrame(
    {
        "Id": [1, 2, 3, 4, 5],
        "name": ["a", "b", "Ann", None, "ü'\""],
        "dep": ["x", "y", "x", None, "x"],
        "v": [1, -7, 3, None, 2_000_000_000],
        "f": [1.5, 2.5, -3.5, None, 0.125],
        "day": [datetime.date(2024, m, 28) for m in range(1, 6)],
        "ts": [datetime.datetime(2024, 2, 29, h, 59, 59, 999999) for h in range(5)],
        "price": [decimal.Decimal("1.25"), decimal.Decimal("-2.75"), None, decimal.Decimal("0.05"), decimal.Decimal("100.00")],
        "ok": [True, False, None, True, True],
    },
    schema_overrides={"v": pl.Int32, "price": pl.Decimal(10, 2)},
)
BOSSES = pl.DataFrame({"dep": ["x", "z"], "boss": ["B", "C"]})
SAME = """
SELECT dep, count(*) AS cnt, sum(v) AS s, avg(v) AS a, min(name) AS m, sum(price) AS p FROM s.t GROUP BY dep
SELECT dep, sum(v) + 1 AS s FROM s.t GROUP BY dep HAVING sum(v) > 1
SELECT v + v AS a, v * 2 AS b, v - 1 AS c, -v AS d FROM s.t WHERE v < 1000
SELECT id / 2 AS a, id // 2 AS b, id % 2 AS c, v / 3 AS d, f / 3 AS e, f / 0.7 AS g, price / 3 AS h FROM s.t
SELECT 1 / 0 AS a, f / 0 AS b FROM s.t
SELECT round(f) AS a, round(f, 2) AS b, round(f * 1.234567, 3) AS c, round(price, 1) AS d, floor(f) AS e, ceil(f) AS g, abs(f) AS h FROM s.t
SELECT price + 1 AS a, price * 2 AS b, id * 1.5 AS c, round(avg(price), 2) AS d FROM s.t GROUP BY ALL
SELECT ID, upper(NAME) AS n, lower(name) AS l, length(name) AS len, trim(name) AS t, substring(name, 1, 1) AS s, replace(name, 'a', 'b') AS r FROM s.t
SELECT left(name, 1) AS a, right(name, 1) AS b, starts_with(name, 'A') AS c, name || 'x' AS d, concat(name, 'x') AS e, coalesce(name, '?') AS g FROM s.t
SELECT CASE WHEN sum(v) > 2 THEN 'gold' WHEN sum(v) > 0 THEN 'silver' ELSE 'none' END AS tier, dep FROM s.t GROUP BY dep
SELECT sum(CASE WHEN ok THEN 1 ELSE 0 END) AS a, sum(v) FILTER (WHERE ok) AS b, count(DISTINCT dep) AS c, count(v) AS d FROM s.t
SELECT id FROM s.t WHERE name LIKE 'A%' OR name ILIKE 'B' OR v BETWEEN -10 AND 0 OR dep IN ('y') OR NOT ok
SELECT id FROM s.t WHERE dep IN (SELECT dep FROM s.u)
SELECT id FROM s.t WHERE v = (SELECT max(v) FROM s.t)
SELECT t.id, u.boss FROM s.t LEFT JOIN s.u ON t.dep = u.dep
SELECT t.*, u.boss FROM s.t JOIN s.u USING (dep)
SELECT x.dep, y.boss FROM s.t x FULL JOIN s.u y ON x.dep = y.dep
SELECT a.id, b.boss FROM s.t a CROSS JOIN s.u b
WITH c AS (SELECT dep, count(*) AS n FROM s.t GROUP BY dep) SELECT * FROM c WHERE n > 1
SELECT id FROM (SELECT id, v FROM s.t) x WHERE x.v > 1
SELECT id FROM s.t UNION ALL SELECT id FROM s.t
SELECT dep FROM s.t UNION SELECT dep FROM s.u
SELECT dep FROM s.t EXCEPT SELECT dep FROM s.u
SELECT dep FROM s.t INTERSECT SELECT dep FROM s.u
SELECT DISTINCT dep FROM s.t
SELECT DISTINCT ON (dep) * FROM s.t ORDER BY dep, id DESC
SELECT id, row_number() OVER (PARTITION BY dep ORDER BY id DESC) AS rn, rank() OVER (ORDER BY v DESC) AS r, sum(v) OVER (PARTITION BY dep) AS s FROM s.t
SELECT id FROM s.t QUALIFY row_number() OVER (PARTITION BY dep ORDER BY id) = 1
SELECT * EXCLUDE (day, ts) FROM s.t
SELECT * REPLACE (upper(name) AS name) FROM s.t
SELECT year(day) AS y, month(ts) AS m, EXTRACT(day FROM ts) AS d, date_trunc('month', day) AS t FROM s.t
SELECT CAST(id AS VARCHAR) AS a, CAST(id AS DOUBLE) AS b, CAST('2024-01-01' AS DATE) AS c, CAST(id AS DECIMAL(10, 2)) AS d, v::BIGINT AS e FROM s.t
SELECT max(day) AS a, min(ts) AS b, round(stddev(f), 9) AS c, median(f) AS d, max(ok) AS e FROM s.t
SELECT sum(v) AS a, count(v) AS b FROM s.t WHERE false
SELECT NULL AS n, true AS t, 1 AS one, 'x' AS s, 2.5 AS d FROM s.t
SELECT greatest(id, 2) AS a, least(id, 2) AS b, nullif(id, 1) AS c FROM s.t
SELECT id FROM local.s.t ORDER BY v DESC, id LIMIT 2 OFFSET 1
SELECT id FROM s.t ORDER BY v, id
SELECT id FROM s.t ORDER BY v NULLS FIRST, id
SELECT id FROM s.t ORDER BY v DESC NULLS FIRST, id
"""
# What means another thing to Polars, or nothing: refused, with a place in the statement.
REFUSED = """
SELECT CAST(f AS INTEGER) AS a FROM s.t
SELECT TRY_CAST(name AS INTEGER) AS a FROM s.t
SELECT id || 'x' AS a FROM s.t
SELECT sum(v) OVER (PARTITION BY dep ORDER BY id) AS a FROM s.t
SELECT id FROM s.t WHERE dep NOT IN (SELECT dep FROM s.u)
SELECT day + INTERVAL 1 DAY AS a FROM s.t
SELECT regexp_matches(name, 'A.*') AS a FROM s.t
SELECT * FROM range(3)
SELECT dep, sum(v) AS s FROM s.t GROUP BY ROLLUP (dep)
"""

job = Job(
    {"spec": {}, "pos": {"sql": [10, 5]}, "file": "f.yaml", "run_id": "r", "task_id": "t", "attempt": 1, "scratch": "/tmp", "catalog": {"name": "local"}}
)
db = duckdb.connect()
db.execute("ATTACH ':memory:' AS local; CREATE SCHEMA local.s; USE local")
judge = duck.Judge(job)
frames, types = {}, {}
for table, frame in (("t", STAFF), ("u", BOSSES)):
    db.register("arrow_" + table, frame.to_arrow())
    db.execute(f"CREATE TABLE local.s.{table} AS FROM arrow_{table}")
    columns = polars_types.columns_of(frame.collect_schema().items())
    judge.add_table("s", table, columns)
    for catalog in ("", "local"):
        frames[(catalog, "s", table)], types[(catalog, "s", table)] = frame.lazy(), columns


def polars_rows(sql):
    columns = judge.bind(sql, "sql")
    names = statement.tables_of(job, sql, "sql")
    frame = polars_sql.query(job, sql, "sql", {n: frames[n] for n in names}, {n: types[n] for n in names}, columns)
    assert frame.collect_schema() == {n: polars_types.to_polars(t, n) for n, t in columns.items()}, sql
    rows = frame.collect().rows()
    return rows if re.search("ORDER BY [^)]*$", sql) else sorted(rows, key=repr)


wrong = []
for sql in SAME.strip().splitlines():
    want = db.execute(sql).fetchall()
    want = want if re.search("ORDER BY [^)]*$", sql) else sorted(want, key=repr)
    try:
        got = polars_rows(sql)
    except Exception as e:
        got = repr(e)
    if repr(got) != repr(want):
        wrong.append([sql, repr(want), repr(got)])
for sql in REFUSED.strip().splitlines():
    db.execute(sql)
    try:
        wrong.append([sql, "refused", repr(polars_rows(sql))])
    except Failure as e:
        if "engines that can: duckdb" not in e.message or e.line != 10 or not e.col or e.col < 5:
            wrong.append([sql, "a place", f"{e.line}:{e.col} {e.message}"])
print(json.dumps(wrong))
