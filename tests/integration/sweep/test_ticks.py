"""The sweep makes one task for each tick of a schedule at run time, in any interleaving with a change of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from pydantic import field_validator
from sqlalchemy.orm import Session

from joblane import Payload, TaskContext, every, task
from joblane.enqueue.ticks import AHEAD, GRACE, due_ticks
from joblane.errors import ScheduleError
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.actions import changes as actions
from joblane.inspector.filter import BulkAction
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.schedules import StoredSchedule
from joblane.record.sql_functions import VERSION
from joblane.sqs.message import DEAD_ATTRIBUTE
from joblane.sweep import ticks as duty
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.sweep import sweep
from joblane.sweep.ticks import Ticks, make_ticks
from joblane.tasks.job import NOT_OF_TICKS, OPTIONS
from joblane.tasks.schedule import Schedule, cron
from joblane.tasks.task import Task
from tests import logs
from tests.samples import Sample, sample_batch, sample_one
from tests.sends import Sends
from tests.world import PREFIX, World

MINUTE = timedelta(minutes=1)
OFTEN = every(minutes=1)
FULL = (15, 16)
"""The ticks of a quarter of an hour: one more if a minute has begun meanwhile."""
Wait = Callable[[Callable[[], bool]], None]


class Strict(Payload):
    number: int


@task("sample:strict", overlap="allow")
def sample_strict(payload: Strict, ctx: TaskContext) -> None:
    pass


TASKS: dict[str, Task[Any, Any]] = {each.type: each for each in (sample_one, sample_batch, sample_strict)}


def swept(world: World, connection: Connection | None = None, **options: Any) -> Ticks:
    return make_ticks(connection or world.database.get(), TASKS.get, PREFIX, **options)


def put(world: World, name: str, schedule: Schedule = OFTEN, **options: Any) -> None:
    """Put a schedule whose tasks the sweep has to make."""
    world.client.schedules.put(name, sample_one, Sample(), schedule, **options)
    forget_ticks(world)


def forget_ticks(world: World, late: timedelta = timedelta(0)) -> None:
    """Let the tasks that ``put`` has made be the sweep's work, which is ``late``."""
    world.run("delete from joblane.tasks")
    world.run(
        "update joblane.schedules set next_at = date_trunc('minute', clock_timestamp()) + interval '1 minute'"
        " - $1::interval",
        f"{late.total_seconds()} s",
    )


def states(world: World) -> list[str]:
    return [state for (state,) in world.run("select state from joblane.tasks order by id")]


def the_schedule(world: World, name: str = "s") -> StoredSchedule:
    found = world.client.schedules.get(name)
    assert found is not None
    return found


