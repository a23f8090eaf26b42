"""A proxy in front of PostgreSQL that stops to pass on bytes, like a server that hangs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self
from urllib.parse import urlsplit


class FreezingProxy:
    """Frozen connections stay frozen. New connections are accepted, and get no answer before :meth:`thaw`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
        self._sockets: list[socket.socket] = []
        self._bytes: int | None = None
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @classmethod
    @contextmanager
    def before(cls, url: str) -> Iterator[Self]:
        """Yield a proxy for the server of ``url``."""
        proxy = cls(url)
        try:
            yield proxy
        finally:
            _shut(proxy._listener)
            proxy._accepting.join()  # it may just be opening a connection
            for each in proxy._sockets:
                _shut(each)

    def freeze(self, answer_bytes: int = 0) -> None:
        """Pass on what clients send, and only so many further bytes of the server's answers."""
        self._bytes = answer_bytes

    def thaw(self) -> None:
        """Serve new connections again. The frozen ones are closed."""
        self._bytes = None
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                server = socket.create_connection(self._server)
                self._sockets.append(server)
                threading.Thread(target=self._send, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if self._bytes is not None:
                    data, self._bytes = data[: self._bytes], max(0, self._bytes - len(data))
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
