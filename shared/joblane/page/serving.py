"""The page as a program: a server on this machine's own address, until it is stopped."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from joblane.page.security import ADDRESS

GRACE_SECONDS = 3
"""For what is under way when it is stopped."""


def listen(port: int) -> socket.socket:
    """Taken before anything is printed. ``port`` 0: any that is free. Raises OSError where it is taken."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((ADDRESS, port))
        listening.listen()  # a browser that comes at once waits, and is not turned away
    except OSError:
        listening.close()
        raise
    return listening


def server(app: ASGIApp) -> uvicorn.Server:
    """Without an access log, as addresses name tasks and tenants."""
    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return uvicorn.Server(config)


def serve(app: ASGIApp, listening: socket.socket, *, opened: str | None = None, say: Callable[[str], None]) -> None:
    """Until Ctrl-C. ``opened``: the address to open in the browser."""
    if opened and not webbrowser.open(opened):
        say("No browser could be opened; open the address yourself.")
    server(app).run(sockets=[listening])
