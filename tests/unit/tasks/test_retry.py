"""Back-off: the delay after each attempt, and the default that replaces a broken function."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane.errors import DeclarationError
from joblane.tasks.retry import LONGEST, MAX_RETRY, check_retry_delay, default_delay, delay_after

ERROR = ValueError("no")


@given(st.integers(1, MAX_RETRY))
def test_the_default_is_the_formula_of_asynq(attempt: int) -> None:
    n = attempt - 1
    least = n**4 + 15
    delays = {default_delay(attempt, ERROR).total_seconds() for _ in range(50)}
    assert all(least <= delay <= least + 29 * (n + 1) for delay in delays)
    assert all((delay - least) % (n + 1) == 0 for delay in delays)
    assert len(delays) > 5, "without jitter, tasks that failed together are retried together"


def test_twenty_five_default_retries_take_about_twenty_days() -> None:
    total = sum((default_delay(attempt, ERROR) for attempt in range(1, 26)), timedelta())
    assert timedelta(days=20) < total < timedelta(days=21)


def test_none_means_the_default() -> None:
    assert check_retry_delay(None) is default_delay


def test_a_fixed_delay_is_the_same_for_every_attempt() -> None:
    assert [delay_after(timedelta(seconds=7), attempt, ERROR).seconds for attempt in (1, 2, 50)] == [7, 7, 7]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_has_a_delay_for_each_attempt_and_repeats_the_last(kind: Any) -> None:
    delays = check_retry_delay(kind([timedelta(seconds=1), timedelta(seconds=5), timedelta(minutes=1)]))
    assert [delay_after(delays, attempt, ERROR).total_seconds() for attempt in (1, 2, 3, 4, 100)] == [1, 5, 60, 60, 60]


def test_a_function_gets_the_attempt_and_the_error() -> None:
    calls: list[tuple[int, BaseException]] = []

    def delay(attempt: int, error: BaseException) -> timedelta:
        calls.append((attempt, error))
        return timedelta(seconds=attempt)

    assert delay_after(check_retry_delay(delay), 3, ERROR) == timedelta(seconds=3)
    assert calls == [(3, ERROR)]


def test_the_delay_of_a_function_is_cut_to_the_allowed_range() -> None:
    assert delay_after(lambda *_: timedelta.max, 1, ERROR) == LONGEST
    assert delay_after(lambda *_: timedelta(seconds=-5), 1, ERROR) == timedelta(0)


def broken(error: type[Exception]) -> Any:
    def delay(attempt: int, failure: BaseException) -> timedelta:
        raise error

    return delay


@pytest.mark.parametrize(
    "function",
    [
        *map(
            broken,
            (TypeError, ValueError, OverflowError, KeyError, RuntimeError, AssertionError, OSError, StopIteration),
        ),
        lambda attempt, error: 5,
        lambda attempt, error: None,
        lambda attempt: timedelta(1),
        timedelta,
    ],
)
def test_a_broken_function_falls_back_to_the_default(function: Any) -> None:
    delay = delay_after(function, 1, ERROR)
    assert timedelta(seconds=15) <= delay <= timedelta(seconds=44)


@pytest.mark.parametrize(
    "value",
    [5, 5.0, "5", b"x", iter([timedelta(1)]), [], (), [5], [timedelta(1), None], {}, {timedelta(1)}, -timedelta(1)],
)
def test_an_invalid_delay_is_refused_with_the_valid_forms(value: Any) -> None:
    with pytest.raises(
        DeclarationError, match="retry_delay: a timedelta from 0 to 365 days, a list of them, or a func"
    ):
        check_retry_delay(value)
