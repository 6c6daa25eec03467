"""Tasks of type python: code in the flow or a script, parameters in, outputs out; what goes wrong is told with its place."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from conftest import alive, task_of, wait_until, why


WAYS = {"warm": "", "cold": "env: {PYTHONNODEBUGRANGES: ''}\n"}  # what an interpreter reads when it begins takes a new one


@pytest.fixture(params=WAYS)
def go(request, daemon):
    """go(tasks): runs a flow of these tasks (YAML) to its end, in a process that waits already and in one of its own."""
    count = iter(range(1000))

    def go(tasks, head="", **kw):
        name = f"p{next(count)}"
        text = f"id: {name}\n{head}tasks:\n" + textwrap.indent(textwrap.dedent(tasks).strip(), "  ") + "\n"
        text += WAYS[request.param] if "env:" not in head else ""
        daemon.flow(name, text)
        go.file = daemon.flows / f"{name}.yaml"
        return daemon.trigger(name, **kw)

    go.daemon, go.folder = daemon, daemon.flows
    if request.param == "warm":
        warm(daemon)
    return go


def nursery(daemon):
    return int((daemon.home / "nursery.pid").read_text())


def children(daemon, name):
    """Processes of that name among the nursery's children."""
    pid, found = nursery(daemon), set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                found.add(int(child))
        except OSError:
            pass
    return found


def warm(daemon):
    """After a task of the kind there are processes that wait; gives them."""
    daemon.flow("first", "id: first\ntasks: [{id: p, type: python, code: pass}]\n")
    assert daemon.trigger("first")["state"] == "success"
    return wait_until(lambda: (found := children(daemon, "sluice-spare")) and len(found) == 4 and found, "four that wait")


def good(run):
    assert run["state"] == "success", why(run)
    return run["tasks"][-1]


def bad(run, *words, place=None):
    """The error of the last task, which has these words, and this (line, col)."""
    assert run["state"] == "failed", why(run)
    error = run["tasks"][-1]["attempts"][-1]["error"]
    for word in words:
        assert word in error["message"], f"{word!r} is not in: {error}"
    if place:
        assert (error.get("line"), error.get("col")) == place, error
    return error


def code(text, keys=""):
    return "- id: p\n  type: python\n" + textwrap.indent(textwrap.dedent(keys), "  ") + "  code: |\n" + textwrap.indent(textwrap.dedent(text), "    ")


def test_main_gets_args_and_its_dict_becomes_outputs(go):
    run = go(
        """\
        - id: p
          type: python
          args: {n: "${params.n}", names: [a, "${params.day}"], deep: {x: 1.5, y: null}}
          code: |
            import sluice
            def main(n, names, deep):
                sluice.output(early=True)
                assert sluice.params == {"n": 10, "day": "2026-11-21"}, sluice.params
                assert sluice.args == {"n": n, "names": names, "deep": deep}
                return {"n": n + 1, "names": names, "deep": deep, "text": f"${n}"}
        - id: after
          type: python
          depends_on: p
          args: {n: "${tasks.p.outputs.n}", all: "${tasks.p.outputs}"}
          code: |
            def main(n, all):
                return {"twice": n * 2, "early": all["early"]}
        """,
        head='params: {n: 10, day: "2026-11-21"}\n',
    )
    assert good(run)["outputs"] == {"twice": 22, "early": True}
    assert task_of(run, "p")["outputs"] == {
        "early": True,
        "n": 11,
        "names": ["a", "2026-11-21"],
        "deep": {"x": 1.5, "y": None},
        "text": "$10",
    }


def test_an_exception_is_placed_where_the_flow_raises_it(go):
    run = go(code("def main():\n    help_me()\n\ndef help_me():\n    x = [1, 2]\n    return  x[7]\n"))
    error = bad(run, "IndexError: list index out of range", place=(11, 19))
    assert error["file"] == str(go.file)
    log = go.daemon.task_log(run["id"], "p")
    assert f'File "{go.file}", line 7, in main' in log and "help_me()" in log and "python_task" not in log, log


