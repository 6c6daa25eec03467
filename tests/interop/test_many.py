"""A hundred appenders on one table: what a client was told had landed is there, once; what was refused is not."""

import concurrent.futures
import threading

import duckdb
import pytest
from pyiceberg.exceptions import CommitFailedException

from engines import DuckDB, PyIceberg
from harness import why

COLUMNS = [("id", "bigint"), ("who", "string")]
APPENDERS = {"duckdb": 30, "pyiceberg-rest": 40, "pyiceberg-jdbc": 10, "sluice": 20}


def again(append):
    """Until it lands; how often it was refused."""
    refused = 0
    while True:
        try:
            append()
            return refused
        except CommitFailedException:
            refused += 1
        except duckdb.Error as e:
            assert "409" in str(e) or "Conflict" in str(e), e
            refused += 1


def runs(lake, table, first, count):
    """A flow whose runs append a row each, all at once."""
    lake.daemon.flow(
        "appender",
        f"""\
        id: appender
        params: {{id: {{type: int, required: true}}}}
        concurrency: {{max_active_runs: {count}}}
        tasks:
          - id: add
            type: curate
            into: {lake.name}.{table}
            mode: append
            sql: SELECT ${{params.id}}::BIGINT AS id, 'sluice' AS who
            retry: {{max_attempts: 20, interval: 10ms}}
        """,
    )
    return [lambda i=i: lake.daemon.post("/api/v1/flows/appender/runs", {"params": {"id": i}})["id"] for i in range(first, first + count)]


@pytest.mark.timeout(300)
def test_a_hundred_appenders(lake, engines, agree):
    table = lake.table("many")
    engines["pyiceberg-rest"].create(table, COLUMNS)
    clients, row, rows = [], 0, []
    for who, count in APPENDERS.items():
        if who == "sluice":
            started = runs(lake, table, row, count)
        for i in range(row, row + count):
            rows.append((i, who))
            if who != "sluice":
                engine = DuckDB(lake) if who == "duckdb" and i % 3 == 0 else engines["duckdb-rest"] if who == "duckdb" else PyIceberg(lake, who.split("-")[1])
                clients.append(lambda e=engine, i=i, w=who: again(lambda: e.append(table, COLUMNS, [(i, w)])))
        row += count
    gate = threading.Barrier(len(clients) + 1)

    def appender(client):
        gate.wait()
        return client()

    with concurrent.futures.ThreadPoolExecutor(len(clients)) as pool:
        waiting = [pool.submit(appender, c) for c in clients]
        gate.wait()
        made = [start() for start in started]
        refused = sum(w.result() for w in waiting)
    for run in (lake.daemon.ended(r) for r in made):
        assert run["state"] == "success", why(run)
    print(f"refused and tried again by the client: {refused}")
    # A snapshot each, in one line from the first to the last.
    assert agree.on(table, rows, COLUMNS, snapshots=len(rows)) == len(rows)
    md = engines["pyiceberg-rest"].load(table).metadata
    parent = {s.snapshot_id: s.parent_snapshot_id for s in md.snapshots}
    line, at = 0, md.current_snapshot_id
    while at is not None:
        line, at = line + 1, parent[at]
    assert line == len(rows)
