"""Real S3 stores on loopback: SeaweedFS and MinIO, where they are installed (tools/stores)."""

import contextlib
import datetime
import glob
import hashlib
import hmac
import http.client
import http.server
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import tempfile
import threading
import urllib.parse

import pytest

from conftest import die_with_parent, wait_until
from ports import free_ports

KEY, SECRET = "sluice-test-key", "sluice-test-secret-5d1c"


def program(name):
    """SLUICE_WEED or SLUICE_MINIO, what tools/stores installed, or what is on PATH."""
    given = os.environ.get(f"SLUICE_{name.upper()}")
    ours = pathlib.Path(os.environ.get("SLUICE_BUILD", "build")) / "stores" / "bin" / name
    return given or (str(ours) if ours.exists() else shutil.which(name))


class Store:
    def __init__(self, name, folder, tls=None, domain=None, wrap=()):
        """`tls`: (certificate, key), two files; `domain`: buckets are named in the host, before it; `wrap`: what runs the program."""
        self.name, self.folder = name, folder
        self.tls, self.domain, self.wrap = tls, domain, list(wrap)
        folder.mkdir(parents=True)
        self.port = None

    def start(self):
        self.ports = ports = free_ports(12)
        self.port = ports[0]
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        env = dict(os.environ, STORE_DATA=str(data), MINIO_ROOT_USER=KEY, MINIO_ROOT_PASSWORD=SECRET, MINIO_UPDATE="off", MINIO_BROWSER="off")
        if self.name == "minio":
            command = [program("minio"), "server", "--quiet", "--address", f"127.0.0.1:{self.port}", str(data)]
            if self.domain:
                env["MINIO_DOMAIN"] = self.domain
            if self.tls:
                (self.folder / "certs").mkdir(exist_ok=True)
                for file, name in zip(self.tls, ("public.crt", "private.key")):
                    shutil.copy(file, self.folder / "certs" / name)
                command += ["--certs-dir", str(self.folder / "certs")]
        else:
            who = {"name": "t", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List"]}
            (self.folder / "s3.json").write_text(json.dumps({"identities": [who]}))
            names = ["admin.port", "admin.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"]
            names += ["s3.port.grpc", "s3.port.iceberg"]
            self.catalog = f"http://127.0.0.1:{ports[len(names)]}"  # its own Iceberg REST catalog
            command = [program("weed"), "-logtostderr", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
            command += ["-webdav=false", "-admin.ui=false", "-s3.port.lance=0", f"-s3.port={self.port}", f"-s3.config={self.folder}/s3.json"]
            command += [f"-{n}={p}" for n, p in zip(names, ports[1:])]
            if self.domain:
                command += [f"-s3.domainName={self.domain}"]
            if self.tls:
                command += [f"-s3.cert.file={self.tls[0]}", f"-s3.key.file={self.tls[1]}"]
        log = open(self.folder / "log", "wb")
        self.process = subprocess.Popen(self.wrap + command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)
        wait_until(self._ready, f"{self.name}'s readiness", 60)
        return self

    def _ready(self):
        assert self.process.poll() is None, (self.folder / "log").read_text(errors="replace")[-3000:]
        try:
            return self.request("GET", "/")[0] == 200
        except OSError:
            return False

    def stop(self):
        self.process.kill()  # SeaweedFS takes half a minute to end by itself
        self.process.wait()
        for port in self.ports:  # SeaweedFS puts its sockets nowhere else
            for socket_of_it in glob.glob(f"/tmp/seaweedfs-*-{port}.sock"):
                os.unlink(socket_of_it)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def endpoint(self):
        return f"{'https' if self.tls else 'http'}://{self.domain or '127.0.0.1'}:{self.port}"

    def request(self, method, path, body=b"", query="", service="s3"):
        """Signed by ourselves, so that the tests do not trust what they test."""
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        path = urllib.parse.quote(path)
        head = {"host": f"127.0.0.1:{self.port}", "x-amz-content-sha256": digest, "x-amz-date": now}
        names = ";".join(head)
        asked = "\n".join([method, path, query, *(f"{k}:{v}" for k, v in head.items()), "", names, digest])
        scope = f"{now[:8]}/us-east-1/{service}/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(asked.encode()).hexdigest()])
        key = f"AWS4{SECRET}".encode()
        for part in (*scope.split("/"), to_sign):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        head["Authorization"] = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature={key.hex()}"
        if self.tls:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=ssl._create_unverified_context())
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        if service == "sts":
            head["Content-Type"] = "application/x-www-form-urlencoded"
        connection.request(method, path + (f"?{query}" if query else ""), body, head)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data

    def make_bucket(self, name):
        status, body = self.request("PUT", f"/{name}")
        assert status in (200, 409), body

    def put(self, bucket, key, data):
        status, body = self.request("PUT", f"/{bucket}/{key}", data)
        assert status == 200, body

    def keys(self, bucket, prefix=""):
        """Of the first thousand."""
        status, body = self.request("GET", f"/{bucket}", query=f"list-type=2&prefix={urllib.parse.quote(prefix, safe='')}")
        assert status == 200, body
        return [urllib.parse.unquote(k.split("</Key>")[0]) for k in body.decode().split("<Key>")[1:]]


PROGRAMS = {"seaweedfs": "weed", "minio": "minio"}
STORES = ["seaweedfs"] + ["minio"] * bool(program("minio"))  # which take part: MinIO where somebody has had Go make it
BUCKET = "ways-test"


@contextlib.contextmanager
def running(name, bucket=BUCKET, **options):
    """A store with that bucket, and nothing else."""
    if program(PROGRAMS[name]) is None:
        pytest.skip(f"{name} is not installed: run tools/stores build{' minio' if name == 'minio' else ''}")
    made = Store(name, pathlib.Path(tempfile.mkdtemp(prefix="s3-")) / "s", **options).start()
    try:
        made.make_bucket(bucket)
        yield made
    finally:
        made.stop()
        made.folder.parent.rmdir()


class _Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        met = self.server.meet(self, body)
        if met:
            return self.tell(*met)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.store.port, timeout=20)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for k, v in self.headers.items():
            connection.putheader(k, v)
        connection.endheaders(body)
        answer = connection.getresponse()
        self.tell(answer.status, answer.read(), [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "content-length", "connection")], answer.getheader("Content-Length"))
        connection.close()

    def tell(self, status, body, headers=(), length=None):
        self.send_response_only(status)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on


@contextlib.contextmanager
def front(store, meet):
    """What stands in front of the store: `meet(request, body)` sees each request first, and may answer it with a status and a body."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Front)
    server.daemon_threads = True
    server.store, server.meet, server.endpoint = store, meet, f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
