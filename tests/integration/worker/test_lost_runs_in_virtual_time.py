"""When a killed run is found, and what deliveries cost that never reach the code. Time is virtual, the database real.

A message is received, its invocation starts some time later, and its process may be killed. The queue hides the message
for the visibility timeout, counted from the receive; the lease counts from the start of the invocation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from joblane import TaskContext
from joblane.names import dead_letter_name
from joblane.quotas import (
    LEASE_MARGIN,
    PROMISED_OUTAGE,
    RECEIVES_PER_OUTAGE_HOUR,
    SCHEMA_RECEIVES,
    SNOOZE_CEILING,
    THROTTLED_TIME,
    Numbers,
)
from joblane.record.driver.database import Database
from joblane.record.task.claim import claim
from joblane.tasks.task import Task
from joblane.testing.clock import age
from joblane.worker import worker as worker_module
from joblane.worker.of_type import worker_of
from tests.builders.events import deliveries, invocation, record
from tests.integration.conftest import Standing
from tests.samples import Sample, behaviour, sample_one
from tests.stage_in_time import Kill, Stage, lane_of, note_time
from tests.world import PREFIX

LANE = lane_of(sample_one)
OLD_FACTOR, OLD_MARGIN = 6, timedelta(seconds=5)
"""The visibility timeout and the lease before both became shorter."""
travels: list[timedelta] = []
"""How far time has travelled at each run. The time that a test takes is not part of it."""
traveller: list[Lane] = []
during: list[Callable[[], object]] = []
"""Calls that the first run makes while it is under way."""


@behaviour
def be_killed_at_first(payload: Sample, ctx: TaskContext) -> None:
    note_time(payload, ctx)
    travels.append(traveller[0].clock.travelled)
    if ctx.attempt == 1:
        raise Kill


@behaviour
def be_slow_at_first(payload: Sample, ctx: TaskContext) -> None:
    note_time(payload, ctx)
    while during:
        during.pop()()


@behaviour
def fail_slowly_at_first(payload: Sample, ctx: TaskContext) -> None:
    be_slow_at_first(payload, ctx)
    if ctx.attempt == 1:
        raise ValueError


class Lane(Stage):
    """A stage with one task.

    ``late``: seconds from a receive to the start of the invocation. ``never_starts``: Lambda throttles each invocation,
    or each ends before the code runs.
    """

    late = 0.0
    never_starts = False

    @property
    def task(self) -> Task[Any, Any]:
        return self.tasks[sample_one.type]

    @property
    def numbers(self) -> Numbers:
        return self.task.numbers

    def declare(self, seconds: float, batch: int = 1, **changes: Any) -> None:
        timeout = timedelta(seconds=seconds)
        numbers = Numbers.of(timeout=timeout, batch_size=batch, max_retry=sample_one.max_retry, what="")
        self.tasks[sample_one.type] = replace(
            sample_one, timeout=timeout, batch_size=batch, numbers=replace(numbers, **changes)
        )

    def age(self) -> None:
        if self._not_aged:  # the minutes of statistics are unique, and would be equal for a moment
            age(self._observer.get(), self._not_aged, ("run_statistics",))
            self._not_aged = timedelta(0)

    def deliver(self, lane: str) -> None:
        if lane != LANE or not (self.never_starts or self.late):
            super().deliver(lane)
            return
        seconds = self.numbers.visibility.total_seconds()
        for message in self.queues.receive(lane, 1, seconds, self.numbers.max_receive_count):
            if not self.never_starts:
                late, self.late = self.late, 0.0
                self.travel(late)
                self.age()
                self.invoke(self.task, message)

    def deliver_elsewhere(self) -> int:
        """Deliver the visible message in another process. Return the seconds for which it stays hidden; 0: deleted."""
        self.age()
        seconds = self.numbers.visibility.total_seconds()
        (message,) = self.queues.receive(LANE, 1, seconds, self.numbers.max_receive_count)
        with Database(self.url) as database:
            worker = worker_of(self.task, database, self.queues, PREFIX)
            seconds_left = self.numbers.function_timeout.total_seconds()
            if worker.handle([message.received()], invocation(seconds_left)).kept:
                return round(message.visible_at - self.clock.seconds())
            self.queues.delete(message)
            return 0

    def waited(self) -> float:
        """Return the seconds of virtual time from the first run, which was killed, to the second."""
        killed, again = travels
        return (again - killed).total_seconds()

    @property
    def message(self) -> Any:
        (message,) = self.queues.queues[LANE].values()
        return message

    @property
    def dead(self) -> list[Any]:
        return list(self.queues.queues[dead_letter_name(LANE)].values())

    def row(self) -> tuple[Any, ...]:
        ((*row,),) = self.run("select state, attempts, runs from joblane.tasks where type = $1", sample_one.type)
        return tuple(row)


@pytest.fixture
def lane(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    during.clear()
    travels.clear()
    with Lane.open(database_url, monkeypatch, sample_one) as lane:
        traveller[:] = [lane]
        yield lane


# --- A killed run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "batch", "most"), [(2, 1, 25), (2, 10, 45), (60, 1, 81), (890, 1, 911)])
def test_a_killed_run_is_found_once_its_function_could_have_ended(
    lane: Lane, seconds: int, batch: int, most: int
) -> None:
    lane.declare(seconds, batch)
    lane.enqueue(sample_one, payload=Sample(do="be_killed_at_first"))
    message = lane.message

    lane.pass_time(most + 1)

    assert lane.waited() <= most
    assert lane.row() == ("completed", 2, 2)
    assert (message.receives, lane.queues.queues[LANE]) == (2, {})  # the sweep sent no copy


@pytest.mark.parametrize(("late", "receives"), [(0, {2}), (5, {2}), (10, {2, 3}), (15, {3}), (20, {3})])
def test_the_message_of_a_killed_run_returns_when_its_lease_has_ended(
    lane: Lane, late: int, receives: set[int]
) -> None:
    lane.declare(2)
    lane.late = late
    lane.enqueue(sample_one, payload=Sample(do="be_killed_at_first"))
    message = lane.message

    lane.pass_time(60)

    # the lease lasts 13 s: at 10 s it ends in the moment in which the message returns; later the message waits for it
    assert lane.waited() <= max(23 - late, 13 + 2)
    assert message.receives in receives
    assert lane.row() == ("completed", 2, 2)


def lease_of_an_invocation(lane: Lane) -> timedelta:
    """Return the time from a claim to the end of its lease. The invocation has 12 s left."""
    leases: list[timedelta] = []

    def noted(connection: Any, arrivals: Any, lease: timedelta, *rest: Any) -> Any:
        leases.append(lease)
        return claim(connection, arrivals, lease, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "claim", noted)
        body = {"type": "sample:one", "id": lane.enqueue(sample_one), "rec": True}
        worker = worker_of(lane.task, lane.database, lane.queues, PREFIX)
        assert worker.handle(deliveries([record(body, LANE)]), Standing("i", 12)).kept == []
    (lease,) = leases
    return timedelta(seconds=round(lease.total_seconds(), 3))


def test_a_lease_lasts_a_second_longer_than_its_invocation(lane: Lane) -> None:
    assert lease_of_an_invocation(lane) == timedelta(seconds=13)


def test_a_lease_without_a_margin_would_end_with_its_invocation(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "LEASE_MARGIN", timedelta(0))
    assert lease_of_an_invocation(lane) == timedelta(seconds=12)


def test_a_visibility_below_the_lease_would_cost_a_receive_for_each_killed_run(lane: Lane) -> None:
    lane.declare(2, visibility=timedelta(seconds=12))
    lane.enqueue(sample_one, payload=Sample(do="be_killed_at_first"))
    message = lane.message
    lane.pass_time(60)
    assert (message.receives, lane.row()) == (3, ("completed", 2, 2))


@pytest.mark.parametrize("old_queue", [True, False])
@pytest.mark.parametrize("old_code", [True, False])
def test_a_deploy_that_shortens_both_times_finds_the_runs_before_it(
    lane: Lane, old_queue: bool, old_code: bool
) -> None:
    # given a run of the old code, or a message that was received with the old visibility timeout
    lane.declare(2)
    new = lane.numbers
    if old_queue:
        lane.declare(2, visibility=OLD_FACTOR * new.function_timeout, max_receive_count=150)
    lane.enqueue(sample_one, payload=Sample(do="be_killed_at_first"))
    message, visibility = lane.message, lane.numbers.visibility.total_seconds()
    with pytest.MonkeyPatch.context() as patch:
        if old_code:
            patch.setattr(worker_module, "LEASE_MARGIN", OLD_MARGIN)
        lane.deliver(LANE)

    # when the deploy ends
    lane.declare(2)
    lane.pass_time(visibility + 1)

    # then the message returns after the lease
    assert lane.waited() <= visibility
    assert lane.row() == ("completed", 2, 2)
    assert message.receives == 2


# --- A second delivery during a run ---------------------------------------------------------------------------------


def throttled_twice(lane: Lane, do: str, hidden: list[int]) -> None:
    """Start a run just before its message returns, as after a throttle. Deliver the message again while it runs."""
    lane.declare(2)
    lane.late = lane.numbers.visibility.total_seconds() - 1
    lane.enqueue(sample_one, payload=Sample(do=do))

    def come_again() -> None:
        lane.travel(1.5)
        hidden.append(lane.deliver_elsewhere())

    during.append(come_again)


def test_a_message_that_returns_during_a_throttled_run_waits_for_its_lease(lane: Lane) -> None:
    deleted: list[Any] = []
    hidden: list[int] = []
    throttled_twice(lane, "be_slow_at_first", hidden)

    # SQS does not delete a message by the receipt of an earlier receive
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane.queues, "delete", deleted.append)
        lane.deliver(LANE)
    lease = (lane.numbers.function_timeout + LEASE_MARGIN).total_seconds()
    assert (len(lane.ran(0)), len(hidden), len(deleted)) == (1, 1, 1)
    assert lease - 2 <= hidden[0] <= lease + 1

    # when it returns after the lease
    lane.travel(hidden[0])
    assert lane.deliver_elsewhere() == 0
    assert (len(lane.ran(0)), lane.row()) == (1, ("completed", 1, 1))


def test_a_retry_whose_message_waits_for_the_lease_runs_when_it_returns(lane: Lane) -> None:
    hidden: list[int] = []
    throttled_twice(lane, "fail_slowly_at_first", hidden)

    lane.deliver(LANE)
    assert lane.row() == ("retry", 1, 1)
    lane.pass_time(120)  # the failed run could not hide its message: the receipt is not the last one

    assert (len(lane.ran(0)), lane.row(), lane.dead) == (2, ("completed", 2, 2), [])


# --- Deliveries that never reach the code ----------------------------------------------------------------------------

OUTAGE = RECEIVES_PER_OUTAGE_HOUR * int(PROMISED_OUTAGE / timedelta(hours=1))
SPENT = sample_one.max_retry + SNOOZE_CEILING + OUTAGE + SCHEMA_RECEIVES


@pytest.mark.parametrize(("seconds", "spent"), [(2, 0), (2, SPENT), (60, SPENT), (890, SPENT)])
def test_three_throttled_hours_spend_no_attempt_and_make_no_dead_letter(lane: Lane, seconds: int, spent: int) -> None:
    # given a message that is new, or whose receives for anything else are spent
    lane.declare(seconds)
    lane.enqueue(sample_one)
    lane.message.receives = spent
    lane.never_starts = True

    lane.pass_time(THROTTLED_TIME.total_seconds())
    assert (lane.row(), lane.dead) == (("pending", 0, 0), [])

    lane.never_starts = False
    lane.pass_time(lane.numbers.visibility.total_seconds())
    assert (len(lane.ran(1)), lane.row(), lane.dead) == (1, ("completed", 1, 1), [])


@pytest.mark.parametrize(("seconds", "batch", "hours"), [(2, 1, 3.8), (2, 10, 4.5), (60, 1, 5.9), (890, 1, 63)])
def test_a_function_that_never_starts_makes_a_dead_letter_after_some_hours(
    lane: Lane, seconds: int, batch: int, hours: float
) -> None:
    lane.declare(seconds, batch)
    lane.enqueue(sample_one)
    sent, lane.never_starts = lane.clock.seconds(), True
    while not lane.dead:
        lane.travel(lane.message.visible_at - lane.clock.seconds())
        lane.deliver(LANE)
    assert (lane.clock.seconds() - sent) / 3600 == pytest.approx(hours, abs=0.1 if hours < 10 else 0.5)
    assert lane.row() == ("pending", 0, 0)
