"""One daemon, one PostgreSQL and one JVM a Spark for all tests; each test has a table of its own."""

import concurrent.futures
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import spark
from harness import die_with_parent, wait_until  # noqa: F401  s3_stores.py asks its conftest for them
from engines import DuckDB, PyIceberg, Sluice, Spark
from lake import Lake
from values import state

NAMES = ["sluice", "duckdb-rest", "pyiceberg-rest", "pyiceberg-jdbc"] + [f"spark{v}-{t}" for v in spark.SPARKS for t in ("rest", "jdbc")]


def class_of(name):
    return {"sluice": Sluice, "duckdb": DuckDB, "pyiceberg": PyIceberg}.get(name.split("-")[0], Spark)


@pytest.fixture(scope="session")
def lake():
    lake = Lake()
    try:
        yield lake.start()
    finally:
        lake.close()


@pytest.fixture(scope="session")
def engines(lake):
    """By name; those that can be had here."""
    jvms = {}
    made = [Sluice(lake), DuckDB(lake), PyIceberg(lake, "rest"), PyIceberg(lake, "jdbc")]
    versions = [v for v in spark.SPARKS if not spark.missing(v)]
    try:
        jvms.update((v, spark.Jvm(v, lake.folder)) for v in versions)
        for jvm in jvms.values():
            jvm.ready()
        made += [Spark(lake, t, v, jvm) for v, jvm in jvms.items() for t in ("rest", "jdbc")]
        made[2].catalog.create_namespace_if_not_exists("m")
        yield {e.name: e for e in made}
    finally:
        for jvm in jvms.values():
            jvm.stop()


@pytest.fixture
def engine(request, engines):
    """The engine that a test is about; named by parametrization."""
    name = request.param
    if name not in engines:
        pytest.skip(f"{name} needs {spark.missing(name.removeprefix('spark').split('-')[0])}")
    return engines[name]


class Agreement:
    """All engines on one table."""

    def __init__(self, engines):
        self.engines = {n: e for n, e in engines.items() if hasattr(e, "state")}
        self.pool = concurrent.futures.ThreadPoolExecutor(4)

    def ask(self, question, who=None):
        """The answers by engine's name; side by side, since each is a client of its own."""
        who = who or list(self.engines)
        return dict(zip(who, self.pool.map(lambda n: question(self.engines[n]), who)))

    def on(self, table, rows, columns=None, snapshots=None):
        """Every engine sees these rows and types, and the same number of snapshots; returns that number."""
        return self.same(self.ask(lambda e: e.state(table)), rows, columns, snapshots)

    def same(self, seen, rows, columns=None, snapshots=None):
        first = next(iter(seen.values()))
        columns = tuple(map(tuple, columns or first.columns))
        want = state(columns, rows, first.snapshots if snapshots is None else snapshots)
        wrong = {name: s for name, s in seen.items() if s != want}
        assert not wrong, "\n".join([f"wanted: {want}", *(f"{name}: {s}" for name, s in wrong.items())])
        return want.snapshots


@pytest.fixture(scope="session")
def agree(engines):
    agreement = Agreement(engines)
    yield agreement
    agreement.pool.shutdown()
