"""Schedules at run time: put, changed and deleted in the caller's transaction; wrong ones are refused by name."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import ANY

import pytest
from pydantic import field_serializer
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from joblane import DuplicateTaskError, Payload, TaskContext, cron, every, task
from joblane.errors import EnqueueError, PayloadError, ScheduleError, UnknownScheduleError
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from tests.django_database import django_database
from tests.samples import Sample, sample_batch, sample_one
from tests.transports import JOINED, Loop, Transport
from tests.world import PREFIX, World

OFTEN = every(minutes=1)
DAILY = cron("0 6 * * *", timezone="Europe/Berlin")


def test_a_schedule_is_put_changed_and_deleted(world: World) -> None:
    # given
    schedules = world.client.schedules
    # when
    made = schedules.put("acme:daily", sample_one, Sample(number=1), DAILY, tenant="acme", tags=["report"])
    same = schedules.put("acme:daily", sample_one, Sample(number=1), DAILY, tenant="acme", tags=["report"])
    changed = schedules.put("acme:daily", sample_one, Sample(number=2), DAILY, tenant="acme", tags=["report"])
    # then
    assert [(put.created, put.changed) for put in (made, same, changed)] == [
        (True, True),
        (False, False),
        (False, True),
    ]
    assert made.next_at == same.next_at == changed.next_at == DAILY.next_after(datetime.now(UTC))
    found = schedules.get("acme:daily")
    assert found is not None
    assert (found.type, found.payload, found.tenant) == ("sample:one", {"do": "nothing", "number": 2}, "acme")
    assert (found.expression, found.timezone, found.options) == ("0 6 * * *", "Europe/Berlin", {"tags": ["report"]})
    assert schedules.delete("acme:daily") is True
    assert schedules.delete("acme:daily") is False
    assert schedules.get("acme:daily") is None


def test_a_pause_holds_until_the_schedule_is_resumed(world: World) -> None:
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), DAILY)
    assert [schedules.pause("s"), schedules.pause("s")] == [True, False]
    put = schedules.put("s", sample_one, Sample(number=7), DAILY)
    assert (put.changed, put.next_at) == (True, None)
    assert [schedules.resume("s", task=sample_one), schedules.resume("s", task=sample_one)] == [True, False]
    found = schedules.get("s")
    assert found is not None
    assert (found.paused_at, found.next_at) == (None, DAILY.next_after(datetime.now(UTC)))


def test_schedules_are_listed_by_tenant_and_type_in_pages(world: World) -> None:
    schedules = world.client.schedules
    for name, tenant in (("a", "acme"), ("b", "acme"), ("c", None), ("d", "globex"), ("e", "acme")):
        schedules.put(name, sample_one, Sample(), DAILY, tenant=tenant)
    assert [each.name for each in schedules.list()] == ["a", "b", "c", "d", "e"]
    assert [each.name for each in schedules.list(tenant="acme", limit=2)] == ["a", "b"]
    assert [each.name for each in schedules.list(tenant="acme", after="b")] == ["e"]
    assert [each.name for each in schedules.list(type="sample:one", tenant="globex")] == ["d"]
    assert schedules.list(type="sample:two") == []


def test_a_rolled_back_change_changes_nothing(world: World) -> None:
    # given a schedule that fires every minute, with tasks made ahead
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), every(minutes=1))
    before = world.run("select id, state from joblane.tasks order by id")
    # when
    for change in (schedules.delete, schedules.pause):
        with Session(world.database.engine) as session:
            assert change("s", session=session) is True
            session.rollback()
    # then
    assert world.run("select id, state from joblane.tasks order by id") == before
    assert schedules.get("s") is not None
    assert {state for _, state in before} == {"scheduled"}


def test_a_deleted_schedule_cancels_the_tasks_made_ahead(world: World) -> None:
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), every(minutes=1))
    assert 13 <= world.run("select count(*) from joblane.tasks where state = 'scheduled'")[0][0] <= 16
    with Session(world.database.engine) as session, session.begin():
        schedules.delete("s", session=session)
    assert world.run("select distinct state, reason from joblane.tasks") == [
        ["cancelled", "ScheduleDeleted: its schedule was deleted before it ran"]
    ]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"name": "a b"}),
        ("name", {"name": "n" * 129}),
        ("schedule", {"schedule": "0 6 * *"}),
        ("schedule", {"schedule": "0 0 30 2 *"}),
        ("schedule", {"schedule": cron("* * * * *", name="n")}),
        ("missed", {"missed": "all"}),
        ("tenant", {"tenant": "a b"}),
        ("task", {"task": "sample:one"}),
        ("payload", {"payload": {"do": "nothing"}}),
        ("process_in", {"process_in": timedelta(1)}),
        ("task_id", {"task_id": "x"}),
        ("delay", {"delay": 1}),
    ],
)
def test_a_wrong_argument_is_refused_by_name(world: World, field: str, change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"name": "s", "task": sample_one, "payload": Sample(), "schedule": DAILY} | change
    with pytest.raises(EnqueueError) as refused:
        world.client.schedules.put(**given)
    assert refused.value.field == field
    assert world.run("select count(*) from joblane.schedules") == [[0]]


class Uneven(Payload):
    """Its JSON is not what it is made of."""

    day: date

    @field_serializer("day")
    def _written(self, day: date) -> str:
        return f"{day:%d.%m.%Y}"


@task("sample:uneven")
def sample_uneven(payload: Uneven, ctx: TaskContext) -> None:
    pass


@pytest.mark.parametrize(("option", "hint"), [("mised", "did you mean missed?"), ("prio", "there are queue, tenant,")])
def test_the_hint_for_an_unknown_option_has_only_those_of_a_schedule(world: World, option: str, hint: str) -> None:
    with pytest.raises(EnqueueError) as refused:
        world.client.schedules.put("s", sample_one, Sample(), DAILY, **{option: 1})  # type: ignore[arg-type]
    assert str(refused.value).startswith(f"{option}: there is no such option; {hint}")
    assert not {"process_in", "debounce", "task_id"} & set(re.findall(r"\w+", str(refused.value)))


def test_a_payload_that_no_tick_could_read_is_refused_when_it_is_put(world: World) -> None:
    with pytest.raises(PayloadError, match="payload: its JSON is not a payload of the class"):
        world.client.schedules.put("s", sample_uneven, Uneven(day=date(2026, 1, 31)), DAILY)
    assert world.client.schedules.get("s") is None


def test_an_unknown_schedule_and_a_taken_name_are_named(world: World) -> None:
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), DAILY, tenant="acme")
    with pytest.raises(ScheduleError, match=r"^tenant: the schedule 's' exists"):
        schedules.put("s", sample_one, Sample(), DAILY, tenant="globex")
    for call in (schedules.pause, schedules.resume, schedules.run_now):
        with pytest.raises(UnknownScheduleError, match="there is no schedule 'nobody'"):
            call("nobody")


def test_run_now_enqueues_a_task_of_the_schedule_and_leaves_its_ticks(world: World) -> None:
    # given
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(number=7), DAILY, tenant="acme", tags=["report"])
    before = schedules.get("s")
    # when
    made = schedules.run_now("s", task=sample_one)
    # then
    row = world.row(made.id)
    assert (row["payload"], row["tenant"], row["tags"]) == ({"do": "nothing", "number": 7}, "acme", ["report"])
    assert (row["state"], row["schedule"]) == ("pending", "s")
    assert schedules.get("s") == before
    with pytest.raises(DuplicateTaskError):  # the type has overlap="skip"
        schedules.run_now("s", task=sample_one)
    with pytest.raises(ScheduleError, match="task: a task of type 'sample:one' is required"):
        schedules.run_now("s", task=sample_batch)
    with pytest.raises(ScheduleError, match="task: the schedule is of type 'sample:one', which this project"):
        schedules.run_now("s")


@pytest.mark.parametrize(
    ("name", "problem"), [("colour", "there is no such option"), ("timeout", "a number of seconds")]
)
def test_run_now_names_an_option_of_the_stored_schedule_that_is_wrong(world: World, name: str, problem: str) -> None:
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), DAILY)
    world.run("update joblane.schedules set options = $1::jsonb", json.dumps({name: "red"}))
    inspector = Inspector(Scope(world.database, world.sqs, PREFIX, {"sample:one": sample_one}, "ann"))
    for run in (lambda: schedules.run_now("s", task=sample_one), lambda: inspector.run_schedule("s")):
        with pytest.raises(EnqueueError, match=f"^{name}: {problem}"):
            run()


def test_all_options_of_a_schedule_are_those_of_its_tasks(world: World) -> None:
    # given
    options: dict[str, Any] = {
        "queue": "critical",
        "owner": "ann",
        "headers": {"a": "b"},
        "max_retry": 1,
        "timeout": timedelta(seconds=7.5),
        "retention": timedelta(hours=2),
        "retry_delay": [timedelta(seconds=1), timedelta(seconds=2)],
        "unique_for": timedelta(minutes=5),
        "unique_key": "k",
        "unique_until": "start",
    }
    # when the schedule has made tasks, and the same is put again
    for _ in range(2):
        put = world.client.schedules.put("s", sample_batch, Sample(), every(minutes=5), **options)
    # then
    assert put.changed is False
    row = world.row(world.run("select id from joblane.tasks limit 1")[0][0])
    assert row["options"] == {"timeout": 7.5, "retry_delay": [1, 2]}
    assert (row["schedule"], row["tick_key"]) == ("s", "sample:batch k")
    assert (row["queue"], row["owner"], row["headers"]) == ("critical", "ann", {"a": "b"})
    assert (row["max_attempts"], row["retention_seconds"], row["unique_until"]) == (2, 7200, "start")
    assert (row["unique_key"], row["unique_expires_at"] is None) == (None, False)


# --- The caller's own transaction ----------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", JOINED, indirect=True)
def test_a_schedule_is_part_of_the_callers_transaction(world: World, transport: Transport) -> None:
    schedules, there = world.client.schedules, transport.there
    place = {name: value for name, value in there.items() if name != "after_commit"}

    def put(name: str) -> None:
        if isinstance(transport, Loop):
            transport.run(schedules.aput(name, sample_one, Sample(), OFTEN, **there))
        else:
            schedules.put(name, sample_one, Sample(), OFTEN, **there)
            assert schedules.pause(name, **place) is True
            assert schedules.resume(name, task=sample_one, **there) is True
            assert name in [each.name for each in schedules.list(**place)]

    with suppress(ZeroDivisionError), transport.begin():
        put("gone")
        raise ZeroDivisionError
    with transport.begin():
        put("s")
        assert schedules.get("s") is None
    assert [each.name for each in schedules.list()] == ["s"]
    counts = world.run("select count(*) filter (where state = 'scheduled') between 13 and 16 from joblane.tasks")
    assert counts == [[True]]


def test_a_change_without_a_transaction_of_django_commits_as_a_whole(world: World) -> None:
    world.run("create function refuse() returns trigger language plpgsql as $$begin raise exception 'no'; end$$")
    world.run("create trigger refuse before insert on joblane.tasks for each row execute function refuse()")
    with django_database(world.url) as django, pytest.raises(Exception, match="no"):
        world.client.schedules.put("s", sample_one, Sample(), OFTEN, connection=django)
    assert world.client.schedules.list() == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_the_asynchronous_forms_do_the_same(world: World, driver: str) -> None:
    schedules = world.client.schedules

    async def main() -> None:
        engine = create_async_engine(world.url.replace("postgresql://", f"postgresql+{driver}://"))
        async with AsyncSession(engine) as session:
            await schedules.aput("gone", sample_one, Sample(), OFTEN, session=session)
            await session.rollback()
            put = await schedules.aput("s", sample_one, Sample(), OFTEN, session=session)
            assert (put.created, await schedules.aget("s")) == (True, None)
            assert await schedules.apause("s", session=session) is True
            await session.commit()
            found = await schedules.aget("s", session=session)
        await engine.dispose()
        assert found is not None
        assert found.paused_at is not None
        assert await schedules.aresume("s", task=sample_one) is True
        assert (await schedules.arun_now("s", task=sample_one)).type == "sample:one"
        assert [each.name for each in await schedules.alist(tenant=None)] == ["s"]
        assert await schedules.adelete("s") is True

    asyncio.run(main())
    assert world.run("select state, count(*) from joblane.tasks where id like '@%' group by 1") == [["cancelled", ANY]]


def test_a_delete_cancels_the_tasks_that_wait_for_its_ticks(world: World) -> None:
    # given a tick for which another task waits
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), OFTEN)
    tick = world.run("select max(id) from joblane.tasks")[0][0]
    child = world.client.enqueue(sample_one, Sample(), after=[tick])
    # when
    schedules.delete("s")
    # then the child can never run
    assert world.row(child.id)["state"] == "cancelled"
