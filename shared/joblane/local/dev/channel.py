"""A process of `joblane dev`: its messages with the command, a line of JSON each over a socket; its slow imports."""

from __future__ import annotations

import json
import select
import socket
import sys
import traceback
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer, get_ident
from typing import Any

Message = Mapping[str, Any]
"""A JSON object. Its key ``kind`` says which. It may contain bytes."""
BYTES = "bytes in base 64"


def encoded(message: Message) -> bytes:
    return json.dumps(message, default=lambda value: {BYTES: b64encode(value).decode()}).encode() + b"\n"


def decoded(line: bytes) -> Message:
    def read(found: dict[str, Any]) -> Any:
        return b64decode(found[BYTES]) if BYTES in found else found

    message: Message = json.loads(line, object_hook=read)
    return message


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
        return decoded(line)

    def __iter__(self) -> Iterator[Message]:
        while (message := self.receive()) is not None:
            yield message


SECONDS = 5.0


@contextmanager
def named_if_slow(root: Path) -> Iterator[None]:
    """Print file and line of the import in the block if it takes longer than :data:`SECONDS`.

    ``root``: the folder of the project, whose lines are named rather than those of packages.
    """
    timer = Timer(SECONDS, _name, (get_ident(), root.resolve()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _name(thread: int, root: Path) -> None:
    places = traceback.extract_stack(sys._current_frames()[thread])
    own = [each for each in places if each.filename.startswith(f"{root}/") and "site-packages" not in each.filename]
    place = [*places, *own][-1]
    shown = place.filename.removeprefix(f"{root}/")
    print(f"{shown}, line {place.lineno}: this import has not ended after {SECONDS:.0f} s.", flush=True)  # noqa: T201
