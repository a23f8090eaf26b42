"""Free TCP ports of 127.0.0.1."""

from __future__ import annotations

import random
import socket
from contextlib import closing

HOST = "127.0.0.1"
CHOICE = range(20_000, 32_000)
"""Ports below the range that operating systems use for outgoing connections. Such a connection could take a port
of that range before the server starts, or while it restarts."""


def free_port() -> int:
    """Return a random TCP port on which no program listens at the moment."""
    return next(port for port in random.SystemRandom().sample(CHOICE, len(CHOICE)) if port_is_free(port))


def port_is_free(port: int) -> bool:
    """Return true if a server could listen on this port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as servers do, so that closed connections do not block the port
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
