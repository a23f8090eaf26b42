"""The options that a caller gives for one task, checked against its declaration."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from joblane.errors import DeclarationError, EnqueueError, MessageError
from joblane.json_values import check_text
from joblane.tasks.options import EARLIEST, MAX_DELAYS, MAX_TAG, MAX_TAGS, Options, is_storable
from joblane.tasks.retry import RetryDelay, check_retry_delay
from joblane.tasks.task import MAX_RETENTION

if TYPE_CHECKING:
    from joblane.tasks.job import Job


def check_options(job: Job) -> Options:
    """Return the options of a job. Raises :class:`EnqueueError` with the argument's name.

    ``max_retry`` and ``timeout`` must be within the declaration, because the lane's queue and function depend on it.
    """
    task, max_retry, timeout, retention, deadline = job.task, job.max_retry, job.timeout, job.retention, job.deadline
    if max_retry is not None and (type(max_retry) is not int or not 0 <= max_retry <= task.max_retry):
        raise EnqueueError(
            "max_retry", f"0 to {task.max_retry}, which {task.type!r} declares, is required, not {max_retry!r}"
        )
    if timeout is not None:
        _check_duration("timeout", timeout, timedelta(seconds=1), task.timeout, f", which {task.type!r} declares,")
    if retention is not None:
        _check_duration("retention", retention, timedelta(0), MAX_RETENTION)
    if deadline is not None:
        if not isinstance(deadline, datetime) or deadline.tzinfo is None:
            raise EnqueueError("deadline", "an aware datetime is required, for example datetime.now(UTC) + …")
        if deadline <= datetime.now(UTC):
            raise EnqueueError("deadline", "it has passed, so the task would be archived without a run")
    return Options(
        max_retry=max_retry,
        timeout=None if timeout is None else timeout.total_seconds(),
        retention=None if retention is None else retention.total_seconds(),
        retry_delay=None if job.retry_delay is None else _delays(job.retry_delay),
        deadline=None if deadline is None else in_utc("deadline", deadline),
        tags=_tags(job.tags),
    )


def in_utc(name: str, moment: datetime) -> datetime:
    """Return ``moment`` in UTC. PostgreSQL only reads offsets below 16 hours, and Python has longer ones."""
    with suppress(OverflowError):  # outside of the calendar in UTC
        moment = max(moment.astimezone(UTC), EARLIEST)
        if is_storable(moment):
            return moment
    raise EnqueueError(name, "a time within the calendar is required")


def _check_duration(name: str, value: object, low: timedelta, high: timedelta, why: str = "") -> None:
    if not isinstance(value, timedelta) or not low <= value <= high:
        text = value if isinstance(value, timedelta) else repr(value)
        raise EnqueueError(name, f"a timedelta from {low} to {high}{why} is required, not {text}")


def _delays(value: RetryDelay) -> list[float]:
    if callable(value):
        raise EnqueueError(
            "retry_delay", "a timedelta or a list of them is required; a function cannot be stored in the row"
        )
    try:
        delays = check_retry_delay(value)
    except DeclarationError as error:
        raise EnqueueError("retry_delay", str(error).removeprefix("retry_delay: ")) from None
    delays = [delays] if isinstance(delays, timedelta) else list(delays)  # type: ignore[arg-type]
    if len(delays) > MAX_DELAYS:
        raise EnqueueError("retry_delay", f"at most {MAX_DELAYS} delays, of which the last repeats; not {len(delays)}")
    return [delay.total_seconds() for delay in delays]


def _tags(tags: Sequence[str]) -> Sequence[str]:
    if isinstance(tags, str) or not isinstance(tags, Sequence) or len(tags) > MAX_TAGS:
        raise EnqueueError("tags", f"a list of at most {MAX_TAGS} strings is required")
    for tag in tags:
        if not isinstance(tag, str) or not 0 < len(tag) <= MAX_TAG:
            raise EnqueueError("tags", f"strings of 1 to {MAX_TAG} characters are required")
        try:
            check_text(tag, "tags")
        except MessageError as error:
            raise EnqueueError("tags", str(error).removeprefix("tags: ")) from None
    return list(dict.fromkeys(tags))
