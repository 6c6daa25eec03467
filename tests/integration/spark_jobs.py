"""For the tests of Spark's processes: a daemon with a table that takes Spark minutes, and how to see what runs there."""

import contextlib
import re

from conftest import Daemon, http, link_engine, wait_until, why

# Minutes of work; Spark looks at whether it is still wanted between two batches of rows.
SLOW = "SELECT count(*) AS n FROM c.many a CROSS JOIN (SELECT x AS y FROM c.many WHERE x < 100000) b WHERE x + y > 5"
MANY = "id: many\ntasks: [{id: t, type: curate, into: c.many, sql: SELECT range AS x FROM range(1000000)}]\n"


@contextlib.contextmanager
def lake(folder, env=None):
    """A daemon in the folder, with the config that lies there, and the table c.many."""
    (folder / "flows").mkdir()
    config = folder / "sluice.yaml"
    daemon = Daemon(folder / "home", folder / "flows", config=config if config.exists() else None, env=env)
    daemon.home.mkdir()
    link_engine(daemon.home, "spark")
    daemon.start()
    try:
        daemon.flow("many", MANY)
        run = daemon.trigger("many")
        assert run["state"] == "success", why(run)
        yield daemon
    finally:
        daemon.clean_up()


def application(log):
    return re.search(r"application (\S+?),", log)[1]


def running_jobs(page, application):
    return http("GET", f"{page}/api/v1/applications/{application}/jobs?status=running").json


def begin(daemon, flow):
    """A run of the flow's task `t` whose jobs run by now; with the address of Spark's page and the application."""
    run = daemon.post(f"/api/v1/flows/{flow}/runs")["id"]
    log = wait_until(lambda: (text := daemon.task_log(run, "t")) and "its page is" in text and text, "the session", 100)
    page = re.search(r"its page is (\S+)", log)[1]

    def busy():
        now = daemon.run(run)
        assert now["state"] == "running", why(now)
        return running_jobs(page, application(log))

    wait_until(busy, "its job", 100)
    return run, page, application(log)
