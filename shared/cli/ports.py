"""TCP ports of 127.0.0.1: who may have which."""

from __future__ import annotations

import socket
from contextlib import closing

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a TCP port nobody listens on at this moment."""
    with closing(socket.socket()) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: closed connections are no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
