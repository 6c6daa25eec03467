"""The fork server: an interpreter that has done a task's imports once, and forks processes that wait for a document.

The nursery (scheduler/spare.c) sends its own process id and a socket on descriptor 4 for each process that it wants. The server
forks twice, so that the process becomes the nursery's child; that one says its process id on the socket and waits there for
{doc, env, cwd} and the descriptors of log and report. It then goes on as if it had been started for this attempt alone. Where it
cannot (the environment has what an interpreter reads when it begins, or the installation has changed) it runs itself anew.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import signal
import socket
import sys
import time
from typing import Any, NoReturn, Optional

from sluice import task

CONTROL_FD = 4
MESSAGE_MAX = 1 << 20  # bytes; larger documents do not come this way
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
# What is read when it is used, or does not matter to an interpreter; of all else an engine may have taken notice.
_HARMLESS = {"PATH", "TMPDIR", "TZ", "USER", "LOGNAME", "SHELL", "SSL_CERT_FILE"}
# What the interpreter itself and the C library read when they begin.
_EARLY = ("HOME", "LANG", "LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES")

_libc = ctypes.CDLL(None, use_errno=True)


def serve(engine: str) -> dict[str, Any]:
    """Forks whenever it is told to; comes back in a process that was given a document, which it gives."""
    _name("sluice-python")
    module = importlib.import_module(f"sluice.engines.{engine}" if engine else "sluice.python_task")
    threads = _threads() - getattr(module, "THREADS_NOT_MISSED", frozenset())
    if threads:
        _say(
            f"the imports of {engine or 'python'} have begun threads ({', '.join(sorted(threads))}), which a fork would not have; "
            "every task starts anew"
        )
        _sleep_until_closed()
    started_with = _first_environ()
    stamp = _stamp()
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=CONTROL_FD) as control:
        while True:
            told, fds, _, _ = socket.recv_fds(control, 32, 1)
            if not told:
                os._exit(0)
            if _stamp() != stamp:
                _say(f"{sys.prefix} has changed; a new fork server takes its place")
                os._exit(0)
            first = os.fork()
            if first == 0:
                if os.fork():
                    os._exit(0)
                control.close()
                break
            os.close(fds[0])
            os.waitpid(first, 0)
    given = _wait(fds[0], int(told))
    env = given["env"]
    if _stamp() != stamp or not _fits(env, started_with, engine):
        _start_anew(given)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    _reseed()
    doc: dict[str, Any] = given["doc"]
    return doc


def _threads() -> set[str]:
    """The names of this process's threads but the first."""
    names = set()
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/comm") as f:
                names.add(f.read().strip())
    return names


def leave(status: int) -> NoReturn:
    """Ends the process as the interpreter would: threads end, exit handlers run, files are flushed; but what the server had made is
    not taken apart object by object, which would copy each page of it (4 ms)."""
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        atexit._run_exitfuncs()
    except BaseException as e:
        task.log(e, e.__traceback__)
    for thing in gc.get_objects():  # without the server's own, which are frozen
        if issubclass(type(thing), io.IOBase):
            with contextlib.suppress(Exception):  # closed, detached, or no place left: as at any interpreter's end
                thing.flush()
    os._exit(status)


def _wait(fd: int, nursery: int) -> dict[str, Any]:
    """As a child of the nursery: says that it waits, and takes what it is given; the descriptors take their places."""
    os.setpgid(0, 0)
    while os.getppid() != nursery:  # until the process between us has ended
        if os.getppid() == 1:
            os._exit(0)
        time.sleep(0.0002)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != nursery:
        os._exit(0)
    _name("sluice-spare")
    with socket.socket(fileno=fd) as own:
        try:
            own.send(b"%d" % os.getpid())
        except OSError:  # not wanted any more
            os._exit(0)
        text, fds = _receive(own)
        try:
            own.send(b"+")  # nothing has begun until the nursery can know it (scheduler/spare.c)
        except OSError:
            os._exit(126)
    for at, place in ((0, 1), (0, 2), (1, 3)):
        os.dup2(fds[at], place)
    for got in set(fds) - {1, 2, 3}:
        os.close(got)
    _name("sluice-task")
    given: dict[str, Any] = json.loads(text)
    if given.get("cwd"):
        os.chdir(given["cwd"])
    return given


def _receive(own: socket.socket) -> tuple[bytes, list[int]]:
    try:
        text, ancillary, _, _ = own.recvmsg(MESSAGE_MAX, socket.CMSG_SPACE(2 * array.array("i").itemsize))
    except ConnectionError:  # not wanted any more, and our number was never read
        os._exit(0)
    fds = array.array("i")
    for _, _, data in ancillary:
        fds.frombytes(data)
    if not text or len(fds) != 2:
        os._exit(0)
    return text, list(fds)


def _fits(env: dict[str, str], started_with: dict[str, str], engine: str) -> bool:
    """Would an interpreter that starts with this environment be the same?"""
    for name in env.keys() | started_with.keys():
        if name.startswith("SLUICE_") or env.get(name) == started_with.get(name) or name in _HARMLESS:
            continue
        if engine or name.startswith(_EARLY):
            return False
    return True


def _first_environ() -> dict[str, str]:
    """The environment as it was given; Python may have set a locale in its own since."""
    with open("/proc/self/environ", "rb") as f:
        lines = os.fsdecode(f.read()).split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _start_anew(given: dict[str, Any]) -> NoReturn:
    """Becomes an interpreter of its own, with the document on descriptor 4: same process, same descriptors."""
    fd = os.memfd_create("document", 0)
    os.write(fd, json.dumps(given["doc"]).encode())
    os.lseek(fd, 0, os.SEEK_SET)
    os.dup2(fd, task.DOCUMENT_FD, inheritable=True)
    if fd != task.DOCUMENT_FD:
        os.close(fd)
    os.execve(sys.executable, [sys.executable, "-u", os.path.abspath(sys.argv[0])], given["env"])


def _reseed() -> None:
    """What is random must not repeat; Python's own `random` sees to that itself."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _stamp() -> list[Optional[tuple[int, int]]]:
    """What changes when a package is installed or removed: the folders of modules, the environment's file, the program."""
    return [_changed(p) for p in (*sys.path, os.path.join(sys.prefix, "pyvenv.cfg"), sys.executable, os.path.dirname(__file__))]


def _changed(path: str) -> Optional[tuple[int, int]]:
    try:
        st = os.stat(path or ".")
    except OSError:
        return None
    return st.st_ino, st.st_mtime_ns


def _name(name: str) -> None:
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} warn  nursery: {sys.executable}: {text}", file=sys.stderr, flush=True)


def _sleep_until_closed() -> NoReturn:
    """Takes orders and fills none, so that the nursery does not start it again and again."""
    with socket.socket(fileno=CONTROL_FD) as control:
        while True:
            told, fds, _, _ = socket.recv_fds(control, 32, 1)
            for fd in fds:
                os.close(fd)
            if not told:
                os._exit(0)
