"""A flow's shadow: another engine repeats its runs, nobody sees what it writes, and its figures are kept beside theirs."""

import glob
import hashlib
import os
import signal

import pytest
from conftest import PATIENCE, link_engine, sluice, task_of, wait_until, why
from test_transactions import lineage, names, rows_of

FLOW = """\
id: {id}
shadow: {{engine: polars{more}}}
tasks:
  - {{id: a, type: curate, into: {id}.a, mode: append, sql: "{sql}"}}
  - {{id: b, type: curate, depends_on: [a], into: {id}.b, mode: overwrite, sql: "SELECT p, count(*) AS n FROM {id}.a GROUP BY p"}}
"""
ROWS = "SELECT id, p FROM seed.t"
OTHERS = "SELECT id, p, '${run.id}' AS run FROM seed.t"  # a shadow has an id of its own


@pytest.fixture(scope="module")
def daemon(shared):
    link_engine(shared.home, "polars")
    seed(shared)
    return shared


def seed(daemon):
    daemon.flow("seed", "id: seed\ntasks:\n  - {id: t, type: curate, into: seed.t, mode: replace, sql: \"SELECT range AS id, range % 3 AS p FROM range(20)\"}\n")
    assert daemon.trigger("seed")["state"] == "success"


def flow(daemon, name, sql=ROWS, more=""):
    daemon.flow(name, FLOW.format(id=name, sql=sql, more=more))


def shadow_row(daemon, run):
    rows = rows_of(daemon, "SELECT state, reason, shadow_id, engine, shadow_engine, real, shadow, result FROM sluice.shadows WHERE run_id = %s", run)
    keys = ("state", "reason", "shadow_id", "engine", "shadow_engine", "real", "shadow", "result")
    return dict(zip(keys, rows[0])) if rows else None


def shadowed(daemon, run):
    """The row of the run's shadow, when it has come to its end."""
    return wait_until(lambda: (r := shadow_row(daemon, run)) and r["state"] not in ("due", "running") and r, f"the end of the shadow of {run}", PATIENCE * 4)


def test_the_same_rows(daemon):
    flow(daemon, "same")
    for n in (1, 2):
        run = daemon.trigger("same")
        assert run["state"] == "success", why(run)
        row = shadowed(daemon, run["id"])
        shadow = daemon.run(row["shadow_id"])
        assert row["state"] == "equal", (row, why(shadow))
        assert (row["engine"], row["shadow_engine"]) == ("duckdb", "polars")
        assert (shadow["shadow_of"], shadow["rehearsal"], shadow["trigger"]) == (run["id"], True, "shadow")
        assert {t["engine"] for t in shadow["tasks"]} == {"polars"}
        # It saw the tables as they were when the run began: else an append would have doubled its rows.
        assert daemon.sql("SELECT count(*) AS n FROM same.a")[0]["n"] == 20 * n
        assert row["real"]["rows"] == row["shadow"]["rows"] == 23 and row["shadow"]["elapsed_us"] > 0 and row["shadow"]["max_rss_bytes"] > 0
        assert {c[3] for c in lineage(daemon, row["shadow_id"])} == {"rehearsed"}
    assert [r["id"] for r in daemon.get("/api/v1/flows/same")["last_runs"]][0] == run["id"]


def test_other_rows(daemon):
    flow(daemon, "other", OTHERS)
    run = daemon.trigger("other")["id"]
    row = shadowed(daemon, run)
    a, b = row["result"]["tables"]
    assert row["state"] == "different" and b["runs"][1]["equal"] and not a["runs"][1]["equal"]
    side = a["runs"][1]
    assert side["missing"] == side["extra"] == 20 and side["schema"] == []
    assert {d["row"]["run"] for d in side["differing"]} <= {run, row["shadow_id"]} and len(side["differing"]) == 5
    item = daemon.get("/api/v1/shadows?flow=other")["items"][0]
    assert item["keep"] == "duckdb" and item["advice"] == "keep duckdb: polars wrote other rows or columns in 1 of 1 runs"
    assert item["last_different"]["run"] == run and item["different"] == item["runs"] == 1
    shown = daemon.cli("shadow", "report", "other").stdout
    assert "1 different" in shown and f"run {run}, shadow {row['shadow_id']}" in shown and item["advice"] in shown
    listed = daemon.get("/api/v1/flows/other/shadows")["items"][0]
    assert (listed["run"], listed["state"], listed["tables"]) == (run, "different", row["result"]["tables"])


