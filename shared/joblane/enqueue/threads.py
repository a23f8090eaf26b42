"""Threads for calls that would block an event loop: those of boto3, and of the client's own connection."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from joblane.sqs.client import CONNECTIONS

T = TypeVar("T")
NO_LOOP = "asyncio's event loop is required; with another, such as trio's, call the plain function in a thread"


class Threads:
    """At most 8 threads, which end as soon as no call is left.

    The loop's own threads would serve as well, but name lookups and files use them too, and an SQS that does not answer
    would hold them up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._calls = 0

    async def call(self, function: Callable[[], T], *, always: bool = False) -> T:
        """Return ``function()``, which runs in a thread.

        A cancellation does not wait for the call: one that runs continues. ``always``: one that has not begun runs too.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(NO_LOOP) from None
        context, ended = contextvars.copy_context(), loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake(_: object) -> None:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(end)

        future = self._submitted(lambda: context.run(function))
        future.add_done_callback(wake)
        try:
            await ended
        except asyncio.CancelledError:
            if not always:
                future.cancel()
            raise
        return future.result()

    def _submitted(self, function: Callable[[], T]) -> Future[T]:
        future = Future[T]()
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CONNECTIONS, "joblane")
            try:
                self._pool.submit(_run, future, function)
            except RuntimeError:  # no thread can be started, but the pool keeps the call for the next thread
                if future.cancel():
                    raise
            self._calls += 1
        future.add_done_callback(self._ended)
        return future

    def _ended(self, _: object) -> None:
        with self._lock:
            self._calls -= 1
            if not self._calls and self._pool is not None:
                self._pool.shutdown(wait=False)
                self._pool = None


def _run(future: Future[T], function: Callable[[], T]) -> None:
    """Do what the pool does for a future of its own, unless ``future`` was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
        del future  # its error keeps this frame