def test_a_script_is_placed_in_itself_and_finds_its_neighbours(go):
    (go.folder / "near.py").write_text("def half(n):\n    return n / 2\n")
    (go.folder / "work.py").write_text(
        "import near, sys, pickle\n\n\ndef main(n):\n    assert __name__ == 'work' and pickle.loads(pickle.dumps(main)) is main\n"
        "    if n > 5:\n        raise ValueError(f'too\\n much: {n}')\n    return {'half': near.half(n), 'argv': sys.argv}\n"
        "\n\nif __name__ == '__main__':\n    raise SystemExit('it is no program here')\n"
    )
    task = "- {id: p, type: python, script: ./work.py, args: {n: %d}}"
    assert good(go(task % 3))["outputs"] == {"half": 1.5, "argv": [str(go.folder / "work.py")]}
    error = bad(go(task % 9), "ValueError: too much: 9", place=(7, 9))
    assert error["file"] == str(go.folder / "work.py")
    error = bad(go("- {id: p, type: python, script: work.py, args: {m: 1}}"), "TypeError: main() got an unexpected keyword argument 'm'")
    assert error["line"] == 4
    error = bad(go("- {id: p, type: python, script: absent.py}"), "cannot read the script", "absent.py: No such file or directory")
    assert error.get("line") is None


def test_code_without_main_is_a_program(go):
    run = go(
        code(
            """\
            import asyncio, sluice, sys
            if __name__ == "__main__":
                sluice.output(args=sluice.args, task=sluice.task_id, n=sluice.attempt)
                sluice.progress(1, 2, "half")
                print("to the log")
                print("as well", file=sys.stderr)
            """,
            keys="args: {a: [1]}\n",
        )
    )
    assert good(run)["outputs"] == {"args": {"a": [1]}, "task": "p", "n": 1}
    assert go.daemon.task_log(run["id"], "p") == "to the log\nas well\n"
    run = go(code("import asyncio\nasync def main():\n    await asyncio.sleep(0)\n    return {'waited': True}\n"))
    assert good(run)["outputs"] == {"waited": True}


def test_what_an_end_means(go):
    good(go(code("import sys\nsys.exit()\n")))
    good(go(code("def main():\n    raise SystemExit(0)\n")))
    run = go(code("import sys\ndef main():\n    sys.exit(7)\n"))
    bad(run, "sys.exit(7)", place=(8, 11))
    assert run["tasks"][0]["attempts"][0]["exit_code"] == 7
    bad(go(code("import sys\nsys.exit('no more')\n")), "no more", place=(7, 7))
    bad(go(code("import os\nos._exit(9)\n")), "exit status 9")
    bad(go(code("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")), "signal 11")
    error = bad(go(code("x = 1\nif x\n    y = 2\n")), "SyntaxError: expected ':'", place=(7, 11))
    assert error["file"] == str(go.file)
    bad(go(code("import absent_module\n")), "ModuleNotFoundError: No module named 'absent_module'", place=(6, 7))
    bad(go(code("def main(:\n  pass\n")), "SyntaxError", place=(6, 16))


def test_outputs_must_be_json(go):
    for value, words in [
        ("{1, 2}", ('the output "x" is of type set', "which JSON has not")),
        ("[1, {'a': object()}]", ('the output "x"[1].a is of type object',)),
        ("float('nan')", ('the output "x" is nan',)),
        ("2 ** 63", ('the output "x" is a whole number of more than 64 bits',)),
        ("{1: 2}", ("a map with the key 1 of type int",)),
        (r"'\ud800'", ('the output "x" is a text with characters',)),
        (r"'a\0b'", ('the output "x" is a text with characters',)),
        ("'x' * (5 << 20)", ("the outputs have 5.0 MB, and at most 4 MB are kept", '"x"', "$SLUICE_ARTIFACTS")),
    ]:
        bad(go(code(f"def main():\n    return {{'good': 1, 'x': {value}}}\n")), *words, place=(6, 7))
        bad(go(code(f"import sluice\nsluice.output(x={value})\n")), *words, place=(7, 7))
    bad(go(code("def main():\n    return [1]\n")), "main returned a value of type list: return a dict", place=(6, 7))
    bad(go(code("def main():\n    return {3: 1}\n")), "main returned a dict with the key 3", place=(6, 7))
    fine = {"min": -(2**63), "max": 2**63 - 1, "text": "ä😀\u2028", "deep": [[[[{}]]]], "big": 1.5e-7, "none": None}
    assert good(go(code(f"def main():\n    return {fine!r}\n")))["outputs"] == fine
    assert len(good(go(code("def main():\n    return {'x': 'y' * (3 << 20)}\n")))["outputs"]["x"]) == 3 << 20


