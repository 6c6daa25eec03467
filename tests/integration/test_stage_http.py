"""stage from an HTTP API of JSON: ways of paging, trouble and what is tried again, rate, resume, and what errors say."""

import gzip
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse

import pyarrow.parquet as pq
import pytest

from conftest import PATIENCE, alive, task_of, wait_until, why
from movie_api import Api, Reply, recorded

PAGES = recorded()
FILMS = [film for page in PAGES for film in page["results"]]


@pytest.fixture
def api():
    made = []

    def make(answer):
        made.append(Api(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


def movies(api, request):
    """As TMDB answers: pages by number, beyond the last one an empty list."""
    page = int(request.query.get("page", 1))
    return PAGES[page - 1] if page <= len(PAGES) else {"page": page, "results": [], "total_pages": 3, "total_results": 57}


BY_PAGE = {"type": "page", "total_pages": "total_pages"}


class Staged:
    def __init__(self, run, target):
        self.run, self.target = run, target
        self.task = task_of(run, "s")

    @property
    def rows(self):
        assert self.run["state"] == "success", why(self.run)
        return pq.read_table(self.target).to_pylist()

    @property
    def ids(self):
        return [row["id"] for row in self.rows]

    @property
    def error(self):
        assert self.run["state"] == "failed", self.run
        return self.task["attempts"][-1]["error"]["message"]

    @property
    def metrics(self):
        return self.task["attempts"][-1]["metrics"]


COUNT = iter(range(10**6))


def definition(target, url, source, keys):
    task = {"id": "s", "type": "stage", "source": {"format": "http", "url": url, **source}, "target": {"path": str(target)}}
    return {**task, **keys}


def write(daemon, folder, server, source, flow=None, **keys):
    """Puts a flow of one stage task there; gives its id and the file that it will write."""
    number = next(COUNT)
    target = folder / f"out-{number}.parquet"
    url = source.pop("url", None) or server.url + "/3/discover/movie"
    fid = f"h{number}"
    daemon.flow(fid, json.dumps({"id": fid, "tasks": [definition(target, url, source, keys)], **(flow or {})}))
    return fid, target


def stage(daemon, folder, server, source, flow=None, params=None, **keys):
    fid, target = write(daemon, folder, server, source, flow, **keys)
    return Staged(daemon.trigger(fid, params), target)


# ---- paging ----


def sliced(start, size):
    return FILMS[start : start + size]


def by_offset(api, request):
    start = int(request.query.get("offset", 0))
    return {"data": {"items": sliced(start, int(request.query.get("limit", 10)))}, "meta": {"total": len(FILMS)}}


def by_cursor(api, request):
    start = int(request.query.get("after", "c0")[1:])
    following = start + 25
    return {"items": sliced(start, 25), "next_cursor": f"c{following}" if following < len(FILMS) else None}


def by_last_id(api, request):
    start = next((i + 1 for i, f in enumerate(FILMS) if str(f["id"]) == request.query.get("starting_after")), 0)
    return {"data": sliced(start, 20), "has_more": start + 20 < len(FILMS)}


def by_link(api, request):
    start = int(request.query.get("from", 0))
    headers = {"Link": f'<{api.url}/list?from={start + 20}>; rel="next", <{api.url}/list?from=40>; rel="last"'} if start + 20 < len(FILMS) else {}
    return Reply(sliced(start, 20), headers=headers)


def by_next(api, request):
    start = int(request.query.get("from", 0))
    return {"results": sliced(start, 20), "paging": {"next": f"?from={start + 20}" if start + 20 < len(FILMS) else None}}


def without_totals(api, request):
    return PAGES[int(request.query["p"])]["results"] if int(request.query["p"]) < 3 else []


@pytest.mark.parametrize(
    "answer, source, requests",
    [
        (movies, {"records": "results", "pagination": BY_PAGE}, 3),
        (movies, {"records": "results", "pagination": {"type": "page", "total": "total_results"}}, 3),
        (movies, {"records": "/results", "pagination": "page"}, 4),
        (without_totals, {"pagination": {"type": "page", "param": "p", "start": 0}}, 4),
        (without_totals, {"pagination": {"type": "page", "param": "p", "start": 0, "until": "short", "size": 20}}, 3),
        (by_offset, {"records": "data.items", "pagination": {"type": "offset", "total": "meta.total", "size_param": "limit", "size": 30}}, 2),
        (by_offset, {"records": "data.items", "pagination": "offset"}, 7),
        (by_cursor, {"records": "items", "pagination": {"type": "cursor", "param": "after", "cursor": "next_cursor"}}, 3),
        (by_last_id, {"records": "data", "pagination": {"type": "cursor", "param": "starting_after", "cursor": "data.-1.id", "more": "has_more"}}, 3),
        (by_link, {"pagination": "link"}, 3),
        (by_next, {"records": "results", "pagination": {"type": "link", "next": "paging.next"}}, 3),
    ],
)
def test_every_way_of_paging_gives_all_records_in_order(shared, folder, api, answer, source, requests):
    server = api(answer)
    done = stage(shared, folder, server, dict(source))
    assert done.ids == [f["id"] for f in FILMS]
    assert len(server.requests) == requests
    assert (done.metrics["pages"], done.metrics["requests"], done.metrics["rows_in"]) == (requests, requests, len(FILMS))
    assert not list((shared.home / "scratch").glob("*.kept*"))


def test_columns_select_where_and_types(shared, folder, api):
    server = api(movies)
    done = stage(
        shared,
        folder,
        server,
        {"records": "results", "pagination": BY_PAGE, "columns": {"id": "bigint", "release_date": "date", "vote_average": "decimal(3,1)", "genre_ids": "int[]"}},
        select=["id", "title", "release_date", "genre_ids", "vote_average"],
        where="release_date >= date '2024-01-01'",
        rename={"vote_average": "rating"},
    )
    wanted = [f for f in FILMS if f["release_date"] >= "2024"]
    assert [(r["id"], r["title"], str(r["release_date"]), r["genre_ids"], str(r["rating"])) for r in done.rows] == [
        (f["id"], f["title"], f["release_date"], f["genre_ids"], str(f["vote_average"])) for f in wanted
    ]


def test_numbers_and_texts_stay_as_the_api_wrote_them(shared, folder, api):
    body = b"""[
      {"id": 12345678901234567890123, "price": 7.30, "zip": "007", "at": "2024-01-05T10:00:00+02:00", "mixed": 1, "note": "a\\u00e9\\n\\"b\\"", "maybe": "01-02-2024"},
      {"id": 2, "price": 0.1, "zip": "08", "at": "2024-01-05T10:00:00Z", "mixed": {"a": [1, 2]}, "note": null, "maybe": "x"},
      {"id": 3, "price": 1e2, "zip": "9", "mixed": "t"}
    ]"""
    done = stage(
        shared,
        folder,
        api(lambda a, r: Reply(body)),
        {"columns": {"id": "hugeint", "price": "varchar", "at": "varchar", "nowhere": "int"}},
        sql="SELECT id::varchar AS id, price, zip, \"at\", mixed, note, maybe, nowhere FROM this",
    )
    first, second, third = done.rows
    assert (first["id"], first["price"], first["zip"], first["at"]) == ("12345678901234567890123", "7.30", "007", "2024-01-05T10:00:00+02:00")
    assert (first["note"], first["mixed"], first["maybe"]) == ('aé\n"b"', "1", "01-02-2024")
    assert (second["price"], json.loads(second["mixed"]), third["mixed"], third["at"], third["nowhere"]) == ("0.1", {"a": [1, 2]}, "t", None, None)
    assert 'no record has "nowhere"' in shared.task_log(done.run["id"], "s")


def test_half_a_character_does_not_spoil_all(shared, folder, api):
    body = rb'[{"id": 1, "text": "cut \ud83d"}, {"id": 2, "text": "whole \ud83d\ude00"}]'
    done = stage(shared, folder, api(lambda a, r: Reply(body)), {})
    assert [r["text"] for r in done.rows] == ["cut \ufffd", "whole \U0001f600"]
    assert "1 halves of a character" in shared.task_log(done.run["id"], "s")


def test_params_body_and_method_are_sent(shared, folder, api):
    server = api(lambda a, r: [{"ok": 1}])
    stage(shared, folder, server, {"url": server.url + "/x?a=1", "params": {"q": "a b&c", "n": 5}, "headers": {"X-Team": "data"}}).rows
    stage(shared, folder, server, {"body": {"filter": {"year": "${params.year}"}}}, flow={"params": {"year": 2024}}).rows
    stage(shared, folder, server, {"body": "plain", "method": "POST", "headers": {"Content-Type": "text/x"}}).rows
    one, two, three = server.requests
    assert (one.method, one.query, one.headers["X-Team"], one.headers["Accept"]) == ("GET", {"a": "1", "q": "a b&c", "n": "5"}, "data", "application/json")
    assert (two.method, json.loads(two.body), two.headers["Content-Type"]) == ("POST", {"filter": {"year": 2024}}, "application/json")
    assert (three.method, three.body, three.headers["Content-Type"]) == ("POST", b"plain", "text/x")


def test_a_limit_stops_asking_and_max_pages_says_so(shared, folder, api):
    server = api(movies)
    assert stage(shared, folder, server, {"records": "results", "pagination": BY_PAGE}, limit=25).ids == [f["id"] for f in FILMS[:25]]
    assert server.asked("page") == ["1", "2"]
    server = api(movies)
    empty = stage(shared, folder, server, {"records": "results", "pagination": BY_PAGE}, limit=0)
    assert empty.rows == [] and "title" in pq.read_schema(empty.target).names and len(server.requests) == 1
    server = api(movies)
    done = stage(shared, folder, server, {"records": "results", "pagination": BY_PAGE}, limit=1, where="title = 'nobody'")
    assert done.rows == [] and len(server.requests) == 3
    server = api(movies)
    done = stage(shared, folder, server, {"records": "results", "pagination": {**BY_PAGE, "max_pages": 2}})
    assert len(done.ids) == 40
    assert "max_pages is 2" in shared.task_log(done.run["id"], "s")


def test_rejects_are_told_with_page_and_record(shared, folder, api):
    def answer(api, request):
        page = json.loads(json.dumps(movies(api, request)))
        if page["page"] == 2:
            page["results"][4]["release_date"] = ""
            page["results"][6]["release_date"] = "soon"
        return page

    source = {"records": "results", "pagination": BY_PAGE, "columns": {"release_date": "date not null"}}
    done = stage(shared, folder, api(answer), dict(source))
    assert re.search(r'movie, page 2, record 5: column "release_date": not of type date', done.error), done.error
    done = stage(shared, folder, api(answer), dict(source), on_reject="quarantine")
    assert len(done.rows) == len(FILMS) - 2
    rejects = pq.read_table(f"{done.target}.rejects.parquet").to_pylist()
    assert [(r["file"].rsplit(", ", 1)[1], r["line"]) for r in rejects] == [("page 2", 5), ("page 2", 7)]
    assert json.loads(rejects[1]["text"])["release_date"] == "soon"


def test_an_empty_answer_needs_columns(shared, folder, api):
    server = api(lambda a, r: {"results": []})
    assert "name them in source.columns" in stage(shared, folder, server, {"records": "results"}).error
    done = stage(shared, folder, server, {"records": "results", "columns": {"id": "int", "d": "date"}})
    assert done.rows == [] and pq.read_schema(done.target).names == ["id", "d"]


# ---- trouble that passes ----


def once(*troubles):
    """Request 2 and those after it meet the troubles, one each; then all is well."""

    def answer(api, request):
        n = request.number - 2
        return troubles[n] if 0 <= n < len(troubles) else movies(api, request)

    return answer


BODY = json.dumps(PAGES[1]).encode()


@pytest.mark.parametrize(
    "trouble, told",
    [
        (Reply({"status_message": "slow down"}, 429, {"Retry-After": "1"}), "waiting 1.0 s, as it asks"),
        (Reply(b"oops", 500, type="text/plain"), "status 500"),
        (Reply(b"", 503), "status 503"),
        (Reply(BODY, cut=len(BODY) // 2), "page=2: "),
        (Reply(BODY[: len(BODY) // 2]), "ends in the middle"),
        (Reply(b"", cut=0, status=200), "page=2"),
    ],
)
def test_what_passes_is_tried_again(shared, folder, api, trouble, told):
    server = api(once(trouble, trouble))
    done = stage(shared, folder, server, {"records": "results", "pagination": BY_PAGE, "retry": {"interval": "10ms"}})
    if trouble.body == b"" and trouble.status == 200:  # an empty answer is no passing trouble
        assert "empty answer" in done.error
        return
    assert done.ids == [f["id"] for f in FILMS]
    assert server.asked("page") == ["1", "2", "2", "2", "3"]
    assert done.metrics["requests_repeated"] == 2
    log = shared.task_log(done.run["id"], "s")
    assert told in log and "try 3 of 5" in log, log


def test_a_server_that_is_away_is_waited_for(shared, folder, api):
    server = api(movies)
    url = server.url + "/gone"
    server.close()
    done = stage(shared, folder, server, {"url": url, "retry": {"max_attempts": 3, "interval": "10ms"}})
    assert "tried 3 times" in done.error and "onnect" in done.error
    server.server.server_close = lambda: None
    server.close = lambda: None


def test_a_slow_answer_ends_at_the_timeout(shared, folder, api):
    over = threading.Event()

    def answer(api, request):
        over.wait(PATIENCE)
        return []

    server = api(answer)
    done = stage(shared, folder, server, {"timeout": "200ms", "retry": {"max_attempts": 2, "interval": "10ms"}})
    over.set()
    assert "tried 2 times" in done.error and "source.timeout" in done.error


# ---- trouble that stays ----


@pytest.mark.parametrize(
    "reply, words, requests, final",
    [
        (Reply({"status_message": "Invalid API key"}, 401), ["page 2", "status 401", "Invalid API key", "secret"], 1, True),
        (Reply({}, 403), ["status 403", "may"], 1, True),
        (Reply({"status_message": "not here"}, 404), ["status 404", "look at the url", "not here"], 1, True),
        (Reply({"error": "no such field"}, 400), ["status 400", "params", "no such field"], 1, True),
        (Reply({}, 429), ["status 429", "tried 3 times", "rate_limit"], 3, False),
        (Reply({}, 429, {"Retry-After": "3600"}), ["asks to wait 3600 s", "max_interval"], 1, False),
        (Reply(b"x" * 5000, 500), ["status 500", "tried 3 times", "xxx…"], 3, False),
        (Reply(b"garbage, not JSON", type="text/plain"), ["not JSON", "garbage, not JSON", "byte 0"], 1, False),
        (Reply(b"<html><body>Log in</body></html>", type="text/html"), ["HTML", "Log in", "look at the url"], 1, False),
        (Reply(b"\x00\x01\x02\xff", type="application/octet-stream"), ["not JSON", "\\x00"], 1, False),
        (Reply({"page": 2, "result": [], "total_pages": 3}), ['no "results"', "page, result, total_pages", 'did you mean "result"'], 1, False),
        (Reply([1]), ['no "results": the answer is a list'], 1, False),
        (Reply({"results": 7, "total_pages": 3}), ['"results" is a number'], 1, False),
        (Reply({"results": [1], "total_pages": 3}), ["record 1 is a number"], 1, False),
        (Reply({"results": [{"id": 1}]}), ["total_pages", "results"], 1, False),
        (Reply({"results": [{"id": 1}], "total_pages": "many"}), ["total_pages", "not a whole number"], 1, False),
        (Reply({"results": [{"x": "y" * 300_000}], "total_pages": 3}), ["larger than 0.2 MB", "max_answer"], 1, True),
        (Reply(json.dumps(PAGES[0]).encode()), ["same records", '"page"'], 1, False),
    ],
)
def test_what_stays_is_told_with_url_page_and_advice(shared, folder, api, reply, words, requests, final):
    server = api(lambda a, r: movies(a, r) if r.number == 1 else reply)
    done = stage(
        shared,
        folder,
        server,
        {"records": "results", "pagination": BY_PAGE, "retry": {"max_attempts": 3, "interval": "10ms", "max_interval": "20ms"}, "max_answer": "200KB"},
        retry={"max_attempts": 2, "interval": "10ms"},
    )
    for word in ["page 2", "/3/discover/movie", *words]:
        assert word in done.error, done.error
    assert len(done.task["attempts"]) == (1 if final else 2)
    assert len(server.requests) == 1 + requests * (1 if final else 2)
    assert not list((shared.home / "scratch").glob("*.kept"))


def test_circles_and_endings_of_cursors(shared, folder, api):
    circle = api(lambda a, r: {"items": [{"id": r.number}], "next": ["a", "b", "a"][r.number - 1]})
    source = {"records": "items", "pagination": {"type": "cursor", "cursor": "next"}}
    assert 'in a circle: it gives "a"' in stage(shared, folder, circle, dict(source)).error
    promise = api(lambda a, r: {"items": [], "next": None, "more": True})
    source["pagination"]["more"] = "more"
    assert "nothing says where" in stage(shared, folder, promise, source).error
    misspelt = api(lambda a, r: {"items": [{"id": 1}], "next_cursor": "x"})
    done = stage(shared, folder, misspelt, {"records": "items", "pagination": {"type": "cursor", "cursor": "nextcursor"}})
    assert done.ids == [1]
    assert 'did you mean "next_cursor"' in shared.task_log(done.run["id"], "s")
    round_trip = api(lambda a, r: Reply([{"id": r.number}], headers={"Link": f'<{a.url}/list?p={r.number % 2}>; rel="next"'}))
    assert "in a circle" in stage(shared, folder, round_trip, {"pagination": "link"}).error


def test_numbers_that_change_while_pages_are_read(shared, folder, api):
    def shrinking(api, request):
        page = movies(api, request)
        return {**page, "total_pages": 3 if request.number == 1 else 2}

    server = api(shrinking)
    done = stage(shared, folder, server, {"records": "results", "pagination": BY_PAGE})
    assert len(done.ids) == 40
    assert "spoke of 3 pages before and of 2 now" in shared.task_log(done.run["id"], "s")


# ---- who may read what ----

SECRET = "s3cr3t/with+signs=="
CONFIG = "secrets: {key: {env: MOVIE_KEY}}\n"


@pytest.fixture
def secretive(make_daemon):
    return make_daemon(config=CONFIG, env={"MOVIE_KEY": SECRET})


def everything_told(daemon, run):
    parts = [json.dumps(run), daemon.task_log(run["id"], "s"), daemon.log]
    parts += [p.read_text(errors="replace") for p in (daemon.home / "runs" / run["id"]).rglob("*") if p.is_file()]
    return "\n".join(parts)


def test_secrets_are_sent_and_never_told(secretive, folder, api):
    flow = {"secrets": ["key"]}
    source = {"records": "results", "params": {"api_key": "${secrets.key}", "year": 2024}, "headers": {"Authorization": "Bearer ${secrets.key}"}}
    server = api(movies)
    done = stage(secretive, folder, server, {**source, "pagination": BY_PAGE}, flow)
    assert len(done.ids) == len(FILMS)
    assert server.requests[0].query["api_key"] == SECRET and server.requests[0].headers["Authorization"] == "Bearer " + SECRET
    echo = api(lambda a, r: Reply({"you": r.headers["Authorization"], "asked": r.path}, 401))
    failed = stage(secretive, folder, echo, {**source, "url": echo.url + "/x?k=${secrets.key}"}, flow)
    assert "api_key=***" in failed.error and "year=2024" in failed.error and "Bearer ***" in failed.error
    quoted = urllib.parse.quote(SECRET, safe="")
    circle = api(lambda a, r: Reply([{"id": r.number}], headers={"Link": f'<{a.url}/x?key={quoted}>; rel="next"'}))
    looped = stage(secretive, folder, circle, {"params": {"key": "${secrets.key}"}, "pagination": "link"}, flow)
    assert "/x?key=***" in looped.error
    for told in (everything_told(secretive, done.run), everything_told(secretive, failed.run), everything_told(secretive, looped.run)):
        assert SECRET not in told and "s3cr3t" not in told


def test_headers_stay_with_the_host_of_the_url(secretive, folder, api):
    other = api(lambda a, r: [{"id": 1}])
    redirecting = api(lambda a, r: Reply(b"", 302, {"Location": other.url + "/elsewhere"}) if r.path == "/away" else Reply(b"", 301, {"Location": "/here"}) if r.path == "/near" else [{"id": 2}])
    linking = api(lambda a, r: Reply([{"id": 3}], headers={"Link": f'<{other.url}/page2>; rel="next"'}))
    headers = {"Authorization": "Bearer ${secrets.key}", "X-Api-Key": "${secrets.key}", "Accept-Language": "es"}
    flow = {"secrets": ["key"]}

    assert stage(secretive, folder, redirecting, {"url": redirecting.url + "/near", "headers": headers}, flow).ids == [2]
    assert [r.headers["X-Api-Key"] for r in redirecting.requests] == [SECRET, SECRET]
    assert stage(secretive, folder, redirecting, {"url": redirecting.url + "/away", "headers": headers}, flow).ids == [1]
    assert stage(secretive, folder, linking, {"headers": headers, "params": {"key": "${secrets.key}"}, "pagination": "link"}, flow).ids == [3, 1]
    for request in other.requests:
        assert request.headers["Authorization"] is None and request.headers["X-Api-Key"] is None and request.query == {}
        assert request.headers["Accept-Language"] == "es"


def test_redirects_in_a_circle_and_to_no_address(shared, folder, api):
    circle = api(lambda a, r: Reply(b"", 302, {"Location": "/again"}))
    assert "status 302" in stage(shared, folder, circle, {}).error
    away = api(lambda a, r: Reply(b"", 302, {"Location": "file:///etc/passwd"}))
    assert "where it leads is not followed" in stage(shared, folder, away, {}).error


# ---- rate ----


def test_no_window_holds_more_requests_than_allowed(shared, folder, api):
    def answer(api, request):
        page = int(request.query["page"])
        return {"results": [{"id": page}], "total_pages": 12} if request.number % 5 else Reply(b"", 503)

    server = api(answer)
    done = stage(shared, folder, server, {"records": "results", "pagination": BY_PAGE, "rate_limit": "4/300ms", "retry": {"interval": "1ms"}})
    assert done.ids == list(range(1, 13))
    at = [r.at for r in server.requests]
    assert len(at) == 14
    assert all(later - earlier >= 0.3 for earlier, later in zip(at, at[4:])), at
    assert "rate_limit 4/0.3s: waiting" in shared.task_log(done.run["id"], "s")


# ---- between attempts ----


def attempt_pid(daemon):
    """The process of the one attempt under way: it holds the scratch folder's pages open."""
    for proc in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd).startswith(str(daemon.home)) and "records.jsonl" in os.readlink(fd) for fd in (proc / "fd").iterdir()):
                return int(proc.name)
        except OSError:
            continue
    return None


def blocking(page):
    """An API that does not answer the first request for a page until it is told to; the event tells that it was asked."""
    asked, go_on = threading.Event(), threading.Event()

    def answer(api, request):
        if request.query.get("page") == str(page) and not asked.is_set():
            asked.set()
            go_on.wait(PATIENCE)
        return movies(api, request)

    return answer, asked, go_on


def test_an_attempt_goes_on_where_a_killed_one_was(shared, folder, api):
    answer, asked, go_on = blocking(3)
    server = api(answer)
    fid, target = write(shared, folder, server, {"records": "results", "pagination": BY_PAGE}, retry={"max_attempts": 2, "interval": "10ms"})
    run = shared.post(f"/api/v1/flows/{fid}/runs", {"params": {}})
    assert asked.wait(PATIENCE)
    progress = wait_until(lambda: task_of(shared.run(run["id"]), "s")["progress"], "the progress")
    assert progress["done"] >= 0 and "records" in progress["message"]
    os.kill(wait_until(lambda: attempt_pid(shared), "the attempt's process"), signal.SIGKILL)
    done = Staged(shared.ended(run["id"]), target)
    go_on.set()
    assert done.ids == [f["id"] for f in FILMS]
    assert [a["cause"] for a in done.task["attempts"]] == ["signal", "exit"]
    assert server.asked("page") == ["1", "2", "3", "3"]
    assert "2 pages with 40 records are there from an earlier attempt" in shared.task_log(run["id"], "s")
    wait_until(lambda: not list((shared.home / "scratch").glob(f"{run['id']}*")), "the end of what was kept")


def failing_at_three(times):
    left = [times]

    def answer(api, request):
        if request.query.get("page") == "3" and left[0] > 0:
            left[0] -= 1
            return Reply(b"", 500)
        return movies(api, request)

    return answer


RETRY = {"max_attempts": 2, "interval": "10ms"}


def test_resume_can_be_switched_off(shared, folder, api):
    source = {"records": "results", "pagination": BY_PAGE, "retry": 1}
    server = api(failing_at_three(1))
    assert len(stage(shared, folder, server, dict(source), retry=RETRY).ids) == len(FILMS)
    assert server.asked("page") == ["1", "2", "3", "3"]
    server = api(failing_at_three(1))
    assert len(stage(shared, folder, server, {**source, "resume": False}, retry=RETRY).ids) == len(FILMS)
    assert server.asked("page") == ["1", "2", "3", "1", "2", "3"]


@pytest.mark.parametrize("how", ["torn", "other", "longer"])
def test_pages_that_do_not_count_are_fetched_again(daemon, folder, api, how):
    """What lies there is only taken as far as it is whole and of this request."""
    answer, asked, go_on = blocking(3)
    server = api(answer)
    fid, target = write(daemon, folder, server, {"records": "results", "pagination": BY_PAGE}, retry=RETRY)
    run = daemon.post(f"/api/v1/flows/{fid}/runs", {"params": {}})
    assert asked.wait(PATIENCE)
    kept = daemon.home / "scratch" / f"{run['id']}.s.kept"
    pid = wait_until(lambda: attempt_pid(daemon), "the attempt's process")
    pages, records = kept / "pages.jsonl", kept / "records.jsonl"
    os.kill(daemon.process.pid, signal.SIGSTOP)  # the next attempt does not begin meanwhile
    try:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "its end")
        lines = pages.read_text().splitlines(keepends=True)
        assert len(lines) == 3
        if how == "torn":
            pages.write_text("".join(lines)[:-20])
        elif how == "other":
            pages.write_text("".join(['{"request": "of somebody else"}\n', *lines[1:]]))
        else:
            records.write_bytes(records.read_bytes()[:-5])
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    done = Staged(daemon.ended(run["id"]), target)
    go_on.set()
    assert done.ids == [f["id"] for f in FILMS]
    assert server.asked("page") == ["1", "2", "3", "1", "2", "3"] if how == "other" else ["1", "2", "3", "2", "3"]


def test_pages_outlive_the_daemon_and_go_with_the_task(make_daemon, folder, api):
    daemon = make_daemon()
    server = api(failing_at_three(1))
    fid, target = write(daemon, folder, server, {"records": "results", "pagination": BY_PAGE, "retry": 1}, retry={"max_attempts": 2, "interval": "3s", "jitter": "0%"})
    run = daemon.post(f"/api/v1/flows/{fid}/runs", {"params": {}})
    wait_until(lambda: task_of(daemon.run(run["id"]), "s")["state"] == "retry_wait", "the wait for the next attempt")
    (daemon.home / "scratch" / "20200101-000000-aaaaaa.s.kept").mkdir()
    daemon.kill()
    daemon.start()
    done = Staged(daemon.ended(run["id"]), target)
    assert done.ids == [f["id"] for f in FILMS]
    assert server.asked("page") == ["1", "2", "3", "3"]
    wait_until(lambda: not list((daemon.home / "scratch").iterdir()), "the end of what was kept")


def test_cancel_ends_a_wait(shared, folder, api):
    server = api(lambda a, r: Reply(b"", 429, {"Retry-After": "600"}))
    fid, target = write(shared, folder, server, {"retry": {"max_interval": "1h"}})
    run = shared.post(f"/api/v1/flows/{fid}/runs", {"params": {}})
    wait_until(lambda: "waiting 600.0 s" in shared.request("GET", f"/api/v1/runs/{run['id']}/tasks/s/logs").text, "the wait")
    began = time.monotonic()
    shared.post(f"/api/v1/runs/{run['id']}/cancel")
    assert shared.ended(run["id"])["state"] == "cancelled"
    assert time.monotonic() - began < PATIENCE
    assert len(server.requests) == 1


# ---- what is refused at load ----


@pytest.mark.parametrize(
    "source, words",
    [
        ({"format": "http"}, "needs url"),
        ({"format": "http", "url": "ftp://x"}, "must begin with http"),
        ({"format": "http", "url": "http://x", "rate_limit": "fast"}, "such as 40/10s"),
        ({"format": "http", "url": "http://x", "pagination": "cursor"}, 'needs "cursor"'),
        ({"format": "http", "url": "http://x", "pagination": {"type": "link", "total_pages": "t"}}, "goes with type: page"),
        ({"format": "http", "url": "http://x", "pagination": {"type": "page", "size_param": "n"}}, 'needs "size"'),
        ({"format": "http", "url": "http://x", "pagination": "pages"}, 'did you mean "page"'),
        ({"format": "csv", "path": "x.csv", "headers": {"a": "b"}}, '"headers" does not go with format: csv'),
        ({"format": "http", "url": "http://x", "engine": "polars"}, "polars"),
        ({"format": "http", "url": "http://x", "path": "x"}, '"path" does not go with format: http'),
    ],
)
def test_refused_at_load(shared, source, words):
    engine = source.pop("engine", "duckdb")
    flow = {"id": "bad", "tasks": [{"id": "s", "type": "stage", "engine": engine, "source": source, "target": {"path": "/tmp/x.parquet"}}]}
    answer = shared.post("/api/v1/validate", {"file": "bad.yaml", "source": json.dumps(flow)})
    assert not answer["valid"]
    assert any(words in p["message"] for p in answer["problems"]), answer


# ---- size ----


def test_memory_is_bounded_by_an_answer_not_by_all(shared, folder, api):
    """Two hundred pages of 2 MB pass through a process that holds a few of them."""
    filler = "x" * 20_000

    def answer(api, request):
        page = int(request.query["page"])
        return {"results": [{"id": page * 1000 + i, "text": filler} for i in range(100)] if page <= 100 else []}

    done = stage(shared, folder, api(answer), {"records": "results", "pagination": "page"}, select=["id", "length(text) AS n"], engine_options={"memory_limit": "200MB"})
    assert len(done.rows) == 10_000
    assert done.metrics["bytes_in"] > 200e6
    assert done.task["attempts"][-1]["max_rss_bytes"] < 400e6


def test_a_record_larger_than_the_engine_expects(shared, folder, api):
    body = json.dumps([{"id": 1, "text": "x" * 20_000_000}, {"id": 2, "text": "y"}]).encode()
    assert [r["n"] for r in stage(shared, folder, api(lambda a, r: Reply(body)), {}, select=["length(text) AS n"]).rows] == [20_000_000, 1]


# ---- what servers do ----


def test_packed_answers_count_by_what_they_hold(shared, folder, api):
    packed = gzip.compress(json.dumps([{"id": 1, "text": "x" * 1_000_000}]).encode())
    server = api(lambda a, r: Reply(packed, headers={"Content-Encoding": "gzip"}))
    assert stage(shared, folder, server, {}).ids == [1]
    assert "gzip" in server.requests[0].headers["Accept-Encoding"]
    assert "larger than" in stage(shared, folder, server, {"max_answer": "100KB"}).error


def test_a_certificate_of_ones_own(shared, folder, api):
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        + ["-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    server = api(movies)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server.server.socket = context.wrap_socket(server.server.socket, server_side=True)
    url = server.url.replace("http:", "https:") + "/3/discover/movie"
    source = {"url": url, "records": "results", "pagination": BY_PAGE}
    assert "certificate is not trusted: source.ca" in stage(shared, folder, server, dict(source)).error
    assert stage(shared, folder, server, {**source, "ca": str(cert)}).ids == [f["id"] for f in FILMS]
    assert "source.ca" in stage(shared, folder, server, {**source, "ca": str(folder / "none.pem")}).error


def test_nested_values_and_names_that_differ_in_case(shared, folder, api):
    body = [
        {"id": 1, "who": {"name": "A", "tags": ["x", "y"]}, "Score": 1, "any": {"a": 1}},
        {"id": 2, "who": {"name": "B"}, "Score": None, "any": [1]},
        {"id": 3, "who": None, "any": "t"},
    ]
    columns = {"who": "struct(name varchar, tags varchar[])", "any": "json"}
    done = stage(shared, folder, api(lambda a, r: body), {"columns": columns}, select=["id", "who.name AS name", "who.tags AS tags", "Score", "any"])
    assert [(r["name"], r["tags"], r["Score"]) for r in done.rows] == [("A", ["x", "y"], 1), ("B", None, None), (None, None, None)]
    assert [json.loads(r["any"]) for r in done.rows] == [{"a": 1}, [1], "t"]

    wrong = api(lambda a, r: [{"id": 1, "who": {"name": "A"}}, {"id": 2, "who": "B"}])
    assert re.search(r'record 2: column "who": not of type struct', stage(shared, folder, wrong, {"columns": columns}).error)

    # A part that does not fit is no NULL, however deep it lies; what is absent, null or not asked for is none of these.
    deep = {"v": "struct(n int, l struct(d date)[], m map(varchar, int), \"a/b\" struct(x int))"}
    good = [{}, {"n": None, "l": None, "m": {}, "other": "z"}, {"n": 1, "l": [{"d": "2024-01-02", "more": 1}, None, {}], "m": {"a": 1, "b": None}, "a/b": {"x": 2}}]
    bad = [{"n": "q"}, {"l": 7}, {"l": [{"d": "2024-01-02"}, {"d": "soon"}]}, {"l": ["x"]}, {"m": {"a": 1, "b": "c"}}, {"m": [1]}, {"a/b": {"x": {}}}, {"a/b": "t"}]
    body = [{"id": i, "v": v} for i, v in enumerate(good + bad)]
    left = stage(shared, folder, api(lambda a, r: body), {"columns": deep}, on_reject="skip", select=["id"])
    assert left.ids == [0, 1, 2] and left.metrics["rows_rejected"] == len(bad)
    for i, v in enumerate(bad):
        one = api(lambda a, r, v=v: [{"id": 0, "v": {}}, {"id": 1, "v": v}])
        assert re.search(r'record 2: column "v": not of type struct', stage(shared, folder, one, {"columns": deep}).error), v

    clash = api(lambda a, r: [{"id": 1, "Name": "a", "name": "b"}])
    assert '"Name" and "name"' in stage(shared, folder, clash, {}).error
    fine = api(lambda a, r: [{"Line": "a", "line_2": "b"}])
    assert stage(shared, folder, fine, {}).rows == [{"Line": "a", "line_2": "b"}]
