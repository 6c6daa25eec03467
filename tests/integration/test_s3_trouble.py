"""What goes wrong at a store: each time told with table, file and endpoint, nothing half visible, and nobody else held up."""

import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import http, task_of, wait_until, why
from test_s3_ways import BUCKET, STORES, config, keys, running, ship

CREATE = {"name": "rows", "schema": {"type": "struct", "schema-id": 0, "fields": [{"id": 1, "name": "n", "type": "long", "required": False}]}}


def test_a_clock_that_is_wrong(make_daemon, folder):
    """The daemon's clock is an hour ahead, the store's is right."""
    (folder / "ahead.c").write_text("#include <dlfcn.h>\n#include <time.h>\ntime_t time(time_t *t) { struct timespec s; clock_gettime(CLOCK_REALTIME, &s);"
                                    " s.tv_sec += 3600; if (t) *t = s.tv_sec; return s.tv_sec; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "ahead.so", folder / "ahead.c"], check=True)
    with running("seaweedfs") as store:
        daemon = make_daemon(config=config(store.endpoint), env=keys(LD_PRELOAD=folder / "ahead.so"))
        assert daemon.request("POST", "/iceberg/v1/namespaces", {"namespace": ["stg"]}).status == 200
        answer = daemon.request("POST", "/iceberg/v1/namespaces/stg/tables", CREATE)
        assert answer.status >= 500, answer
        said = answer.json["error"]["message"]
        assert "RequestTimeTooSkewed" in said and "clock" in said and store.endpoint in said and f"s3://{BUCKET}/lake/stg/rows/metadata/" in said, said
        assert daemon.request("GET", "/iceberg/v1/namespaces/stg/tables").json["identifiers"] == []


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_is_full(make_daemon, name):
    """Its disk has 48 MB: what does not fit is told, nothing of it is visible, and what is there can be read."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    with running(name, wrap=["unshare", "-m", "bash", "-c", 'mount -t tmpfs -o size=48m none "$STORE_DATA" && exec "$0" "$@"']) as store:
        daemon = make_daemon(config=config(store.endpoint, timeout="3s"), env=keys())
        ship(daemon, store)
        daemon.flow("big", "id: big\ntasks:\n  - {id: b, type: curate, into: stg.rows, mode: append, sql: \"SELECT i::VARCHAR AS n, md5(i::VARCHAR) || md5((i+1)::VARCHAR) AS t FROM range(3000000) r(i)\"}\n")
        run = daemon.trigger("big")
        assert run["state"] == "failed"
        said = task_of(run, "b")["attempts"][-1]["error"]["message"]
        assert "stg.rows" in said and f"s3://{BUCKET}/lake/stg/rows/data/" in said and store.endpoint in said, said
        assert {"minio": "full", "seaweedfs": "the store is in trouble"}[name] in said, said  # SeaweedFS says no more
        assert daemon.sql("SELECT count(*) AS n FROM stg.rows") == [{"n": 1000}]


def test_a_store_that_hangs(make_daemon, folder):
    """Forty requests wait for an endpoint that takes connections and says nothing; health and local tables do not notice."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        daemon = make_daemon(config=f"s3: {{endpoint: '{endpoint}', timeout: 4s}}\n", env=keys())
        daemon.flow("local", "id: local\ntasks:\n  - {id: t, type: curate, into: stg.here, sql: SELECT 1 AS n}\n")
        run = daemon.trigger("local")
        assert run["state"] == "success", why(run)

        def register(i):
            body = {"name": f"t{i}", "metadata-location": f"s3://{BUCKET}/t{i}/metadata/v1.metadata.json"}
            return daemon.request("POST", "/iceberg/v1/namespaces/stg/register", body, timeout=120)

        with ThreadPoolExecutor(40) as pool:
            waiting = [pool.submit(register, i) for i in range(40)]
            wait_until(lambda: len(connections(silent.getsockname()[1])) >= 16, "the first to wait")
            for i in range(20):
                started = time.monotonic()
                assert http("GET", daemon.url + "/healthz").status == 200
                properties = {"updates": [{"action": "set-properties", "updates": {"i": str(i)}}], "requirements": []}
                assert daemon.request("POST", "/iceberg/v1/namespaces/stg/tables/here", properties).status == 200
                assert time.monotonic() - started < 1
            assert not any(w.done() for w in waiting)
            assert daemon.trigger("local")["state"] == "success"
            said = waiting[0].result().json["error"]
        assert endpoint in said["message"] and "does not answer" in said["message"] and f"s3://{BUCKET}/t0/metadata/v1.metadata.json" in said["message"], said
        assert all(w.result().status in (503, 504) for w in waiting)

        # The end of the daemon waits for those who have a thread, not for the whole line.
        with ThreadPoolExecutor(100) as pool:
            waiting = [pool.submit(register, i) for i in range(100)]
            wait_until(lambda: len(connections(silent.getsockname()[1])) >= 16, "the first to wait")
            started = time.monotonic()
            assert daemon.stop() == 0 and time.monotonic() - started < 15
            for w in waiting:
                try:
                    assert w.result().status in (503, 504)
                except OSError:  # it came when nobody listened any more
                    pass


def connections(port):
    """Those that wait at this port, of either side."""
    lines = open("/proc/net/tcp", encoding="ascii").read().splitlines()[1:]
    return [line for line in lines if line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01"]
