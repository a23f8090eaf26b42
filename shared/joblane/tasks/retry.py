"""The wait between a failed attempt and the next one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta

from joblane.errors import DeclarationError, shown

RetryDelay = timedelta | Sequence[timedelta] | Callable[[int, BaseException], timedelta]
"""A wait; a wait for each failed attempt, the last repeated; or a function of the failed attempt (from 1) and its
error."""

MAX_RETRY = 100
LONGEST = timedelta(days=365)
"""Longest wait. The result of a function is cut to it, so that the database can always hold the time."""


def default_delay(attempt: int, error: BaseException) -> timedelta:
    """Return ``n⁴ + 15 + random(0..29)·(n+1)`` seconds, where n is ``attempt - 1``.

    Source: asynq, ``DefaultRetryDelayFunc`` (n is the number of times retried so far, from 0).
    """
    n = attempt - 1
    return timedelta(seconds=n**4 + 15 + random.randint(0, 29) * (n + 1))  # noqa: S311 - jitter, not a secret


def check_retry_delay(value: RetryDelay | None) -> RetryDelay:
    """Return the declared value, or the default for None. Raises :class:`DeclarationError`."""
    if value is None:
        return default_delay
    if callable(value):
        return value
    delays = [value] if isinstance(value, timedelta) else list(value) if isinstance(value, (list, tuple)) else []
    if not delays or not all(isinstance(delay, timedelta) and timedelta(0) <= delay <= LONGEST for delay in delays):
        raise DeclarationError(
            f"retry_delay: a timedelta from 0 to {LONGEST.days} days, a list of them, or a function (attempt, error) "
            f"-> timedelta, not {shown(value)}"
        )
    return value


def delay_after(retry_delay: RetryDelay, attempt: int, error: BaseException) -> timedelta:
    """Return the wait after the failed attempt ``attempt`` (from 1).

    If a declared function raises, the default applies: it must not turn a failed attempt into a lost one.
    """
    if isinstance(retry_delay, timedelta):
        return retry_delay
    if not callable(retry_delay):
        return retry_delay[min(attempt, len(retry_delay)) - 1]
    try:
        delay = retry_delay(attempt, error)
        return max(timedelta(0), min(delay, LONGEST))
    except Exception:  # a declared function can raise anything
        return default_delay(attempt, error)
