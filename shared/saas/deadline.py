"""A time limit for a whole conversation. The timeout of a socket starts again with every byte."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Timer


@contextmanager
def hang_up_after(seconds: float, current: Callable[[], socket.socket | None]) -> Iterator[None]:
    """Shut the ``current()`` socket down after ``seconds``. A reader then sees the end of the connection."""

    def hang_up() -> None:
        found = current()
        if found is not None:
            with suppress(OSError):  # SSLSocket's own shutdown would remove the TLS state that the reader uses
                socket.socket.shutdown(found, socket.SHUT_RDWR)

    timer = Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
