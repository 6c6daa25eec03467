"""The state folder: kept over a restart, and gone when it was removed."""

import os
import shutil

import pytest

from conftest import task_of, why

FLOW = "id: one\ntasks:\n  - {id: a, type: curate, into: x.y, mode: replace, sql: SELECT 1 AS n}\n"


def test_a_restart_keeps_runs_and_tables(daemon):
    daemon.flow("one", FLOW)
    run = daemon.trigger("one")
    assert run["state"] == "success", why(run)
    token = daemon.token
    assert daemon.stop() == 0
    assert not (daemon.home / "url").exists()
    daemon.start()
    assert daemon.token == token
    assert daemon.run(run["id"])["state"] == "success"
    assert daemon.sql("SELECT n FROM x.y") == [{"n": 1}]
    assert oct((daemon.home / "token").stat().st_mode & 0o777) == "0o600"


@pytest.mark.skipif(os.getuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_root_with_a_home_that_others_cannot_reach(make_daemon, folder):
    private = folder / "private"
    private.mkdir(mode=0o700)
    daemon = make_daemon(name="private/home", start=False)
    daemon.start(first=True)
    daemon.flow("one", FLOW)
    run = daemon.trigger("one")
    assert run["state"] == "success", why(run)
    daemon.stop()
    cluster = (daemon.home / "pg").resolve()
    assert cluster.stat().st_uid != 0

    # Removed and made anew: nothing of before comes back.
    shutil.rmtree(daemon.home)
    daemon.start(first=True)
    assert daemon.get("/api/v1/runs")["items"] == []
    assert daemon.get("/api/v1/tables")["items"] == []
    run = daemon.trigger("one")
    assert task_of(run, "a")["state"] == "success", why(run)
