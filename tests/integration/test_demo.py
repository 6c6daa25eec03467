"""`make demo`, the first command of the README: twice in a row, with a port or a state folder that is taken, and its end."""

import os
import re
import socket
import subprocess

import pytest

from conftest import ROOT, alive, clean_env, http, wait_until

BUILD = os.environ.get("SLUICE_BUILD", str(ROOT / "build"))


@pytest.fixture
def demo(binary, folder):
    home = folder / "demo"

    def run(action, **env):
        env = {"DEMO_HOME": home, "PORT": 0, **env}
        return subprocess.run([str(ROOT / "tools" / "demo"), action, BUILD], env=clean_env(**env), capture_output=True, text=True, timeout=110)

    run.home = home
    yield run
    run("stop")


def test_twice_in_a_row_and_its_end(demo):
    for _ in range(2):
        done = demo("start")
        assert done.returncode == 0, done.stdout + done.stderr
        told = done.stdout
        for department in ("finance", "research", "sales", "support"):
            assert department in told
        assert "cur.employee_counts" in told and "stg.active_employees" in told
        url, token = re.search(r"(http://127\.0\.0\.1:\d+)/\?token=(\S+)", told).groups()
        assert http("GET", f"{url}/api/v1/status", headers={"Authorization": f"Bearer {token}"}).status == 200
    assert "stopping the demo's daemon of before" in told
    assert re.search(r"make demo-stop DEMO_HOME=\S+", told)
    pids = [int((demo.home / name).read_text().split()[0]) for name in ("daemon.pid", "nursery.pid", "pg/postmaster.pid")]
    done = demo("stop")
    assert done.returncode == 0 and "stopped" in done.stdout
    for pid in pids:
        wait_until(lambda: not alive(pid), f"the end of process {pid}")
    with pytest.raises(OSError):
        http("GET", f"{url}/healthz")


def test_a_port_that_is_taken(demo):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo("start", PORT=port)
    assert done.returncode != 0
    assert str(port) in done.stderr and "make demo PORT=" in done.stderr


def test_a_state_folder_that_is_no_folder(demo):
    demo.home.write_text("")
    done = demo("start")
    assert done.returncode != 0
    assert str(demo.home) in done.stderr and "DEMO_HOME=" in done.stderr