def test_declared_outputs_are_checked(go):
    bad(go(code("pass\n", keys="outputs: {n: int}\n")), 'did not report its output "n"')
    answer = go.daemon.request(
        "POST",
        "/api/v1/validate",
        {
            "file": "f.yaml",
            "source": "id: f\ntasks:\n  - {id: a, type: python, code: x, outputs: {n: int}}\n"
            '  - {id: b, type: command, depends_on: a, command: "echo ${tasks.a.outputs.m}"}\n',
        },
    ).json
    assert [(p["line"], p["message"]) for p in answer["problems"]] == [
        (4, '${tasks.a.outputs.m}: task "a" (python) has no output "m"; outputs are: n')
    ]


def test_the_language_knows_its_keys(go):
    answer = go.daemon.request(
        "POST",
        "/api/v1/validate",
        {
            "file": "f.yaml",
            "source": "id: f\ntasks:\n  - {id: a, type: python}\n  - {id: b, type: python, code: x, script: y}\n"
            '  - {id: c, type: python, code: "x = \'${params.n}\'", args: {n: "${params.m}"}}\n'
            "  - {id: d, type: python, code: x, engine: duckdb}\n",
        },
    ).json
    said = {(p["line"], p["severity"]): p["message"] for p in answer["problems"]}
    assert "code" in said[3, "error"] and "script" in said[3, "error"] and "script" in said[4, "error"], said
    assert '"${params.n}" in it is no ref; give the value by "args"' in said[5, "warning"], said
    assert "unknown param" in said[5, "error"] and 'unknown key "engine"' in said[6, "error"], said


def test_the_interpreter(go):
    venv = go.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    (site / "only_here.py").write_text("x = 5\n")
    task = "- {id: p, type: python, python: %s, code: 'import only_here, sluice, sys; sluice.output(x=only_here.x, p=sys.prefix)'}"
    for name in ("venv", "./venv/bin/python", str(venv)):
        assert good(go(task % name))["outputs"] == {"x": 5, "p": str(venv)}
    run = go(task % "absent/venv")
    assert run["state"] == "failed"
    message = run["tasks"][0]["error"]
    assert f'cannot run the Python interpreter "{go.folder}/absent/venv": No such file' in message and "python3 -m venv" in message, message
    assert f"{go.file}:3:5: task p:" in message, message
    run = go(task % "python9")
    assert 'interpreter "python9": neither on the PATH nor a virtual environment beside the flow' in run["tasks"][0]["error"]


def test_an_interpreter_that_is_too_old_is_told(go):
    old = go.folder / "old"
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -u -c \"import runpy, sys; sys.version_info = (3, 8, 1); sys.argv = sys.argv[1:]; "
        'runpy.run_path(sys.argv[0], run_name=\'__main__\')" "$2" "$3" "$4"\n'
    )
    old.chmod(0o755)
    bad(go("- {id: p, type: python, python: ./old, code: pass}"), "tasks need Python 3.9 or newer", "is 3.8.1:")


