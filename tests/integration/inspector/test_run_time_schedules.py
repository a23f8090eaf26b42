"""Schedules that were made at run time: the listing, one of them, and the actions of operators."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import cron
from joblane.errors import UnknownScheduleError
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage import run_time_schedules
from joblane.inspector.views import Count, Relative
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.sql_functions import VERSION
from tests.builders.rows import put
from tests.samples import Sample, sample_one
from tests.world import World

INSERT = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, revision, next_at, last_at, last_task,
                               problem, paused_at, options)
select name, coalesce(type, 'sample:one'), coalesce(payload, '{}'), tenant, coalesce(expression, '0 6 * * *'),
       coalesce(timezone, 'UTC'), 1, coalesce(next_at, now() + interval '1 day'), last_at, last_task, problem,
       paused_at, coalesce(options, '{}')
  from jsonb_to_recordset($1::jsonb) as x(name text, type text, payload jsonb, tenant text, expression text,
       timezone text, next_at timestamptz, last_at timestamptz, last_task text, problem text, paused_at timestamptz,
       options jsonb)
"""
MANY = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, revision, next_at, problem)
select 'tenant-' || lpad(n::text, 6, '0'), case when n % 1000 = 0 then 'sample:tick' else 'sample:one' end, '{}',
       'tenant-' || n % 10, '0 6 * * *', 'UTC', 1, now() + interval '1 day',
       case when n % 500 = 0 then 'the type is not declared' end
  from generate_series(1, $1::int) n
