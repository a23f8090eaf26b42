"""Schedules, and manual ticks."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import boto3
import pytest

from functions.tenant_cleanup.handler import tenant_cleanup
from joblane import TaskContext, task
from joblane.errors import SendError
from joblane.inspector.errors import ActionError, SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.views import ScheduleView
from joblane.record.row.states import State
from joblane.sqs.tick import id_of
from joblane.sweep.missed_ticks import PATIENCE
from tests.builders.rows import put
from tests.samples import Sample, sample_tick
from tests.world import PREFIX, World

HOUR = timedelta(hours=1)


@task("sample:both", schedule="0 3 1 * MON")
def sample_both(payload: Sample, ctx: TaskContext) -> None:
    """On the first of the month and on Mondays: two schedules on AWS."""


@task("sample:frequent", schedule="* * * * *")
def sample_frequent(payload: Sample, ctx: TaskContext) -> None:
    """A tick for each minute."""


def over(scope: Scope, *tasks: Any) -> Inspector:
    return Inspector(Scope(scope.database, scope.sqs, scope.prefix, {one.type: one for one in tasks}, "op"))


def first(inspector: Inspector) -> ScheduleView:
    return inspector.schedules()[0]


def hour(ago: int) -> datetime:
    """A full hour of a tick of ``sample:tick``; the last one is too recent to count as missed."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - ago * HOUR


def tick_row(world: World, at: datetime, state: str = "completed") -> str:
    id_ = id_of("sample:tick", "0", at)
    put(world, sample_tick, id_, state=state, tick=id_)
    return id_


# --- Queries -------------------------------------------------------------------------------------------------------


def test_a_schedule_has_its_next_times(inspector: Inspector) -> None:
    view = first(inspector)

    assert (view.type, view.name, view.text, view.timezone, view.overlap) == (
        "sample:tick",
        "0",
        "0 * * * *",
        "UTC",
        "skip",
    )
    assert view.next == (hour(-1), hour(-2), hour(-3))


def test_recorded_and_missed_ticks_are_shown(world: World, inspector: Inspector) -> None:
    # given: ticks of five, three and two hours ago, a manual tick, and a tick of the other schedule
    recorded = [tick_row(world, hour(5)), tick_row(world, hour(3), "archived"), tick_row(world, hour(2), "cancelled")]
    by_hand = tick_row(world, hour(4) + timedelta(minutes=7))
    put(world, sample_tick, id_of("sample:tick", "1", hour(3)))
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, duration_ms) values ($1, 1, 1, 0, 9),"
        " ($1, 2, 2, 0, 1234)",
        recorded[0],
    )

    assert {tick.task_id: tick.duration_ms for tick in first(inspector).ticks if tick.duration_ms} == {
        recorded[0]: 1234  # of the last run
    }
    found = {tick.at: (tick.task_id, tick.state) for tick in first(inspector).ticks}

    assert found.pop(hour(0), None) is None or datetime.now(UTC).minute >= 30
    found.pop(hour(1))
    assert found == {
        hour(5): (recorded[0], State.COMPLETED),
        hour(4) + timedelta(minutes=7): (by_hand, State.COMPLETED),
        hour(4): (id_of("sample:tick", "0", hour(4)), None),
        hour(3): (recorded[1], State.ARCHIVED),
        hour(2): (recorded[2], State.CANCELLED),
    }


def test_the_last_ten_ticks_are_shown_newest_first(world: World, inspector: Inspector) -> None:
    for ago in range(15):
        tick_row(world, hour(ago))

    ticks = first(inspector).ticks

    assert [tick.at for tick in ticks] == [hour(ago) for ago in range(10)]


def test_a_schedule_without_recorded_ticks_has_missed_none(inspector: Inspector) -> None:
    assert first(inspector).ticks == ()


def test_a_frequent_schedule_names_ticks_that_were_missed_hours_ago(world: World, scope: Scope) -> None:
    # given a schedule of every minute with all ticks of two hours, except for three that are an hour and more old
    latest = datetime.now(UTC).replace(second=0, microsecond=0) - PATIENCE
    lost = [latest - timedelta(minutes=minutes) for minutes in (60, 61, 90)]
    ticks = [at for at in (latest - timedelta(minutes=minutes) for minutes in range(-30, 120)) if at not in lost]
    insert_ticks(world, "sample:frequent", ticks)
    # when
    view = first(over(scope, sample_frequent))
    # then, though none of them is among the last ticks
    assert all(tick.state for tick in view.ticks)
    assert (view.missed, view.missed_at) == (3, tuple(lost))


def test_many_missed_ticks_are_counted_and_the_last_are_named(world: World, scope: Scope) -> None:
    oldest = datetime.now(UTC).replace(second=0, microsecond=0) - PATIENCE - timedelta(minutes=300)
    insert_ticks(world, "sample:frequent", [oldest])
    view = first(over(scope, sample_frequent))
    assert view.missed in (300, 301)  # a minute may end meanwhile
    assert len(view.missed_at) == 20
    assert view.missed_at[0] - view.missed_at[-1] == timedelta(minutes=19)


