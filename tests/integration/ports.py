#!/usr/bin/env python3
"""Ports on loopback, for servers that are told theirs before they listen there.

They are none of those that the kernel gives to whoever asks for any: in between, one of these would be taken by somebody else.

    ports.py N      prints N of them, one behind the other
"""

import random
import socket
import sys

FIRST, LAST = 10000, 20000
ABOVE = 10000  # SeaweedFS takes the port so far above as well


def unused(port):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_ports(n):
    """One behind the other."""
    while True:
        first = random.SystemRandom().randrange(FIRST, LAST - n)
        ports = list(range(first, first + n))
        if all(unused(port) and unused(port + ABOVE) for port in ports):
            return ports


def free_port():
    return free_ports(1)[0]


if __name__ == "__main__":
    print(*free_ports(int(sys.argv[1])))
