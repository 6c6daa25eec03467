"""The engines, all with the same verbs. A table is "namespace.name"; columns are pairs of name and Spark's type; rows are tuples.

An engine that cannot do a thing at all has no such verb: DuckDB's extension has no CREATE OR REPLACE, rollback, tags or change of
a column's type; PyIceberg has no create-or-replace.
"""

import json
import re

import duckdb
import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.expressions import EqualTo, In
from pyiceberg.transforms import BucketTransform, HourTransform, IdentityTransform, MonthTransform, TruncateTransform
from pyiceberg.types import LongType

from harness import why
from s3_stores import KEY, SECRET
from spark import BUILD
from values import arrow_table, duck_literal, duck_type, of_duck, of_ice, spark_literal, state


def names(columns):
    return ", ".join(n for n, _ in columns)


def tuples(columns, rows, literal):
    """Rows as the body of VALUES."""
    return ", ".join("(" + ", ".join(literal(v, k) for v, (_, k) in zip(r, columns)) + ")" for r in rows)


def term(text):
    """`region`, `day(at)` or `bucket(4, id)` as transform, number and column."""
    transform, n, column = re.fullmatch(r"(?:(\w+)\((?:(\d+), )?)?(\w+)\)?", text).groups()
    return transform or "identity", n and int(n), column


def rows_of(found):
    """An Arrow table's."""
    return list(zip(*(found.column(i).to_pylist() for i in range(found.num_columns))))


class DuckDB:
    def __init__(self, lake):
        self.name, self.columns = "duckdb-rest", {}
        self.db = duckdb.connect(config={"autoinstall_known_extensions": "false"})
        for extension in ("avro", "httpfs", "iceberg"):
            self.db.execute(f"LOAD '{BUILD}/lib/{extension}.duckdb_extension'")
        self.db.execute("SET TimeZone = 'UTC'")
        if lake.store:
            at = lake.store.endpoint.removeprefix("http://")
            self.db.execute(f"CREATE SECRET store (TYPE s3, KEY_ID '{KEY}', SECRET '{SECRET}', ENDPOINT '{at}', URL_STYLE path, USE_SSL false)")
        self.db.execute(f"CREATE SECRET lake (TYPE iceberg, TOKEN '{lake.token}')")
        self.db.execute(f"ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{lake.rest}', SECRET lake)")

    def run(self, *statements):
        """In one transaction."""
        cursor = self.db.cursor()
        cursor.execute("BEGIN")
        try:
            for s in statements:
                cursor.execute(s)
            cursor.execute("COMMIT")
        except BaseException:
            try:
                cursor.execute("ROLLBACK")
            except duckdb.Error:
                pass  # the failed commit was its end
            raise
        finally:
            cursor.close()

    def create(self, table, columns, partition=None):
        by = f" PARTITIONED BY ({', '.join(partition)})" if partition else ""
        self.run(f"CREATE TABLE lake.{table} ({', '.join(f'{n} {duck_type(k)}' for n, k in columns)}){by}")

    def append(self, table, columns, rows):
        self.run(self._insert(table, columns, rows))

    def _insert(self, table, columns, rows):
        return f"INSERT INTO lake.{table} ({names(columns)}) VALUES {tuples(columns, rows, duck_literal)}"

    def overwrite(self, table, columns, rows):
        self.run(f"DELETE FROM lake.{table}", self._insert(table, columns, rows))

    def overwrite_partitions(self, table, columns, rows, key):
        at = [n for n, _ in columns].index(key)
        gone = ", ".join(duck_literal(v, columns[at][1]) for v in sorted({r[at] for r in rows}))
        self.run(f"DELETE FROM lake.{table} WHERE {key} IN ({gone})", self._insert(table, columns, rows))

    def upsert(self, table, columns, rows, key):
        self.run(
            f"MERGE INTO lake.{table} t USING (SELECT * FROM (VALUES {tuples(columns, rows, duck_literal)}) v({names(columns)})) s ON t.{key} = s.{key} "
            f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{n} = s.{n}' for n, _ in columns)} "
            f"WHEN NOT MATCHED THEN INSERT ({names(columns)}) VALUES ({', '.join(f's.{n}' for n, _ in columns)})"
        )

    def delete(self, table, key, values):
        self.run(f"DELETE FROM lake.{table} WHERE {key} IN ({', '.join(map(str, values))})")

    def add_column(self, table, name, kind):
        self.run(f"ALTER TABLE lake.{table} ADD COLUMN {name} {duck_type(kind)}")

    def rename_column(self, table, name, new):
        self.run(f"ALTER TABLE lake.{table} RENAME COLUMN {name} TO {new}")

    def drop_column(self, table, name):
        self.run(f"ALTER TABLE lake.{table} DROP COLUMN {name}")

    def partition_by_bucket(self, table, column, n):
        self.run(f"ALTER TABLE lake.{table} SET PARTITIONED BY (bucket({n}, {column}))")

    def state(self, table, at=""):
        cursor = self.db.cursor()
        try:
            cursor.execute("BEGIN")
            found = cursor.sql(f"SELECT * FROM lake.{table} {at}")
            columns, rows = [(n, of_duck(t)) for n, t in zip(found.columns, found.types)], rows_of(found.to_arrow_table())
            snapshots = cursor.sql(f"SELECT count(*) FROM iceberg_snapshots(lake.{table})").fetchone()[0]
            cursor.execute("COMMIT")
        finally:
            cursor.close()
        return state(columns, rows, snapshots)

    def state_at(self, table, snapshot):
        return self.state(table, f"AT (VERSION => {snapshot})")

    def ids_where(self, table, column, kind, value):
        cursor = self.db.cursor()
        try:
            return sorted(i for (i,) in cursor.execute(f"SELECT id FROM lake.{table} WHERE {column} = {duck_literal(value, kind)}").fetchall())
        finally:
            cursor.close()


