"""The HTTP API as a foreign client sees it: who may ask, what is answered, logs, events."""

import http.client
import json
import re
import socket
import threading
import urllib.parse

import pytest
from conftest import http as call, wait_until

QUICK = """\
    id: quick
    params: {who: {type: string, default: world}}
    tasks:
      - {id: hello, type: command, command: "echo hello ${params.who}"}
      - {id: bye, type: command, command: "echo bye", depends_on: [hello]}
    """


class Stream:
    """Server-sent events, read one at a time."""

    def __init__(self, daemon, path, **headers):
        url = urllib.parse.urlsplit(daemon.url)
        self.connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {daemon.token}", "Accept": "text/event-stream", **headers})
        self.reply = self.connection.getresponse()
        assert self.reply.status == 200, self.reply.read()
        assert self.reply.headers["Content-Type"] == "text/event-stream"
        self.reply.readline()  # the comment that says: connected

    def next(self):
        """(id, event, data), or None at the end."""
        event = {}
        for line in iter(self.reply.readline, b""):
            key, _, value = line.decode().rstrip("\n").partition(": ")
            if key in ("id", "event", "data"):
                event[key] = value
            elif event:
                return event.get("id"), event["event"], json.loads(event["data"])
        return None

    def close(self):
        self.connection.close()


def raw(daemon, data):
    """What comes back for these very bytes, until the other side closes."""
    url = urllib.parse.urlsplit(daemon.url)
    with socket.create_connection((url.hostname, url.port), timeout=30) as s:
        s.sendall(data)
        return b"".join(iter(lambda: s.recv(65536), b""))


