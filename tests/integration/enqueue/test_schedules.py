"""Schedules at run time: put, changed and deleted in the caller's transaction; wrong ones are refused by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from joblane import cron, every
from joblane.errors import EnqueueError, ScheduleError, UnknownScheduleError
from tests.samples import Sample, sample_one
from tests.world import World

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


def test_an_unknown_schedule_and_a_taken_name_are_named(world: World) -> None:
    schedules = world.client.schedules
    schedules.put("s", sample_one, Sample(), DAILY, tenant="acme")
    with pytest.raises(ScheduleError, match=r"^tenant: the schedule 's' exists"):
        schedules.put("s", sample_one, Sample(), DAILY, tenant="globex")
    for call in (schedules.pause, schedules.resume, schedules.run_now):
        with pytest.raises(UnknownScheduleError, match="there is no schedule 'nobody'"):
            call("nobody")
