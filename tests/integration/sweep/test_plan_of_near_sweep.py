"""A sweep does not rely on a planned sweep of the next moments, whose message may be its own."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from joblane.local.memory_queues import MemoryQueues
from joblane.record.driver.database import Database
from joblane.record.driver.stage import take_stage
from joblane.sqs.client import Entry
from joblane.sweep import next_sweep
from joblane.sweep.next_sweep import WRITE, NextSweep, plan


@pytest.mark.parametrize(("seconds", "sent"), [(0.5, 1), (20, 1), (65, 0)])
def test_a_sweep_relies_on_a_planned_one_only_if_it_is_not_near(
    database_url: str, monkeypatch: pytest.MonkeyPatch, seconds: float, sent: int
) -> None:
    queues = MemoryQueues()
    with Database(database_url) as database:
        take_stage(database.get(), "jobs", None)
        database.get().run(WRITE, time.time() + seconds)
        plan(database.get(), queues, "jobs", NextSweep(is_due=True))

    assert sum(len(queue) for queue in queues.queues.values()) == sent


def test_a_scheduled_sweep_replaces_a_planned_time_whose_message_may_be_lost(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = MemoryQueues()
    with Database(database_url) as database:
        # given a lane that was purged: the planned sweep of an hour from now has no message
        take_stage(database.get(), "jobs", None)
        database.get().run(WRITE, time.time() + 3600)
        # when a scheduled sweep plans one for a later time, and a task comes whose time is between the two
        for hours, anew in ((5, True), (3, False)):
            later = NextSweep()
            later.add(time.time() + hours * 3600)
            plan(database.get(), queues, "jobs", later, anew=anew)
    # then each has a message
    assert sum(len(queue) for queue in queues.queues.values()) == 2


class Slow(MemoryQueues):
    """The process stands still for a second at one place."""

    def __init__(self, stands: str) -> None:
        super().__init__()
        self._stands, self._reads = stands, 0

    def _stand(self, place: str) -> None:
        if place == self._stands:
            time.sleep(1)

    def now(self) -> float:
        self._reads += 1
        self._stand(f"read {self._reads}")
        now = super().now()
        self._stand(f"after read {self._reads}")
        return now

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        found = super().send_many(entries, brief=brief)
        self._stand("after the send")
        return found


@pytest.mark.parametrize("stands", ["after read 1", "read 2", "after the send"])
def test_a_process_that_stands_still_promises_no_message_after_its_arrival(
    database_url: str, monkeypatch: pytest.MonkeyPatch, stands: str
) -> None:
    monkeypatch.setattr(next_sweep, "GRID_SECONDS", 1)
    queues, found = Slow(stands), NextSweep()
    with Database(database_url) as database:
        connection = database.get()
        take_stage(connection, "jobs", None)
        [[due_at]] = connection.run("select extract(epoch from clock_timestamp())::float8 + 90")
        found.add(due_at)
        time.sleep(1)
        target = plan(connection, queues, "jobs", found)
        [[planned_at]] = connection.run("select extract(epoch from planned_sweep_at)::float8 from joblane.stage")
    # then the sweep comes at most a second late, and the database has no later time; clocks differ by less than 0.2 s
    [lane] = queues.queues
    arrives_at = queues.next_visible_at(lane)
    assert target is not None
    assert arrives_at is not None
    assert target <= due_at + 1.2
    assert planned_at <= arrives_at + 0.2
