"""Planted bugs of the planned sweep that a few busy days must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from joblane.enqueue.wake import _Waker
from joblane.errors import SendError
from joblane.functions.jobs_sweep import handler
from joblane.record.driver.connection import Connection
from joblane.sqs.client import Entry, Sqs
from joblane.sweep import next_sweep
from joblane.sweep.next_sweep import NextSweep, plan
from joblane.worker.sweep_worker import SweepWorker

TOO_LONG_SECONDS = 600


def no_wake() -> AbstractContextManager[object]:
    """Nobody wakes the sweep before a commit."""
    return patch.object(_Waker, "cover", lambda *_: True)


def long_cover() -> AbstractContextManager[object]:
    """A wake-up counts for ten more minutes."""
    cover = _Waker.cover

    def covering(waker: _Waker, sqs: Sqs, prefix: str) -> bool:
        is_accepted = cover(waker, sqs, prefix)
        if prefix in sqs.covered:
            monotonic, now = sqs.covered[prefix]
            sqs.covered[prefix] = monotonic + TOO_LONG_SECONDS, now + TOO_LONG_SECONDS
        return is_accepted

    return patch.object(_Waker, "cover", covering)


def plan_before_send() -> AbstractContextManager[object]:
    """The time of the planned sweep is written before its message is sent."""

    def planning(connection: Connection, sqs: Sqs, prefix: str, found: NextSweep, *, anew: bool = False) -> int | None:
        entries: list[Entry] = []

        def keep(given: Sequence[Entry]) -> dict[int, str]:
            entries.extend(given)
            return {}

        queues: Any = SimpleNamespace(now=sqs.now, send_many=keep)
        target = plan(connection, queues, prefix, found, anew=anew)
        for why in sqs.send_many(entries).values():
            raise SendError(why)
        return target

    return patch.object(handler, "plan", planning)


def open_transactions() -> AbstractContextManager[object]:
    """The sweep does not look for open transactions."""
    return patch.object(next_sweep, "IS_ALONE", "select true, extract(epoch from now())::float8")


def next_due() -> AbstractContextManager[object]:
    """The sweep does not plan for the tasks that will be due."""
    return patch.object(NextSweep, "add", lambda *_: None)


def no_hops() -> AbstractContextManager[object]:
    """A planned sweep whose time has not come is not sent again."""
    return patch.object(SweepWorker, "_send_on", lambda *_: None)


def end_of_pause() -> AbstractContextManager[object]:
    """The sweep does not plan for the end of a pause."""
    collect = NextSweep.collect

    def collecting(found: NextSweep, connection: Connection, *, has_paused: bool) -> None:
        collect(found, connection, has_paused=False)

    return patch.object(NextSweep, "collect", collecting)


BUGS: tuple[Callable[[], AbstractContextManager[object]], ...] = (
    no_wake,
    long_cover,
    plan_before_send,
    open_transactions,
    next_due,
    no_hops,
    end_of_pause,
)
PLANTS: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    bug.__name__.replace("_", "-"): bug for bug in BUGS
}


@contextmanager
def planted(bug: str) -> Iterator[None]:
    """Plant a bug while the block runs."""
    with PLANTS[bug]():
        yield
