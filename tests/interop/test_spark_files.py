"""A Parquet data set that Spark wrote, as an Iceberg table: Spark reads the same rows of both, with the same types in the same order."""

import json
import uuid

import pytest

import spark
from harness import why

ROWS = """
    SELECT id, CAST(id % 100 AS tinyint) AS i8, CAST(-id AS smallint) AS i16, CAST(id AS int) AS i32, CAST(id / 3 AS float) AS f, id / 3 AS d,
        CAST(id / 4 AS decimal(20, 4)) AS dec, IF(id % 5 = 0, NULL, concat('ñ', id)) AS s, CAST(concat('b', id) AS binary) AS bin,
        date_add(DATE'1890-12-01', CAST(id AS int)) AS day, timestamp_micros(1709290000123456 + id) AS at, TIMESTAMP_NTZ'2024-03-10 02:30:00.123456' AS local,
        named_struct('a', id, 'at', array(timestamp_micros(id))) AS st, array(CAST(id AS int), NULL) AS li, map('k', id) AS mp,
        CAST(id % 3 AS int) AS part, IF(id % 4 = 0, NULL, concat('a/b=', id % 2)) AS name
    FROM range(20)"""
WIDER = {"tinyint": "int", "smallint": "int"}  # Iceberg has none of these


@pytest.mark.parametrize("version", spark.SPARKS)
@pytest.mark.parametrize("timestamps", ["INT96", "TIMESTAMP_MICROS"])
@pytest.mark.parametrize("legacy", ["false", "true"])
def test_what_spark_wrote(engines, lake, version, timestamps, legacy):
    engine = engines.get(f"spark{version}-rest")
    if engine is None:
        pytest.skip(f"Spark {version} takes no part: {spark.missing(version)}")
    table, folder = lake.table("migrated"), lake.folder / f"set-{uuid.uuid4().hex[:8]}"
    engine.run(f"SET spark.sql.parquet.outputTimestampType = {timestamps}")
    engine.run(f"SET spark.sql.parquet.writeLegacyFormat = {legacy}")
    engine.run(f"CREATE TABLE spark_catalog.default.s USING parquet PARTITIONED BY (part, name) LOCATION '{folder}' AS {ROWS}")
    engine.run("DROP TABLE spark_catalog.default.s")
    task = {"id": "p", "type": "publish", "from": {"format": "parquet", "path": str(folder)}, "into": table}
    run = lake.daemon.ended(lake.daemon.post("/api/v1/runs", {"file": "m.yaml", "source": json.dumps({"id": "migrate", "tasks": [task]})})["id"])
    assert run["state"] == "success", why(run)
    before, after = engine.run(f"SELECT * FROM parquet.`{folder}` ORDER BY id"), engine.run(f"SELECT * FROM {engine.at(table)} ORDER BY id")
    assert after["rows"] == before["rows"] and len(after["rows"]) == 20
    assert after["types"] == [[name, WIDER.get(kind, kind)] for name, kind in before["types"]]
