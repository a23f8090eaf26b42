"""The local ticker: it sends each tick once at its time, and loses none while the queue is unavailable."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from joblane import Payload, Queue, TaskContext, cron, task
from joblane.errors import SendError
from joblane.local.ticker import LONGEST_SLEEP_SECONDS, RETRY_SECONDS, Ticker
from joblane.sqs.client import Sqs
from joblane.sqs.tick import MAX_AGE

if TYPE_CHECKING:
    from joblane.sqs.client import Entry
    from joblane.tasks.task import Task

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


class RecordingSqs(Sqs):
    """Keeps sent entries; fails while `unavailable` is true."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Entry] = []
        self.unavailable = False

    def send(self, entry: Entry) -> str:
        if self.unavailable:
            raise SendError(f"{entry.queue}: connection refused")
        self.sent.append(entry)
        return "id"


class Report(Payload):
    scope: str = "day"


@task("daily:report", queue=Queue.LOW, schedule=cron("30 13 * * *", timezone="Europe/Berlin", payload={"scope": "x"}))
def daily_report(payload: Report, ctx: TaskContext) -> None:
    """Fires at 12:30 UTC in winter."""


def ticker_of(sqs: Sqs, *tasks: Task[Any, Any], now: datetime = NOON) -> Ticker:
    return Ticker(tasks or (daily_report,), "jobs", sqs, now)


def test_a_sweep_starts_with_the_ticker_as_the_emulator_has_lost_the_planned_one() -> None:
    sqs = RecordingSqs()
    ticker_of(sqs).start_sweep()
    assert [entry.queue for entry in sqs.sent] == ["jobs-low-jobs-sweep"]
    sqs.unavailable = True
    ticker_of(sqs).start_sweep()  # the next tick of the sweep starts it


def test_a_tick_goes_to_the_lane_of_its_task_at_its_time_and_once() -> None:
    sqs = RecordingSqs()
    ticker = ticker_of(sqs)

    ticker.tick(NOON + timedelta(minutes=29, seconds=59))
    assert sqs.sent == []
    ticker.tick(NOON + timedelta(minutes=30))
    ticker.tick(NOON + timedelta(minutes=30, seconds=1))

    assert [entry.queue for entry in sqs.sent] == ["jobs-low-daily-report"]
    body = json.loads(sqs.sent[0].body)
    assert body["type"] == "daily:report"
    assert body["payload"] == {"scope": "x"}
    assert body["tick"]["at"] == "2026-03-02T12:30:00Z"


def test_a_tick_that_cannot_be_sent_is_retried_until_it_is_too_old() -> None:
    sqs = RecordingSqs()
    ticker = ticker_of(sqs)
    due = NOON + timedelta(minutes=30)

    sqs.unavailable = True
    assert ticker.tick(due) == RETRY_SECONDS
    sqs.unavailable = False
    ticker.tick(due + MAX_AGE)
    assert len(sqs.sent) == 1

    ticker.tick(due + timedelta(days=1, hours=2))
    assert len(sqs.sent) == 1


@pytest.mark.parametrize(("seconds_before", "sleep"), [(3600, LONGEST_SLEEP_SECONDS), (4, 4)])
def test_the_ticker_sleeps_until_the_next_tick_but_never_long(seconds_before: int, sleep: float) -> None:
    due = NOON + timedelta(minutes=30)
    now = due - timedelta(seconds=seconds_before)

    assert ticker_of(RecordingSqs(), now=now).tick(now) == sleep


def test_the_ticker_uses_the_times_of_the_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JOBLANE_SCHEDULES", '{"tenant:cleanup": "0 0 1 1 *", "system:health_check": "off"}')
    monkeypatch.setenv("JOBLANE_SWEEP_MINUTES", "1440")
    monkeypatch.setattr("joblane.local.ticker.Sqs", RecordingSqs)
    ticker = Ticker.from_environment()
    times = {clock.task.type: clock.next_at for clock in ticker._clocks}
    assert (times["tenant:cleanup"].month, times["tenant:cleanup"].day) == (1, 1)
    assert (times["jobs:sweep"].hour, times["jobs:sweep"].minute) == (0, 0)
    assert "system:health_check" not in times


def test_without_any_schedule_it_waits() -> None:
    assert Ticker((), "jobs", RecordingSqs(), NOON).tick(NOON) == LONGEST_SLEEP_SECONDS
