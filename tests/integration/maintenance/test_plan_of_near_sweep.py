"""A sweep does not rely on a planned sweep of the next moments, whose message may be its own."""

from __future__ import annotations

import pytest

from joblane import settings
from joblane.local.memory_queues import MemoryQueues
from joblane.maintenance.next_sweep import WRITE, NextSweep, plan
from joblane.record.database import Database
from joblane.record.stage import take_stage


@pytest.mark.parametrize(("seconds", "sent"), [(0.5, 1), (20, 1), (65, 0)])
def test_a_sweep_relies_on_a_planned_one_only_if_it_is_not_near(
    database_url: str, monkeypatch: pytest.MonkeyPatch, seconds: float, sent: int
) -> None:
    monkeypatch.setenv(settings.SWEEP_MINUTES, "360")
    queues = MemoryQueues()
    with Database(database_url) as database:
        take_stage(database.get(), "jobs", None)
        database.get().run(WRITE, seconds)
        plan(database.get(), queues, "jobs", NextSweep(is_due=True))

    assert sum(len(queue) for queue in queues.queues.values()) == sent


def test_a_scheduled_sweep_replaces_a_planned_time_whose_message_may_be_lost(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.SWEEP_MINUTES, "360")
    queues = MemoryQueues()
    with Database(database_url) as database:
        # given a lane that was purged: the planned sweep of an hour from now has no message
        take_stage(database.get(), "jobs", None)
        database.get().run(WRITE, 3600.0)
        # when a scheduled sweep plans one for a later time, and a task comes whose time is between the two
        for hours, anew in ((5, True), (3, False)):
            later = NextSweep()
            later.add(hours * 3600.0)
            plan(database.get(), queues, "jobs", later, anew=anew)
    # then each has a message
    assert sum(len(queue) for queue in queues.queues.values()) == 2