def test_environment_folder_and_artifacts(go):
    (go.folder / "data").mkdir()
    run = go(
        code(
            """\
            import os, pathlib, sluice
            def main():
                pathlib.Path(os.environ["SLUICE_ARTIFACTS"], "kept.txt").write_text("kept")
                assert sluice.artifacts == os.environ["SLUICE_ARTIFACTS"] and sluice.scratch == os.environ["SLUICE_SCRATCH"]
                assert sluice.run_id == os.environ["SLUICE_RUN_ID"] and os.environ["SLUICE_CATALOG_TOKEN"]
                return {"cwd": os.getcwd(), "a": os.environ["A"], "b": os.environ["B"]}
            """,
            keys="working_dir: data\nenv: {B: two}\n",
        ),
        head="env: {A: one, B: one}\n",
    )
    assert good(run)["outputs"] == {"cwd": str(go.folder / "data"), "a": "one", "b": "two"}
    path = f"/api/v1/runs/{run['id']}/tasks/p/artifacts"
    assert [f["name"] for f in go.daemon.get(path)["items"]] == ["kept.txt"]
    assert "data" not in os.listdir(go.folder / "data")


def test_secrets_reach_the_code_and_nothing_else(make_daemon, folder):
    daemon = make_daemon(env={"PASSWORD": "hunter2hunter2"})
    daemon.flow(
        "s",
        "id: s\nsecrets: [password]\ntasks:\n  - id: p\n    type: python\n    args: {password: '${secrets.password}'}\n    code: |\n"
        "      def main(password):\n          print(password)\n          return {'length': len(password), 'p': password}\n",
    )
    run = daemon.trigger("s")
    assert good(run)["outputs"]["length"] == 14 and "hunter2" not in json.dumps(run)
    assert "hunter2" not in daemon.task_log(run["id"], "p")


def test_cancel_and_timeout_reach_everything(go):
    text = """\
        import os, pathlib, signal, subprocess, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        other = subprocess.Popen(["sleep", "600"])
        if os.fork() == 0:
            time.sleep(600)
        pathlib.Path(os.environ["SLUICE_ARTIFACTS"], "pids").write_text(f"{os.getpid()} {other.pid}")
        time.sleep(600)
        """
    run = go(code(text, keys="timeout: 1s\nstop_grace: 200ms\n"))
    assert run["tasks"][0]["state"] == "timed_out", why(run)
    pids = go.daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/p/artifacts/pids").text.split()
    assert len(pids) == 2 and not any(alive(int(pid)) for pid in pids)
    daemon = go.daemon
    daemon.flow("c", "id: c\ntasks:\n" + textwrap.indent(code("import time\ntime.sleep(600)\n"), "  "))
    run = daemon.post("/api/v1/flows/c/runs", {})
    wait_until(lambda: daemon.run(run["id"])["tasks"][0]["state"] == "running", "the task's begin")
    daemon.post(f"/api/v1/runs/{run['id']}/cancel", {})
    assert daemon.ended(run["id"])["tasks"][0]["state"] == "cancelled"


def test_threads_files_and_exit_handlers_end_as_in_any_program(go):
    run = go(
        code(
            """\
            import atexit, os, sluice, threading, time
            kept = open(os.path.join(sluice.artifacts, "unflushed"), "w")
            kept.write("all of it")
            atexit.register(lambda: print("atexit"))
            def late():
                time.sleep(0.2)
                sluice.output(late=True)
            def main():
                threading.Thread(target=late).start()
                if os.fork() == 0:
                    os._exit(0)
                os.wait()
            """
        )
    )
    assert good(run)["outputs"] == {"late": True}
    assert go.daemon.task_log(run["id"], "p") == "atexit\n"
    assert go.daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/p/artifacts/unflushed").text == "all of it"


def test_retries_and_memory(go):
    run = go(
        code(
            "import sluice\ndef main():\n    if sluice.attempt < 3:\n        raise RuntimeError('not yet')\n    return {'n': sluice.attempt}\n",
            keys="retry: {max_attempts: 3, interval: 10ms}\n",
        )
    )
    assert good(run)["outputs"] == {"n": 3} and len(run["tasks"][0]["attempts"]) == 3
    run = go(code("def main():\n    raise MemoryError()\n"))
    bad(run, "MemoryError")
    assert run["tasks"][0]["attempts"][0]["cause"] == "oom"


