"""The check of a debounce: an enqueue that pushes the waiting task with its unique key."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from joblane.enqueue.check_options import NO_ROW, check_duration
from joblane.errors import EnqueueError
from joblane.quotas import LONGEST_PUSHES
from joblane.tasks.unique import Debounce, Keep, OnConflict, Until

if TYPE_CHECKING:
    from joblane.tasks.job import Job


def check_debounce(job: Job, *, record: bool) -> tuple[Debounce, timedelta] | None:
    """Return the debounce of a job, and the time until it is due. None: it has none.

    Raises :class:`EnqueueError` with the argument's name.
    """
    debounce = job.debounce
    if debounce is None:
        if job.longest is not None or job.keep is not Keep.LAST:
            raise EnqueueError("keep" if job.longest is None else "longest", "give debounce too")
        return None
    keep = _keep(job.keep)
    check_duration("debounce", debounce)
    if not record:
        raise EnqueueError("debounce", NO_ROW)
    for name, value in (("process_in", job.process_in), ("process_at", job.process_at)):
        if value is not None:
            raise EnqueueError(name, f"give {name} or debounce, not both: debounce says when the task is due")
    if job.after:
        raise EnqueueError("after", "give after or debounce, not both: a task cannot be pushed while its parents run")
    if job.on_conflict != OnConflict.RAISE:
        raise EnqueueError("on_conflict", "leave it out: a further enqueue with debounce pushes the waiting task")
    longest = _longest(job.longest, debounce)
    _check_key(job, longest)
    return Debounce(longest.total_seconds(), keep), debounce


def _keep(keep: Keep | str) -> Keep:
    try:
        return Keep(keep)
    except ValueError:
        raise EnqueueError("keep", f"{keep!r} is not one of {', '.join(Keep)}") from None


def _longest(longest: timedelta | None, debounce: timedelta) -> timedelta:
    if longest is None:
        return LONGEST_PUSHES * debounce
    if not isinstance(longest, timedelta):
        raise EnqueueError("longest", f"a timedelta is required, not {type(longest).__name__}")
    if longest < debounce:
        raise EnqueueError("longest", f"at least debounce, {debounce}, is required, not {longest}")
    return longest


def _check_key(job: Job, longest: timedelta) -> None:
    """Check that the task holds a unique key, until it starts and no shorter than it may be pushed."""
    unique_for = job.task.unique_for if job.unique_for is None else job.unique_for
    unique_until = job.task.unique_until if job.unique_until is None else job.unique_until
    if unique_for is None:
        raise EnqueueError("unique_for", "debounce needs a unique key: give unique_for, or declare it on the task")
    if isinstance(unique_for, timedelta) and unique_for < longest:
        default = f" (without longest: {LONGEST_PUSHES} times debounce)" if job.longest is None else ""
        raise EnqueueError("unique_for", f"at least longest, {longest}{default}, is required, not {unique_for}")
    if unique_until == Until.FINISH:
        raise EnqueueError(
            "unique_until",
            'debounce needs unique_until="start", here or on the task: a change while the task runs needs another task',
        )
