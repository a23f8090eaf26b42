"""The threads of `joblane watch`: for queries and actions, so that a silent database blocks no key, and one that waits
for the loss of the terminal."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from textual.message import Message

MOST_ANSWERS = 20


Then = Callable[[Any, Exception | None], None]
"""Takes the result of a call, or its error."""


class Done(Message):
    """The end of a call in a thread."""

    def __init__(self, then: Then, result: Any, error: Exception | None) -> None:
        super().__init__()
        self.then, self.result, self.error = then, result, error


class Answers:
    """The latest answers and their times, :data:`MOST_ANSWERS` at most, so that a list shows its last content at once.

    An answer is that of a list, whichever of its rows is selected.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[datetime, Any]] = {}

    def keep(self, asked: Any, data: Any) -> None:
        self._kept.pop(replace(asked, name=None), None)
        self._kept[replace(asked, name=None)] = datetime.now(UTC), data
        if len(self._kept) > MOST_ANSWERS:
            del self._kept[next(iter(self._kept))]

    def of(self, asked: Any) -> tuple[datetime, Any] | None:
        return self._kept.get(replace(asked, name=None))


def act(call: Callable[[], Any], then: Then, post: Callable[[Message], object]) -> None:
    """Call ``call`` in a thread, and post its end. ``post`` takes a message from any thread.

    The thread does not keep the process from ending: a query may wait for its answer for long.
    """

    def run() -> None:
        try:
            done = Done(then, call(), None)
        except Exception as error:  # the application decides
            done = Done(then, None, error)
        with suppress(RuntimeError):  # the event loop is closed: the application has ended
            post(done)

    threading.Thread(target=run, name="joblane-watch", daemon=True).start()


# --- The ends that no key asks for ------------------------------------------------------------------------------------


TERMINATED = 128 + signal.SIGTERM
HUNG_UP = 128 + signal.SIGHUP


def await_ends(file: int, leave: Callable[[], None]) -> None:
    """Call ``leave`` on SIGTERM, so that the terminal is restored, and end once the terminal of ``file`` is gone.

    The kernel sends SIGHUP only if it is the controlling terminal. Without a signal, Textual reads the end of its input
    again and again, with a whole processor. To be called in the thread of the event loop.
    """
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave)
    terminal = select.poll()
    terminal.register(file, 0)  # that is, only for its loss

    def run() -> None:
        if any(event & select.POLLHUP for _, event in terminal.poll()):
            os._exit(HUNG_UP)  # there is no terminal to restore, and the thread that writes to it may be blocked

    threading.Thread(target=run, name="joblane-watch-terminal", daemon=True).start()
