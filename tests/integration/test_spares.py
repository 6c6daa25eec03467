"""Children of the nursery that opened the engine before they were needed."""

import os
import pathlib
import shutil
import signal
import time

from conftest import alive, pending, task_of, wait_until, why

FLOW = """\
id: {0}
{3}tasks:
  - {{id: ask, type: validate, sql: SELECT 1 AS one, checks: [{{sql: "{1}"}}]{2}}}
"""
QUICK = "SELECT true"
SLOW = "SELECT count(*) > 0 FROM range(1000000) a, range(1000000) b WHERE a.range % 7 = b.range % 5"


def nursery(daemon):
    return int((daemon.home / "nursery.pid").read_text())


def children(daemon):
    """{pid: name} of the nursery's."""
    pid, found = nursery(daemon), {}
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            found[int(child)] = pathlib.Path(f"/proc/{child}/comm").read_text().strip()
        except OSError:
            pass
    return found


def spares(daemon):
    return {p for p, name in children(daemon).items() if name == "sluice-spare"}


def run(daemon, name, sql=QUICK, keys="", top=""):
    daemon.flow(name, FLOW.format(name, sql, keys, top))
    return daemon.post(f"/api/v1/flows/{name}/runs")


def handed_over(daemon):
    """The run of a task that was given to one of these spares, of which none reads."""
    stopped = warm(daemon)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    daemon.flow("later", "id: later\ntasks: [{id: c, type: command, command: ['true']}]\n")
    began = run(daemon, "late")
    wait_until(lambda: daemon.run(began["id"])["tasks"][0]["state"] == "running", "the attempt")
    assert daemon.trigger("later")["state"] == "success"  # the nursery takes its messages in their order
    return began["id"], stopped


def warm(daemon):
    """After a native task there are spares."""
    ended = daemon.ended(run(daemon, "quick")["id"])
    assert ended["state"] == "success", why(ended)
    return wait_until(lambda: spares(daemon), "a spare")


def test_a_spare_becomes_the_attempt(daemon):
    assert not children(daemon), "an idle daemon has none"
    warm(daemon)
    wait_until(lambda: len(spares(daemon)) == 4, "all of them")
    before = spares(daemon)
    began = run(daemon, "slow", SLOW)
    pid = wait_until(lambda: [p for p, name in children(daemon).items() if name == "sluice-task"], "the attempt's process")[0]
    assert pid in before
    assert os.getpgid(pid) == pid and os.getsid(pid) == os.getsid(nursery(daemon))
    assert os.readlink(f"/proc/{pid}/cwd").startswith(str(daemon.home / "scratch"))
    for fd, file in {"0": "/dev/null", "1": "log", "2": "log", "3": "report"}.items():
        assert os.readlink(f"/proc/{pid}/fd/{fd}").endswith(file)
    daemon.post(f"/api/v1/runs/{began['id']}/cancel")
    ended = daemon.ended(began["id"])
    attempt = task_of(ended, "ask")["attempts"][0]
    assert ended["state"] == "cancelled" and attempt["cause"] == "cancelled" and not alive(pid), why(ended)


def test_time_counts_from_the_handing_over(daemon):
    warm(daemon)
    wait_until(lambda: len(spares(daemon)) == 4, "all of them")
    ended = daemon.ended(run(daemon, "slow", SLOW, ", timeout: 300ms")["id"])
    attempt = task_of(ended, "ask")["attempts"][0]
    assert attempt["cause"] == "timeout" and attempt["wall_us"] < 60_000_000, why(ended)
    assert attempt["metrics"].get("load_us", 0) == 0


def test_a_dead_spare_is_nobody(daemon):
    for pid in warm(daemon):
        os.kill(pid, signal.SIGKILL)
    ended = daemon.ended(run(daemon, "again")["id"])
    assert ended["state"] == "success" and len(task_of(ended, "ask")["attempts"]) == 1, why(ended)


def test_a_spare_that_dies_before_it_reads_has_begun_nothing(daemon):
    late, stopped = handed_over(daemon)
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    ended = daemon.ended(late)
    assert ended["state"] == "success" and len(task_of(ended, "ask")["attempts"]) == 1, why(ended)


