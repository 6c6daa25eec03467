"""The page at /, in a real browser against the real daemon: what it shows, and what its buttons do."""

import os
import re
import shutil

import pytest
from conftest import PATIENCE, http

playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
expect = playwright.expect

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WAIT = PATIENCE * 1000

GREET = """
    id: greet
    description: Says hello
    params:
      who: {type: string, default: world, description: Whom to greet}
      times: {type: int, default: 1, min: 1, max: 9}
    tasks:
      - id: hello
        type: command
        command: "for i in $(seq ${params.times}); do printf '\\\\033[32mhello\\\\033[0m %s <b>bold</b>\\\\n' '${params.who}'; done"
      - id: goodbye
        type: command
        depends_on: [hello]
        command: echo goodbye
"""


@pytest.fixture
def browser():
    if not CHROMIUM:
        pytest.skip("no Chromium here; install the package chromium, or name one in CHROMIUM")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, daemon):
    """A tab that is signed in; anything that the browser complains about fails the test."""
    complaints = []

    def open(path="/", login=True, **context):
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        if login:
            page.goto(f"{daemon.url}/?token={daemon.token}")
        if not login or path != "/":
            page.goto(daemon.url + path)
        return page

    yield open
    # A refused request is part of some tests; the page says it in its own words.
    assert [c for c in complaints if "Failed to load resource" not in c] == []


def test_a_run_from_the_dialog_to_its_log(daemon, open_page):
    daemon.flow("greet", GREET)
    page = open_page()
    page.get_by_role("button", name="Run greet").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("who")).to_have_value("world")

    # What the daemon refuses is said in the dialog, and the form stays.
    dialog.get_by_label("times").fill("10")
    dialog.get_by_role("button", name="Start run").click()
    expect(dialog.get_by_role("alert")).to_contain_text("times")

    dialog.get_by_label("times").fill("2")
    dialog.get_by_label("who").fill("Ana")
    dialog.get_by_role("button", name="Start run").click()
    page.wait_for_url(re.compile(r"/runs/[0-9]{8}-"))
    expect(page.get_by_role("heading", level=1)).to_contain_text("success")

    page.get_by_role("button", name=re.compile("^hello, command, success")).click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("hello Ana <b>bold</b>")  # as text, and without the terminal's codes
    expect(log.locator(".log-line")).to_have_count(2)

    run = daemon.get("/api/v1/runs?flow=greet")["items"]
    assert len(run) == 1 and run[0]["params"] == {"who": "Ana", "times": 2}


def test_it_is_live_and_cancels(daemon, open_page, folder):
    page = open_page()
    expect(page.get_by_text("No flows yet.")).to_be_visible()
    gate = folder / "gate"
    daemon.flow(
        "slow",
        f"""
        id: slow
        tasks:
          - id: wait
            type: command
            command: "echo began; while [ ! -e {gate} ]; do sleep 0.05; done; echo opened; sleep 600"
        """,
    )
    # Nobody reloads: the file appears, its run appears, the log grows.
    expect(page.get_by_role("heading", name="slow")).to_be_visible()
    run = daemon.post("/api/v1/flows/slow/runs")
    expect(page.get_by_label("Last 1 run of slow", exact=False)).to_be_visible()

    page.goto(f"{daemon.url}/runs/{run['id']}")
    log = page.get_by_role("log")
    expect(log).to_contain_text("began")
    expect(log).not_to_contain_text("opened")
    gate.touch()
    expect(log).to_contain_text("opened")

    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cancelled")
    assert daemon.run(run["id"])["state"] == "cancelled"


def test_what_a_run_wrote_and_that_it_was_undone(daemon, open_page, folder):
    gate = folder / "gate"
    daemon.flow(
        "writes",
        f"""
        id: writes
        tasks:
          - {{id: a, type: curate, into: x.a, sql: SELECT 1 AS n UNION ALL SELECT 2}}
          - {{id: gate, type: command, depends_on: [a], command: "until [ -e {gate} ]; do sleep 0.05; done"}}
        """,
    )
    run = daemon.post("/api/v1/flows/writes/runs")
    page = open_page(f"/runs/{run['id']}")
    written = page.get_by_role("region", name="Tables that it wrote")
    expect(written).to_contain_text("x.a")
    expect(written).to_contain_text("+2 rows · +1 file")
    expect(written).to_contain_text("seen by this run alone")
    gate.touch()
    expect(page.get_by_role("heading", level=1)).to_contain_text("success")
    expect(written).not_to_contain_text("seen by this run alone")
    snapshot = daemon.get(f"/api/v1/runs/{run['id']}/tables")["items"][0]["snapshot_after"]
    expect(written).to_contain_text(f"none → {snapshot}")
    # Somebody takes it back while the page is open.
    daemon.post(f"/api/v1/runs/{run['id']}/undo")
    expect(page.get_by_role("heading", level=1)).to_contain_text("undone")
    expect(written).to_contain_text("by token admin")