def test_a_running_task_outlives_the_daemon(go):
    daemon, gate = go.daemon, go.folder / "gate"
    daemon.flow(
        "long",
        "id: long\ntasks:\n"
        + textwrap.indent(code(f"import os, time\ndef main():\n    while not os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n    return {{'done': 1}}\n"), "  "),
    )
    run = daemon.post("/api/v1/flows/long/runs", {})
    wait_until(lambda: daemon.run(run["id"])["tasks"][0]["state"] == "running", "the task's begin")
    daemon.kill()
    daemon.start()
    assert daemon.run(run["id"])["state"] == "running"
    gate.touch()
    run = daemon.ended(run["id"])
    assert good(run)["outputs"] == {"done": 1} and len(run["tasks"][0]["attempts"]) == 1


# ---- processes that wait ----

HOLD = """\
import json, os, random, sys, time, sluice
state = {
    "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "cwd": os.getcwd(), "env": dict(os.environ),
    "fds": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")),
    "threads": len(os.listdir("/proc/self/task")), "random": random.random(), "path": sys.path[:-1], "argv": sys.argv,
    "name": __name__, "modules": len(sys.modules),
}
sluice.output(**state)
"""


def test_one_that_waits_becomes_the_attempt(daemon):
    before = warm(daemon)
    daemon.flow("f", "id: f\ntasks:\n" + textwrap.indent(code(HOLD), "  "))
    daemon.flow("g", "id: g\nenv: {PYTHONNODEBUGRANGES: ''}\ntasks:\n" + textwrap.indent(code(HOLD), "  "))
    a = good(daemon.trigger("f"))["outputs"]
    wait_until(lambda: len(children(daemon, "sluice-spare")) >= 2, "others")
    b = good(daemon.trigger("f"))["outputs"]
    assert a["pid"] in before and a["pid"] == a["group"] and a["parent"] == nursery(daemon) and a["threads"] == 1, a
    assert a["random"] != b["random"] and a["pid"] != b["pid"]
    assert a["fds"][0] == "/dev/null" and [os.path.basename(f) for f in a["fds"][1:]] == ["log", "log", "report"], a["fds"]
    wait_until(lambda: len(children(daemon, "sluice-spare")) >= 2, "others")
    cold = good(daemon.trigger("g"))["outputs"]
    own = {"SLUICE_RUN_ID", "SLUICE_REPORT", "SLUICE_ARTIFACTS", "SLUICE_SCRATCH", "SLUICE_CATALOG_TOKEN", "SLUICE_FLOW", "LC_CTYPE"}
    same = [{k: v for k, v in o["env"].items() if k not in own | {"PYTHONNODEBUGRANGES"}} for o in (a, b, cold)]
    assert same[0] == same[1] == same[2] and "PYTHONNODEBUGRANGES" in cold["env"]
    for key in ("path", "name"):
        assert a[key] == cold[key]
    assert all(a["env"][k] != b["env"][k] for k in ("SLUICE_RUN_ID", "SLUICE_REPORT"))


def test_whoever_dies_the_next_task_runs(daemon):
    warm(daemon)
    for victims in (["sluice-spare"], ["sluice-python"], ["sluice-spare", "sluice-python"]):
        for pid in set().union(*(children(daemon, name) for name in victims)):
            with contextlib.suppress(ProcessLookupError):  # those of a server end with it
                os.kill(pid, signal.SIGKILL)
        run = daemon.trigger("first")
        assert run["state"] == "success" and len(run["tasks"][0]["attempts"]) == 1, why(run)
    assert "the fork server of" in (daemon.home / "nursery.log").read_text()
    warm(daemon)
    server = children(daemon, "sluice-python")
    os.kill(server.pop(), signal.SIGSTOP)  # it makes no more; nothing waits for it
    for _ in range(6):
        assert daemon.trigger("first")["state"] == "success"