class PyIceberg:
    TRANSFORMS = {"identity": IdentityTransform, "bucket": BucketTransform, "truncate": TruncateTransform, "month": MonthTransform, "hour": HourTransform}

    def __init__(self, lake, through):
        self.name = f"pyiceberg-{through}"
        if through == "rest":
            self.catalog = RestCatalog(lake.name, uri=lake.rest, token=lake.token)
        else:
            self.catalog = SqlCatalog(lake.name, uri=lake.sqlalchemy, warehouse=lake.warehouse, init_catalog_tables="false")

    def load(self, table):
        return self.catalog.load_table(table)

    def create(self, table, columns, partition=None):
        t = self.catalog.create_table(table, arrow_table(columns, []).schema, properties={"format-version": "2"})
        if partition:
            with t.update_spec() as spec:
                for transform, n, column in map(term, partition):
                    made = self.TRANSFORMS[transform]
                    spec.add_field(column, made(n) if n else made(), f"{column}_{transform}")

    def append(self, table, columns, rows):
        self.load(table).append(arrow_table(columns, rows))

    def overwrite(self, table, columns, rows):
        self.load(table).overwrite(arrow_table(columns, rows))

    def overwrite_partitions(self, table, columns, rows, key):
        self.load(table).dynamic_partition_overwrite(arrow_table(columns, rows))

    def upsert(self, table, columns, rows, key):
        self.load(table).upsert(arrow_table(columns, rows), join_cols=[key])

    def delete(self, table, key, values):
        self.load(table).delete(In(key, values) if len(values) > 1 else EqualTo(key, values[0]))

    def add_column(self, table, name, kind):
        with self.load(table).update_schema() as schema:
            schema.union_by_name(pa.schema([pa.field(name, arrow_table([(name, kind)], []).schema.field(0).type)]))

    def rename_column(self, table, name, new):
        with self.load(table).update_schema() as schema:
            schema.rename_column(name, new)

    def drop_column(self, table, name):
        with self.load(table).update_schema() as schema:
            schema.delete_column(name)

    def widen(self, table, name):
        with self.load(table).update_schema() as schema:
            schema.update_column(name, LongType())

    def partition_by_bucket(self, table, column, n):
        with self.load(table).update_spec() as spec:
            spec.add_field(column, BucketTransform(n), f"{column}_bucket")

    def rollback(self, table, snapshot):
        self.load(table).manage_snapshots().rollback_to_snapshot(snapshot).commit()

    def tag(self, table, name, snapshot):
        self.load(table).manage_snapshots().create_tag(snapshot, name).commit()

    def state(self, table, snapshot=None):
        t = self.load(table)
        scan = t.scan(snapshot_id=snapshot)
        return state([(f.name, of_ice(f.field_type)) for f in scan.projection().fields], rows_of(scan.to_arrow()), len(t.metadata.snapshots))

    def state_at(self, table, snapshot):
        return self.state(table, snapshot)

    def ids_where(self, table, column, kind, value):
        value = value.isoformat() if kind in ("date", "timestamp") else value
        return sorted(self.load(table).scan(EqualTo(column, value), selected_fields=("id",)).to_arrow().column(0).to_pylist())

    def state_of_tag(self, table, tag):
        return self.state_at(table, self.load(table).metadata.refs[tag].snapshot_id)


