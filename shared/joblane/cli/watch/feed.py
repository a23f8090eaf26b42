"""The threads of `joblane watch`.

One fetches what is shown, again and again, so that a silent database blocks no key. Another waits for the loss of the
terminal.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from textual.message import Message

RETRY_SECONDS = 5.0
"""Time between queries while they fail."""
MOST_ANSWERS = 20


class Fetched(Message):
    """An answer, or the error of a query. ``asked``: what was asked."""

    def __init__(self, asked: Any, data: Any = None, error: Exception | None = None) -> None:
        super().__init__()
        self.asked, self.data, self.error = asked, data, error


class Done(Message):
    """The result of a call, or its error. ``then``: what to do with the result. ``reading``: it changed nothing."""

    def __init__(
        self, then: Callable[[Any], None], result: Any = None, error: Exception | None = None, *, reading: bool
    ) -> None:
        super().__init__()
        self.then, self.result, self.error, self.reading = then, result, error, reading


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


@dataclass
class Feed:
    """``asked`` is called in the thread before each query, and ``fetch`` with its result.

    ``every``: seconds between queries, by what was asked. ``post`` takes a message from any thread.
    """

    asked: Callable[[], Any]
    fetch: Callable[[Any], Any]
    every: Callable[[Any], float]
    post: Callable[[Message], object]

    def __post_init__(self) -> None:
        self._wake, self._ended = threading.Event(), threading.Event()
        self._since: float | None = None

    def start(self) -> None:
        """Start. The thread does not keep the process from ending: a query may wait for its answer for long."""
        threading.Thread(target=self._run, name="joblane-watch", daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        self._wake.set()

    def wake(self) -> None:
        """Query now, or at once after the query that is under way."""
        self._wake.set()

    @property
    def waiting_seconds(self) -> float:
        """How long the query that is under way has waited for its answer; 0 if there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.clear()
            asked = self.asked()
            self._since = time.monotonic()
            try:
                fetched = Fetched(asked, data=self.fetch(asked))
            except Exception as error:  # the application decides
                fetched = Fetched(asked, error=error)
            self._since = None
            post(self.post, fetched)
            self._wake.wait(self.every(asked) if fetched.error is None else RETRY_SECONDS)


def act(
    call: Callable[[], Any], then: Callable[[Any], None], to: Callable[[Message], object], *, reading: bool = False
) -> None:
    """Call ``call`` in a thread, and post its result."""

    def run() -> None:
        try:
            done = Done(then, result=call(), reading=reading)
        except Exception as error:  # the application decides
            done = Done(then, error=error, reading=reading)
        post(to, done)

    threading.Thread(target=run, name="joblane-watch-action", daemon=True).start()


def post(to: Callable[[Message], object], message: Message) -> None:
    """Post a message to an application that may have ended."""
    with suppress(RuntimeError):  # its event loop is closed
        to(message)


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
