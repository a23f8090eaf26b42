"""Waits of days and weeks: time passes by a change of the rows' times, and everything else is real."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta
from typing import Any

import pytest

from joblane import Payload, TaskContext, task
from joblane.quotas import MAX_DELAY, MAX_LATER_VISIBILITY, MAX_VISIBILITY, QUEUE_RETENTION
from joblane.sqs.client import Entry
from joblane.tasks.task import Task
from tests.builders.events import record
from tests.samples import Sample, behaviour, sample_one
from tests.world import RecordingSqs, World, handle

DAY = 86_400.0
SWEEP_EVERY = 300.0
"""The sweep's schedule."""


class Stubborn(Payload):
    pass


@task("sample:stubborn", max_retry=25)
def sample_stubborn(payload: Stubborn, ctx: TaskContext) -> None:
    raise ValueError(f"attempt {ctx.attempt}")


class Clock:
    """Virtual time over a world. ``now``: seconds since the test began, by the database's clock.

    ``messages``: the messages in the task's lane, each with the time from which it can be received.
    """

    def __init__(self, world: World, of: Task[Any, Any], queues: RecordingSqs) -> None:
        self._world = world
        self._task = of
        self._queues = queues
        self._seen = 0
        self.lane = world.lane(of)
        self.now = 0.0
        self.messages: list[tuple[float, Entry]] = []
        self.runs: list[tuple[float, int]] = []
        """Moments of deliveries, with the number of runs after each."""

    def pass_by(self, seconds: float) -> None:
        """Let time pass: subtract it from every time in the tables."""
        if seconds > 0:
            self._world.run(
                "update joblane.tasks set due_at = due_at - d, sweep_at = sweep_at - d, created_at = created_at - d,"
                " finished_at = finished_at - d, expire_at = expire_at - d"
                " from (select make_interval(secs => $1::float8)) as x(d)",
                str(seconds),
            )
            self.now += seconds

    def collect(self) -> list[Entry]:
        """Record the messages that were sent to the lane since the last call."""
        new = [entry for entry in self._queues.sent[self._seen :] if entry.queue == self.lane]
        self._seen = len(self._queues.sent)
        self.messages += [(self.now + entry.delay_seconds, entry) for entry in new]
        return new

    def sweep(self) -> list[Entry]:
        self._world.sweep()
        return self.collect()

    def deliver(self, entry: Entry, at: float) -> bool:
        """Deliver a message at its time. Return True if it stays in the queue, hidden for its visibility timeout."""
        self.pass_by(at - self.now)
        kept = handle(self._world.worker(self._task), record(entry.body, self.lane))
        if kept:
            self.messages.append((self.now + self._queues.visibilities[-1], entry))
        return bool(kept)

    def step(self) -> None:
        """Continue with the next event: a visible message, or the sweep of every five minutes."""
        next_sweep = (self.now // SWEEP_EVERY + 1) * SWEEP_EVERY
        if self.messages and min(self.messages, key=lambda one: one[0])[0] <= next_sweep:
            first = min(self.messages, key=lambda one: one[0])
            self.messages.remove(first)
            self.deliver(first[1], first[0])
        else:
            self.pass_by(next_sweep - self.now)
            self.sweep()

    def skip_to_the_sweep_that_matters(self, id_: str) -> None:
        """Skip the sweeps that find nothing: time passes up to the last one before the row is due."""
        if self.messages:
            return
        (wanted,) = self._world.run(
            "select extract(epoch from sweep_at - clock_timestamp())::float8 from joblane.tasks where id = $1", id_
        )[0]
        assert wanted is not None, "neither a message nor the sweep will ever come back to this task"
        idle = (self.now + wanted) // SWEEP_EVERY * SWEEP_EVERY - self.now
        self.pass_by(max(0.0, idle))


@pytest.fixture
def queues(world: World) -> RecordingSqs:
    return world.watch()


def due_in(world: World, id_: str) -> float:
    rows = world.run(
        "select extract(epoch from due_at - clock_timestamp())::float8 from joblane.tasks where id = $1", id_
    )
    return float(rows[0][0])


def waits_after_its_run(world: World, id_: str) -> int:
    """Seconds from the end of the last run to when the task is due, by the database's clock."""
    rows = world.run(
        "select extract(epoch from t.due_at - a.finished_at)::float8"
        " from joblane.tasks t join joblane.runs a on a.task_id = t.id and a.run = t.runs where t.id = $1",
        id_,
    )
    return round(float(rows[0][0]))


def enqueue(world: World, of: Task[Any, Any], payload: Payload, **options: Any) -> tuple[str, Entry | None]:
    """Enqueue a task, and take its message out of the queue if it was sent at once."""
    lane = world.lane(of)
    id_ = world.client.enqueue(of, payload, **options).id
    sent = world.take(of)
    return id_, Entry(lane, sent[0]["Body"]) if sent else None


# --- Twenty-five retries -------------------------------------------------------------------------------------------


def test_twenty_five_retries_over_three_weeks_follow_the_formula_attempt_by_attempt(
    world: World, queues: RecordingSqs
) -> None:
    clock = Clock(world, sample_stubborn, queues)
    id_, first = enqueue(world, sample_stubborn, Stubborn())
    assert first is not None
    clock.messages.append((0.0, first))
    waits: list[int] = []
    at_attempt: list[float] = []
    alone: list[bool] = []

    # when time passes until the task is archived
    for _ in range(400):
        runs = world.row(id_)["runs"]
        clock.skip_to_the_sweep_that_matters(id_)
        clock.step()
        row = world.row(id_)
        if row["runs"] > runs:
            at_attempt.append(clock.now)
            if row["state"] == "archived":
                break
            assert row["state"] == "retry"
            waits.append(waits_after_its_run(world, id_))
            alone.append(not clock.messages)

    # then there were twenty-six runs, each at its second
    row = world.row(id_)
    assert (row["state"], row["attempts"], row["runs"]) == ("archived", 26, 26)
    assert world.outcomes(id_) == ["failed"] * 25 + ["archived"]
    assert len(waits) == 25
    for n, waited in enumerate(waits):  # n: retries so far, as in asynq
        assert waited in [n**4 + 15 + chance * (n + 1) for chance in range(30)], f"retry {n} waits {waited} s"
        late = at_attempt[n + 1] - at_attempt[n] - waited
        assert -2 < late < 3, f"retry {n} came {late} s after its time"
    # waits above a quarter of an hour were in the row alone; no visibility or delay was beyond what SQS takes
    assert alone == [waited > MAX_DELAY.total_seconds() for waited in waits]
    assert max(queues.visibilities) <= MAX_DELAY.total_seconds()
    assert {entry.delay_seconds for entry in queues.sent} <= set(range(901))
    # and the marks were passed: 15 minutes, 12 hours, the queue's retention, 14 days
    assert any(wait < MAX_DELAY.total_seconds() for wait in waits)
    assert any(wait > MAX_VISIBILITY.total_seconds() > MAX_LATER_VISIBILITY.total_seconds() for wait in waits)
    assert clock.now > 14 * DAY > QUEUE_RETENTION.total_seconds()
    assert 19 * DAY < clock.now < 23 * DAY
    assert len(world.dead_letters(sample_stubborn)) == 1
    assert row["reason"].startswith("attempt 26 of 26 failed: ValueError: attempt 26")


def test_a_retry_whose_message_is_lost_is_sent_again_by_the_sweep(world: World, queues: RecordingSqs) -> None:
    clock = Clock(world, sample_stubborn, queues)
    id_, first = enqueue(world, sample_stubborn, Stubborn())
    assert first is not None
    clock.deliver(first, 0.0)
    clock.messages.clear()

    waited = due_in(world, id_)
    clock.pass_by(waited + 30)
    assert clock.sweep() == []  # its message may just be under way
    clock.pass_by(31)
    (sent,) = clock.sweep()

    assert sent.delay_seconds == 0
    assert clock.deliver(sent, clock.now)
    assert world.row(id_)["runs"] == 2


def test_the_interval_between_sends_of_an_unclaimed_task_doubles_up_to_six_hours(
    world: World, queues: RecordingSqs
) -> None:
    clock = Clock(world, sample_one, queues)
    enqueue(world, sample_one, Sample())
    sends: list[float] = []
    while len(sends) < 12 and clock.now < 2 * DAY:
        clock.pass_by(60 if len(sends) < 9 else 300)
        if clock.sweep():
            sends.append(clock.now)
        clock.messages.clear()
        world.take(sample_one)  # SQS loses the message

    gaps = [(later - earlier) / 60 for earlier, later in itertools.pairwise(sends)]
    assert gaps[:8] == [pytest.approx(2.0**n, abs=1.1) for n in range(8)]
    assert gaps[8:] == [pytest.approx(minutes, abs=5.1) for minutes in (256, 360, 360)]


# --- Three hours out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["enqueue", "retry"])
def test_a_task_due_in_three_hours_is_sent_15_minutes_before_and_runs_on_time(
    world: World, queues: RecordingSqs, of: str
) -> None:
    # given a task that is due in three hours, of which SQS knows nothing
    hours, started = timedelta(hours=3), time.monotonic()
    clock = Clock(world, sample_one, queues)
    if of == "enqueue":
        id_, message = enqueue(world, sample_one, Sample(), process_in=hours)
        assert message is None
        assert world.row(id_)["state"] == "scheduled"
    else:
        from joblane import RetryAfter

        @behaviour
        def come_back(payload: Sample, ctx: TaskContext) -> None:
            if ctx.attempt == 1:
                raise RetryAfter(hours)

        id_, message = enqueue(world, sample_one, Sample(do="come_back"))
        assert message is not None
        assert not clock.deliver(message, 0.0)
    began = clock.now + due_in(world, id_) - hours.total_seconds()

    # when the sweep comes every five minutes
    sent_at: list[tuple[float, Entry]] = []
    while clock.now < hours.total_seconds() - SWEEP_EVERY:
        clock.pass_by(SWEEP_EVERY)
        sent_at += [(clock.now, entry) for entry in clock.sweep()]

    # then it sends the message once, with the delay that is left
    ((at, entry),) = sent_at
    left = began + hours.total_seconds() - at
    assert 600 < left <= MAX_DELAY.total_seconds() + 1
    spent = time.monotonic() - started  # the real time passes as well
    assert abs(entry.delay_seconds - left) <= 1.5 + spent
    # and it runs at its second
    ((visible, _),) = clock.messages
    assert abs(visible - began - hours.total_seconds()) <= 1.5 + spent
    assert not clock.deliver(entry, visible)
    assert world.row(id_)["state"] == "completed"
    [[waited]] = world.run("select extract(epoch from finished_at - due_at)::float8 from joblane.tasks")
    assert waited < 3 + time.monotonic() - started


def test_a_message_that_comes_hours_early_leaves_the_row_to_wait(world: World, queues: RecordingSqs) -> None:
    clock = Clock(world, sample_one, queues)
    id_, _ = enqueue(world, sample_one, Sample(), process_in=timedelta(hours=3))
    copy = Entry(clock.lane, f'{{"type":"sample:one","id":"{id_}","rec":true}}')

    assert not clock.deliver(copy, 60.0)  # acknowledged: SQS could not hold it so long
    clock.pass_by(3 * 3600 - 60 - 800)
    (sent,) = clock.sweep()

    assert 795 <= sent.delay_seconds <= 805
    assert not clock.deliver(sent, clock.now + sent.delay_seconds)
    assert (world.row(id_)["state"], world.row(id_)["runs"]) == ("completed", 1)


@pytest.mark.parametrize("when", ["before it is sent", "after it is sent"])
def test_a_task_three_hours_out_that_is_cancelled_by_one_update_never_runs(
    world: World, queues: RecordingSqs, when: str
) -> None:
    clock = Clock(world, sample_one, queues)
    id_, _ = enqueue(world, sample_one, Sample(), process_in=timedelta(hours=3))
    cancel = "update joblane.tasks set state = 'cancelled' where id = $1 and state in ('scheduled', 'pending', 'retry')"
    if when == "before it is sent":
        world.run(cancel, id_)

    for _ in range(50):  # four hours
        clock.pass_by(SWEEP_EVERY)
        clock.sweep()
        if clock.messages and when == "after it is sent":
            world.run(cancel, id_)
        for at, entry in [one for one in clock.messages if one[0] <= clock.now]:
            clock.messages.remove((at, entry))
            assert not clock.deliver(entry, clock.now)

    assert len(queues.sent) == (when == "after it is sent")
    assert clock.messages == []
    assert (world.row(id_)["state"], world.row(id_)["runs"]) == ("cancelled", 0)


@pytest.mark.parametrize(
    ("process_in", "delay"),
    [(timedelta(minutes=15), 900), (timedelta(minutes=15, seconds=1), None), (timedelta(0), 0)],
    ids=["at SQS's limit", "a second above", "at once"],
)
def test_a_delay_is_left_to_sqs_up_to_a_quarter_of_an_hour_and_to_the_row_above(
    world: World, queues: RecordingSqs, process_in: timedelta, delay: int | None
) -> None:
    world.client._producer.sqs = queues
    world.lane(sample_one)

    enqueued = world.client.enqueue(sample_one, Sample(), process_in=process_in)

    assert [entry.delay_seconds for entry in queues.sent] == ([] if delay is None else [delay])
    assert enqueued.sent == (delay is not None)
    ahead = world.run("select extract(epoch from due_at - sweep_at)::int from joblane.tasks")[0][0]
    assert ahead == (900 if delay is None else -60)
