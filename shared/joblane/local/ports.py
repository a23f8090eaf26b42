"""TCP ports of 127.0.0.1: who may have which."""

from __future__ import annotations

import random
import socket
from contextlib import closing

HOST = "127.0.0.1"
CHOICE = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections: one of those could take it before the server does, or
while the server restarts."""


def free_port() -> int:
    """Return a TCP port nobody listens on at this moment, another one at each call."""
    return next(port for port in random.SystemRandom().sample(CHOICE, len(CHOICE)) if port_is_free(port))


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections are no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
