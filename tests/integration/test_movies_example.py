"""examples/movies: its flows in order, on the rows of every layer and of MongoDB; and the whole example by its one command."""

import re

import pytest

import examples
from conftest import task_of, wait_until, why
from kafka_broker import kafka  # noqa: F401
from services import needs, running

needs("mongodb", "de.bwaldvogel:mongo-java-server")

import pymongo  # noqa: E402

KEY = "a-key-that-nobody-sees"
FIGURES = "SELECT year, genre, movie_count, avg_rating, total_revenue FROM gold.movies_by_year_genre ORDER BY ALL"


@pytest.fixture(scope="module")
def mongo():
    with running("mongodb") as address:
        yield address


@pytest.fixture
def example(folder):
    return examples.copied(folder, "movies")


@pytest.fixture
def api(example):
    day = example / "day"
    day.write_text("1")
    with examples.api_of(example, day, MOVIES_KEY=KEY) as address:
        yield address


@pytest.fixture
def broker(kafka):  # noqa: F811
    """Its address; the topic is new."""
    if "movies" in kafka.admin.list_topics(timeout=30).topics:
        kafka.admin.delete_topics(["movies"])["movies"].result(30)
        wait_until(lambda: "movies" not in kafka.admin.list_topics(timeout=30).topics, "the end of the topic")
    kafka.make("movies", 3)
    return kafka.address


def test_the_flows_in_order(make_daemon, example, api, mongo, broker):
    env = {"MOVIES_API": api, "MOVIES_KEY": KEY, "MONGO": mongo, "KAFKA": broker}
    daemon = make_daemon(flows=example, config=example / "sluice.yaml", env=env)
    flows = {f["id"]: f for f in daemon.get("/api/v1/flows")["items"]}
    assert not any(f["problems"] for f in flows.values()) and {f for f in flows if flows[f]["schedules"]} == {"ingest", "weekly_maintenance"}

    def go(*names):
        for name in names:
            run = daemon.trigger(name)
            assert run["state"] == "success", why(run)
        return run

    def one(query):
        return list(daemon.sql(query)[0].values())

    with pymongo.MongoClient(mongo) as client:
        served = client.movies

        def compare_served():
            got = served.by_year_genre.find({}, {"_id": 0}).sort([("year", 1), ("genre", 1)])
            assert list(got) == daemon.sql(FIGURES)
            films = {f["_id"]: f["title"] for f in served.movies.find()}
            assert films == {f["id"]: f["title"] for f in daemon.sql("SELECT id, title FROM silver.movies_clean")}

        go("fetch", "ingest", "refine")
        assert one("SELECT count(*), count(DISTINCT id), count(year) FROM bronze.movies_raw") == [60, 59, 59]
        layout = daemon.get("/api/v1/tables/bronze.movies_raw")["partition_spec"]
        assert [f["name"] for f in layout["fields"]] == ["year", "month"]
        assert one("SELECT count(*), count(DISTINCT id), count(vote_average), sum(title LIKE ' %')::int FROM silver.movies_clean") == [58, 58, 57, 0]
        assert one("SELECT sum(movie_count)::int FROM gold.movies_by_year_genre") == one("SELECT sum(len(genre_ids))::int FROM silver.movies_clean")
        compare_served()
        first = daemon.sql("SELECT * FROM silver.movies_clean ORDER BY id")
        snapshot = daemon.get("/api/v1/tables/silver.movies_clean")["snapshot_id"]

        go("evolve")
        assert daemon.sql("SELECT id, rating FROM silver.movies_clean ORDER BY id") == [{"id": f["id"], "rating": f["vote_average"]} for f in first]
        assert task_of(go("evolve"), "silver")["outputs"] == {"changed": False}
        (example / "day").write_text("2")
        go("fetch", "ingest", "refine_2")
        columns = "id title release_date language genre_ids rating vote_count revenue ai_generated_summary trending_score".split()
        assert list(daemon.sql("SELECT * FROM silver.movies_clean LIMIT 1")[0]) == columns
        assert one("SELECT count(*), count(DISTINCT id), count(trending_score) FROM silver.movies_clean") == [71, 71, 28]
        assert one(f"SELECT count(*) FROM silver.movies_clean n JOIN as_of('silver.movies_clean', '{snapshot}') o USING (id) WHERE n.revenue = o.revenue + 5000000") == [15]
        assert daemon.sql(f"SELECT * FROM as_of('silver.movies_clean', '{snapshot}') ORDER BY id") == first
        compare_served()

        statistics = "SELECT sum(record_count)::int AS rows, count(*) AS files FROM files('silver.movies_clean') WHERE content = 'data'"
        before, rows = one(statistics), daemon.sql("SELECT * FROM silver.movies_clean ORDER BY id")
        run = go("weekly_maintenance")
        report = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/maintain/artifacts/maintenance.txt").text
        assert "Maintenance of 4 tables" in report and "All tables" in report
        assert before[0] > 71 and one(statistics) == [71, 1] and daemon.sql("SELECT * FROM silver.movies_clean ORDER BY id") == rows

        assert task_of(go("ingest"), "stage")["attempts"][-1]["metrics"]["rows_out"] == 0  # nothing new
        wrong = go("fetch", "ingest")
        assert one("SELECT count(*) FROM bronze.movies_raw") == [60 + 28 * 2]
        daemon.cli("undo", wrong["id"])
        assert one("SELECT count(*) FROM bronze.movies_raw") == [88]
        assert KEY not in daemon.log and mongo not in daemon.log


def test_its_one_command(binary, example, mongo, broker):
    done = examples.run(example / "run", MONGO=mongo, KAFKA=broker)
    assert re.search(r"(?m)^ *15 +75000000$", done.stdout) and "Maintenance of 4 tables" in done.stdout
    assert re.search(r"(?m)^ *88$", done.stdout.split("taken back")[1]), done.stdout
    assert KEY not in done.stdout + done.stderr