def test_a_schedule_that_no_sweep_has_known_has_missed_no_tick(inspector: Inspector) -> None:
    assert [(view.missed, view.missed_at) for view in inspector.schedules()] == [(0, ()), (0, ())]


def insert_ticks(world: World, type_: str, times: list[datetime]) -> None:
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds)"
        " select x.id, $1, 'default', 'pending', '{}', '', 4, 60 from jsonb_array_elements_text($2::jsonb) as x(id)",
        type_,
        json.dumps([id_of(type_, "0", at) for at in times]),
    )


def test_a_paused_schedule_has_its_pause(inspector: Inspector) -> None:
    paused = inspector.pause(PauseScope.SCHEDULE, "sample:tick:1")

    assert [view.pause for view in inspector.schedules()] == [None, paused]


def test_the_state_on_aws_is_shown(world: World, scope: Scope) -> None:
    inspector = over(scope, sample_both, sample_tick)
    assert [view.on_aws for view in inspector.schedules()] == [None, None, None]

    scheduler = boto3.client("scheduler")
    scheduler.create_schedule_group(Name="jobs-cron")
    names = {"sample-both.0": "ENABLED", "sample-both.0.2": "DISABLED", "sample-tick.0": "ENABLED"}
    for name, state in names.items():
        scheduler.create_schedule(
            Name=name,
            GroupName="jobs-cron",
            State=state,  # type: ignore[arg-type]
            ScheduleExpression="cron(0 3 * * ? *)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={"Arn": "arn:aws:sqs:us-east-1:123456789012:q", "RoleArn": "arn:aws:iam::123456789012:role/r"},
        )

    assert [view.on_aws for view in inspector.schedules()] == ["DISABLED", "ENABLED", "MISSING"]


def test_an_unreachable_scheduler_is_not_an_error(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    assert first(inspector).on_aws is None


# --- Manual ticks ------------------------------------------------------------------------------------------------


def test_a_manual_tick_runs_like_a_scheduled_tick(world: World, inspector: Inspector) -> None:
    world.lane(sample_tick)

    acted = inspector.tick("sample:tick", schedule="1", reason="the night's failed")

    (message,) = world.take(sample_tick)
    world.deliver(sample_tick, message["Body"])
    assert world.row(acted.id)["state"] == "completed"
    entry = inspector.audit()[0]
    assert (entry.action, entry.target, entry.details) == ("tick", "sample:tick:1", {"id": acted.id})


def test_a_second_tick_in_the_same_minute_is_refused(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a clock that stands still
    world.lane(sample_tick)
    at = datetime(2026, 1, 31, 12, 30, 5, tzinfo=UTC)
    monkeypatch.setattr("joblane.inspector.stage.schedules.datetime", Mock(now=lambda zone: at))
    inspector.tick("sample:tick", schedule="1")
    # then a second tick is refused before and after the first has run
    with pytest.raises(ActionError, match="is pending: the tick of this minute was sent already; wait for the next"):
        inspector.tick("sample:tick", schedule="1")
    (message,) = world.take(sample_tick)
    world.deliver(sample_tick, message["Body"])
    with pytest.raises(ActionError, match=r"is completed: the tick of this minute .* op tick it"):
        inspector.tick("sample:tick", schedule="1")
    assert len(inspector.audit()) == 1


def test_a_schedule_that_is_off_in_the_stage_can_be_ticked(world: World, scope: Scope) -> None:
    world.lane(tenant_cleanup)
    off = replace(tenant_cleanup, schedules=())

    assert over(scope, off).tick("tenant:cleanup").id.startswith("tenant:cleanup:0:")


@pytest.mark.parametrize(
    ("type_", "schedule", "says"),
    [
        ("sample:tick", None, r"give the name of a schedule of sample:tick: 0, 1"),
        ("sample:tick", "2", r"give the name of a schedule of sample:tick: 0, 1"),
        ("sample:one", None, "it is not a periodic task"),
        ("sample:none", None, "there is no task type 'sample:none'. Did you mean 'sample:one'"),
    ],
)
def test_an_unknown_schedule_is_refused(inspector: Inspector, type_: str, schedule: str | None, says: str) -> None:
    with pytest.raises(SelectionError, match=says):
        inspector.tick(type_, schedule=schedule)


def test_a_tick_of_a_paused_schedule_is_refused(world: World, inspector: Inspector) -> None:
    inspector.pause(PauseScope.SCHEDULE, "sample:tick:0")

    with pytest.raises(SelectionError, match="sample:tick:0 is paused"):
        inspector.tick("sample:tick", schedule="0")


def test_a_tick_that_cannot_be_sent_leaves_no_entry(inspector: Inspector) -> None:
    with pytest.raises(SendError, match=f"{PREFIX}-default-sample-tick"):
        inspector.tick("sample:tick", schedule="0")

    assert inspector.audit() == ()
