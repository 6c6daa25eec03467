"""For the tests of examples/: a copy of one, its one command, and the recorded API that two of them bring."""

import contextlib
import os
import re
import shutil
import subprocess

from conftest import BINARY, ROOT, clean_env, wait_until


def copied(folder, name):
    """The example in a folder of its own, without what somebody has made by running it where it is; its schedules come on no day of a test."""
    target = folder / name
    shutil.copytree(ROOT / "examples" / name, target, ignore=shutil.ignore_patterns("data", "output"))
    for flow in target.glob("*.yaml"):
        flow.write_text(re.sub(r'\bcron: ".*?"', 'cron: "0 6 29 2 *"', flow.read_text()))
    return target


def run(command, *arguments, timeout=110, **env):
    """What the command has said, with `sluice` on its path, when it has done well."""
    env = clean_env(PATH=f"{BINARY.parent}{os.pathsep}{os.environ['PATH']}", **env)
    done = subprocess.run([str(command), *arguments], cwd=command.parent, env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextlib.contextmanager
def api_of(example, *arguments, **env):
    """The address of its program `api`, while that runs."""
    port = example / "api.port"
    with open(example / "api.log", "w") as log:
        process = subprocess.Popen([str(example / "api"), str(port), *map(str, arguments)], env=clean_env(**env), stderr=log)
    try:
        wait_until(port.exists, "the API's port")
        yield f"http://127.0.0.1:{port.read_text()}"
    finally:
        process.terminate()
        process.wait()
