"""Sample tasks with events, and a bus that keeps the events that it accepts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from joblane import ArchivedTask, TaskContext, task
from joblane.enqueue.event_bus import EventBus
from joblane.record.events import Unsent
from joblane.tasks.events import Event
from tests.samples import Sample, behaviours

BUS = "jobs-events"


@task(
    "sample:heard",
    max_retry=1,
    timeout=timedelta(seconds=20),
    batch_size=10,
    retry_delay=timedelta(seconds=40),
    events=("completed", "archived", "cancelled"),
)
def sample_heard(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task(
    "sample:dying", max_retry=1, schedule="0 * * * *", unique_for=timedelta(hours=1), events=("archived", "cancelled")
)
def sample_dying(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


@task("sample:following", events=("completed",))
def sample_following(payload: ArchivedTask, ctx: TaskContext) -> None:
    pass


@task("sample:followed", max_retry=1, on_archived=sample_following)
def sample_followed(payload: Sample, ctx: TaskContext) -> Any:
    return behaviours[payload.do](payload, ctx)


class Bus(EventBus):
    """``accepted``: the events, also those that came twice. ``refusal``: the reason to accept nothing; None: it accepts
    everything. ``calls``: the number of sends."""

    def __init__(self) -> None:
        super().__init__(BUS, "jobs")
        self.accepted: list[Event] = []
        self.refusal: str | None = None
        self.calls = 0

    @property
    def ids(self) -> list[str]:
        return [event.id for event in self.accepted]

    def send_many(self, events: Sequence[Unsent]) -> dict[str, str]:
        self.calls += bool(events)
        if self.refusal is not None:
            return {event.id: self.refusal for event in events}
        self.accepted += [Event.read(json.loads(event.detail)) for event in events]
        return {}
