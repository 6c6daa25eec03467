"""examples/maintenance: the flows as they stand, on their rows; and the whole example by its one command."""

import re

import pytest

import examples
from conftest import task_of, why

ROWS = "SELECT region, batch, n, value FROM bronze.measurements ORDER BY ALL"
LATEST = "SELECT region, batch, value FROM gold.latest ORDER BY ALL"


@pytest.fixture
def example(folder):
    return examples.copied(folder, "maintenance")


@pytest.fixture
def fed(make_daemon, example):
    daemon = make_daemon(flows=example, config=example / "sluice.yaml")
    for batch in range(1, 7):
        run = daemon.trigger("feed", {"batch": batch})
        assert run["state"] == "success", why(run)
    return daemon


def health(daemon):
    return {i["table"]: i for i in daemon.get("/api/v1/tables/health")["items"]}


def outputs(daemon, flow):
    run = daemon.trigger(flow)
    assert run["state"] == "success", why(run)
    return task_of(run, "maintain")["outputs"]


def test_the_flows_as_they_stand(fed):
    flows = {f["id"]: f for f in fed.get("/api/v1/flows")["items"]}
    assert all(not f["problems"] for f in flows.values()) and {f for f in flows if flows[f]["schedules"]} == {"weekly_maintenance", "maintenance_by_need"}

    rows, latest, before = fed.sql(ROWS), fed.sql(LATEST), health(fed)
    assert len(rows) == 180 and [r["batch"] for r in latest] == [6, 6, 6]
    assert before["bronze.measurements"]["files"] == 18 and before["gold.latest"]["delete_files"] > 0
    told = outputs(fed, "maintenance_by_need")  # both are below 80
    assert (told["tables"], told["changed"], told["failed"]) == (2, 2, 0)
    after = health(fed)
    assert after["bronze.measurements"]["files"] == 3 and after["gold.latest"]["delete_files"] == 0
    assert min(i["score"] for i in after.values()) >= 80
    assert fed.sql(ROWS) == rows and fed.sql(LATEST) == latest
    assert outputs(fed, "maintenance_by_need")["changed"] == 0

    assert fed.trigger("feed", {"batch": 7})["state"] == "success"  # not enough to compact
    rows = fed.sql(ROWS)
    assert outputs(fed, "weekly_maintenance")["tables"] == 2
    assert len(rows) == 210 and fed.sql(ROWS) == rows


def test_its_one_command(binary, example):
    done = examples.run(example / "run")
    first, second = re.split(r"(?m)^Dry run of maintenance", done.stdout)
    assert re.search(r"bronze\.measurements +\d\d +\S+ KB +24 of 24 ", first)
    assert "24 files of" in second and re.search(r"bronze\.measurements +100 ", second)
    assert re.search(r"(?m)^north +80 +8$", second)
