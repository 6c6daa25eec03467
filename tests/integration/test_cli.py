"""The command line as people and scripts use it: exit statuses, JSON on stdout, words on stderr, Ctrl-C."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import textwrap

import pytest

from conftest import BINARY, PATIENCE, alive, clean_env, sluice, task_of, wait_until

TASK_STATES = {"waiting", "ready", "running", "retry_wait", "success", "failed", "timed_out", "cancelled", "lost", "skipped", "upstream_failed"}

HELLO = """\
id: hello
description: says hello
params:
  who: {type: string, default: world}
  times: {type: int, default: 1}
schedule: {cron: "0 6 * * *", timezone: Europe/Madrid}
tasks:
  - {id: greet, type: command, command: "echo hello ${params.who}"}
  - {id: after, type: command, depends_on: [greet], command: "echo bye"}
"""
FAILING = """\
id: failing
tasks:
  - {id: a, type: command, command: "echo the last words; exit 3"}
  - {id: b, type: command, depends_on: [a], command: "true"}
"""
SLEEPING = """\
id: sleeping
tasks:
  - {id: long, type: command, command: "echo asleep; exec sleep 600", stop_grace: 2s}
"""
BROKEN = """\
id: broken
taks:
  - {id: a, type: command, command: "true"}
"""


def write(folder, name, text):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def popen(*args, home, cwd=None):
    return subprocess.Popen(
        [str(BINARY), *map(str, args)], env=clean_env(SLUICE_HOME=home), cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def busy(daemon):
    """A daemon with a flow that goes well, one that fails and one that sleeps."""
    for name, text in (("hello", HELLO), ("failing", FAILING), ("sleeping", SLEEPING)):
        daemon.write(f"{name}.yaml", text)
    for name in ("hello", "failing", "sleeping"):
        wait_until(lambda: daemon.request("GET", f"/api/v1/flows/{name}").status == 200, f"flow {name}")
    return daemon


# ---- words and options ----


def test_help_names_every_command():
    told = sluice("--help").stdout
    for name in "serve run trigger flows runs show logs cancel next pause resume validate schema tables maintain sql token doctor version".split():
        assert re.search(rf"^  {name} ", told, re.M), name
        one = sluice(name, "--help").stdout
        assert f"usage: sluice {name}" in one
    assert all(len(line) <= 80 for line in told.splitlines())


def test_wrong_use_is_refused():
    for args, word in (
        ((), "usage"),
        (("trigge", "x"), 'did you mean "trigger"'),
        (("runs", "--wait"), "does not take"),
        (("runs", "--limit"), "needs a value"),
        (("runs", "--limit", "many"), "whole number"),
        (("show",), "usage: sluice show"),
        (("show", "a", "b"), "too many"),
        (("sql", "SELECT 1", "--json", "--csv"), "exclude"),
        (("token", "create"), "--scope"),
        (("token", "delete"), "usage"),
    ):
        done = sluice(*args, check=False, env={"SLUICE_HOME": "/nonexistent"})
        assert done.returncode == 2 and word in done.stderr and done.stdout == "", (args, done)


def test_version_and_schema():
    assert re.fullmatch(r"sluice \d+\.\d+\.\d+\n", sluice("version").stdout)
    assert sluice("--version").stdout == sluice("version").stdout
    assert json.loads(sluice("schema").stdout)["$schema"].startswith("https://json-schema.org/")


def test_no_daemon_says_what_to_do(folder):
    for args in (("runs",), ("trigger", "x"), ("sql", "SELECT 1")):
        done = sluice(*args, check=False, env={"SLUICE_HOME": folder / "none"})
        assert done.returncode == 2 and "no daemon answers" in done.stderr and "sluice serve" in done.stderr
        assert str(folder / "none") in done.stderr and done.stdout == ""


# ---- validate ----


def test_validate(folder):
    good, bad = write(folder, "hello.yaml", HELLO), write(folder, "broken.yaml", BROKEN)
    done = sluice("validate", good)
    assert done.stdout == f"{good}: good\n"

    done = sluice("validate", good, bad, check=False)
    assert done.returncode == 1
    assert f'{bad}:2:1: error: unknown key "taks" in the flow; did you mean "tasks"?' in done.stdout.splitlines()
    assert f"{good}: good" in done.stdout

    done = sluice("validate", folder / "none.yaml", check=False)
    assert done.returncode == 2 and "none.yaml" in done.stdout


def test_validate_as_json(folder):
    good, bad = write(folder, "hello.yaml", HELLO), write(folder, "broken.yaml", BROKEN)
    assert json.loads(sluice("validate", "--format", "json", good).stdout) == {"valid": True, "problems": []}
    done = sluice("validate", "--format=json", bad, check=False)
    answer = json.loads(done.stdout)
    assert done.returncode == 1 and answer["valid"] is False
    assert {"file": str(bad), "line": 2, "col": 1, "severity": "error"}.items() <= next(p for p in answer["problems"] if "taks" in p["message"]).items()


def test_validate_reads_the_config_beside_the_file(folder):
    flow = write(
        folder,
        "load.yaml",
        """\
        id: load
        tasks:
          - {id: a, type: stage, source: {format: csv, path: "${config.paths.raw}"}, target: {path: out.parquet}}
        """,
    )
    assert sluice("validate", flow, check=False).returncode == 1
    write(folder, "sluice.yaml", "paths: {raw: in.csv}\n")
    sluice("validate", flow)
    other = write(folder, "other.yaml", "paths: {rwa: in.csv}\n")
    done = sluice("validate", "--config", other, flow, check=False)
    assert done.returncode == 1 and "load.yaml:3:" in done.stdout
    assert sluice("validate", "--config", folder / "none.yaml", flow, check=False).returncode == 2


# ---- run without a daemon ----


def test_run_needs_no_daemon_and_leaves_none(folder):
    flow, home = write(folder, "hello.yaml", HELLO), folder / "home"
    done = sluice("run", flow, "-p", "who=Ada", "--json", env={"SLUICE_HOME": home})
    run = json.loads(done.stdout)
    assert (run["flow"], run["state"], run["params"]["who"], run["trigger"]) == ("hello", "success", "Ada", "cli")
    assert run["id"] in done.stderr and "success" in done.stderr
    assert (home / "runs" / run["id"] / "greet" / "1" / "log").read_text() == "hello Ada\n"

    done = sluice("run", write(folder, "failing.yaml", FAILING), check=False, env={"SLUICE_HOME": home})
    assert done.returncode == 1 and "a: exit status 3" in done.stderr and "the last words" in done.stderr

    for name in ("nursery.pid", "pg/postmaster.pid"):
        pid = home / name
        wait_until(lambda: not pid.exists() or not alive(int(pid.read_text().split()[0])), f"the end of {name}")
    assert not (home / "url").exists()


def test_run_refuses_what_is_wrong_at_once(folder):
    home = folder / "home"
    bad = write(folder, "broken.yaml", BROKEN)
    done = sluice("run", bad, check=False, env={"SLUICE_HOME": home})
    assert done.returncode == 2 and f"{bad}:2:1: error" in done.stderr and done.stdout == ""
    assert not home.exists()  # no daemon was started for it
    done = sluice("run", folder / "none.yaml", check=False, env={"SLUICE_HOME": home})
    assert done.returncode == 2 and "none.yaml" in done.stderr
    done = sluice("run", write(folder, "hello.yaml", HELLO), "-p", "who", check=False, env={"SLUICE_HOME": home})
    assert done.returncode == 2 and "name=value" in done.stderr


def test_run_shows_why_its_daemon_does_not_start(folder):
    flow = write(folder, "hello.yaml", HELLO)
    done = sluice("run", flow, "--home", folder / "home", "--database", "host=/nonexistent dbname=x", check=False)
    assert done.returncode == 2 and "/nonexistent" in done.stderr and "serve.log" in done.stderr


def test_run_uses_a_daemon_that_answers(busy):
    done = busy.cli("run", busy.flows / "hello.yaml", "--json")
    assert busy.run(json.loads(done.stdout)["id"])["state"] == "success"


def test_run_goes_on_when_its_daemon_dies(folder):
    flow = write(
        folder,
        "two.yaml",
        f"""\
        id: two
        tasks:
          - {{id: a, type: command, command: "echo begun >>{folder}/begun; sleep 1"}}
          - {{id: b, type: command, depends_on: [a], command: "true"}}
        """,
    )
    home = folder / "home"
    process = popen("run", flow, "--json", home=home)
    assert "running" in process.stderr.readline()
    os.kill(int((home / "daemon.pid").read_text()), signal.SIGKILL)
    out, err = process.communicate(timeout=PATIENCE * 2)
    assert process.returncode == 0, err
    run = json.loads(out)
    assert [t["state"] for t in run["tasks"]] == ["success"] * 2 and len(task_of(run, "a")["attempts"]) == 1
    assert (folder / "begun").read_text() == "begun\n"  # the attempt lived on and was adopted


def test_ctrl_c_cancels_the_run(folder):
    flow, home = write(folder, "sleeping.yaml", SLEEPING), folder / "home"
    process = popen("run", flow, "--json", home=home)
    wait_until(lambda: any(p.read_text() for p in (home / "runs").glob("*/long/1/log")), "the sleep")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "cancelling" in err
    run = json.loads(out)
    assert run["state"] == "cancelled" and task_of(run, "long")["state"] == "cancelled"


# ---- with a daemon ----


def test_trigger(busy):
    done = busy.cli("trigger", "hello", "-p", "who=Ada", "-p", "times=3")
    run_id = done.stdout.strip()
    run = busy.ended(run_id)
    assert done.stdout == f"{run_id}\n" and run["params"] == {"who": "Ada", "times": 3}
    assert json.loads(busy.cli("trigger", "hello", "--json").stdout)["flow"] == "hello"
    keyed = {busy.cli("trigger", "hello", "--key", "k1").stdout for _ in range(3)}
    assert len(keyed) == 1

    for args, word in ((("helo",), "did you mean hello"), (("hello", "-p", "times=x"), "whole number"), (("hello", "-p", "nobody=1"), "nobody"), (("hello", "--engine", "a=b", "--engine", "c"), "unknown engine")):
        done = busy.cli("trigger", *args, check=False)
        assert done.returncode == 2 and word in done.stderr and done.stdout == "", done


def test_trigger_and_wait(busy):
    done = busy.cli("trigger", "hello", "--wait")
    assert re.fullmatch(r"\S+\n", done.stdout) and "success" in done.stderr
    done = busy.cli("trigger", "failing", "--wait", "--json", check=False)
    run = json.loads(done.stdout)
    assert done.returncode == 1 and run["state"] == "failed" and "the last words" in done.stderr
    assert set(run) >= {"id", "flow", "state", "trigger", "params", "created_at", "scheduled_for", "started_at", "ended_at", "error", "tasks"}
    for task in run["tasks"]:
        assert set(task) >= {"id", "type", "engine", "state", "attempts", "outputs"} and task["state"] in TASK_STATES
    assert [t["state"] for t in run["tasks"]] == ["failed", "upstream_failed"]


def test_runs_show_and_names_of_runs(busy):
    first, second = busy.trigger("hello")["id"], busy.trigger("failing")["id"]
    rows = busy.cli("runs").stdout.splitlines()
    assert rows[0].split()[:3] == ["RUN", "FLOW", "STATE"] and [r.split()[0] for r in rows[1:]] == [second, first]
    assert [r["id"] for r in json.loads(busy.cli("runs", "hello", "--json").stdout)["items"]] == [first]
    assert [r["id"] for r in json.loads(busy.cli("runs", "--state", "failed", "--json").stdout)["items"]] == [second]
    assert len(json.loads(busy.cli("runs", "--limit", "1", "--json").stdout)["items"]) == 1

    assert json.loads(busy.cli("show", "last", "--json").stdout)["id"] == second
    assert json.loads(busy.cli("show", first[:-1], "--json").stdout)["id"] == first
    done = busy.cli("show", first[:4], check=False)
    assert done.returncode == 2 and "more than one" in done.stderr
    done = busy.cli("show", "nothing", check=False)
    assert done.returncode == 2 and "there is no run nothing" in done.stderr
    told = busy.cli("show", second).stdout
    assert "failed" in told and "exit status 3" in told and "upstream_failed" in told


def test_logs(busy):
    run_id = busy.trigger("hello")["id"]
    assert busy.cli("logs", run_id, "greet").stdout == "hello world\n"
    assert busy.cli("logs", "last").stdout == "==> greet <==\nhello world\n==> after <==\nbye\n"
    assert busy.cli("logs", "last", "greet", "-f").stdout == "hello world\n"
    done = busy.cli("logs", run_id, "nothing", check=False)
    assert done.returncode == 2 and "greet, after" in done.stderr and done.stdout == ""
    assert busy.cli("logs", run_id, "greet", "--attempt", "2", check=False).returncode == 2


def test_a_log_is_followed_and_a_run_cancelled(busy):
    run_id = busy.cli("trigger", "sleeping").stdout.strip()
    follower = popen("logs", run_id, "long", "-f", home=busy.home)
    assert follower.stdout.readline() == "asleep\n"
    assert follower.poll() is None
    assert "cancelled" in busy.cli("cancel", run_id).stdout
    assert busy.ended(run_id)["state"] == "cancelled"
    assert follower.wait(PATIENCE) == 0 and follower.communicate()[0] == ""
    done = busy.cli("cancel", "20000101-000000-aaaaaa", check=False)
    assert done.returncode == 2 and "no run" in done.stderr


def test_flows_next_pause_resume(busy):
    busy.write("broken.yaml", BROKEN)
    wait_until(lambda: "broken" in busy.cli("flows").stdout, "the broken flow")
    done = busy.cli("flows")
    assert "0 6 * * * Europe/Madrid" in done.stdout and "broken.yaml:2:1: error" in done.stderr
    assert {f["id"] for f in json.loads(busy.cli("flows", "--json").stdout)["items"]} == {"hello", "failing", "sleeping", "broken"}

    plan = json.loads(busy.cli("next", "hello", "--count", "3", "--json").stdout)
    assert len(plan) == 3 and all(set(p) == {"scheduled_at", "interval_start", "interval_end"} for p in plan)
    assert plan[0]["scheduled_at"] == plan[1]["interval_start"]
    assert busy.cli("next", "failing").stdout == ""

    assert json.loads(busy.cli("pause", "hello", "--json").stdout)["paused"] is True
    assert re.search(r"^hello +paused", busy.cli("flows").stdout, re.M)
    assert json.loads(busy.cli("resume", "hello", "--json").stdout)["paused"] is False
    assert busy.cli("pause", "nothing", check=False).returncode == 2


def test_sql_and_tables(daemon):
    query = "SELECT 1 AS n, 'a, \"b\"' AS text, NULL AS nothing, 1.5::DOUBLE AS d UNION ALL SELECT 20, 'c', NULL, 0.1 ORDER BY n"
    assert daemon.sql(query) == [{"n": 1, "text": 'a, "b"', "nothing": None, "d": 1.5}, {"n": 20, "text": "c", "nothing": None, "d": 0.1}]
    rows = list(csv.reader(io.StringIO(daemon.cli("sql", query, "--csv").stdout)))
    assert rows == [["n", "text", "nothing", "d"], ["1", 'a, "b"', "", "1.5"], ["20", "c", "", "0.1"]]
    table = daemon.cli("sql", query).stdout.splitlines()
    assert [t.split()[0] for t in table] == ["n", "1", "20"] and table[1].startswith(" 1 ")  # numbers stand right
    done = daemon.cli("sql", "SELECT * FROM range(5)", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3 and "first 2 rows" in done.stderr
    done = daemon.cli("sql", "SELEC 1", check=False)
    assert done.returncode == 2 and "SELEC" in done.stderr and done.stdout == ""
    assert json.loads(daemon.cli("tables", "--json").stdout)["items"] == []


def test_tokens_and_a_daemon_by_its_url(busy):
    made = json.loads(busy.cli("token", "create", "--scope", "viewer", "--json").stdout)
    assert set(made) >= {"id", "token"}
    there = {"SLUICE_URL": busy.url, "SLUICE_TOKEN": made["token"], "SLUICE_HOME": "/nonexistent"}
    assert "hello" in sluice("flows", env=there).stdout
    done = sluice("trigger", "hello", check=False, env=there)
    assert done.returncode == 2 and done.stdout == ""  # a viewer
    listed = busy.cli("token", "list")
    assert made["id"] in listed.stdout and made["token"] not in listed.stdout
    assert re.fullmatch("[0-9a-f]+", made["id"]) and re.fullmatch("[0-9a-f]{64}", made["token"])  # never like an option
    done = busy.cli("token", "delete", "--", "-no-such", check=False)
    assert done.returncode == 2 and "-no-such" in done.stderr and "option" not in done.stderr
    busy.cli("token", "delete", made["id"])
    done = sluice("flows", check=False, env=there)
    assert done.returncode == 2 and "SLUICE_TOKEN" in done.stderr
    assert busy.cli("token", "create", "--scope", "king", check=False).returncode == 2


def test_doctor(daemon):
    done = daemon.cli("doctor", cwd=daemon.flows)
    assert daemon.url in done.stdout and "✗" not in done.stdout
    done = sluice("doctor", "--home", "/tmp/" + "x" * 120, check=False, cwd=daemon.flows)
    assert done.returncode == 1 and "too long" in done.stdout and "--home" in done.stdout


def test_configs_are_validated_as_configs(folder):
    (folder / "sluice.yaml").write_text("server: {listen: '127.0.0.1:0'}\n")
    (folder / "sluice.s3.yaml").write_text("server: {lisen: x}\n")
    assert "good" in sluice("validate", folder / "sluice.yaml").stdout
    done = sluice("validate", folder / "sluice.s3.yaml", check=False)
    assert done.returncode == 1 and 'sluice.s3.yaml:1:10: error: unknown key "lisen"' in done.stdout and "listen" in done.stdout


def test_the_config_says_where_flows_are(make_daemon, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "f.yaml").write_text("id: f\ntasks: [{id: a, type: command, command: 'true'}]\n")
    daemon = make_daemon(config="server: {flows: ../mine}", start=False)
    command = daemon.command()
    at = command.index("--flows")
    daemon.command = lambda: command[:at] + command[at + 2 :]
    daemon.start()
    wait_until(lambda: daemon.request("GET", "/api/v1/flows/f").status == 200, "the flow")