class Spark:
    def __init__(self, lake, through, version, jvm):
        self.name, self.jvm = f"spark{version}-{through}", jvm
        self.session, self.catalog = f"{lake.label}-{through}", lake.name
        options = {"": "org.apache.iceberg.spark.SparkCatalog", ".cache-enabled": "false"}
        if through == "rest":
            options |= {".type": "rest", ".uri": lake.rest, ".token": lake.token}
            if lake.store:  # with the keys that the catalog lends
                options |= {".io-impl": "org.apache.iceberg.aws.s3.S3FileIO", ".header.X-Iceberg-Access-Delegation": "vended-credentials"}
        else:
            options |= {".type": "jdbc", ".uri": lake.jdbc, ".warehouse": lake.warehouse, ".jdbc.user": "sluice", ".jdbc.password": lake.database.password}
            options |= {".jdbc.schema-version": "V1"}
        conf = [f"spark.sql.catalog.{lake.name}{k}={v}" for k, v in options.items()]
        jvm.ask(self.session, "conf", "\n".join(conf))

    def run(self, sql):
        return self.jvm.ask(self.session, "sql", sql)

    def create(self, table, columns, partition=None):
        terms = [re.sub(r"^(month|hour)\(", r"\1s(", t) for t in partition or ()]
        by = f" PARTITIONED BY ({', '.join(terms)})" if terms else ""
        self.run(f"CREATE TABLE {self.at(table)} ({', '.join(f'{n} {k}' for n, k in columns)}) USING iceberg{by} TBLPROPERTIES ('format-version' = '2')")

    def at(self, table):
        return f"{self.catalog}.{table}"

    def append(self, table, columns, rows):
        self.run(f"INSERT INTO {self.at(table)} ({names(columns)}) VALUES {tuples(columns, rows, spark_literal)}")

    def overwrite(self, table, columns, rows):
        self._overwrite("static", table, columns, rows)

    def overwrite_partitions(self, table, columns, rows, key):
        self._overwrite("dynamic", table, columns, rows)

    def _overwrite(self, mode, table, columns, rows):
        self.run(f"SET spark.sql.sources.partitionOverwriteMode = {mode}")
        self.run(f"INSERT OVERWRITE {self.at(table)} VALUES {tuples(columns, rows, spark_literal)}")

    def upsert(self, table, columns, rows, key):
        self.run(
            f"MERGE INTO {self.at(table)} t USING (SELECT * FROM VALUES {tuples(columns, rows, spark_literal)} AS v({names(columns)})) s "
            f"ON t.{key} = s.{key} WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
        )

    def delete(self, table, key, values):
        self.run(f"DELETE FROM {self.at(table)} WHERE {key} IN ({', '.join(map(str, values))})")

    def delete_by_equality(self, table, key, values, partition=""):
        """Its library does it; Spark itself only reads such deletes. `partition`: the value of the first partition field."""
        self.jvm.ask(self.session, "unequal", "\n".join([self.at(table), key, ",".join(map(str, values)), partition]))

    def add_column(self, table, name, kind):
        self.run(f"ALTER TABLE {self.at(table)} ADD COLUMN {name} {kind}")

    def rename_column(self, table, name, new):
        self.run(f"ALTER TABLE {self.at(table)} RENAME COLUMN {name} TO {new}")

    def drop_column(self, table, name):
        self.run(f"ALTER TABLE {self.at(table)} DROP COLUMN {name}")

    def widen(self, table, name):
        self.run(f"ALTER TABLE {self.at(table)} ALTER COLUMN {name} TYPE bigint")

    def partition_by_bucket(self, table, column, n):
        self.run(f"ALTER TABLE {self.at(table)} ADD PARTITION FIELD bucket({n}, {column})")

    def replace(self, table, columns, rows):
        self.run(f"CREATE OR REPLACE TABLE {self.at(table)} USING iceberg AS SELECT * FROM VALUES {tuples(columns, rows, spark_literal)} AS v({names(columns)})")

    def rollback(self, table, snapshot):
        self.run(f"CALL {self.catalog}.system.rollback_to_snapshot('{table}', {snapshot})")

    def tag(self, table, name, snapshot):
        self.run(f"ALTER TABLE {self.at(table)} CREATE TAG {name} AS OF VERSION {snapshot}")

    def state(self, table, at=""):
        found = self.run(f"SELECT * FROM {self.at(table)} {at}")
        return state(found["types"], found["rows"], self.run(f"SELECT count(*) FROM {self.at(table)}.snapshots")["rows"][0][0])

    def state_at(self, table, snapshot):
        return self.state(table, f"VERSION AS OF {snapshot}")

    def state_of_tag(self, table, tag):
        return self.state(table, f"VERSION AS OF '{tag}'")

    def ids_where(self, table, column, kind, value):
        return sorted(r[0] for r in self.run(f"SELECT id FROM {self.at(table)} WHERE {column} = {spark_literal(value, kind)}")["rows"])


