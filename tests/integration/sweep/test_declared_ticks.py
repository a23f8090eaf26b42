"""Ticks of schedules of the code: the scheduler sends them, and the sweep makes the newest that did not come."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest

from joblane import Payload, TaskContext, cron, task
from joblane.errors import DeclaredScheduleError
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.actions import changes as actions
from joblane.inspector.filter import BulkAction
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.schedules import GONE, register, register_statement
from joblane.sqs.tick import id_of
from joblane.sweep import ticks as duty
from joblane.sweep.sweep import sweep
from joblane.sweep.ticks import Ticks, make_ticks
from joblane.tasks.schedule import Missed, every
from joblane.tasks.task import Task
from tests import logs
from tests.builders.rows import put
from tests.samples import Sample, sample_one
from tests.world import PREFIX, World

MINUTE = timedelta(minutes=1)
HALF_HOUR = timedelta(minutes=30)
NAME = "sample:minutely:0"


class Minute(Payload):
    of: str = "hour"


@task("sample:failing", schedule="* * * * *")
def sample_failing(payload: Minute, ctx: TaskContext) -> None:
    raise ValueError


@task("sample:minutely", schedule="* * * * *")
def sample_minutely(payload: Minute, ctx: TaskContext) -> Any:
    pass


def known(*tasks: Task[Any, Any]) -> dict[str, Task[Any, Any]]:
    return {each.type: each for each in tasks}


def with_schedule(task_: Task[Any, Any], schedule: Any, name: str = "0") -> Task[Any, Any]:
    return replace(task_, schedules=(replace(schedule, name=name),))


def deploy(world: World, *tasks: Task[Any, Any], since: timedelta | None = None) -> None:
    """Register the schedules, as a migration does. ``since``: the age of the ticks that the sweep has to look for."""
    register(world.database.get(), known(*tasks))
    if since is not None:
        world.run("update joblane.schedules set next_at = now() - $1::interval", f"{since.total_seconds()} s")


def swept(world: World, *tasks: Task[Any, Any]) -> Ticks:
    with Database(world.url) as database:
        return make_ticks(database.get(), known(*tasks).get, PREFIX)


def minutes_ago(minutes: int) -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - minutes * MINUTE


def tick_of(minutes: int, task_: Task[Any, Any] = sample_minutely) -> str:
    return id_of(task_.type, "0", minutes_ago(minutes))


def body_of(id_: str, type_: str = "sample:minutely", schedule: str = "0", **payload: Any) -> Mapping[str, Any]:
    """The message that the scheduler sends for a tick."""
    given = {"payload": payload} if payload else {}
    return {"type": type_, "tick": {"schedule": schedule, "at": f"{id_[-17:-1]}:00Z"}, **given}


def rows(world: World) -> list[list[Any]]:
    return world.run("select id, state, runs, reason from joblane.tasks order by id")


def schedule_row(world: World, name: str = NAME) -> dict[str, Any]:
    [[row]] = world.run("select row_to_json(s) from joblane.schedules s where name = $1", name)
    return dict(row)


# --- What is missing, and what the sweep makes ---------------------------------------------------------------------


@pytest.mark.parametrize("missed", list(Missed))
def test_of_the_ticks_that_did_not_come_the_newest_runs_or_none(world: World, missed: Missed) -> None:
    minutely = with_schedule(sample_minutely, cron("* * * * *", missed=missed))
    deploy(world, minutely, since=timedelta(minutes=33, seconds=30))

    with logs.lines() as lines:
        found = swept(world, minutely)

    assert len(found.missed) in (3, 4)  # a minute may have begun meanwhile
    [line] = lines.fields
    assert (line["schedule"], line["missing"], line["newest"]) == (NAME, len(found.missed), found.missed[-1])
    made = [(found.missed[-1], "pending", 0)] if missed is Missed.LATEST else []
    assert [tuple(row[:3]) for row in rows(world)] == made
    assert found.made == len(made)
    assert swept(world, minutely).missed in ([], [tick_of(30)])  # once


def test_a_tick_is_missing_half_an_hour_after_its_time_and_not_before(world: World) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=29))
    assert swept(world, sample_minutely) == Ticks()
    assert rows(world) == []


@pytest.mark.parametrize("state", ["completed", "archived", "retry", "cancelled"])
def test_a_tick_with_a_task_in_any_state_is_not_missing(world: World, state: str) -> None:
    hourly = with_schedule(sample_minutely, cron(f"{minutes_ago(40).minute} * * * *"))
    deploy(world, hourly, since=timedelta(minutes=50))
    put(world, sample_minutely, tick_of(40), state=state)
    assert swept(world, hourly).missed == []


def test_a_missing_tick_does_not_run_after_a_later_one_that_came(world: World) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=31, seconds=30))
    put(world, sample_minutely, tick_of(5), state="completed")
    found = swept(world, sample_minutely)
    assert (len(found.missed) in (1, 2), found.made) == (True, 0)


def test_after_a_long_time_without_a_sweep_the_last_day_is_looked_at(world: World) -> None:
    hourly = with_schedule(sample_minutely, every(hours=1))
    deploy(world, hourly, since=timedelta(days=9))
    found = swept(world, hourly)
    assert len(found.missed) in (24, 25)
    assert found.made == 1


def test_a_schedule_that_is_new_has_no_missing_ticks(world: World) -> None:
    deploy(world, sample_minutely)
    assert swept(world, sample_minutely) == Ticks()
    assert schedule_row(world)["origin"] == "code"


def test_ticks_of_a_deploy_under_way_are_not_missing(world: World) -> None:
    # given a schedule that a deploy has registered an hour ago, and of which EventBridge had no tick to send at first
    deploy(world, sample_minutely)
    world.run("update joblane.schedules set next_at = next_at - interval '1 hour'")
    # when
    found = swept(world, sample_minutely)
    # then only those are missing that were due later than half an hour after the registration
    assert len(found.missed) <= 1


def test_the_newest_runs_with_the_payload_and_the_overlap_of_its_schedule(world: World) -> None:
    minutely = with_schedule(sample_minutely, cron("* * * * *", payload={"of": "day"}))
    deploy(world, minutely, since=timedelta(minutes=31, seconds=30))
    put(world, minutely, "last", state="active", unique_key="sample:minutely tick 0")
    found = swept(world, minutely)
    sweep(world.database.get(), world.sqs, PREFIX)

    assert world.deliver(minutely, {"type": minutely.type, "id": found.missed[-1], "rec": True}) == []

    row = world.row(found.missed[-1])
    assert (row["state"], row["payload"], row["schedule"]) == ("cancelled", {"of": "day"}, NAME)
    assert row["reason"] == "DuplicateTask: its unique key is held by last"


# --- Late deliveries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comes_first", [False, True], ids=["after the message of the sweep", "before it"])
def test_a_tick_that_comes_an_hour_late_and_that_the_sweep_has_made_runs_once(world: World, comes_first: bool) -> None:
    minutely = with_schedule(sample_minutely, cron(f"{minutes_ago(60).minute} * * * *"))
    deploy(world, minutely, since=timedelta(minutes=61))
    [id_] = swept(world, minutely).missed
    messages = [{"type": minutely.type, "id": id_, "rec": True}, body_of(id_)]
    for message in reversed(messages) if comes_first else messages:
        assert world.deliver(minutely, message) == []
    assert rows(world) == [[id_, "completed", 1, None]]
    assert world.dead_letters(minutely) == []


def test_a_late_tick_whose_schedule_has_gone_on_is_recorded_and_never_runs(world: World) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=33, seconds=30))
    replaced, *_, newest = swept(world, sample_minutely).missed

    assert world.deliver(sample_minutely, body_of(replaced)) == []

    reason = "TickMissed: it came late, and its schedule has gone on without it"
    assert rows(world)[0] == [replaced, "cancelled", 0, reason]
    # and an operator cannot bring it back: the newest runs in its place
    assert actions.change(world.database.get(), BulkAction.RETRY, [replaced], who="op") == []
    assert rows(world)[1][:2] == [newest, "pending"]


def test_before_a_schedule_is_registered_its_late_ticks_run(world: World) -> None:
    id_ = tick_of(60)
    assert world.deliver(sample_minutely, body_of(id_)) == []
    assert rows(world) == [[id_, "completed", 1, None]]


@pytest.mark.parametrize("first", ["sweep", "delivery"])
def test_the_sweep_and_a_delivery_at_the_same_moment_make_one_task(world: World, first: str) -> None:
    hourly = with_schedule(sample_minutely, cron(f"{minutes_ago(40).minute} * * * *"))
    deploy(world, hourly, since=timedelta(minutes=50))
    id_ = tick_of(40)
    if first == "delivery":  # it commits after the sweep has looked for the task
        with before(duty, "insert_tasks", lambda: world.deliver(hourly, body_of(id_))):
            swept(world, hourly)
    else:
        delivered = threading.Thread(target=lambda: world.deliver(hourly, body_of(id_)))
        with before(Connection, "commit", delivered.start):
            swept(world, hourly)
        delivered.join(20)
    world.deliver(hourly, {"type": hourly.type, "id": id_, "rec": True})
    world.deliver(hourly, body_of(id_))
    assert rows(world) == [[id_, "completed", 1, None]]


@contextmanager
def before(owner: Any, name: str, act: Any) -> Iterator[None]:
    """Call ``act`` once, before a function."""
    function, acted = getattr(owner, name), threading.Event()

    def after_act(*arguments: Any, **named: Any) -> Any:
        if not acted.is_set():
            acted.set()
            act()
        return function(*arguments, **named)

    with mock.patch.object(owner, name, after_act):
        yield


# --- Deploys -------------------------------------------------------------------------------------------------------


def test_a_tick_that_comes_twice_around_a_deploy_is_one_task(world: World) -> None:
    deploy(world, sample_minutely)
    id_ = tick_of(0)
    world.deliver(sample_minutely, body_of(id_))
    changed = with_schedule(sample_minutely, cron("*/2 * * * *", payload={"of": "day"}))
    deploy(world, changed)
    world.deliver(changed, body_of(id_, of="day"))
    assert rows(world) == [[id_, "completed", 1, None]]
    assert world.dead_letters(changed) == []


def test_a_tick_that_comes_again_after_its_type_was_renamed_is_one_task(world: World) -> None:
    # given a tick whose first run has failed
    world.deliver(sample_failing, body_of(id_ := tick_of(0, sample_failing), sample_failing.type))
    assert world.row(id_)["state"] == "retry"
    # when a deploy renames the type, and the message comes again
    world.later(id_)
    renamed = replace(sample_minutely, aliases=(sample_failing.type,))
    world.deliver(renamed, body_of(id_, sample_failing.type))
    # then
    assert rows(world) == [[id_, "completed", 2, None]]


def test_a_tick_under_way_while_a_deploy_changes_its_times_runs(world: World) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=50))
    id_ = tick_of(10)
    changed = with_schedule(sample_minutely, cron("0 2 * * *"))
    deploy(world, changed)
    assert world.deliver(changed, body_of(id_)) == []
    assert rows(world) == [[id_, "completed", 1, None]]


def test_new_times_count_only_after_the_deploy_and_old_ones_stay(world: World) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=50))
    before_deploy = schedule_row(world)
    deploy(world, sample_minutely)
    assert schedule_row(world) == before_deploy
    often = with_schedule(sample_minutely, cron("*/2 * * * *"))
    deploy(world, often)
    assert swept(world, often).missed == []


def test_a_renamed_schedule_and_one_of_another_type_are_new_ones(world: World) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=50))
    world.run("update joblane.schedules set passed_until = now()")
    renamed = with_schedule(sample_minutely, cron("* * * * *"), "often")
    moved = with_schedule(sample_one, cron("* * * * *"))
    deploy(world, renamed, moved)
    assert world.run("select name, passed_until from joblane.schedules order by 1") == [
        ["sample:minutely:often", None],
        ["sample:one:0", None],
    ]
    assert swept(world, renamed, moved).missed == []
    # and a tick of the old name that is still under way runs
    id_ = tick_of(1)
    assert world.deliver(renamed, body_of(id_)) == []
    assert world.row(id_)["state"] == "completed"


def test_a_paused_schedule_that_is_removed_keeps_its_pause_for_a_way_back(world: World) -> None:
    deploy(world, sample_minutely)
    world.client.schedules.pause(NAME)
    deploy(world)
    assert (schedule_row(world)["problem"], swept(world)) == (GONE, Ticks())
    # when the deploy is reverted
    deploy(world, sample_minutely)
    world.deliver(sample_minutely, body_of(tick_of(0)))
    # then
    assert schedule_row(world)["problem"] is None
    assert [row[1:] for row in rows(world)] == [["cancelled", 0, "SchedulePaused: its schedule is paused"]]
    # and a schedule without a declaration can be deleted
    deploy(world)
    assert world.client.schedules.delete(NAME)
    assert world.run("select from joblane.schedules") == []


def test_two_versions_of_the_code_at_once_do_not_undo_each_other(world: World) -> None:
    # given a migration of the next version, which drops one schedule and adds one
    deploy(world, sample_minutely)
    added = with_schedule(sample_one, cron("* * * * *"))
    deploy(world, added, since=timedelta(minutes=31, seconds=30))
    # when a sweep of the version before runs, and ticks of both arrive
    assert swept(world, sample_minutely) == Ticks()
    world.deliver(sample_minutely, body_of(tick_of(0)))
    world.deliver(added, body_of(tick_of(0, added), "sample:one"))
    # then both ran, and the next version looks for its missing ticks
    assert [row[1] for row in rows(world)] == ["completed"] * 2
    assert len(swept(world, added).missed) in (1, 2)


def test_a_name_that_code_and_a_program_want_stays_with_the_first(world: World) -> None:
    # given a schedule that a program has made
    world.client.schedules.put(NAME, sample_one, Sample(), every(hours=1))
    # when the code declares one of the same name
    deploy(world, sample_minutely)
    # then the row stays, and the ticks of the declared one run without a row
    assert schedule_row(world)["origin"] == "run_time"
    world.deliver(sample_minutely, body_of(tick_of(0)))
    assert [row[1] for row in rows(world)][-1:] == ["completed"]
    # and once it is deleted, the next deploy registers the declared one, which no program can change
    world.client.schedules.delete(NAME)
    deploy(world, sample_minutely)
    assert schedule_row(world)["origin"] == "code"
    for change in (
        lambda: world.client.schedules.put(NAME, sample_one, Sample(), every(hours=1)),
        lambda: world.client.schedules.delete(NAME),
    ):
        with pytest.raises(DeclaredScheduleError, match="the code declares the schedule 'sample:minutely:0'"):
            change()
    # and once the code has dropped it, the name is free
    deploy(world)
    world.client.schedules.put(NAME, sample_one, Sample(), every(hours=1))
    assert schedule_row(world)["origin"] == "run_time"


def test_the_sql_of_a_registration_holds_any_payload(world: World) -> None:
    priced = with_schedule(sample_minutely, cron("* * * * *", payload={"of": "'$2.50', $1"}))
    world.run(register_statement(known(priced)))
    assert schedule_row(world)["payload"] == {"of": "'$2.50', $1"}


# --- Pauses --------------------------------------------------------------------------------------------------------


def test_ticks_of_a_pause_are_cancelled_also_those_that_come_after_its_end(world: World) -> None:
    deploy(world, sample_minutely)
    schedules = world.client.schedules
    assert schedules.pause(NAME)
    assert not schedules.pause(NAME)
    world.deliver(sample_minutely, body_of(tick_of(2)))
    assert schedules.resume(NAME)
    world.deliver(sample_minutely, body_of(tick_of(1)))
    assert [(row[1], str(row[3]).partition(":")[0]) for row in rows(world)] == [
        ("cancelled", "SchedulePaused"),
        ("cancelled", "TickMissed"),
    ]
    assert swept(world, sample_minutely).missed == []
    at = datetime.now(UTC) + MINUTE
    id_ = id_of(sample_minutely.type, "0", at)
    world.deliver(sample_minutely, body_of(id_), sent_at=at.timestamp())
    assert world.row(id_)["state"] == "completed"


def test_a_pause_with_an_end_ends_by_itself(world: World) -> None:
    deploy(world, sample_minutely)
    world.run(
        "update joblane.schedules set paused_at = now() - interval '1 hour', paused_until = now() - interval '40 min',"
        " passed_until = now() - interval '40 min', next_at = now() - interval '40 min'"
    )
    world.deliver(sample_minutely, body_of(tick_of(50)))
    world.deliver(sample_minutely, body_of(tick_of(35)))
    assert [row[1] for row in rows(world)] == ["cancelled", "completed"]
    found = swept(world, sample_minutely)
    assert tick_of(35) not in found.missed
    assert len(found.missed) in (9, 10)  # those since the end
    assert schedule_row(world)["paused_at"] is None


def test_a_schedule_of_other_code_keeps_no_other_schedule_from_its_ticks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duty, "BATCH", 2)
    deploy(world, sample_minutely, since=timedelta(hours=1))
    for number in range(5):
        world.client.schedules.put(f"own{number}", sample_one, Sample(), every(minutes=1))
    world.run("update joblane.schedules set next_at = now() - interval '1 min' where origin = 'run_time'")
    assert swept(world, sample_one).is_over
    assert world.run("select count(*) from joblane.schedules where next_at < now()") == [[1]]


def test_a_sweep_of_the_code_before_leaves_the_ticks_with_a_new_payload(world: World) -> None:
    # given a migration that has changed the payload, and the sweep of before, which could not read it
    changed = with_schedule(sample_minutely, cron("* * * * *", payload={"of": "day"}))
    deploy(world, changed, since=timedelta(minutes=33))
    assert swept(world, sample_minutely) == Ticks()
    # then the next sweep makes the tick
    assert swept(world, changed).made == 1


def test_a_missing_tick_that_gets_no_task_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(world, sample_minutely, since=timedelta(minutes=33))
    before = schedule_row(world)
    with monkeypatch.context() as patch:
        patch.setattr(Minute, "model_validate", mock.Mock(side_effect=RuntimeError))
        assert swept(world, sample_minutely).problems == 1
    after = schedule_row(world)
    assert str(after.pop("problem")).startswith("RuntimeError: ")
    assert after == {name: value for name, value in before.items() if name != "problem"}
    assert swept(world, sample_minutely).made == 1
    assert schedule_row(world)["problem"] is None


@pytest.mark.parametrize("text", [None, "*/2 * * * *"])
def test_a_schedule_of_a_deploy_that_was_rolled_back_is_left_alone(world: World, text: str | None) -> None:
    # given a registered schedule with ticks that did not come, because the deploy went no further
    deploy(world, sample_minutely, since=timedelta(hours=1))
    # when a sweep of the code before runs, in which it had other times, or was not there
    before = with_schedule(sample_minutely, cron(text)) if text else replace(sample_minutely, schedules=())
    made = swept(world, before)
    # then
    assert (made.made, made.missed, rows(world)) == (0, [], [])
    assert schedule_row(world)["passed_until"] is None
    # and a sweep of the code that has it looks for them
    assert swept(world, sample_minutely).made == 1


def test_the_sweep_does_not_make_its_own_missing_tick(world: World) -> None:
    deploy(world, jobs_sweep, since=timedelta(hours=13))
    found = swept(world, jobs_sweep)
    assert (found.made, bool(found.missed)) == (0, True)
