"""The employees pipeline against the same SQL in DuckDB processes of its own, and where its time goes."""
import os
import time

from daemon import read, write
from measure_tasks import in_run, moment
from programs import number_of

PARQUET = "(FORMAT parquet, COMPRESSION zstd{})"
TABLE_FILES = ", FILE_SIZE_BYTES 134217728, OVERWRITE_OR_IGNORE"
EXTENSIONS = ("avro", "httpfs", "iceberg")


class Floor:
    """The pipeline's statements as files of SQL, one a task: the same readers, columns, codec and file sizes as the tasks use."""

    def __init__(self, program, folder, csv):
        self.program, self.folder = program, folder
        self.staged = os.path.join(folder, "part.parquet")
        os.makedirs(folder)
        with open(csv, encoding="utf-8") as f:
            columns = "{" + ", ".join(f"'{name}': 'VARCHAR'" for name in f.readline().strip().split(",")) + "}"
        self.stage = (f"COPY (SELECT id, name, department, status FROM read_csv(['{csv}'], auto_detect = false, header = true, "
                      f"store_rejects = true, rejects_limit = 0, strict_mode = true, delim = ',', quote = '\"', escape = '\"', "
                      f"compression = 'auto', columns = {columns}) WHERE status = 'active') TO '{self.staged}' {PARQUET.format('')};\n")

    def files(self, name, statements):
        paths = []
        for i, sql in enumerate(statements):
            paths.append(os.path.join(self.folder, f"{name}{i}.sql"))
            write(paths[-1], "SET TimeZone = 'UTC';\n" + sql)
        return paths

    def checks(self, table):
        return (f"CREATE TEMP VIEW this AS SELECT * FROM {table};\nSELECT count(*) FROM this;\n"
                "SELECT count(*) FROM this WHERE department IS NULL;\nSELECT count(*) FROM this WHERE cnt IS NULL;\n"
                "SELECT count(*), min(k)::VARCHAR FROM (SELECT row(department) AS k FROM this WHERE department IS NOT NULL "
                "GROUP BY department HAVING count(*) > 1);\n"
                f"SELECT count(*) FROM read_parquet('{self.staged}');\nSELECT coalesce((SELECT sum(cnt) FROM this), 0)::BIGINT;\n")

    def plain(self):
        """Tables are folders of Parquet files; no catalog, no metadata."""
        stg, cur = os.path.join(self.folder, "stg"), os.path.join(self.folder, "cur")
        options = PARQUET.format(TABLE_FILES)
        return [self.stage,
                f"COPY (SELECT * FROM read_parquet('{self.staged}')) TO '{stg}' {options};\n",
                f"COPY (SELECT department, count(*) AS cnt FROM read_parquet('{stg}/*.parquet') GROUP BY department ORDER BY department) "
                f"TO '{cur}' {options};\n",
                self.checks(f"read_parquet('{cur}/*.parquet')")]

    def catalog(self, daemon, libdir):
        """The same through DuckDB's own Iceberg extension to the daemon's catalog; and what makes the tables first."""
        attach = "".join(f"LOAD '{libdir}/{name}.duckdb_extension';\n" for name in EXTENSIONS)
        attach += (f"CREATE TEMPORARY SECRET c (TYPE iceberg, TOKEN '{read(os.path.join(daemon.home, 'token')).strip()}');\n"
                   f"ATTACH '' AS local (TYPE iceberg, ENDPOINT 'http://{':'.join(daemon.address())}/iceberg', SECRET c);\n")
        replace = "BEGIN;\nDELETE FROM local.floor.{0};\nINSERT INTO local.floor.{0} {1};\nCOMMIT;\n"
        make = (attach + "CREATE SCHEMA local.floor;\nCREATE TABLE local.floor.employees (id VARCHAR, name VARCHAR, "
                "department VARCHAR, status VARCHAR);\nCREATE TABLE local.floor.counts (department VARCHAR, cnt BIGINT);\n")
        counts = "SELECT department, count(*) AS cnt FROM local.floor.employees GROUP BY department ORDER BY department"
        return make, [self.stage, attach + replace.format("employees", f"SELECT * FROM read_parquet('{self.staged}')"),
                      attach + replace.format("counts", counts), attach + self.checks("local.floor.counts")]

    def seconds(self, paths):
        return number_of([self.program, self.folder, *paths])


