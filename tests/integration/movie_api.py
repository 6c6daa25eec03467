"""An API of films on loopback, of TMDB's shape: pages of twenty with genres, and every way of paging and of failing that tests ask for."""

import http.server
import json
import pathlib
import threading
import time
import urllib.parse

RECORDED = pathlib.Path(__file__).resolve().parents[2] / "examples" / "http" / "answers"


def recorded():
    """The pages as they were recorded: a list of answers, each with `page results total_pages total_results`."""
    return [json.loads(path.read_text()) for path in sorted(RECORDED.glob("page-*.json"))]


class Api:
    """
    A server that is started at once. `answer` is called for every request as answer(api, request) and gives what is sent:
    a value (JSON), or a Reply. Requests are kept in the order of their arrival.
    """

    def __init__(self, answer):
        self.answer, self.requests, self.lock = answer, [], threading.Lock()
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                api.serve(self)

            do_POST = do_GET

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def serve(self, handler):
        at = time.monotonic()
        length = int(handler.headers.get("Content-Length") or 0)
        request = Request(handler, handler.rfile.read(length), at)
        with self.lock:
            request.number = len(self.requests) + 1
            self.requests.append(request)
        reply = self.answer(self, request)
        if not isinstance(reply, Reply):
            reply = Reply(reply)
        reply.send(handler)

    def asked(self, name):
        """The values of a query's parameter, request by request."""
        return [r.query.get(name) for r in self.requests]


class Request:
    def __init__(self, handler, body, at):
        parts = urllib.parse.urlsplit(handler.path)
        self.method, self.path, self.at, self.body, self.headers = handler.command, parts.path, at, body, handler.headers
        self.query = {k: v[-1] for k, v in urllib.parse.parse_qs(parts.query, keep_blank_values=True).items()}
        self.number = 0


class Reply:
    """An answer that is not simply JSON of status 200. `cut`: so many bytes of the body are sent, then the connection is closed."""

    def __init__(self, body=b"", status=200, headers=None, cut=None, type="application/json"):
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status, self.headers, self.cut, self.type = status, headers or {}, cut, type

    def send(self, handler):
        try:
            handler.send_response(self.status)
            handler.send_header("Content-Type", self.type)
            handler.send_header("Content-Length", str(len(self.body)))
            for name, value in self.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(self.body if self.cut is None else self.body[: self.cut])
            handler.wfile.flush()
            if self.cut is not None:
                handler.close_connection = True
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True
