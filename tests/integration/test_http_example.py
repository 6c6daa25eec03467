"""examples/http: the flow as it stands, on its rows; and the whole example by its one command."""

import re

import pytest

import examples
from conftest import task_of, why

KEY = "a-key-that-nobody-sees"


@pytest.fixture
def example(folder):
    return examples.copied(folder, "http")


@pytest.fixture
def films(example):
    with examples.api_of(example, FILMS_KEY=KEY) as address:
        yield address


def test_the_flow_as_it_stands(make_daemon, example, films):
    daemon = make_daemon(flows=example, config=example / "sluice.yaml", env={"FILMS_API": films, "FILMS_KEY": KEY})
    run = daemon.trigger("films")
    assert run["state"] == "success", why(run)
    metrics = task_of(run, "stage")["attempts"][-1]["metrics"]
    assert (metrics["pages"], metrics["requests"], metrics["requests_repeated"], metrics["rows_out"]) == (3, 4, 1, 57)
    assert daemon.sql("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM silver.films") == [{"n": 57, "ids": 57}]
    assert daemon.sql("SELECT count(*) AS n FROM silver.genres") == [{"n": 12}]
    by_year = daemon.sql("SELECT year, count(*) AS genres, sum(films)::int AS films FROM gold.films_by_year_genre GROUP BY year ORDER BY year")
    assert [r["year"] for r in by_year] == [2023, 2024]
    genres = daemon.sql("SELECT sum(len(genre_ids))::int AS n FROM silver.films")[0]["n"]
    assert sum(r["films"] for r in by_year) == genres
    assert daemon.trigger("films")["state"] == "success"  # again: the same rows, by key
    assert daemon.sql("SELECT count(*) AS n FROM silver.films") == [{"n": 57}]
    assert KEY not in daemon.log and KEY not in daemon.task_log(run["id"], "stage")


def test_a_wrong_key_is_said_and_not_tried_again(make_daemon, example, films):
    daemon = make_daemon(flows=example, config=example / "sluice.yaml", env={"FILMS_API": films, "FILMS_KEY": "wrong"})
    run = daemon.trigger("films")
    stage = task_of(run, "stage")
    assert (run["state"], len(stage["attempts"])) == ("failed", 1)
    assert "status 401" in stage["error"] and "Invalid API key" in stage["error"]
    assert daemon.request("GET", "/api/v1/tables/silver.films").status == 404


def test_its_one_command(binary, example):
    done = examples.run(example / "run")
    assert "57 records of 3 pages" in done.stdout and "status 503" in done.stdout
    assert re.search(r"(?m)^2024 ", done.stdout) and re.search(r"(?m)^57 ", done.stdout), done.stdout
    assert KEY not in done.stdout + done.stderr
