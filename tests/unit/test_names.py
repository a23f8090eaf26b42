"""Names of queues and functions, and the numbers that SQS and Lambda must agree on."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane.errors import DeclarationError
from joblane.names import (
    MAX_FUNCTION_NAME,
    MAX_PREFIX,
    MAX_QUEUE_NAME,
    WEIGHTS,
    Queue,
    check_prefix,
    dead_letter_name,
    folder_of,
    front_door_name,
    function_name,
    lane_name,
    slug_of,
)
from joblane.quotas import (
    DEAD_LETTER_RETENTION,
    LEASE_MARGIN,
    MAX_FUNCTION_TIMEOUT,
    MAX_LATER_VISIBILITY,
    MAX_RECEIVE_COUNT,
    MAX_VISIBILITY,
    QUEUE_RETENTION,
    RESUME_RESERVE,
    RESUMED_FUNCTION_TIMEOUT,
    SCHEMA_RECEIVES,
    SNOOZE_CEILING,
    THROTTLED_TIME,
    VISIBILITY_MARGIN,
    Numbers,
    headroom_of,
    share_concurrency,
)
from joblane.record.row.transitions import LEASE_SWEEP_SECONDS
from joblane.tasks.task import MAX_SLUG

# --- Names ---------------------------------------------------------------------------------------------------------


def test_names_are_made_from_prefix_queue_and_type() -> None:
    assert folder_of("system_user:expiry") == "system_user_expiry"
    assert slug_of("system_user:expiry") == "system-user-expiry"
    assert front_door_name("jobs", Queue.CRITICAL) == "jobs-critical"
    assert lane_name("jobs-dev", Queue.LOW, "data:export") == "jobs-dev-low-data-export"
    assert dead_letter_name("jobs-low") == "jobs-low-dlq"
    assert function_name("jobs", "data:export") == "jobs-data-export"


def test_the_longest_prefix_and_type_fit_every_name() -> None:
    prefix, type_ = "p" * MAX_PREFIX, "a:" + "b" * (MAX_SLUG - 2)
    assert len(function_name(prefix, type_)) == MAX_FUNCTION_NAME
    assert max(len(dead_letter_name(lane_name(prefix, queue, type_))) for queue in Queue) <= MAX_QUEUE_NAME


@pytest.mark.parametrize("prefix", ["jobs", "jobs-dev", "a", "a1-2b", "p" * 20])
def test_a_valid_prefix_is_accepted(prefix: str) -> None:
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["", "Jobs", "1jobs", "jobs-", "-jobs", "jobs--dev", "jobs_dev", "jobs\n", "p" * 21])
def test_a_prefix_that_would_make_an_invalid_name_is_refused(prefix: str) -> None:
    with pytest.raises(DeclarationError, match=r"prefix: .* for example 'jobs' or 'jobs-dev'"):
        check_prefix(prefix)


# --- Numbers -------------------------------------------------------------------------------------------------------


def test_the_numbers_of_an_ordinary_task() -> None:
    numbers = Numbers.of(timeout=timedelta(minutes=1), batch_size=1, max_retry=5, what="x")
    assert numbers == Numbers(timedelta(seconds=70), timedelta(seconds=81), 264)


@given(
    st.floats(1, 890).map(lambda seconds: timedelta(seconds=seconds)),
    st.integers(1, 10),
    st.integers(0, 100),
)
def test_the_numbers_of_every_accepted_task_are_consistent(timeout: timedelta, batch_size: int, max_retry: int) -> None:
    try:
        numbers = Numbers.of(timeout=timeout, batch_size=batch_size, max_retry=max_retry, what="x")
    except DeclarationError:
        return
    lease = numbers.function_timeout + LEASE_MARGIN
    assert timeout * batch_size + timedelta(seconds=10) <= numbers.function_timeout <= MAX_FUNCTION_TIMEOUT
    assert numbers.visibility == lease + VISIBILITY_MARGIN < MAX_VISIBILITY
    assert headroom_of(numbers.visibility) * numbers.visibility >= THROTTLED_TIME
    assert numbers.function_timeout.microseconds == numbers.visibility.microseconds == 0
    assert numbers.max_receive_count <= MAX_RECEIVE_COUNT
    assert numbers.max_receive_count * numbers.visibility < QUEUE_RETENTION < DEAD_LETTER_RETENTION
    assert numbers.max_receive_count >= max_retry + 1


def test_a_resumable_task_longer_than_lambda_has_receives_for_its_continuations() -> None:
    numbers = Numbers.of(timeout=timedelta(minutes=30), batch_size=1, max_retry=5, what="x", resumable=True)
    # six attempts, each with eight continuations of at least 4 minutes; for the 244 others see Numbers
    assert numbers == Numbers(timedelta(minutes=5), timedelta(seconds=311), 6 + 6 * 8 + 124 + 120)


def test_a_resumable_task_that_fits_one_invocation_has_ordinary_numbers() -> None:
    for seconds in (1, 60, 890):
        ordinary = Numbers.of(timeout=timedelta(seconds=seconds), batch_size=1, max_retry=5, what="x")
        assert ordinary == Numbers.of(
            timeout=timedelta(seconds=seconds), batch_size=1, max_retry=5, what="x", resumable=True
        )


@given(st.integers(891, 200_000).map(lambda seconds: timedelta(seconds=seconds)), st.integers(0, 100))
def test_the_numbers_of_every_accepted_resumable_task_are_consistent(timeout: timedelta, max_retry: int) -> None:
    try:
        numbers = Numbers.of(timeout=timeout, batch_size=1, max_retry=max_retry, what="x", resumable=True)
    except DeclarationError:
        return
    others = max_retry + 1 + SNOOZE_CEILING + 4 * 24 + SCHEMA_RECEIVES + headroom_of(numbers.visibility)
    continuations = numbers.max_receive_count - others
    shortest_use = numbers.function_timeout - RESUME_RESERVE
    assert numbers.function_timeout == RESUMED_FUNCTION_TIMEOUT
    assert continuations * shortest_use >= (max_retry + 1) * timeout
    assert numbers.max_receive_count <= MAX_RECEIVE_COUNT
    assert numbers.max_receive_count * numbers.visibility < QUEUE_RETENTION
    assert numbers.visibility == numbers.function_timeout + LEASE_MARGIN + VISIBILITY_MARGIN


@given(st.integers(1, 200_000).map(lambda seconds: timedelta(seconds=seconds)), st.integers(0, 2000))
def test_a_refused_max_retry_comes_with_the_largest_accepted_value(timeout: timedelta, max_retry: int) -> None:
    def numbers_for(retries: int) -> Numbers:
        return Numbers.of(timeout=timeout, batch_size=1, max_retry=retries, what="x", resumable=True)

    try:
        numbers_for(max_retry)
        return
    except DeclarationError as error:
        problem = str(error)
    found = re.search(r"lower max_retry to (\d+),", problem)
    if found is None:
        assert "even without a retry; shorten the timeout" in problem
        with pytest.raises(DeclarationError):
            numbers_for(0)
        return
    numbers_for(int(found[1]))
    with pytest.raises(DeclarationError):
        numbers_for(int(found[1]) + 1)


def test_the_limits_are_in_their_order() -> None:
    assert timedelta(seconds=LEASE_SWEEP_SECONDS) > VISIBILITY_MARGIN  # the message is faster than the sweep's copy
    assert MAX_LATER_VISIBILITY < MAX_VISIBILITY
    assert timedelta(days=14) >= DEAD_LETTER_RETENTION > QUEUE_RETENTION


def test_a_timeout_above_the_maximum_of_lambda_is_refused_with_the_largest_value() -> None:
    with pytest.raises(
        DeclarationError,
        match=r"x: timeout 0:15:00 with batch_size 1 needs a function timeout of 0:15:10.*resumable=True",
    ):
        Numbers.of(timeout=timedelta(minutes=15), batch_size=1, max_retry=0, what="x")
    Numbers.of(timeout=timedelta(seconds=890), batch_size=1, max_retry=0, what="x")


# --- Concurrency ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lanes", "budget", "shares"),
    [
        ([("a", Queue.CRITICAL, None), ("b", Queue.DEFAULT, None), ("c", Queue.LOW, None)], 100, [60, 30, 10]),
        ([(name, Queue.DEFAULT, None) for name in "abcd"], 40, [10] * 4),
        ([("a", Queue.CRITICAL, 5), ("b", Queue.LOW, None), ("c", Queue.LOW, 1000)], 8, [5, 2, 2]),
        ([("a", Queue.CRITICAL, 5), ("b", Queue.LOW, None), ("c", Queue.LOW, 1000)], 0, [2, 2, 2]),
        ([("a", Queue.LOW, None)], 50_000, [1000]),
        ([], 10, []),
    ],
    ids=["by weight", "equal in a queue", "the task's maximum", "at least two", "Lambda's maximum", "no lane"],
)
def test_lanes_share_the_budget_by_the_weights_of_their_queues(
    lanes: list[tuple[str, Queue, int | None]], budget: int, shares: list[int]
) -> None:
    assert share_concurrency(lanes, budget) == {name: share for (name, *_), share in zip(lanes, shares, strict=True)}


lane_lists = st.lists(
    st.tuples(st.sampled_from(list(Queue)), st.none() | st.integers(2, 1000)), min_size=1, max_size=30
)


@given(lane_lists, st.integers(0, 5000))
def test_shares_stay_within_the_bounds_of_lambda_and_the_budget(
    lanes: list[tuple[Queue, int | None]], budget: int
) -> None:
    shares = share_concurrency([(str(n), queue, declared) for n, (queue, declared) in enumerate(lanes)], budget)
    for number, (queue, declared) in enumerate(lanes):
        assert 2 <= shares[str(number)] <= min(declared or 1000, 1000)
        assert shares[str(number)] <= max(2, budget * WEIGHTS[queue] // sum(WEIGHTS[other] for other, _ in lanes))
    assert sum(share for share in shares.values() if share > 2) <= budget