def test_a_spare_that_is_cancelled_before_it_reads_is_not_started_again(daemon):
    late, stopped = handed_over(daemon)
    daemon.post(f"/api/v1/runs/{late}/cancel")
    wait_until(lambda: any(pending(pid, signal.SIGTERM) for pid in stopped), "the signal")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    ended = daemon.ended(late)
    assert ended["state"] == "cancelled" and len(task_of(ended, "ask")["attempts"]) == 1, why(ended)


def test_settings_of_the_engine_are_made(daemon):
    warm(daemon)
    for name, options, sql in [
        ("threads", "{threads: 1}", "SELECT current_setting('threads')::INTEGER = 1"),
        ("memory", "{memory_limit: 100MB}", "SELECT current_setting('memory_limit') = '100.0 MiB'"),
    ]:
        ended = daemon.ended(run(daemon, name, sql, f", engine_options: {options}")["id"])
        assert ended["state"] == "success", why(ended)


def test_a_task_with_an_environment_has_its_own_process(daemon):
    """The engine and its extensions read it when they begin."""
    warm(daemon)
    wait_until(lambda: len(spares(daemon)) == 4, "all of them")
    before = spares(daemon)
    began = run(daemon, "env", SLOW, top="env: {WORD: hello}\n")
    pid = wait_until(lambda: children(daemon).keys() - before, "the attempt's process").pop()
    assert spares(daemon) == before
    daemon.post(f"/api/v1/runs/{began['id']}/cancel")
    assert daemon.ended(began["id"])["state"] == "cancelled"


def test_spares_end_with_the_nursery(daemon):
    pids = warm(daemon)
    os.kill(nursery(daemon), signal.SIGKILL)
    wait_until(lambda: not any(alive(p) for p in pids), "their end")
    pids = warm(daemon)
    daemon.stop()
    wait_until(lambda: not any(alive(p) for p in pids), "their end")


def test_a_nursery_that_nobody_comes_back_to_ends(daemon):
    """Once it has nothing to tell any more; while an attempt runs, or its end is not told yet, it waits."""
    gate = daemon.flows / "gate"
    daemon.flow("idle", f"id: idle\ntasks: [{{id: c, type: command, command: 'until [ -e {gate} ]; do sleep 0.05; done'}}]\n")
    began = daemon.post("/api/v1/flows/idle/runs")
    wait_until(lambda: daemon.run(began["id"])["tasks"][0]["state"] == "running", "the attempt")
    daemon.kill()
    busy, left = nursery(daemon), time.monotonic()
    wait_until(lambda: time.monotonic() - left > 12, "a time in which an idle one ends")
    assert alive(busy)
    daemon.start()
    gate.touch()
    assert daemon.ended(began["id"])["state"] == "success"
    daemon.kill()
    wait_until(lambda: not alive(busy), "its end")
    daemon.start()
    assert daemon.trigger("idle")["state"] == "success" and nursery(daemon) != busy


def test_engine_file_that_is_not_the_installed_one(make_daemon, folder):
    """Each file is compared with the list that was written when they were installed; a task says which one is wrong."""
    lib = folder / "lib"
    lib.mkdir()
    installed = pathlib.Path(os.environ["SLUICE_BUILD"]) / "lib"
    for path in (p for p in installed.iterdir() if p.is_file() and p.name != "avro.duckdb_extension"):
        shutil.copy2(path, lib / path.name)
    spoilt = bytearray((installed / "avro.duckdb_extension").read_bytes())
    spoilt[-1] ^= 1
    (lib / "avro.duckdb_extension").write_bytes(spoilt)
    daemon = make_daemon(env={"SLUICE_LIB": str(lib)})
    assert "avro.duckdb_extension is not the file that was installed" in (daemon.home / "nursery.log").read_text()
    answer = daemon.request("POST", "/api/v1/sql", {"sql": "SELECT 1"})
    assert answer.status == 422 and "avro.duckdb_extension is not the file that was installed" in answer.text and "make deps" in answer.text
    daemon.stop()
    # Put right again: newer than the list, so it is read, found right, and the list's time is set.
    shutil.copy(installed / "avro.duckdb_extension", lib / "avro.duckdb_extension")
    before = (lib / "SHA256SUMS").stat().st_mtime_ns
    daemon.start()
    assert daemon.sql("SELECT 1 AS one") == [{"one": 1}]
    assert (lib / "SHA256SUMS").stat().st_mtime_ns > before