"""


def schedules(world: World, *rows: dict[str, Any]) -> None:
    world.run(INSERT, json.dumps(rows, default=str))


def names(inspector: Inspector, **given: Any) -> list[str]:
    return [one.name for one in inspector.run_time_schedules(**given).schedules]


# --- The listing ---------------------------------------------------------------------------------------------------


def test_schedules_are_found_by_tenant_type_problem_and_a_part_of_the_name(world: World, inspector: Inspector) -> None:
    # given
    schedules(
        world,
        {"name": "acme-nightly", "tenant": "acme"},
        {"name": "acme-weekly", "tenant": "acme", "type": "sample:tick", "problem": "its type is not declared"},
        {"name": "globex-nightly", "tenant": "globex"},
        {"name": "own", "type": "sample:tick"},
    )
    # then
    assert names(inspector) == ["acme-nightly", "acme-weekly", "globex-nightly", "own"]
    assert names(inspector, tenant="acme") == ["acme-nightly", "acme-weekly"]
    assert names(inspector, type="sample:tick") == ["acme-weekly", "own"]
    assert names(inspector, problem=True) == ["acme-weekly"]
    assert names(inspector, text="NIGHT") == ["acme-nightly", "globex-nightly"]
    assert names(inspector, tenant="acme", type="sample:tick", text="week", problem=True) == ["acme-weekly"]
    assert names(inspector, tenant="nobody") == []
    assert inspector.run_time_schedules(tenant="acme").count == Count(2, exact=True)


def test_a_page_continues_after_the_one_before(world: World, inspector: Inspector) -> None:
    schedules(world, *({"name": f"s{number}", "tenant": "acme"} for number in range(5)))
    filters: list[dict[str, Any]] = [{}, {"tenant": "acme"}, {"text": "s"}]
    for given in filters:
        found, after = [], None
        for _ in range(3):
            page = inspector.run_time_schedules(**given, after=after, limit=2)
            assert (page.count.number, page.searched_to) == (5, None)
            found.append([one.name for one in page.schedules])
            after = page.after
        assert (found, after) == ([["s0", "s1"], ["s2", "s3"], ["s4"]], None)


def test_a_search_reads_a_bounded_number_of_schedules(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given ten schedules, of which a page reads four
    monkeypatch.setattr(run_time_schedules, "BOUND", 4)
    schedules(world, *({"name": f"s{number}", "tenant": "acme"} for number in range(10)))
    # when one is searched that comes after these
    first = inspector.run_time_schedules(text="s9")
    # then the page says how far it came, and the next ones find it
    assert (first.schedules, first.after, first.searched_to) == ((), "s3", "s3")
    assert first.count == Count(0, exact=False)
    second = inspector.run_time_schedules(text="s9", after=first.after)
    third = inspector.run_time_schedules(text="s9", after=second.after)
    assert ([one.name for one in third.schedules], third.after, third.searched_to) == (["s9"], None, None)


@pytest.mark.parametrize(
    "given",
    [{"limit": 0}, {"limit": 201}, {"tenant": ""}, {"type": "a b"}, {"text": "ü"}, {"after": "\0"}, {"problem": 1}],
)
def test_an_invalid_filter_names_its_field(inspector: Inspector, given: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match=f"^{next(iter(given))}: "):
        inspector.run_time_schedules(**given)


def test_a_filter_that_is_no_type_is_named(inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match=r"^type: no type has the name 'RUB BISH'$"):
        inspector.run_time_schedules(type="RUB BISH")


LARGE = int(os.environ.get("JOBLANE_SCHEDULES", "2000"))
"""Schedules of the next test; 100,000 in a check by hand."""


def test_every_page_of_many_schedules_is_found_by_an_index(world: World, inspector: Inspector) -> None:
    # given
    world.run(MANY, str(LARGE))
    world.run("analyze joblane.schedules")
    # then pages and counts are whole, at any number
    page = inspector.run_time_schedules(limit=200)
    assert (len(page.schedules), page.after) == (200, "tenant-000200")
    assert page.count == Count(min(LARGE, 10_000), exact=LARGE <= 10_000)
    assert inspector.run_time_schedules(problem=True).count == Count(LARGE // 500, exact=True)
    assert inspector.run_time_schedules(tenant="tenant-3", after="tenant-001000").schedules[0].name == "tenant-001003"
    assert names(inspector, type="sample:tick", limit=1) == ["tenant-001000"]


# --- One schedule --------------------------------------------------------------------------------------------------


def test_a_schedule_has_its_next_ticks_last_task_and_payload(world: World, inspector: Inspector) -> None:
    # given a schedule in Berlin, whose last tick has completed
    now = datetime.now(UTC)
    last, following = datetime(now.year - 1, 1, 10, 5, tzinfo=UTC), datetime(now.year + 1, 1, 10, 5, tzinfo=UTC)
    put(world, sample_one, "@daily:last", state="completed")
    schedules(
        world,
        {
            "name": "daily",
            "payload": {"do": "nothing", "number": 7},
            "timezone": "Europe/Berlin",
            "next_at": following,
            "last_at": last,
            "last_task": "@daily:last",
            "options": {"timeout": 60, "headers": {"authorization": "secret"}},
        },
    )
    # when
    view = inspector.run_time_schedule("daily")
    # then
    row = view.row
    assert (row.name, row.type, row.tenant, row.text, row.timezone) == (
        "daily",
        "sample:one",
        None,
        "0 6 * * *",
        "Europe/Berlin",
    )
    assert (row.missed, row.paused_at, row.problem) == ("latest", None, None)
    assert (row.last_at, row.last) == (last, Relative("@daily:last", "sample:one", State.COMPLETED))
    assert view.next == tuple(following + timedelta(days=days) for days in range(5))
    assert view.payload == {"do": "nothing", "number": 7}
    assert view.options == {"timeout": 60, "headers": {"authorization": "[redacted]"}}
    assert row.id_prefix == "@daily:"


def test_a_paused_schedule_shows_when_it_would_run(world: World, inspector: Inspector) -> None:
    now = datetime.now(UTC)
    schedules(world, {"name": "daily", "paused_at": now - timedelta(days=9), "next_at": now - timedelta(days=8)})
    view = inspector.run_time_schedule("daily")
    assert (view.row.next_at, view.row.paused_at) == (None, now - timedelta(days=9))
    assert len(view.next) == 5
    assert view.next[0] > now


def test_ticks_whose_tasks_are_made_ahead_are_still_the_next_ones(world: World, inspector: Inspector) -> None:
    now = datetime.now(UTC)
    ahead = now.replace(second=0, microsecond=0) + timedelta(minutes=15)
    schedules(
        world,
        {"name": "s", "expression": "* * * * *", "last_at": ahead, "next_at": ahead + timedelta(minutes=1)},
        {"name": "late", "expression": "* * * * *", "next_at": now - timedelta(hours=3)},
    )
    assert inspector.run_time_schedule("s").next[0] <= now + timedelta(minutes=2)
    assert inspector.run_time_schedule("late").row.next_at == now - timedelta(hours=3)


def test_a_schedule_that_sql_has_broken_is_still_shown(world: World, inspector: Inspector) -> None:
    schedules(world, {"name": "s", "expression": "at noon", "timezone": "Mars", "type": "no:type", "payload": {"a": 1}})
    view = inspector.run_time_schedule("s")
    assert (view.row.text, view.payload) == ("at noon", "[redacted]")
    assert [one.name for one in inspector.run_time_schedules().schedules] == ["s"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme-nigthly", "there is no schedule 'acme-nigthly'. Did you mean 'acme-nightly'?"),
        ("zebra", "there is no schedule 'zebra'"),
        ("a b", "there is no schedule 'a b'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(world: World, inspector: Inspector, name: str, message: str) -> None:
    schedules(world, {"name": "acme-nightly"}, {"name": "other"})
    with pytest.raises(UnknownScheduleError) as refused:
        inspector.run_time_schedule(name)
    assert str(refused.value) == message


# --- Actions -------------------------------------------------------------------------------------------------------

YEARLY = cron("0 6 1 1 *", timezone="Europe/Berlin")


def put_one(world: World, name: str = "acme", schedule: Any = YEARLY, **given: Any) -> None:
    given = {"tenant": "acme", **given}
    world.client.schedules.put(name, sample_one, Sample(do="nothing", number=7), schedule, **given)


def test_each_action_has_an_entry_with_person_and_reason(deployed: World, inspector: Inspector) -> None:
    # given
    put_one(deployed)
    # when
    paused = inspector.pause_schedule("acme", reason="a holiday")
    resumed = inspector.resume_schedule("acme", reason="it is over")
    inspector.run_schedule("acme", reason="the customer asks")
    deleted = inspector.delete_schedule("acme", reason="moved away")
    # then
    assert paused.row.paused_at is not None
    assert resumed.row == deleted
    assert [(one.who, one.action, one.target, one.reason) for one in inspector.audit()] == [
        ("op", "delete_schedule", "schedule:acme", "moved away"),
        ("op", "run_schedule", "schedule:acme", "the customer asks"),
        ("op", "resume_schedule", "schedule:acme", "it is over"),
        ("op", "pause_schedule", "schedule:acme", "a holiday"),
    ]
    assert [one.action for one in resumed.audit] == ["resume_schedule", "pause_schedule"]
    assert names(inspector) == []


def test_a_schedule_runs_now_as_the_one_of_its_ticks(deployed: World, inspector: Inspector) -> None:
    put_one(deployed, tags=["nightly"])
    acted = inspector.run_schedule("acme")
    row = deployed.row(str(acted.new_id))
    assert (row["type"], row["tenant"], row["tags"], row["payload"]["number"]) == ("sample:one", "acme", ["nightly"], 7)
    assert row["schedule"] == "acme"
    assert [json.loads(message["Body"])["id"] for message in deployed.take(sample_one)] == [acted.new_id]
    [entry] = inspector.audit()
    assert entry.details == {"type": "sample:one", "tenant": "acme", "id": acted.new_id}
    assert names(inspector) == ["acme"]


def test_a_pause_and_a_delete_cancel_the_ticks_that_were_made_ahead(deployed: World, inspector: Inspector) -> None:
    # given schedules of every minute, with the tasks of the next minutes
    for name in ("paused", "deleted"):
        put_one(deployed, name, "* * * * *")
    made = "select count(*) from joblane.tasks where schedule = $1 and state = 'scheduled'"
    assert all(deployed.run(made, name)[0][0] >= 14 for name in ("paused", "deleted"))
    # when
    inspector.pause_schedule("paused")
    inspector.delete_schedule("deleted")
    # then
    assert [deployed.run(made, name) for name in ("paused", "deleted")] == [[[0]], [[0]]]
    # and after the end of the pause they are made again, and sent
    inspector.resume_schedule("paused")
    number = deployed.run(made, "paused")[0][0]
    assert number >= 14


@pytest.mark.parametrize(
    ("action", "name", "message"),
    [
        ("pause_schedule", "paused", "name: the schedule 'paused' is paused already"),
        ("resume_schedule", "acme", "name: the schedule 'acme' is not paused"),
        ("run_schedule", "old", "type: there is no task type 'no:type'. `joblane types` lists all"),
    ],
)
def test_an_action_that_is_not_possible_says_why_and_leaves_no_entry(
    deployed: World, inspector: Inspector, action: str, name: str, message: str
) -> None:
    schedules(deployed, {"name": "acme"}, {"name": "paused", "paused_at": datetime.now(UTC)})
    schedules(deployed, {"name": "old", "type": "no:type"})
    with pytest.raises(SelectionError, match=f"^{message}"):
        getattr(inspector, action)(name)
    assert inspector.audit() == ()


def test_the_pause_of_declared_schedules_leads_to_that_of_the_others(deployed: World, inspector: Inspector) -> None:
    schedules(deployed, {"name": "acme"})
    with pytest.raises(SelectionError, match="'acme' was made at run time: `joblane schedules pause acme`"):
        inspector.pause(PauseScope.SCHEDULE, "acme")
    with pytest.raises(SelectionError, match="there is no schedule 'globex'"):
        inspector.pause(PauseScope.SCHEDULE, "globex")


@pytest.mark.parametrize("action", ["pause_schedule", "resume_schedule", "delete_schedule", "run_schedule"])
def test_an_action_on_an_unknown_schedule_leaves_no_entry(deployed: World, inspector: Inspector, action: str) -> None:
    for name in ("unknown", "a b", "nul\0"):
        with pytest.raises(UnknownScheduleError):
            getattr(inspector, action)(name)
    assert inspector.audit() == ()


def test_a_schedule_that_another_transaction_changes_is_busy(deployed: World, inspector: Inspector) -> None:
    put_one(deployed)
    holder = Database(deployed.url)
    holder.get().execute_simple("begin")
    holder.get().run("update joblane.schedules set problem = 'x'")
    holder.get().execute_simple("set local lock_timeout = '1ms'")
    deployed.run("alter function joblane.lock_schedule_VERSION set lock_timeout = '20ms'".replace("VERSION", VERSION))
    with pytest.raises(BusyError):
        inspector.pause_schedule("acme")
    holder.get().rollback()  # the server notices a dropped connection only after some time
    holder.drop()
    assert inspector.pause_schedule("acme").row.paused_at is not None


def test_a_schedule_of_a_type_that_is_not_declared_can_be_paused_resumed_and_deleted(
    deployed: World, inspector: Inspector
) -> None:
    schedules(deployed, {"name": "old", "type": "no:type", "expression": "* * * * *"})
    assert inspector.pause_schedule("old").row.paused_at is not None
    assert inspector.resume_schedule("old").row.paused_at is None
    assert inspector.delete_schedule("old").name == "old"