class Sluice:
    """Flows as writers. They read with DuckDB, which is asked anyway, so this one has no `state`."""

    def __init__(self, lake):
        self.name, self.lake, self.daemon = "sluice", lake, lake.daemon

    def _write(self, table, mode, columns, rows, **more):
        if rows:
            sql = f"SELECT * FROM (VALUES {tuples(columns, rows, duck_literal)}) v({names(columns)})"
        else:
            sql = "SELECT " + ", ".join(f"{duck_literal(None, k)} AS {n}" for n, k in columns) + " WHERE false"
        task = {"id": "write", "type": "curate", "into": f"{self.lake.name}.{table}", "mode": mode, "sql": sql, **more}
        source = json.dumps({"id": "interop", "tasks": [task]}, ensure_ascii=False)  # JSON is YAML
        run = self.daemon.ended(self.daemon.post("/api/v1/runs", {"file": "interop.yaml", "source": source})["id"])
        assert run["state"] == "success", why(run)

    def create(self, table, columns, partition=None):
        self._write(table, "append", columns, [], **({"partition_by": list(partition)} if partition else {}))

    def append(self, table, columns, rows):
        self._write(table, "append", columns, rows)

    def overwrite(self, table, columns, rows):
        self._write(table, "overwrite", columns, rows)

    def overwrite_partitions(self, table, columns, rows, key):
        self._write(table, "overwrite_partitions", columns, rows)

    def upsert(self, table, columns, rows, key):
        self._write(table, "upsert", columns, rows, key=key)

    def replace(self, table, columns, rows):
        self._write(table, "replace", columns, rows)

    def rollback(self, table, snapshot):
        self.daemon.post(f"/api/v1/tables/{table}/rollback", {"to": str(snapshot)})

    def tag(self, table, name, snapshot):
        answer = self.daemon.request("PUT", f"/api/v1/tables/{table}/refs/{name}", {"type": "tag", "at": str(snapshot)})
        assert answer.status in (200, 201), answer
