"""Forks of the process, and its end.

The child of a fork makes its own connections, because a socket cannot serve two processes.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
ON_LAMBDA = "AWS_LAMBDA_RUNTIME_API"
"""Source: Lambda, *Defined runtime environment variables*."""
_ends: dict[Callable[[], object], Callable[[], Awaitable[object]] | None] = {}
_objects: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()


def follow_forks(item: T, renew: Callable[[T], None]) -> None:
    """Call ``renew(item)`` in each process that is forked from now on, as long as ``item`` exists.

    ``renew`` gives up the connections without a message to their servers, and makes new locks.
    """
    _objects[item] = renew


def _in_child() -> None:
    for item, renew in list(_objects.items()):
        renew(item)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)


def at_end(call: Callable[[], object], awaited: Callable[[], Awaitable[object]] | None = None) -> None:
    """Call a function when this process ends, the last given first: at its exit, and on Lambda at SIGTERM.

    A program may call :func:`end_process` earlier, so the function may be called twice, and raises no exception.
    ``awaited``: what a program with an event loop awaits there before.
    """
    if not _ends:
        atexit.register(end_process)
    _ends.setdefault(call, awaited)
    in_main = threading.current_thread() is threading.main_thread()
    if os.environ.get(ON_LAMBDA) and in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_signal)


def end_process() -> None:
    """Make the calls of :func:`at_end`."""
    for call in reversed(list(_ends)):
        with suppress(Exception):
            call()


async def aend_process() -> None:
    """Make the calls of :func:`at_end` without blocking the event loop."""
    from asyncio import to_thread

    for awaited in reversed(list(_ends.values())):
        if awaited is not None:
            with suppress(Exception):
                await awaited()
    if _ends:
        await to_thread(end_process)


def _on_signal(number: int, _frame: object) -> None:
    """Make the calls, and end as without this function. Lambda kills the process 0.3 to 0.5 seconds after the signal.

    Source: Lambda, *Lambda execution environment lifecycle*, shutdown phase; and AWS's samples of a graceful shutdown.
    The runtime client calls Python's signal handlers from Python 3.12 on.
    """
    end_process()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