def test_programs_are_not_repeated_and_inputs_are_those_of_the_run(daemon, folder):
    """A table that the run reads changes before it ends; a command that it has done is not done again."""
    daemon.flow(
        "pinned",
        "id: pinned\n"
        "shadow: polars\n"
        "tasks:\n"
        "  - {id: a, type: curate, into: pinned.a, mode: replace, sql: SELECT id FROM moving.t}\n"
        f"  - {{id: c, type: command, depends_on: [a], outputs: {{least: int}}, command: 'echo once >> {folder}/done; while [ ! -e {folder}/go ]; do sleep 0.02; done; echo ''{{\"outputs\": {{\"least\": 5}}}}'' > $SLUICE_REPORT'}}\n"
        "  - {id: b, type: curate, depends_on: [c], into: pinned.b, mode: replace, sql: 'SELECT count(*) AS n FROM pinned.a WHERE id >= ${tasks.c.outputs.least}'}\n",
    )
    daemon.flow("moving", 'id: moving\nparams: {n: 20}\ntasks:\n  - {id: t, type: curate, into: moving.t, mode: replace, sql: "SELECT range AS id FROM range(${params.n})"}\n')
    assert daemon.trigger("moving")["state"] == "success"
    run = daemon.post("/api/v1/flows/pinned/runs")["id"]
    wait_until((folder / "done").exists, "the command's begin")
    assert daemon.trigger("moving", {"n": 7})["state"] == "success"
    (folder / "go").touch()
    assert daemon.ended(run)["state"] == "success"
    row = shadowed(daemon, run)
    shadow = daemon.run(row["shadow_id"])
    assert row["state"] == "equal", (row, why(shadow))
    assert (folder / "done").read_text() == "once\n"
    taken = task_of(shadow, "c")
    assert (taken["state"], taken["outputs"], taken["attempts"]) == ("success", {"least": 5}, [])
    assert daemon.sql("SELECT n FROM pinned.b")[0]["n"] == 15


def test_a_shadow_that_fails_harms_nothing(daemon):
    flow(daemon, "fails", "SELECT range AS id, range % 3 AS p FROM range(4)")
    run = daemon.trigger("fails")
    row = shadowed(daemon, run["id"])
    assert run["state"] == "success" and row["state"] == "failed" and "RANGE" in row["reason"]
    item = daemon.get("/api/v1/shadows?flow=fails")["items"][0]
    assert item["shadow"]["failed"] == item["shadow"]["ended"] == 1 and item["real"]["failed"] == 0
    assert item["keep"] is None and item["advice"] == "too few runs to say: both engines have ended 1, and it takes 10"
    assert daemon.run(run["id"])["state"] == "success" and daemon.sql("SELECT count(*) AS n FROM fails.a")[0]["n"] == 4


def test_both_fail(daemon):
    daemon.flow("bad", "id: bad\nshadow: polars\ntasks:\n  - {id: v, type: validate, table: seed.t, checks: [{row_count: {equals: 3}}]}\n")
    run = daemon.trigger("bad")
    row = shadowed(daemon, run["id"])
    assert run["state"] == "failed" and row["state"] == "failed" and row["real"]["state"] == row["shadow"]["state"] == "failed"


def test_share_is_drawn_by_the_id(daemon):
    flow(daemon, "half", more=", share: 0.5")
    for _ in range(8):
        run = daemon.trigger("half")["id"]
        drawn = int(hashlib.sha256(run.encode()).hexdigest()[:8], 16) / 2**32 < 0.5
        assert bool(shadow_row(daemon, run)) == drawn
        if drawn:
            assert (row := shadowed(daemon, run))["state"] == "equal", (row, why(daemon.run(row["shadow_id"])))
    # What somebody wanted on a certain engine, or rehearsed, is no measure.
    flow(daemon, "each")
    for body in ({"engine": "duckdb"}, {"rehearsal": True}):
        run = daemon.ended(daemon.post("/api/v1/flows/each/runs", body)["id"])
        assert run["state"] == "success" and shadow_row(daemon, run["id"]) is None


