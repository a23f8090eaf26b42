"""The page's HTTP server, on this machine's loopback address."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from starlette.types import ASGIApp

from joblane.page.security import ADDRESS

GRACE_SECONDS = 3
"""Time for requests to end when the server stops."""


def listen(port: int) -> socket.socket:
    """Listen on a port before the address is printed. ``port`` 0: any free port. Raises OSError if it is in use.

    A browser that connects before the server runs has to wait, but is not refused.
    """
    return socket.create_server((ADDRESS, port))


def server(app: ASGIApp) -> uvicorn.Server:
    """The server, without an access log: addresses contain ids of tasks and tenants."""
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
    """Serve until Ctrl-C. ``opened``: the address to open in the browser."""
    with _page_that_opens(opened) if opened else nullcontext() as file:
        if file is not None and not webbrowser.open(file.as_uri()):
            say("No browser could be started; open the address yourself.")
        server(app).run(sockets=[listening])


@contextmanager
def _page_that_opens(address: str) -> Iterator[Path]:
    """A file that leads to the address, and that only this user can read. Everybody can read the arguments of a browser
    that is started, so the address cannot be one of them."""
    with TemporaryDirectory(prefix="joblane-page-") as folder:
        file = Path(folder) / "open.html"
        file.touch(mode=0o600)
        file.write_text(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(address)}">', encoding="utf-8"
        )
        yield file