# Where the time between the trigger and the answer went, in the order in which it passes. What DuckDB itself does is its own work.
ENGINE = ("engine: open", "engine: extensions", "engine: attach the catalog", "engine: SQL")
PARTS = ("trigger to the first attempt, committed", "between two attempts: the one's end and the next one's start committed", "fork asked for, exit heard",
         "process: fork to main, exit to reaped", *ENGINE, "attempt: requests to the catalog, commit", "attempt: the rest",
         "last exit to the answer")


def breakdown(run, sent, answered):
    """{part: ms}; `sent` and `answered` by the client's clock, which is the daemon's."""
    attempts = sorted((task["attempts"][-1] for task in run["tasks"]), key=lambda a: a["started_at"])

    def metric(name):
        return sum(a["metrics"].get(name, 0) for a in attempts) / 1e3

    begun, ended = ([moment(a[key]) for a in attempts] for key in ("started_at", "ended_at"))
    wall = sum(a["wall_us"] for a in attempts) / 1e3
    values = ((begun[0] - sent) * 1e3, sum(b - e for b, e in zip(begun[1:], ended)) * 1e3,
              sum(e - b for b, e in zip(begun, ended)) * 1e3 - wall, wall - metric("engine_us"), metric("open_us"), metric("load_us"),
              metric("attach_us"), metric("sql_us"), metric("catalog_us"), metric("other_us"), (answered - ended[-1]) * 1e3)
    return dict(zip(PARTS, values))


def measure_employees(daemon, program, employees, folder, rounds, results):
    floor = Floor(program, os.path.join(folder, "sql"), employees.csv)
    plain = floor.files("plain", floor.plain())
    make, statements = floor.catalog(daemon, os.path.join(os.path.dirname(daemon.binary), "lib"))
    floor.seconds(floor.files("make", [make]))
    catalog = floor.files("catalog", statements)
    bare, through, inside, total, parts = [], [], [], [], []
    for i in range(rounds + 1):
        figures = floor.seconds(plain), floor.seconds(catalog)
        sent = time.time()
        run, seconds = daemon.run("employees_pipeline")
        if i:  # not the first use of everything
            bare.append(figures[0])
            through.append(figures[1])
            inside.append(in_run(run))
            total.append(seconds)
            parts.append(breakdown(run, sent, sent + seconds))
    base = results.add("floor: the SQL of employees in four DuckDB processes, 10 rows, no catalog", bare)
    results.add("the same through DuckDB's Iceberg extension to this catalog", through, floor=base)
    results.add("employees, 10 rows: started to ended", inside, floor=base)
    results.add("employees, 10 rows: trigger to answer", total, floor=base, at_most=0.15, ratio_at_most=1.4)
    outside = [100 * (1 - sum(part[name] for name in ENGINE) / sum(part.values())) for part in parts]
    results.add("employees, 10 rows: share of the time outside the engine's own work", outside, "%", at_most=30)
    for name in PARTS:
        results.add(f"- {name}", [part[name] for part in parts], "ms")


def measure_big(daemon, program, employees, folder, rows, rounds, results):
    floor = Floor(program, os.path.join(folder, "sql-big"), employees.big_csv)
    one = floor.files("one", ["".join(floor.plain())])
    bare, inside, total = [], [], []
    for i in range(rounds + 1):
        figure = floor.seconds(one)
        run, seconds = daemon.run("employees_big")
        if i:
            bare.append(figure)
            inside.append(in_run(run))
            total.append(seconds)
    base = results.add(f"floor: the SQL of employees in one DuckDB process, {rows:,} rows, no catalog", bare)
    results.add(f"employees, {rows:,} rows: started to ended", inside, floor=base, ratio_at_most=1.15)
    results.add(f"employees, {rows:,} rows: trigger to answer", total, floor=base)