def test_who_may_ask(daemon):
    daemon.flow("quick", QUICK)
    runs, home = daemon.url + "/api/v1/runs", f"{daemon.home}/api.sock"
    assert (daemon.home / "token").stat().st_mode & 0o777 == 0o600
    for path in ("/healthz", "/readyz"):
        assert call("GET", daemon.url + path).status == 200
    answer = call("GET", runs)
    assert answer.status == 401 and answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["type"] == "unauthorized" and "Authorization: Bearer" in answer.json["detail"]
    assert call("GET", runs, headers={"Authorization": "Bearer wrong"}).status == 401
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(home)
        s.sendall(b"GET /api/v1/runs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_scopes(daemon):
    daemon.flow("quick", QUICK)
    made = daemon.post("/api/v1/tokens", {"scope": "viewer"})
    viewer = {"Authorization": f"Bearer {made['token']}"}
    assert call("GET", daemon.url + "/api/v1/runs", headers=viewer).status == 200
    answer = call("POST", daemon.url + "/api/v1/flows/quick/runs", {}, viewer)
    assert answer.status == 403 and "scope runner" in answer.json["detail"]
    assert call("GET", daemon.url + "/api/v1/tokens", headers=viewer).status == 403
    listed = daemon.get("/api/v1/tokens")["items"]
    assert [t["id"] for t in listed] == [made["id"]] and "token" not in listed[0]
    daemon.stop()
    daemon.start()
    wait_until(lambda: call("GET", daemon.url + "/api/v1/runs", headers=viewer).status == 200, "the token after a restart")
    assert daemon.request("DELETE", f"/api/v1/tokens/{made['id']}").status == 204
    assert call("GET", daemon.url + "/api/v1/runs", headers=viewer).status == 401


def test_foreign_pages_get_nothing(daemon):
    assert daemon.request("GET", "/api/v1/runs", headers={"Host": "evil.example"}).status == 403
    assert daemon.request("GET", "/api/v1/runs", headers={"Origin": "http://evil.example"}).status == 403
    assert daemon.request("GET", "/api/v1/runs", headers={"Origin": daemon.url}).status == 200
    cookie = {"Cookie": f"sluice_token={daemon.token}"}
    assert call("GET", daemon.url + "/api/v1/runs", headers=cookie).status == 200
    body = {"source": "id: x"}
    assert call("POST", daemon.url + "/api/v1/validate", body, cookie).status == 403
    assert call("POST", daemon.url + "/api/v1/validate", body, {**cookie, "Origin": daemon.url}).status == 200


def test_login_by_address(daemon):
    answer = raw(daemon, f"GET /?token={daemon.token} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()).decode()
    assert answer.startswith("HTTP/1.1 303 ") and "\r\nLocation: /\r\n" in answer
    assert f"\r\nSet-Cookie: sluice_token={daemon.token}; Path=/; HttpOnly; SameSite=Strict" in answer
    assert raw(daemon, b"GET /?token=wrong HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 401 ")
    assert daemon.token not in daemon.log


def test_refusals(daemon):
    answer = daemon.request("PUT", "/api/v1/runs", {})
    assert answer.status == 405 and answer.headers["Allow"] == "POST, GET, HEAD"
    assert daemon.request("GET", "/api/v1/nothing").status == 404
    assert daemon.request("GET", "/api/v1/runs/%zz").status == 400
    assert daemon.request("POST", "/api/v1/validate", b"{").json["detail"].startswith("the body is not JSON: line 1")
    assert daemon.request("POST", "/api/v1/tokens", b"x" * 5000).status == 413
    assert daemon.request("POST", "/api/v1/tokens", b"x" * 5_000_000).status == 413
    assert daemon.request("GET", "/api/v1/runs?limit=0").status == 400
    assert daemon.request("GET", "/api/v1/runs?cursor=x").status == 400
    assert not raw(daemon, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 2")
    assert daemon.get("/api/v1/status")["database"] == {"private": True, "connected": True}


def test_trigger_once(daemon):
    daemon.flow("quick", QUICK)
    answers = []

    def trigger():
        answers.append(daemon.request("POST", "/api/v1/flows/quick/runs?wait=30s", {"params": {"who": "you"}}, {"Idempotency-Key": "k1"}))

    threads = [threading.Thread(target=trigger) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(a.status for a in answers) == [200] * 7 + [201]
    assert len({a.json["id"] for a in answers}) == 1
    assert {a.json["state"] for a in answers} == {"success"}
    run = answers[0].json
    assert run["params"] == {"who": "you"} and [t["id"] for t in run["tasks"]] == ["hello", "bye"]
    etag = daemon.request("GET", f"/api/v1/runs/{run['id']}").headers["ETag"]
    assert daemon.request("GET", f"/api/v1/runs/{run['id']}", headers={"If-None-Match": etag}).status == 304
    for bad in ({"params": {"whom": "x"}}, {"engine": "nothing"}):
        assert daemon.request("POST", "/api/v1/flows/quick/runs", bad).status == 422
    assert daemon.request("POST", "/api/v1/flows/quick/runs?wait=soon", {}).status == 400
    assert len(daemon.get("/api/v1/runs")["items"]) == 1


def test_pages_of_runs(daemon):
    daemon.flow("quick", QUICK)
    ids = [daemon.trigger("quick")["id"] for _ in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = daemon.get(f"/api/v1/runs?flow=quick&state=success,failed&limit=2&cursor={cursor}")
        seen += [r["id"] for r in page["items"]]
        cursor = page["next"]
    assert seen == ids[::-1]
    assert daemon.get("/api/v1/runs?state=failed")["items"] == []
    assert [r["id"] for r in daemon.get("/api/v1/flows/quick")["last_runs"]] == ids[::-1]


def test_log_ranges(daemon):
    daemon.flow("quick", QUICK)
    run = daemon.trigger("quick")
    path = f"/api/v1/runs/{run['id']}/tasks/hello/logs"
    whole = daemon.request("GET", path)
    assert whole.text == "hello world\n" and whole.headers["Sluice-Attempt"] == "1"
    for asked, status, text, told in (
        ("bytes=0-4", 206, "hello", "bytes 0-4/12"),
        ("bytes=6-", 206, "world\n", "bytes 6-11/12"),
        ("bytes=-3", 206, "ld\n", "bytes 9-11/12"),
        ("bytes=12-", 416, "", "bytes */12"),
        ("bytes=4-1", 200, "hello world\n", None),
    ):
        part = daemon.request("GET", path, headers={"Range": asked})
        assert (part.status, part.text, part.headers["Content-Range"]) == (status, text, told), asked
    assert daemon.request("GET", path + "?attempt=2").status == 404


@pytest.mark.parametrize("secret", ["hunter2", "a much longer secret, with \u00e4"])
def test_secrets_stay_secret(make_daemon, secret):
    daemon = make_daemon(env={"API_KEY": secret})
    daemon.flow(
        "leak",
        """\
        id: leak
        secrets: [api_key]
        tasks:
          - {id: tell, type: command, command: ["printf", "one %s two\\n%s", "${secrets.api_key}", "${secrets.api_key}"]}
        """,
    )
    run = daemon.trigger("leak")
    path = f"/api/v1/runs/{run['id']}/tasks/tell/logs"
    assert daemon.request("GET", path).text == "one *** two\n***"
    assert daemon.request("GET", path, headers={"Range": "bytes=4-6"}).text == "***"
    stream, text = Stream(daemon, path), ""
    while (event := stream.next())[1] == "log":
        text += event[2]["text"]
    assert text == "one *** two\n***" and event[1] == "end"
    assert secret not in json.dumps(daemon.run(run["id"]), ensure_ascii=False)


def test_log_followed_from_before_its_beginning(daemon, folder):
    gate = folder / "gate"
    daemon.flow(
        "slow",
        f"""\
        id: slow
        tasks:
          - {{id: first, type: command, command: "until [ -e {gate} ]; do sleep 0.02; done"}}
          - {{id: second, type: command, command: "echo started; until [ -e {gate}2 ]; do sleep 0.02; done; echo ended", depends_on: [first]}}
        """,
    )
    run = daemon.post("/api/v1/flows/slow/runs")
    stream = Stream(daemon, f"/api/v1/runs/{run['id']}/tasks/second/logs?follow=true")
    gate.touch()
    place, event, data = stream.next()
    assert (event, data) == ("log", {"text": "started\n"})
    stream.close()
    stream = Stream(daemon, f"/api/v1/runs/{run['id']}/tasks/second/logs", **{"Last-Event-ID": place})
    (folder / "gate2").touch()
    assert stream.next()[1:] == ("log", {"text": "ended\n"})
    assert stream.next()[1:] == ("end", {"attempt": 1, "state": "success"})
    assert stream.next() is None


def test_events_have_no_gap_and_no_duplicate(daemon):
    daemon.flow("quick", QUICK)
    live = Stream(daemon, "/api/v1/events")
    triggers = [threading.Thread(target=daemon.trigger, args=("quick",)) for _ in range(4)]
    for t in triggers:
        t.start()
    resumed, last = [], "0"
    while len(resumed) < 28:  # a run: queued, running, success; two tasks: running, success
        stream = Stream(daemon, "/api/v1/events", **{"Last-Event-ID": last})
        for _ in range(5):
            event = stream.next()
            last = event[0]
            resumed.append(event)
            if len(resumed) == 28:
                break
        stream.close()
    for t in triggers:
        t.join()
    seen = []
    while len(seen) < 28:
        event = live.next()
        if event[0]:  # progress is told, but has no number
            seen.append(event)
    assert [int(e[0]) for e in resumed] == list(range(1, 29))
    assert [(e[0], e[2]["state"]) for e in seen] == [(e[0], e[2]["state"]) for e in resumed]
    one = resumed[0][2]["run"]
    stream = Stream(daemon, f"/api/v1/events?run={one}&after=0")
    assert {stream.next()[2]["run"] for _ in range(7)} == {one}


def test_clients_that_leave(daemon):
    daemon.flow("quick", QUICK)
    head = f"Host: localhost\r\nAuthorization: Bearer {daemon.token}\r\n"
    for text in (
        f"POST /api/v1/flows/quick/runs?wait=10s HTTP/1.1\r\n{head}Content-Length: 2\r\n\r\n{{}}",
        f"POST /api/v1/flows/quick/runs HTTP/1.1\r\n{head}Content-Length: 200\r\n\r\n{{",
        f"GET /api/v1/events?after=0 HTTP/1.1\r\n{head}\r\n",
        f"GET /api/v1/runs HTTP/1.1\r\n{head}\r\n" * 10,
        "GET /api/v1/ru",
    ):
        url = urllib.parse.urlsplit(daemon.url)
        for _ in range(5):
            with socket.create_connection((url.hostname, url.port)) as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # leaves with a reset
                s.sendall(text.encode())
    # A reset may overtake its request, so there may be any number of runs.
    wait_until(lambda: {r["state"] for r in daemon.get("/api/v1/runs")["items"]} <= {"success"}, "the runs' ends")
    assert daemon.trigger("quick")["state"] == "success"


def test_stop_while_clients_wait(daemon, folder):
    daemon.flow("quick", QUICK)
    daemon.flow("stuck", f"id: stuck\ntasks:\n  - {{id: a, type: command, command: \"until [ -e {folder}/go ]; do sleep 0.02; done\"}}\n")
    run = daemon.post("/api/v1/flows/stuck/runs")
    wait_until(lambda: daemon.run(run["id"])["tasks"][0]["state"] == "running", "the task's start")
    stream = Stream(daemon, "/api/v1/events")
    waiting = http.client.HTTPConnection(urllib.parse.urlsplit(daemon.url).netloc, timeout=60)
    waiting.request("GET", f"/api/v1/runs/{run['id']}?wait=60s", headers={"Authorization": f"Bearer {daemon.token}"})
    assert "\nsluice_slots_used 1\n" in daemon.request("GET", "/metrics").text  # answered after the one before was taken
    (folder / "go").touch()
    assert daemon.stop() == 0
    assert waiting.getresponse().status in (200, 503)
    waiting.close()
    while stream.next():
        pass


def test_metrics_tell_how_long_turns_of_the_loop_take(daemon):
    def metrics():
        text = daemon.request("GET", "/metrics").text
        return text, int(re.search(r"^sluice_loop_turn_seconds_count (\d+)$", text, re.M)[1])

    _, before = metrics()  # quick requests may share a turn, so the next one need not count more
    wait_until(lambda: metrics()[1] > before, "turns that are counted")
    after, count = metrics()
    buckets = [int(n) for n in re.findall(r'^sluice_loop_turn_seconds_bucket\{le="[^"]+"\} (\d+)$', after, re.M)]
    assert buckets == sorted(buckets) and buckets[-1] == count
    assert float(re.search(r"^sluice_loop_turn_seconds_sum (\S+)$", after, re.M)[1]) > 0


def test_openapi_lists_what_answers(daemon):
    doc = call("GET", daemon.url + "/api/v1/openapi.json").json
    assert doc["openapi"] == "3.1.0"
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            names = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert names == {part[1:-1] for part in path.split("/") if part.startswith("{")}
            if method == "get" and not names and path not in ("/api/v1/events", "/"):
                assert daemon.request("GET", path).status in (200, 400), path
