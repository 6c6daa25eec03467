"""The ways to reach a store: certificates of one's own, buckets in the host's name, keys lent to a role."""

import datetime
import http.server
import re
import subprocess
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import http as ask
from conftest import task_of, wait_until, why
from s3_stores import BUCKET, KEY, SECRET, STORES, running


def keys(**more):
    return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, **more}


def config(endpoint, more="", timeout="10s"):
    return f"catalog: {{warehouse: 's3://{BUCKET}/lake'}}\ns3: {{endpoint: '{endpoint}', timeout: {timeout}{more}}}\n"


SHIP = f"""
id: ship
tasks:
  - {{id: out, type: stage, source: {{format: csv, path: "s3://{BUCKET}/raw/*.csv"}}, target: {{path: s3://{BUCKET}/out/part.parquet}}}}
  - {{id: rows, type: publish, depends_on: [out], from: "s3://{BUCKET}/out/*.parquet", into: stg.rows, mode: overwrite}}
"""


def ship(daemon, store):
    store.put(BUCKET, "raw/a b.csv", b"n,t\n" + b"".join(b"%d,text\n" % n for n in range(1000)))
    daemon.flow("ship", SHIP)
    run = daemon.trigger("ship")
    assert run["state"] == "success", why(run)
    assert daemon.sql("SELECT count(*) AS n, sum(n::INT)::BIGINT AS s FROM stg.rows") == [{"n": 1000, "s": 499_500}]


def certificate(folder):
    cert, key = folder / "store.crt", folder / "store.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key


@pytest.mark.parametrize("name", STORES)
def test_a_certificate_of_ones_own(make_daemon, folder, name):
    cert, key = certificate(folder)
    with running(name, tls=(cert, key)) as store:
        ship(make_daemon(config=config(store.endpoint, f", ca: '{cert}'"), env=keys()), store)
        by_variable = make_daemon(name="variable", config=config(store.endpoint), env=keys(AWS_CA_BUNDLE=cert))
        run = by_variable.trigger("ship")
        assert run["state"] == "success", why(run)
        # Nobody vouches for it.
        none = make_daemon(name="none", config=config(store.endpoint), env=keys())
        run = none.trigger("ship")
        assert run["state"] == "failed"
        said = task_of(run, "out")["attempts"][-1]["error"]["message"]
        assert "certificate" in said and store.endpoint in said and "s3.ca" in said and f"s3://{BUCKET}/" in said, said
        none.flow("read", f"id: read\ntasks:\n  - {{id: r, type: publish, from: 's3://{BUCKET}/out/part.parquet', into: stg.r}}\n")
        assert "certificate" in why(none.trigger("read"))


@pytest.mark.parametrize("name", STORES)
def test_buckets_in_the_hosts_name(make_daemon, name):
    with running(name, domain="s3.localhost") as store:
        daemon = make_daemon(config=config(store.endpoint), env=keys())
        ship(daemon, store)


class Lender(http.server.BaseHTTPRequestHandler):
    """Answers AssumeRoleWithWebIdentity as it is documented, with keys that the store's own AssumeRole made; `server.silent` keeps it waiting."""

    def do_GET(self):
        asked = {k: v[0] for k, v in urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query).items()}
        self.server.asked.append(asked)
        self.server.speak.wait(60)
        if asked.get("WebIdentityToken") != "token of the day":
            self.answer(400, "<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>who is that</Message></Error></ErrorResponse>")
            return
        access, secret, session = borrowed(self.server.store)
        ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=self.server.lasts)
        self.answer(
            200,
            '<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>'
            f"<AccessKeyId>{access}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{session}</SessionToken>"
            f"<Expiration>{ends:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        )

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


def borrowed(store):
    """Keys that last a quarter of an hour, of the store's AssumeRole."""
    body = b"Action=AssumeRole&Version=2011-06-15&DurationSeconds=900&RoleSessionName=tests"
    status, text = store.request("POST", "/", body, service="sts")
    assert status == 200, text
    return [re.search(f"<{name}>(.*?)</{name}>", text.decode()).group(1) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")]


@pytest.fixture
def lender():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lender)
    server.daemon_threads = True
    server.asked, server.lasts, server.speak = [], 3600, threading.Event()
    server.speak.set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.speak.set()
    server.shutdown()
    thread.join()
    server.server_close()


def role(lender, folder, token="token of the day"):
    (folder / "identity").write_text(token + "\n")
    sts = f"http://127.0.0.1:{lender.server_address[1]}"
    return {
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/of-the-daemon", "AWS_WEB_IDENTITY_TOKEN_FILE": folder / "identity", "AWS_ENDPOINT_URL_STS": sts,
    }, sts


def vended(daemon):
    return daemon.request("GET", "/iceberg/v1/namespaces/stg/tables/rows", headers={"X-Iceberg-Access-Delegation": "vended-credentials"}, timeout=60)


@pytest.mark.parametrize("name", STORES)
def test_keys_of_a_role(make_daemon, folder, lender, name):
    """Sources, staged files, tables and what clients are lent; an expired key is replaced, and nobody waits for that but who needs it."""
    env, sts = role(lender, folder)
    with running(name) as store:
        lender.store = store
        daemon = make_daemon(config=config(store.endpoint), env=env)
        ship(daemon, store)
        assert lender.asked[0]["RoleArn"] == "arn:aws:iam::1:role/of-the-daemon" and lender.asked[0]["Action"] == "AssumeRoleWithWebIdentity"
        first = vended(daemon).json["storage-credentials"][0]["config"]
        assert first["s3.session-token"] and first["s3.access-key-id"] != KEY
        asked = len(lender.asked)
        assert vended(daemon).json["storage-credentials"][0]["config"] == first and len(lender.asked) == asked

        # Keys that end at once, and then a lender that is silent: forty who ask for keys wait; everybody else goes on.
        lender.lasts = 1
        again = make_daemon(name="again", config=config(store.endpoint, timeout="20s"), env=env)
        ship(again, store)
        lender.speak.clear()
        asked = len(lender.asked)
        with ThreadPoolExecutor(40) as pool:
            waiting = [pool.submit(vended, again) for _ in range(40)]
            wait_until(lambda: len(lender.asked) > asked, "the first to ask")
            for _ in range(20):
                assert ask("GET", again.url + "/healthz").status == 200
                assert again.request("GET", "/iceberg/v1/namespaces/stg/tables/rows").status == 200
            assert not any(w.done() for w in waiting)
            lender.lasts = 3600
            lender.speak.set()
            for w in waiting:
                assert w.result().json["storage-credentials"][0]["config"]["s3.session-token"]


def test_a_role_that_is_refused(make_daemon, folder, lender):
    env, sts = role(lender, folder, "a token of yesterday")
    daemon = make_daemon(config=config("http://127.0.0.1:9"), env=env)
    daemon.flow("ship", SHIP)
    said = task_of(daemon.trigger("ship"), "out")["attempts"][-1]["error"]["message"]
    assert "arn:aws:iam::1:role/of-the-daemon" in said and sts in said and "InvalidIdentityToken" in said and "renew it" in said and f"s3://{BUCKET}/" in said, said
