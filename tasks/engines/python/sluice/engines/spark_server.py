"""Keeps a Spark Connect server for the tasks that share it: a program of its own, by Python's library alone, started by the first.

It is a child of the nursery and ends with it, and the JVM ends with this. It holds the lock of its folder while it lives, so there is
one for each folder, and a lock that is free means that nothing is left. Tasks connect to its socket, are told where the server is once
that answers, and stay connected for as long as they use it; when none has for a while, both end. On standard input: {command, env,
folder, nursery, linger}.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import re
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import FrameType
from typing import Any, NoReturn, Optional

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_END_S = 10.0  # seconds that the JVM may take to end
_READY = re.compile(rb"Spark Connect server started at: \S*:(\d+)")
_PAGE = re.compile(rb"started service 'SparkUI' on port (\d+)")
_OOM_STATUS = 3  # with which the JVM leaves when it has no memory (-XX:+ExitOnOutOfMemoryError)
# A program that ends a session: its address, with the token, comes on standard input.
_END = """
import sys
from pyspark.sql.connect.session import SparkSession
spark = SparkSession.builder.remote(sys.stdin.read()).create()
spark.interruptAll()
spark.stop()
"""
_libc = ctypes.CDLL(None)


class Keeper:
    """The server, who uses it, and what it said last."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.linger: float = given["linger"]
        self.token = secrets.token_hex(32)
        self.port: Optional[int] = None
        self.page: Optional[str] = None
        self.rest = b""
        self.said: collections.deque[bytes] = collections.deque(maxlen=20)
        self.select = selectors.DefaultSelector()
        self.leases: dict[socket.socket, bytes] = {}  # and the session that each has
        self.enders: list[subprocess.Popen[bytes]] = []
        self.unused_since = time.monotonic()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink("socket")
        self.listener.bind("socket")  # relative: the path of a socket may have 107 bytes only
        self.listener.listen(64)
        self.select.register(self.listener, selectors.EVENT_READ, self.on_task)
        env = {**given["env"], "SPARK_CONNECT_AUTHENTICATE_TOKEN": self.token}
        self.jvm = subprocess.Popen(
            given["command"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        assert self.jvm.stdout
        os.set_blocking(self.jvm.stdout.fileno(), False)
        self.select.register(self.jvm.stdout, selectors.EVENT_READ, self.on_text)

    def serve(self) -> None:
        """Until nobody has used it for a while, or the JVM has ended."""
        while self.jvm.poll() is None:
            if not self.leases and time.monotonic() - self.unused_since > self.linger:
                return
            for key, _ in self.select.select(1.0):
                key.data(key.fileobj)
        self.on_text(self.jvm.stdout)

    def on_task(self, listener: socket.socket) -> None:
        lease, _ = listener.accept()
        lease.setblocking(False)
        self.leases[lease] = b""
        self.select.register(lease, selectors.EVENT_READ, self.on_left)
        if self.port:
            self.tell(lease, {"port": self.port, "token": self.token, "page": self.page, "jvm": self.jvm.pid})

    def on_left(self, lease: socket.socket) -> None:
        """A task says which session it has, and nothing when that is over; or it is gone."""
        try:
            told = lease.recv(4096)
        except OSError:
            told = b""
        if told:
            self.leases[lease] = told.rsplit(b"\n", 2)[-2]
            return
        self.select.unregister(lease)
        lease.close()
        session = self.leases.pop(lease)
        self.unused_since = time.monotonic()
        if session:
            self.end_session(session.decode())

    def end_session(self, session: str) -> None:
        """Ends what a task that was killed has left on the server."""
        url = f"sc://localhost:{self.port}/;token={self.token};session_id={session}"
        ender = subprocess.Popen([sys.executable, "-I", "-c", _END], stdin=subprocess.PIPE, preexec_fn=die_with_parent)
        assert ender.stdin
        ender.stdin.write(url.encode())
        ender.stdin.close()
        self.enders = [e for e in self.enders if e.poll() is None] + [ender]

    def on_text(self, pipe: Any) -> None:
        """What the JVM says goes to the log; its port is among it."""
        data = pipe.read() or b""
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        *lines, self.rest = (self.rest + data).split(b"\n")
        for text in lines:
            self.said.append(text)
            page, ready = _PAGE.search(text), _READY.search(text)
            if page:
                self.page = f"http://127.0.0.1:{int(page[1])}"
            if ready and not self.port:
                self.port = int(ready[1])
                for lease in self.leases:
                    self.tell(lease, {"port": self.port, "token": self.token, "page": self.page, "jvm": self.jvm.pid})
        if not data and pipe in (key.fileobj for key in self.select.get_map().values()):
            self.select.unregister(pipe)

    def tell(self, lease: socket.socket, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            lease.send(json.dumps(what).encode() + b"\n")

    def end(self) -> None:
        """Nobody finds the server any more; those who are there still are told why, and the JVM is waited for."""
        os.unlink("socket")
        status = self.jvm.poll()
        for lease in self.leases:
            said = b"\n".join(self.said).decode("utf-8", "replace")
            self.tell(
                lease,
                {"ended": status, "oom": status == _OOM_STATUS or "OutOfMemoryError" in said, "said": said, "started": bool(self.port)},
            )
        self.listener.close()
        if status is None:
            self.jvm.terminate()
            try:
                self.jvm.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.jvm.kill()
                self.jvm.wait()
        shutil.rmtree("work", ignore_errors=True)


def die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def on_term(number: int, frame: Optional[FrameType]) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    given = json.load(sys.stdin)
    if os.fork():  # the nursery becomes the parent of the second
        os._exit(0)
    os.setsid()
    while os.getppid() != given["nursery"]:
        if os.getppid() == 1:
            os._exit(1)
        time.sleep(0.001)
    die_with_parent()
    if os.getppid() != given["nursery"]:
        os._exit(1)
    _libc.prctl(_PR_SET_NAME, b"sluice-spark", 0, 0, 0)
    signal.signal(signal.SIGTERM, on_term)
    os.chdir(given["folder"])
    shutil.rmtree("work", ignore_errors=True)  # of one that was killed
    os.mkdir("work", 0o700)
    keeper = Keeper(given)
    try:
        keeper.serve()
    finally:
        keeper.end()


if __name__ == "__main__":
    main()
