"""The check of a debounce: each wrong argument is named before anything is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import EnqueueError, Job, Keep, Payload, TaskContext, task
from joblane.enqueue.check import check
from joblane.tasks.unique import Debounce

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Index(Payload):
    shop: str = "acme"


@task("index:rebuild", unique_for=HOUR, unique_until="start")
def index_rebuild(payload: Index, ctx: TaskContext) -> None:
    pass


@task("index:free")
def index_free(payload: Index, ctx: TaskContext) -> None:
    pass


@task("index:only", unique_for=HOUR)
def index_only(payload: Index, ctx: TaskContext) -> None:
    pass


def problem(**options: Any) -> str:
    given = {"debounce": 10 * SECOND, **options}
    record = given.pop("record", True)
    with pytest.raises(EnqueueError) as caught:
        check(Job(given.pop("task", index_rebuild), Index(), **given), record=record, prefix="jobs")
    assert str(caught.value).startswith(f"{caught.value.field}: ")
    return str(caught.value)


def test_a_debounced_task_is_due_after_its_debounce_and_counts_as_asked_once() -> None:
    new = check(Job(index_rebuild, Index(), debounce=10 * SECOND), record=True, prefix="jobs")
    assert (new.delay, new.at, new.debounce) == (10.0, None, Debounce(100.0, Keep.LAST, 1))
    assert new.entry.delay_seconds == 10
    row = new.row()
    assert (row["rest"], row["keep"]) == ({"asks": 1, "longest_seconds": 100.0}, "last")


def test_longest_may_equal_debounce() -> None:
    job = Job(index_rebuild, Index(), debounce=MINUTE, longest=MINUTE, keep="first")
    assert check(job, record=True, prefix="jobs").debounce == Debounce(60.0, Keep.FIRST, 1)


def test_a_task_without_a_debounce_has_none() -> None:
    new = check(Job(index_rebuild, Index()), record=True, prefix="jobs")
    assert (new.debounce, "rest" in new.row()) == (None, False)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"debounce": 10}, "debounce: a timedelta from 5 seconds to 1 day is required, not 10"),
        ({"debounce": 4 * SECOND}, "debounce: 5 seconds to 1 day is required, not 4 seconds"),
        ({"debounce": 25 * HOUR}, "debounce: 5 seconds to 1 day is required"),
        ({"longest": 9 * SECOND}, "longest: at least debounce, 0:00:10, is required, not 0:00:09"),
        ({"longest": 60}, "longest: a timedelta is required, not int"),
        ({"debounce": None, "longest": MINUTE}, "longest: give debounce too"),
        ({"debounce": None, "keep": "first"}, "keep: give debounce too"),
        ({"keep": "all"}, "keep: 'all' is not one of last, first"),
        ({"process_in": MINUTE}, "process_in: give process_in or debounce, not both"),
        ({"process_at": datetime(2030, 1, 1, tzinfo=UTC)}, "process_at: give process_at or debounce, not both"),
        ({"after": ["a"]}, "after: give after or debounce, not both"),
        ({"on_conflict": "replace"}, "on_conflict: leave it out: a further enqueue with debounce pushes the waiting"),
        ({"on_conflict": "return"}, "on_conflict: leave it out"),
        ({"record": False}, "debounce: it needs a row, and a MessageClient writes none"),
        ({"task": index_free}, "unique_for: debounce needs a unique key: give unique_for, or declare it on the task"),
        ({"task": index_only}, 'unique_until: debounce needs unique_until="start", here or on the task'),
        ({"unique_until": "finish"}, 'unique_until: debounce needs unique_until="start"'),
        ({"unique_until": "never"}, "unique_until: 'never' is not one of finish, start"),
        ({"unique_for": 60}, "unique_for: a timedelta from 1 second to 3650 days is required, not 60"),
        (
            {"unique_for": MINUTE},
            "unique_for: at least longest, 0:01:40 (without longest: 10 times debounce), is required, not 0:01:00",
        ),
        ({"longest": 2 * HOUR}, "unique_for: at least longest, 2:00:00, is required, not 1:00:00"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], named: str) -> None:
    assert problem(**options).startswith(named)


def test_the_options_of_one_enqueue_are_enough() -> None:
    job = Job(index_free, Index(), debounce=MINUTE, unique_for=HOUR, unique_until="start", unique_key="acme")
    assert check(job, record=True, prefix="jobs").debounce is not None


def test_a_deadline_is_after_the_longest_wait() -> None:
    job = Job(index_rebuild, Index(), debounce=10 * SECOND, deadline=datetime.now(UTC) + 2 * MINUTE)
    assert check(job, record=True, prefix="jobs").options.deadline is not None
    assert problem(deadline=datetime.now(UTC) + MINUTE).startswith("deadline: it is before the task is due")
