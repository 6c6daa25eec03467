"""Logs and artifacts beyond this machine: copied when an attempt has ended, whatever happens meanwhile, and read back from there."""

import shutil
import signal

import pytest

from conftest import wait_until, why
from s3_stores import KEY, SECRET, running


@pytest.fixture(scope="module")
def store():
    with running("seaweedfs", "archive-test") as made:
        yield made


KEEPS = """
id: keeps
secrets: [door]
tasks:
  - id: speak
    type: command
    env: {DOOR: "${secrets.door}"}
    command: |
      echo "the door opens with $DOOR"
      mkdir -p $SLUICE_ARTIFACTS/plots
      printf 'a,b\\n1,2\\n' > "$SLUICE_ARTIFACTS/plots/of the day.csv"
      head -c 20000000 /dev/zero > $SLUICE_ARTIFACTS/large
      ln -s /etc/passwd $SLUICE_ARTIFACTS/link
"""
SECRET_TEXT = "open-sesame-81"


def settings(store, place):
    return {
        "config": f"s3: {{endpoint: '{store.endpoint}', timeout: 2s}}\nserver: {{archive: '{place}'}}\n",
        "env": {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "DOOR": SECRET_TEXT},
    }


def marks(daemon):
    folder = daemon.home / "archive"
    return [p.name for p in folder.iterdir()] if folder.exists() else []


def archived(daemon):
    wait_until(lambda: not marks(daemon), "the copy of everything")


def forget_here(daemon, run):
    """As if this were another machine."""
    shutil.rmtree(daemon.home / "runs" / run["id"])


def read_all(daemon, run):
    said = daemon.task_log(run["id"], "speak")
    listed = {i["name"]: i["size"] for i in daemon.get(f"/api/v1/runs/{run['id']}/tasks/speak/artifacts")["items"]}
    return said, listed, daemon.cli("artifacts", run["id"], "speak", "plots/of the day.csv").stdout


def test_kept_and_read_back_from_a_store(make_daemon, store):
    daemon = make_daemon(**settings(store, "s3://archive-test/first/"))
    daemon.flow("keeps", KEEPS)
    run = daemon.trigger("keeps")
    assert run["state"] == "success", why(run)
    here = read_all(daemon, run)
    assert here[0] == "the door opens with ***\n" and here[1]["large"] == 20_000_000 and here[2] == "a,b\n1,2\n"
    archived(daemon)
    base = f"first/{run['id']}/speak/1"
    assert sorted(store.keys("archive-test", base)) == [f"{base}/artifacts/large", f"{base}/artifacts/plots/of the day.csv", f"{base}/log"]
    assert store.request("GET", f"/archive-test/{base}/log")[1] == b"the door opens with ***\n"

    forget_here(daemon, run)
    assert read_all(daemon, run) == here
    large = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/speak/artifacts/large")
    assert large.status == 200 and large.body == bytes(20_000_000)
    ranged = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/speak/logs", headers={"Range": "bytes=4-7"})
    assert (ranged.status, ranged.text) == (206, "door")

    # What is nowhere.
    forget_here(daemon, run)
    store.request("DELETE", f"/archive-test/{base}/log")
    gone = daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/speak/logs")
    assert gone.status == 404 and f"s3://archive-test/{base}/log" in gone.text
    for name in ("none", "..%2f..%2flog", "plots/../large"):
        assert daemon.request("GET", f"/api/v1/runs/{run['id']}/tasks/speak/artifacts/{name}").status == 404


def test_a_store_that_is_away(make_daemon, store):
    """The run does not care; the trouble is told; the copy is made by whoever is there when the store is back."""
    daemon = make_daemon(**settings(store, "s3://archive-test/later"))
    daemon.flow("keeps", KEEPS)

    def trouble():
        return {t["what"]: t["message"] for t in daemon.get("/api/v1/status")["troubles"]}.get("archive")

    runs = []
    for restart in (False, True):
        store.process.send_signal(signal.SIGSTOP)
        try:
            runs.append(daemon.trigger("keeps"))
            assert runs[-1]["state"] == "success", why(runs[-1])
            said = wait_until(trouble, "the trouble")
            assert f"s3://archive-test/later/{runs[0]['id'] if not restart else ''}" in said and "does not answer" in said
            assert str(daemon.home) in said and store.endpoint in said
            assert daemon.task_log(runs[-1]["id"], "speak") == "the door opens with ***\n"
            if restart:
                daemon.kill()
        finally:
            store.process.send_signal(signal.SIGCONT)
        if restart:
            daemon.start()
        archived(daemon)
        wait_until(lambda: trouble() is None, "the trouble's end")
    assert {f"later/{run['id']}/speak/1/log" for run in runs} <= set(store.keys("archive-test", "later"))


def test_every_attempt_and_a_killed_daemon(make_daemon, store):
    daemon = make_daemon(**settings(store, "s3://archive-test/second"))
    daemon.flow(
        "tries",
        """
        id: tries
        tasks:
          - {id: t, type: command, retry: {max_attempts: 3, interval: 0s}, command: 'echo "attempt $SLUICE_ATTEMPT"; test $SLUICE_ATTEMPT = 3'}
          - {id: slow, type: command, command: 'echo begun; until test -e GO; do sleep 0.02; done; echo ended'}
        """.replace("GO", str(daemon.home / "go")),
    )
    run_id = daemon.post("/api/v1/flows/tries/runs")["id"]
    wait_until(lambda: daemon.task_log(run_id, "slow") == "begun\n", "the slow task")
    daemon.kill()
    (daemon.home / "go").touch()
    daemon.start()
    assert daemon.ended(run_id)["state"] == "success"
    archived(daemon)
    shutil.rmtree(daemon.home / "runs")
    for n in (1, 2, 3):
        assert daemon.request("GET", f"/api/v1/runs/{run_id}/tasks/t/logs?attempt={n}").text == f"attempt {n}\n"
    assert daemon.cli("logs", run_id, "slow").stdout == "begun\nended\n"


def test_a_folder_and_no_archive(make_daemon, folder):
    """The place may be a folder, such as a mounted one; and without any, artifacts are kept in the state folder alone."""
    daemon = make_daemon(config=f"server: {{archive: '{folder}/kept'}}\n", env={"DOOR": SECRET_TEXT})
    daemon.flow("keeps", KEEPS)
    run = daemon.trigger("keeps")
    archived(daemon)
    here = read_all(daemon, run)
    forget_here(daemon, run)
    assert read_all(daemon, run) == here
    alone = make_daemon(name="alone", config="env: dev\n", env={"DOOR": SECRET_TEXT})
    run = alone.trigger("keeps")
    assert read_all(alone, run) == here and marks(alone) == []