def test_all_end_with_the_nursery(daemon):
    pids = warm(daemon) | children(daemon, "sluice-python")
    daemon.flow(
        "fork",
        "id: fork\ntasks:\n"
        + textwrap.indent(
            code(
                "import os, sluice, time\nif sluice.attempt == 1:\n    if os.fork() == 0:\n        os.setsid()\n    time.sleep(600)\n"
                "os._exit(0)\n",
                keys="retry: {max_attempts: 2, interval: 10ms}\n",
            ),
            "  ",
        ),
    )
    run = daemon.post("/api/v1/flows/fork/runs", {})
    mine = wait_until(lambda: children(daemon, "sluice-task"), "the attempt").pop()
    forked = wait_until(lambda: Path(f"/proc/{mine}/task/{mine}/children").read_text().split(), "its fork")
    assert mine in pids
    os.kill(nursery(daemon), signal.SIGKILL)
    wait_until(lambda: not any(alive(p) for p in pids), "their end")
    run = daemon.ended(run["id"])
    assert [a["state"] for a in run["tasks"][0]["attempts"]] == ["lost", "success"], why(run)
    wait_until(lambda: not alive(int(forked[0])), "the end of what the lost attempt had forked")
    pids = warm(daemon) | children(daemon, "sluice-python")
    daemon.stop()
    wait_until(lambda: not any(alive(p) for p in pids), "their end")


def test_an_environment_that_changed_is_read_anew(daemon):
    venv = daemon.flows / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    daemon.flow("v", "id: v\ntasks:\n  - {id: p, type: python, python: .venv, code: 'import late, sluice; sluice.output(x=late.x)'}\n")
    assert "No module named 'late'" in daemon.trigger("v")["tasks"][0]["error"]
    wait_until(lambda: len(children(daemon, "sluice-spare")) == 4, "four that wait")
    server = children(daemon, "sluice-python")
    (site / "late.py").write_text("x = 1\n")
    assert good(daemon.trigger("v"))["outputs"] == {"x": 1}
    wait_until(lambda: (now := children(daemon, "sluice-python")) and now != server, "a new server")
    assert f"{venv} has changed; a new fork server takes its place" in (daemon.home / "nursery.log").read_text()


def test_one_that_died_before_it_read_while_its_server_still_holds_the_other_end(daemon, folder):
    venv, hold = daemon.flows / ".venv", folder / "hold"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (next((venv / "lib").glob("python3*")) / "site-packages" / "sitecustomize.py").write_text(
        f"""if True:
            import os, time
            close = os.close
            def slow(fd):
                while os.path.exists({str(hold)!r}) and open("/proc/self/comm").read() == "sluice-python\\n":
                    time.sleep(0.01)
                close(fd)
            os.close = slow
        """
    )
    daemon.flow("v", "id: v\ntasks:\n  - {id: p, type: python, python: .venv, code: 'import sluice; sluice.output(x=1)'}\n")
    good(daemon.trigger("v"))
    wait_until(lambda: len(children(daemon, "sluice-spare")) == 4, "four that wait")
    hold.touch()
    for pid in children(daemon, "sluice-spare"):
        os.kill(pid, signal.SIGKILL)
    good(daemon.trigger("v"))
    only = wait_until(lambda: children(daemon, "sluice-spare"), "one of the slow server").pop()
    os.kill(only, signal.SIGSTOP)
    run = daemon.post("/api/v1/flows/v/runs", {})
    wait_until(lambda: daemon.run(run["id"])["tasks"][0]["state"] == "running", "the task's begin")
    os.kill(only, signal.SIGKILL)
    assert good(daemon.ended(run["id"]))["outputs"] == {"x": 1}
    hold.unlink()


def test_what_is_too_large_to_hand_over_comes_the_other_way(daemon):
    warm(daemon)
    daemon.flow("big", "id: big\nparams: {text: x}\ntasks:\n  - {id: p, type: python, args: {t: '${params.text}'}, code: 'def main(t): return {\"n\": len(t)}'}\n")
    for size in (100_000, 300_000, 900_000):
        assert good(daemon.trigger("big", params={"text": "y" * size}))["outputs"] == {"n": size}