LAKE = """
    id: lake
    concurrency: {max_active_runs: 1}
    tasks:
      - {id: small, type: curate, into: h.small, sql: SELECT range AS n FROM range(10)}
      - {id: merged, type: curate, into: h.merged, mode: upsert, key: [n], properties: {write.merge.mode: merge-on-read}, sql: "SELECT range AS n, random() AS x FROM range(20)"}
      - {id: whole, type: curate, into: h.whole, mode: overwrite, sql: SELECT 1 AS n}
"""


def test_how_healthy_the_tables_are(daemon, open_page):
    daemon.flow("lake", LAKE)
    for _ in range(4):
        assert daemon.trigger("lake")["state"] == "success"
    seen = {i["table"]: i for i in daemon.get("/api/v1/tables/health")["items"]}
    page = open_page("/tables")
    row = page.get_by_role("row", name=re.compile("h[.]small"))
    expect(row).to_contain_text(f"{seen['h.small']['score']}")
    expect(row).to_contain_text("4 4 small")
    lake = page.get_by_label("The lake")
    expect(lake).to_contain_text("Tables3")
    expect(lake).to_contain_text(f"Files{sum(i['files'] for i in seen.values())}")
    page.get_by_label("Order").select_option("health")
    worst = min(seen.values(), key=lambda i: i["score"])["table"]
    expect(page.get_by_role("row").nth(1)).to_contain_text(worst)

    page.get_by_role("link", name="h.small").click()
    health = page.get_by_role("region", name="Health")
    expect(health).to_contain_text("4 of 4 files small; 1 would do")
    expect(health).to_contain_text("no delete files")
    expect(health).to_contain_text("sluice maintain h.small")
    expect(page.get_by_role("region", name="Columns")).to_contain_text("n")
    # Live, without a click.
    assert daemon.trigger("lake")["state"] == "success"
    expect(health).to_contain_text("5 of 5 files small")
    expect(page.get_by_role("region", name="Last written").get_by_role("listitem")).to_have_count(5)

    health.get_by_role("button", name="Maintain").click()
    page.wait_for_url(re.compile(r"/runs/[0-9]{8}-"))
    expect(page.get_by_role("button", name=re.compile("^maintain, maintain"))).to_be_visible()


def test_problems_of_a_file_are_shown_where_they_are(daemon, open_page):
    daemon.flow("greet", GREET)
    page = open_page()
    expect(page.get_by_role("heading", name="greet")).to_be_visible()
    daemon.write("greet.yaml", GREET.replace("depends_on", "depend_on"))
    problems = page.get_by_label("Problems of greet.yaml")
    expect(problems).to_contain_text("greet.yaml:13:")
    expect(problems).to_contain_text('did you mean "depends_on"?')
    expect(problems).to_contain_text("the last good version stays in force")
    daemon.write("greet.yaml", GREET)
    expect(problems).to_have_count(0)


def test_configs_beside_the_flows_are_no_flows(daemon):
    daemon.write("sluice.s3.yaml", "paths: {root: s3://somewhere}\n")
    daemon.flow("greet", GREET)  # noticed later
    assert [f["id"] for f in daemon.get("/api/v1/flows")["items"]] == ["greet"] and daemon.get("/api/v1/status")["flows"]["broken"] == 0


def test_signing_in_and_small_screens(daemon, open_page):
    daemon.flow("greet", GREET)
    run = daemon.trigger("greet")
    page = open_page(login=False, viewport={"width": 390, "height": 844}, color_scheme="dark")
    page.get_by_label("Token").fill("not the token, but long enough")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("not known")
    page.get_by_label("Token").fill(daemon.token)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="greet")).to_be_visible()
    assert daemon.token not in page.evaluate("document.cookie + JSON.stringify(localStorage) + location.href")

    daemon.flow("lake", LAKE)
    assert daemon.trigger("lake")["state"] == "success"
    for path, shown in (("/", "greet"), ("/runs", "greet"), (f"/runs/{run['id']}", "greet"), ("/flows/greet", "greet"), ("/tables", "h.merged"), ("/tables/h.merged", "h.merged")):
        page.goto(daemon.url + path)
        expect(page.get_by_text(shown).filter(visible=True).first).to_be_visible()
        if path.startswith("/tables"):
            expect(page.locator(".score").filter(visible=True).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), f"{path} is wider than a phone"


def test_files_are_compressed_kept_and_fenced(daemon):
    index = http("GET", daemon.url + "/", headers={"Accept-Encoding": "identity"})
    assert index.status == 200 and index.headers["Content-Type"].startswith("text/html")
    policy = index.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    assert http("GET", daemon.url + "/", headers={"If-None-Match": index.headers["ETag"]}).status == 304

    script = re.search(r'src="(/assets/index-[^"]+\.js)"', index.text).group(1)
    packed = http("GET", daemon.url + script, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip" and "immutable" in packed.headers["Cache-Control"]
    assert len(packed.body) < 60_000

    assert http("GET", daemon.url + "/runs/any-run").text == index.text
    assert http("GET", daemon.url + "/assets/nothing.js").status == 404
    assert http("GET", daemon.url + "/api/v1/status").status == 401
