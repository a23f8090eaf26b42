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
from joblane.record import schedules
from joblane.record.driver.connection import Connection
from joblane.record.sql_functions import FUNCTIONS
from joblane.sqs.client import Entry, Sqs
from joblane.sweep import next_sweep, ticks
from joblane.sweep.next_sweep import NextSweep, plan
from joblane.worker.sweep_worker import SweepWorker
from tests.faults.days.day import Day

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


def without_looking() -> AbstractContextManager[object]:
    """The sweep makes a missing tick without a look for its task."""
    return patch.object(ticks, "WITHOUT_TASK", "select x.id from json_array_elements_text($1::json) as x(id)")


def late_ticks_run() -> AbstractContextManager[object]:
    """A late delivery of a tick that the sweep has passed runs."""
    return patch.object(Day, "planted", _replaced(FUNCTIONS["claim"], "<= s.passed_until", "< '-infinity'"))


def nothing_passed() -> AbstractContextManager[object]:
    """The sweep does not move ``passed_until``."""
    return patch.object(
        ticks, "MOVE", _replaced(schedules.MOVE, "passed_until = coalesce(x.passed_until, s.passed_until),", "")
    )


def looks_anew() -> AbstractContextManager[object]:
    """Each registration begins anew to look for the ticks of a schedule."""
    return patch.object(
        schedules, "REGISTER", _replaced(schedules.REGISTER, "then s.next_at", "then clock_timestamp()")
    )


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{old!r} is not in the statement any more"
    return text.replace(old, new)


BUGS: tuple[Callable[[], AbstractContextManager[object]], ...] = (
    no_wake,
    long_cover,
    plan_before_send,
    open_transactions,
    next_due,
    no_hops,
    end_of_pause,
    without_looking,
    late_ticks_run,
    nothing_passed,
    looks_anew,
)
PLANTS: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    bug.__name__.replace("_", "-"): bug for bug in BUGS
}


@contextmanager
def planted(bug: str) -> Iterator[None]:
    """Plant a bug while the block runs."""
    with PLANTS[bug]():
        yield
