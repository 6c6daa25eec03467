"""A standalone cluster's master: is it there? Spark itself waits for one that is away for as long as it takes."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from typing import Optional

from sluice.report import Failure

_CONNECT_S = 5.0  # seconds in which a master takes a connection
AWAY_S = 30.0  # seconds that a master may be away in the middle of a task: one that is started anew takes the application over


def is_cluster(master: str) -> bool:
    return master.startswith("spark://")


def require(master: str) -> str:
    """This machine's address as the master sees it: executors reach the task there. Raises a Failure when nobody answers."""
    if not is_cluster(master):
        return "127.0.0.1"
    address = answers(master)
    if address is None:
        raise Failure(
            f"no Spark master answers at {master} (engine_options.master): is the cluster running, and does this machine reach it?"
        )
    return address


def answers(master: str) -> Optional[str]:
    """Does one of spark://host:port,host:port take a connection? From which address of ours?"""
    for address in master[len("spark://") :].split(","):
        found = re.fullmatch(r"\[?([^\]]*?)\]?:(\d+)", address.strip())
        host, port = (found[1], int(found[2])) if found else (address.strip(), 7077)
        with contextlib.suppress(OSError), socket.create_connection((host, port), _CONNECT_S) as connection:
            return str(connection.getsockname()[0])
    return None


class Watch:
    """For how long a cluster's master has been away."""

    def __init__(self, master: str) -> None:
        self.master = master
        self.since: Optional[float] = None
        self.gone = False

    def look(self) -> bool:
        """True once, when it has been away for too long."""
        if self.gone or not is_cluster(self.master) or answers(self.master):
            self.since = None
            return False
        self.since = self.since or time.monotonic()
        self.gone = time.monotonic() - self.since > AWAY_S
        return self.gone

    def why(self) -> Optional[Failure]:
        if not self.gone:
            return None
        return Failure(f"the cluster {self.master} is gone: its master has not answered for {AWAY_S:.0f} s in the middle of the task")
