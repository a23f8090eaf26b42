"""The HTTP server of the queues."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from joblane.local.errors import PortBusyError
from joblane.local.ports import HOST


class Server(uvicorn.Server):
    """A server that leaves the signals to the command."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave each signal to its handler of this process."""
        yield


def listen(port: int) -> socket.socket:
    """Listen on the port of the queues. Raises :class:`PortBusyError`."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise PortBusyError("The queues of `joblane dev`", port, "JOBLANE_AWS_PORT") from error
    return listening


def config(app: Any) -> uvicorn.Config:
    """Return the settings of the server, without an access log."""
    return uvicorn.Config(
        app,
        access_log=False,
        log_level="error",
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
    )