def test_staged_files_are_its_own_and_go(daemon, folder):
    (folder / "in.csv").write_text("id,name\n1,a\n2,b\n")
    daemon.flow(
        "staged",
        "id: staged\nshadow: polars\ntasks:\n"
        f"  - {{id: s, type: stage, source: {{path: {folder}/in.csv, format: csv}}, target: {{path: '{folder}/out/run=${{run.id}}/part.parquet'}}}}\n"
        "  - {id: p, type: publish, depends_on: [s], from: '${tasks.s.outputs.path}', into: staged.t, mode: replace}\n",
    )
    run = daemon.trigger("staged")
    assert run["state"] == "success", why(run)
    assert shadowed(daemon, run["id"])["state"] == "equal"
    wait_until(lambda: [p.name for p in (folder / "out").iterdir()] == [f"run={run['id']}"], "the end of what the shadow staged")


def stop_shadow(daemon, run):
    """Stops the process of the shadow's first task, and returns it."""
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            shadow = os.readlink(f"{folder}/cwd")
        except OSError:
            continue
        if shadow.startswith(f"{daemon.home.resolve()}/scratch/") and run not in shadow:
            pid = int(folder.rsplit("/", 1)[1])
            os.kill(pid, signal.SIGSTOP)
            return pid
    return None


def test_it_steps_behind(make_daemon):
    """With one slot, which the shadow's task has: a run gets one all the same. The shadow's process has a lower priority."""
    daemon = make_daemon(config="server: {max_active_tasks: 1}\n")
    link_engine(daemon.home, "polars")
    seed(daemon)
    flow(daemon, "slow")
    run = daemon.trigger("slow")["id"]
    pid = wait_until(lambda: stop_shadow(daemon, run), "the shadow's process")
    try:
        wait_until(lambda: os.getpriority(os.PRIO_PROCESS, pid) == 10, "its lower priority, which it gets once it is there")
        assert daemon.trigger("seed")["state"] == "success"
        second = daemon.trigger("slow")
        assert second["state"] == "success"
        assert shadowed(daemon, second["id"])["reason"] == "the shadow before it still ran"
        assert daemon.get("/api/v1/status")["slots"] == {"used": 1, "total": 1}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert shadowed(daemon, run)["state"] == "equal"


def test_killed_at_every_step(make_daemon, folder):
    """kill -9 before the shadow is made, before and after the comparison, and to the comparison itself."""
    fault = folder / "fault"
    fault.write_text("shadow.begin.before=kill\nshadow.compare.before=kill\nshadow.compare.after=kill\ntask.begin:4=kill\n")
    daemon = make_daemon(env={"SLUICE_FAULT": str(fault)})
    link_engine(daemon.home, "polars")
    seed(daemon)
    flow(daemon, "same")
    run = daemon.post("/api/v1/flows/same/runs")["id"]
    for kills in (1, 2, 3):
        wait_until(lambda: daemon.process.poll() is not None, "the daemon's end")
        try:
            daemon.start()
        except AssertionError:  # it came to the next point before it was seen to be ready
            assert kills < 3 and daemon.process.poll() == -signal.SIGKILL, daemon.log
    row = shadowed(daemon, run)
    assert row["state"] == "equal" and fault.read_text().strip() == "", fault.read_text()
    assert rows_of(daemon, "SELECT count(*) FROM sluice.runs WHERE shadow_of = %s", run) == [(1,)]
    assert {c[3] for c in lineage(daemon, row["shadow_id"])} == {"rehearsed"} and names(daemon) == ["same.a", "same.b", "seed.t"]


