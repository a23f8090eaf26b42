"""Messages between the command and its processes: a line of JSON each, over a socket."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator, Mapping
from typing import Any

Message = Mapping[str, Any]
"""A JSON object. Its key ``kind`` says which."""


def encoded(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


class Channel:
    """The end of a process that the zygote has forked. The other end is the command's."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest = b""

    def send(self, message: Message) -> None:
        self._connection.sendall(encoded(message))

    def receive(self, seconds: float | None = None) -> Message | None:
        """Return the next message, or None if none came in ``seconds``. Ends the process if the command has ended."""
        while b"\n" not in self._rest:
            if seconds is not None and not select.select([self._connection], [], [], seconds)[0]:
                return None
            try:
                more = self._connection.recv(1 << 16)
            except ConnectionError:
                more = b""
            if not more:
                raise SystemExit(0)
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        message: Message = json.loads(line)
        return message

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive()) is not None:
            yield message
