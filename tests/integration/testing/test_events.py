"""The events of a test: `jobs.events`, and a day in which the bus refuses everything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from joblane import SkipRetry, TaskContext
from joblane.record.events import Unsent
from joblane.sweep.sweep import sweep
from joblane.testing import JobTester
from tests.samples import Sample, behaviour, sample_one
from tests.samples_events import sample_dying, sample_heard

PARTS, LASTS = 8, timedelta(hours=3)


@behaviour
def skip_in_kit(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("enough")


def ids(jobs: JobTester) -> list[str]:
    return [event.id for event in jobs.events]


def test_the_kit_has_the_events_of_runs_and_of_cancels_in_order(jobs: JobTester) -> None:
    jobs.run(sample_heard, Sample(), task_id="a")
    jobs.run(sample_one, Sample(), task_id="silent")
    assert ids(jobs) == ["a:0:completed"]
    for id_, do in (("b", "nothing"), ("c", "skip_in_kit")):
        jobs.enqueue(sample_heard, Sample(do=do), task_id=id_)
    jobs.client.cancel("b")
    jobs.drain()

    assert ids(jobs) == ["a:0:completed", "c:0:archived", "b:0:cancelled"]
    assert jobs.events[1].reason == "SkipRetry: enough"


def test_a_killed_run_that_is_archived_later_has_its_event(jobs: JobTester) -> None:
    jobs.enqueue(sample_dying, Sample(), task_id="it")
    with jobs.crash_before_commit(times=2):
        jobs.drain(within=timedelta(hours=1))

    [event] = jobs.events
    assert (event.id, event.error_type) == ("it:0:archived", "Lost")


def test_a_process_killed_after_the_commit_has_its_event_sent_by_the_sweep(jobs: JobTester) -> None:
    jobs.enqueue(sample_heard, Sample(), task_id="it")
    with jobs.crash_after_commit():
        jobs.drain()

    assert ids(jobs) == ["it:0:completed"]


def test_runs_end_while_the_bus_refuses_for_a_day_and_then_all_events_come(
    jobs: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a bus that refuses
    accept = jobs._bus.send_many

    def refuse(events: Sequence[Unsent]) -> dict[str, str]:
        return {event.id: "no answer: ConnectTimeoutError" for event in events}

    monkeypatch.setattr(jobs._bus, "send_many", refuse)
    monkeypatch.setattr(jobs._bus, "take_all", lambda _: None)
    waiting = []
    # when tasks run for a day
    for part in range(PARTS):
        for number in range(3):
            jobs.enqueue(sample_heard, Sample(do="skip_in_kit" if number else "nothing"), task_id=f"{part}-{number}")
        report = jobs.drain()
        assert len(report.tasks) == 3
        jobs.travel(LASTS)
        swept = sweep(jobs._database.get(), jobs._queues, "jobs", bus=jobs._bus)
        waiting.append(swept.events_waiting)
    # then each run has ended, and the backlog is counted
    assert waiting == [3 * (part + 1) for part in range(PARTS)]
    assert timedelta(days=1) <= timedelta(seconds=swept.events_oldest_seconds) < timedelta(days=1, hours=1)
    assert not jobs.events
    # and then every event comes, the oldest first
    monkeypatch.setattr(jobs._bus, "send_many", accept)
    swept = sweep(jobs._database.get(), jobs._queues, "jobs", bus=jobs._bus)
    assert (swept.events, swept.events_waiting, swept.events_dropped) == (3 * PARTS, 0, 0)
    assert [event.task_id for event in jobs.events] == [f"{part}-{n}" for part in range(PARTS) for n in range(3)]