def blocked(world: World) -> bool:
    """True if a statement of the test's database waits for a lock."""
    sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return bool(world.run(sql)[0][0])


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` in a thread meanwhile, and raise its error at the end."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        yield
        future.result(20)


@contextmanager
def before_commit(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` once, before the sweep commits the tasks of its first batch."""
    commit, acted = Connection.commit, threading.Event()

    def commit_after(connection: Connection) -> None:
        if not acted.is_set():
            acted.set()
            act()
        commit(connection)

    with mock.patch.object(Connection, "commit", commit_after):
        yield


# --- Which ticks are due -------------------------------------------------------------------------------------------

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("late", "missed", "runs"),
    [
        (timedelta(0), "skip", True),
        (GRACE, "skip", True),
        (GRACE + MINUTE, "skip", False),
        (GRACE + MINUTE, "latest", True),
        (timedelta(days=700, minutes=30), "latest", True),
        (timedelta(days=700, minutes=30), "skip", False),
        (timedelta(days=700, minutes=3), "skip", True),
    ],
)
def test_of_late_ticks_the_newest_runs_or_none(late: timedelta, missed: str, runs: bool) -> None:
    daily = cron("0 12 * * *")
    ticks, following = due_ticks(daily, NOON, NOON + late, missed)
    assert ticks == ([NOON + timedelta(days=late.days)] if runs else [])
    assert following == NOON + timedelta(days=late.days + 1)


@pytest.mark.parametrize("missed", ["latest", "skip"])
def test_never_more_than_one_late_tick_runs(missed: str) -> None:
    now = NOON + timedelta(seconds=30)
    ticks, following = due_ticks(OFTEN, NOON - timedelta(hours=3), now, missed)
    assert ticks == [NOON + number * MINUTE for number in range(16)]
    assert following == NOON + 16 * MINUTE


@pytest.mark.parametrize(
    ("day", "fires"),
    [
        (datetime(2026, 3, 28, tzinfo=UTC), ["2026-03-28T01:30", "2026-03-30T00:30"]),  # 02:30 is skipped on the 29th
        (datetime(2026, 10, 24, tzinfo=UTC), ["2026-10-24T00:30", "2026-10-25T00:30", "2026-10-26T01:30"]),  # twice
    ],
)
def test_a_local_time_that_a_clock_change_skips_or_repeats(day: datetime, fires: list[str]) -> None:
    # given a day before the clock of Berlin changes
    schedule, moments = cron("30 2 * * *", timezone="Europe/Berlin"), list[datetime]()
    next_at = schedule.next_after(day)
    # when a sweep runs every five minutes
    for minutes in range(0, 51 * 60, 5):
        now = day + minutes * MINUTE
        if next_at <= now + AHEAD:
            ticks, next_at = due_ticks(schedule, next_at, now, "latest")
            moments += ticks
    # then
    assert [f"{moment:%Y-%m-%dT%H:%M}" for moment in moments] == fires


# --- The tasks -----------------------------------------------------------------------------------------------------


def test_the_ticks_of_fifteen_minutes_get_tasks_and_messages_with_exact_delays(world: World) -> None:
    # given
    world.lane(sample_one)
    sends = Sends.of(world.sqs)
    put(world, "s", tenant="acme", owner="ann", max_retry=1, tags=["report"], headers={"a": "b"})
    # when
    made = swept(world).made
    world.sweep()
    # then
    assert made in FULL
    rows = world.run(
        "select id, due_at, tenant, owner, max_attempts, tags, headers, schedule, payload from joblane.tasks"
        " order by id"
    )
    assert len(rows) == made
    for id_, due_at, *columns in rows:
        assert id_.startswith(f"@s:{due_at:%Y-%m-%dT%H:%M}Z:")
        assert (due_at.second, due_at.microsecond) == (0, 0)
        assert columns[:5] == ["acme", "ann", 2, ["report"], {"a": "b"}]
        assert columns[5] == "s"
    # the tick of this minute has no delay, if the minute has just begun
    delays = sorted(entry.get("DelaySeconds", 0) for entry in sends.to("jobs-default-sample-one"))
    assert {later - earlier for earlier, later in pairwise(delays)} <= {59, 60, 61}
    again = swept(world).made
    assert again <= 1
    assert world.run("select count(*) from joblane.tasks") == [[made + again]]


def test_a_sweep_that_is_killed_before_it_sends_loses_nothing(world: World) -> None:
    world.lane(sample_one)
    put(world, "s")
    swept(world)  # and no walk
    assert world.sweep().sent in FULL


def test_a_tick_that_is_made_twice_is_one_task(world: World) -> None:
    put(world, "s")
    first = swept(world).made
    forget = "update joblane.schedules set next_at = date_trunc('minute', clock_timestamp()) + interval '1 minute'"
    world.run(forget)
    swept(world)
    assert first <= world.run("select count(*) from joblane.tasks")[0][0] <= first + 2


def test_a_schedule_with_a_problem_says_why_and_blocks_no_other(world: World) -> None:
    # given a type that is gone, a payload that does not fit any more, and a time zone that does not exist
    schedules = world.client.schedules
    for name in ("gone", "old", "zone", "good"):
        schedules.put(name, sample_strict, Strict(number=1), OFTEN)
    world.run("update joblane.schedules set type = 'sample:removed' where name = 'gone'")
    world.run("""update joblane.schedules set payload = '{"number": "hunter2"}' where name = 'old'""")
    world.run("update joblane.schedules set timezone = 'Europe/Nowhere' where name = 'zone'")
    forget_ticks(world)
    # when
    with logs.lines() as lines:
        made = swept(world)
    # then
    assert made.made in FULL
    assert made.problems == 3
    problems = dict(world.run("select name, problem from joblane.schedules"))
    assert problems["good"] is None
    assert problems["gone"] == "UnknownTypeError: no task 'sample:removed' is declared any more"
    assert problems["old"].startswith("UnreadablePayloadError: payload: not a valid Strict: number: ")
    assert problems["zone"].startswith("DeclarationError: timezone 'Europe/Nowhere'")
    assert "hunter2" not in str(problems)
    assert {line["schedule"] for line in lines.fields if "got no task" in line["message"]} == {"gone", "old", "zone"}
    # and a later tick goes well
    world.run("update joblane.schedules set type = 'sample:strict' where name = 'gone'")
    forget_ticks(world)
    assert swept(world).problems == 2
    gone = the_schedule(world, "gone")
    assert (gone.problem, gone.last_task is None) == (None, False)


class Looked(Payload):
    """It is checked by code that can fail."""

    country: str

    @field_validator("country")
    @classmethod
    def _known(cls, country: str) -> str:
        COUNTRIES[country]
        return country


COUNTRIES = {"de": "Germany", "xx": "Atlantis"}


@task("sample:looked", overlap="allow")
def sample_looked(payload: Looked, ctx: TaskContext) -> None:
    pass


def test_an_error_of_a_payload_class_blocks_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a payload that its class accepts no more, by an error of its own, and options of another version
    schedules = world.client.schedules
    schedules.put("bad", sample_looked, Looked(country="xx"), OFTEN)
    for name, options in (("newer", '{"delay": "red"}'), ("wrong", '{"timeout": "red"}')):
        schedules.put(name, sample_strict, Strict(number=1), OFTEN)
        world.run("update joblane.schedules set options = $2::jsonb where name = $1", name, options)
    put(world, "good")
    monkeypatch.delitem(COUNTRIES, "xx")
    forget_ticks(world)
    # when
    made = make_ticks(world.database.get(), (TASKS | {sample_looked.type: sample_looked}).get, PREFIX)
    # then
    assert (made.made in FULL, made.problems) == (True, 3)
    raised = "reading the schedule's payload and options raised it"
    taken = [name for name in OPTIONS if name not in NOT_OF_TICKS]
    hint = "fields of the payload are arguments of its class"
    assert world.run("select name, problem from joblane.schedules order by name") == [
        ["bad", f"KeyError: {raised}"],
        ["good", None],
        ["newer", f"EnqueueError: delay: there is no such option; there are {', '.join(taken)}; {hint}"],
        ["wrong", "EnqueueError: timeout: a number of seconds is required"],
    ]


def test_the_same_put_again_ends_the_problem_of_a_schedule(world: World) -> None:
    # given a schedule whose type was not declared for a while
    put(world, "s")
    make_ticks(world.database.get(), lambda _: None, PREFIX)
    assert states(world) == []
    # when
    again = world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    # then
    found = the_schedule(world)
    assert (again.changed, found.problem, len(states(world)) in FULL) == (True, None, True)


def test_a_task_that_the_database_refuses_blocks_no_other(world: World) -> None:
    put(world, "good")
    put(world, "bad", tenant="bad")
    world.run(
        "create function refuse() returns trigger language plpgsql as"
        " $$begin raise exception 'no' using errcode = 'check_violation'; end$$"
    )
    world.run(
        "create trigger refuse before insert on joblane.tasks for each row when (new.tenant = 'bad')"
        " execute function refuse()"
    )
    forget_ticks(world)
    assert swept(world).made in FULL
    assert world.run("select name, problem is null from joblane.schedules order by name") == [
        ["bad", False], ["good", True],
    ]  # fmt: skip


def test_a_tick_is_cancelled_while_the_schedules_last_task_runs(world: World) -> None:
    # given two ticks of one schedule that are due, and one of another
    put(world, "s")
    put(world, "other")
    swept(world)
    world.run("update joblane.tasks set due_at = clock_timestamp()")
    first, second, other = world.run(
        "select min(id) filter (where id like '@s:%'), max(id) filter (where id like '@s:%'),"
        " min(id) filter (where id like '@other:%') from joblane.tasks"
    )[0]
    message = {"type": sample_one.type, "rec": True}
    # when the first runs without an end
    with mock.patch("joblane.worker.worker.Batch._finish", side_effect=SystemExit), pytest.raises(SystemExit):
        world.deliver(sample_one, message | {"id": first})
    for id_ in (second, other):
        world.deliver(sample_one, message | {"id": id_})
    # then
    assert world.row(second)["reason"] == f"DuplicateTask: its unique key is held by {first}"
    assert [world.row(id_)["state"] for id_ in (first, second, other)] == ["active", "cancelled", "completed"]


# --- Changes at the same time --------------------------------------------------------------------------------------


def test_two_sweeps_at_once_make_each_tick_once(world: World) -> None:
    # given
    for number in range(20):
        put(world, f"s{number}")
    forget_ticks(world)
    # when
    with mock.patch.object(duty, "BATCH", 3), Database(world.url) as other:
        with in_thread(lambda: swept(world, other.get())):
            swept(world)
        swept(world)
    # then
    made = world.run("select schedule, count(*)::int from joblane.tasks group by 1")
    assert {number for _, number in made} <= set(FULL)
    assert len(made) == 20


@pytest.mark.parametrize("change", ["delete", "pause"])
def test_ticks_of_an_open_change_wait_for_its_end(world: World, change: str) -> None:
    put(world, "s")
    put(world, "other")
    forget_ticks(world)
    for ends, made in (("rollback", FULL), ("commit", (0,))):
        with Session(world.database.engine) as session, Database(world.url) as sweeping:
            getattr(world.client.schedules, change)("s", session=session)
            swept(world, sweeping.get())
            assert world.run("select count(*) from joblane.tasks where id like '@s:%'") == [[0]]
            getattr(session, ends)()
        assert swept(world).made in made
        forget_ticks(world)


@pytest.mark.parametrize("change", ["delete", "pause", "put"])
def test_a_change_during_the_sweep_cancels_or_replaces_the_ticks_that_it_makes(
    world: World, wait_until: Wait, change: str
) -> None:
    put(world, "s")
    arguments = (sample_one, Sample(number=2), OFTEN) if change == "put" else ()
    with ThreadPoolExecutor(1) as pool:
        futures = []

        def act() -> None:
            futures.append(pool.submit(getattr(world.client.schedules, change), "s", *arguments))
            wait_until(lambda: blocked(world))

        with Database(world.url) as sweeping, before_commit(act):
            assert swept(world, sweeping.get()).made in FULL
        assert futures[0].result(20)
    live = world.run("select id, payload ->> 'number' from joblane.tasks where state <> 'cancelled'")
    assert len(live) == len({minute_of(id_) for id_, _ in live})
    assert len(live) in (FULL if change == "put" else (0,))
    assert {number for _, number in live} <= {"2"}


def put_number_2(world: World) -> None:
    world.client.schedules.put("s", sample_one, Sample(number=2), OFTEN)


def pause_and_resume(world: World) -> None:
    world.client.schedules.pause("s")
    world.client.schedules.resume("s", task=sample_one)


def delete_and_put(world: World) -> None:
    world.client.schedules.delete("s")
    put_number_2(world)


@pytest.mark.parametrize("change", [put_number_2, pause_and_resume, delete_and_put])
def test_a_tick_that_has_begun_early_is_not_made_again(world: World, change: Callable[[World], None]) -> None:
    # given a tick whose run has begun before its time, and others before and after it
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    later = world.run("select id from joblane.tasks where due_at > clock_timestamp() + interval '30 s' order by id")
    [early] = later[5]
    world.run("update joblane.tasks set state = 'active', runs = 1, attempts = 1 where id = $1", early)
    # when
    change(world)
    # then it stays the only one of its time, and no other tick is lost
    live = world.run("select id from joblane.tasks where state <> 'cancelled' order by id")
    minutes = [minute_of(id_) for (id_,) in live]
    assert [early] in live
    assert len(minutes) == len(set(minutes))
    assert {minute_of(id_) for (id_,) in later} <= set(minutes)


@pytest.mark.parametrize("change", [put_number_2, pause_and_resume, delete_and_put])
@pytest.mark.parametrize("action", [BulkAction.CANCEL, BulkAction.ARCHIVE])
def test_a_tick_that_an_operator_has_stopped_does_not_come_back_after_a_change(
    world: World, action: BulkAction, change: Callable[[World], None]
) -> None:
    # given a tick that an operator has stopped before it began
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    [[stopped]] = world.run("select max(id) from joblane.tasks")
    actions.change(world.database.get(), action, [stopped], who="op")
    # when its schedule is changed, then its time has another task
    change(world)
    live = {minute_of(id_) for (id_,) in world.run("select id from joblane.tasks where state = 'scheduled'")}
    assert minute_of(stopped) in live
    # and neither a retry nor its dead letter brings it back
    assert actions.change(world.database.get(), BulkAction.RETRY, [stopped], who="op") == []
    message = {"type": sample_one.type, "id": stopped, "rec": True}
    assert world.deliver(sample_one, message, attributes={DEAD_ATTRIBUTE: ("Number", "0")}) == []
    assert (world.row(stopped)["state"], world.row(stopped)["runs"]) == ("cancelled", 0)
    assert world.sweep().dead_letters == 0


@pytest.mark.parametrize("change", ["pause", "delete"])
def test_a_tick_that_is_retried_while_its_schedule_ends_is_cancelled(
    world: World, wait_until: Wait, change: str
) -> None:
    # given a tick that an operator has cancelled, and retries in an open transaction
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    [[tick]] = world.run("select max(id) from joblane.tasks")
    actions.change(world.database.get(), BulkAction.CANCEL, [tick], who="op")
    with Database(world.url) as operator:
        operator.get().execute_simple("begin")
        assert len(actions.change(operator.get(), BulkAction.RETRY, [tick], who="op")) == 1
        # when
        with in_thread(lambda: getattr(world.client.schedules, change)("s")):
            wait_until(lambda: blocked(world))
            operator.get().commit()
    # then
    assert set(states(world)) == {"cancelled"}


def minute_of(id_: str) -> str:
    return id_.rpartition(":")[0]


def test_a_tick_that_becomes_due_while_a_put_waits_is_not_made_again(world: World) -> None:
    # given a tick after the moment of the put, which is due when its statement comes to it
    world.client.schedules.put("s", sample_one, Sample(), OFTEN)
    soon = "select min(id) from joblane.tasks where due_at > clock_timestamp()"
    world.run(f"update joblane.tasks set due_at = clock_timestamp() where id = ({soon})")
    # when
    put_number_2(world)
    # then
    live = world.run("select id from joblane.tasks where state <> 'cancelled'")
    assert len(live) == len({minute_of(id_) for (id_,) in live})


def test_a_put_leaves_a_tick_that_a_rate_has_given_a_later_time(world: World) -> None:
    # given a late tick that could not start yet
    put(world, "s")
    forget_ticks(world, late=2 * MINUTE)
    swept(world)
    [[late]] = world.run("select min(id) from joblane.tasks")
    world.run("update joblane.tasks set due_at = clock_timestamp() + interval '10 minutes' where id = $1", late)
    # when
    put_number_2(world)
    # then no other task is made for it, so it remains
    assert world.row(late)["finished_at"] is None


def test_of_two_sessions_that_put_one_name_the_second_is_refused_by_name(world: World) -> None:
    # given a patience of 50 ms in place of 5 seconds
    world.run(f"alter function joblane.lock_schedule_{VERSION}(json) set lock_timeout = '50ms'")
    schedules = world.client.schedules
    with Database(world.url) as other, Session(world.database.engine) as first, Session(other.engine) as second:
        schedules.put("s", sample_one, Sample(number=1), cron("0 6 * * *"), session=first)
        # when
        with pytest.raises(ScheduleError, match=r"^name: another transaction is changing the schedule 's'"):
            schedules.put("s", sample_one, Sample(number=2), cron("0 6 * * *"), session=second)
        # then the second transaction can continue
        schedules.put("t", sample_one, Sample(number=2), cron("0 6 * * *"), session=second)
        second.commit()
        first.commit()
    assert [(each.name, each.payload["number"]) for each in schedules.list()] == [("s", 1), ("t", 2)]


def test_the_second_put_replaces_the_first_if_it_commits_in_time(world: World, wait_until: Wait) -> None:
    schedules = world.client.schedules
    with Session(world.database.engine) as first:
        schedules.put("s", sample_one, Sample(number=1), OFTEN, session=first)
        with in_thread(lambda: schedules.put("s", sample_one, Sample(number=2), OFTEN)):
            wait_until(lambda: blocked(world))
            first.commit()
    assert the_schedule(world).payload["number"] == 2
    [[live, moments]] = world.run(
        "select count(*), count(distinct due_at) from joblane.tasks where state = 'scheduled'"
    )
    assert live == moments
    assert live in FULL


def test_the_next_sweep_is_planned_five_minutes_before_the_next_tick(world: World) -> None:
    # given a schedule that is paused, and two that fire in one and in two hours
    for name in ("s", "later", "paused"):
        put(world, name, cron("0 6 * * *"))
    for name, minutes in (("s", 60), ("later", 120), ("paused", 30)):
        at = "update joblane.schedules set next_at = clock_timestamp() + make_interval(mins => $2) where name = $1"
        world.run(at, name, minutes)
    world.client.schedules.pause("paused")
    # when
    following = NextSweep()
    swept(world)
    sweep(world.database.get(), world.sqs, PREFIX, following=following)
    # then
    assert following.at - time.time() == pytest.approx(55 * 60, abs=30)


# --- The function --------------------------------------------------------------------------------------------------


def test_the_sweeps_function_makes_ticks_and_survives_their_error(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    put(world, "s")
    world.run("update joblane.schedules set type = 'jobs:removed'")
    world.lane(jobs_sweep)
    world.deliver(jobs_sweep, {"type": "jobs:sweep", "id": "first"}, seconds=240)
    assert '"MissedTick"' in capsys.readouterr().out
    with mock.patch.object(duty, "due_ticks", side_effect=RuntimeError("a defect")):
        forget_ticks(world)
        world.deliver(jobs_sweep, {"type": "jobs:sweep", "id": "second"}, seconds=240)
    assert world.row("second")["state"] == "completed"