def test_killed_while_it_runs(make_daemon):
    """A schedule, and the daemon killed with a shadow under way: it is adopted, and still sees what its run saw."""
    daemon = make_daemon()
    link_engine(daemon.home, "polars")
    seed(daemon)
    # A daemon that begins anew listens on another port: what asks the old one is tried again.
    head = 'id: often\nschedule: "* * * * * *"\ndefaults: {retry: {max_attempts: 3, interval: 100ms}}\n'
    daemon.flow("often", FLOW.format(id="often", sql=ROWS, more="").replace("id: often\n", head, 1))
    first = wait_until(lambda: rows_of(daemon, "SELECT run_id FROM sluice.shadows WHERE state = 'running' ORDER BY at"), "a shadow")[0][0]
    daemon.post("/api/v1/flows/often/pause")
    daemon.kill()
    daemon.start()
    assert (row := shadowed(daemon, first))["state"] == "equal", (row, why(daemon.run(row["shadow_id"])))
    wait_until(lambda: rows_of(daemon, "SELECT count(*) FROM sluice.shadows WHERE state IN ('due', 'running')") == [(0,)], "the end of all shadows")
    states = dict(rows_of(daemon, "SELECT state, count(*) FROM sluice.shadows GROUP BY 1"))
    runs = rows_of(daemon, "SELECT count(*) FROM sluice.runs WHERE trigger = 'schedule' AND state = 'success'")[0][0]
    assert set(states) <= {"equal", "skipped"} and states["equal"] >= 1 and sum(states.values()) == runs
    assert rows_of(daemon, "SELECT DISTINCT reason FROM sluice.shadows WHERE state = 'skipped'") in ([], [("the shadow before it still ran",)])


def test_not_installed_and_forgotten(make_daemon):
    daemon = make_daemon()
    seed(daemon)
    flow(daemon, "none", more=", keep: 1ms")
    for _ in range(2):
        run = daemon.trigger("none")
        assert run["state"] == "success"
        row = wait_until(lambda: (r := shadow_row(daemon, run["id"])) is None or r["state"] == "skipped", "the shadow that there is not")
        assert row
    # What has ended is as old as it may be when the next one ends.
    assert rows_of(daemon, "SELECT count(*) FROM sluice.shadows WHERE run_id <> %s", run["id"]) == [(0,)]
    flow(daemon, "kept")
    run = daemon.trigger("kept")
    wait_until(lambda: shadow_row(daemon, run["id"])["state"] == "skipped", "the shadow that there is not")
    assert "`sluice engines install polars` makes it" in shadow_row(daemon, run["id"])["reason"]
    shown = daemon.cli("shadow", "report", "kept", "--since", "1h").stdout
    assert "1 runs" in shown and "1 skipped" in shown and "is not installed" in shown
    assert daemon.cli("shadow", "report", "nobody").stdout.startswith("no run had a shadow")
    assert daemon.cli("shadow", "stop", check=False).returncode == 2
    assert daemon.request("GET", "/api/v1/shadows?since=x").status == 400


@pytest.mark.parametrize(
    "shadow, task, place, words",
    (
        ("spork", "type: curate, into: x.t, sql: SELECT 1 AS n", "2:9", 'unknown engine "spork"'),
        ("duckdb", "type: curate, into: x.t, sql: SELECT 1 AS n", "2:9", "does no task that is not on it already"),
        ("polars", "type: curate, into: x.t, format_version: 3, sql: SELECT 1 AS n", "2:9", "the flow's shadow: engine \"polars\" does not do"),
        ("{engine: polars, share: 2}", "type: curate, into: x.t, sql: SELECT 1 AS n", "2:33", "share"),
        ("polars", "type: stage, source: {path: a.csv, format: csv}, target: {path: b.parquet}", "", "would write over what task"),
    ),
)
def test_what_is_refused(daemon, shadow, task, place, words):
    answer = daemon.post("/api/v1/validate", {"file": "f.yaml", "source": f"id: f\nshadow: {shadow}\ntasks:\n  - {{id: t, {task}}}\n"})
    problem = answer["problems"][0]
    assert not answer["valid"] and words in problem["message"], answer
    assert place in f"{problem['line']}:{problem['col']}"


def test_another_servers_catalog(binary, folder):
    (folder / "sluice.yaml").write_text("catalog: {type: rest, uri: 'http://127.0.0.1:9'}\n")
    (folder / "f.yaml").write_text("id: f\nshadow: polars\ntasks:\n  - {id: t, type: curate, into: x.t, sql: SELECT 1 AS n}\n")
    done = sluice("validate", "--config", folder / "sluice.yaml", folder / "f.yaml", check=False)
    assert done.returncode == 1 and "f.yaml:2:9: error: a shadow is not possible with the catalog" in done.stdout + done.stderr
