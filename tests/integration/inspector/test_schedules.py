"""Schedules of the code and those made at run time: the listing, one of them, and the actions of operators."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from joblane import TaskContext, cron, task
from joblane.errors import UnknownScheduleError
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage import schedules as stage_schedules
from joblane.inspector.views import Count, Reason, ScheduleRow
from joblane.record.row.states import State
from joblane.record.schedules import GONE, UNDELIVERED, register
from joblane.record.sql_functions import VERSION
from joblane.sqs.message import Message, Tick
from joblane.sqs.tick import id_of
from joblane.sweep.ticks import make_ticks
from tests.builders.rows import put
from tests.samples import Sample, sample_one, sample_tick
from tests.world import PREFIX, World

HOUR = timedelta(hours=1)
INSERT = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, ticks_a_day, revision, next_at,
                               last_at, last_task, problem, paused_at, options)
select name, coalesce(type, 'sample:one'), coalesce(payload, '{}'), tenant, coalesce(expression, '0 6 * * *'),
       coalesce(timezone, 'UTC'), coalesce(ticks_a_day, 1), 1, coalesce(next_at, now() + interval '1 day'), last_at,
       last_task, problem, paused_at, coalesce(options, '{}')
  from jsonb_to_recordset($1::jsonb) as x(name text, type text, payload jsonb, tenant text, expression text,
       timezone text, ticks_a_day float8, next_at timestamptz, last_at timestamptz, last_task text, problem text,
       paused_at timestamptz, options jsonb)
"""
MANY = """
insert into joblane.schedules (name, type, payload, tenant, expression, timezone, ticks_a_day, revision, next_at,
                               problem)
select 'tenant-' || lpad(n::text, 6, '0'), case when n % 1000 = 0 then 'sample:tick' else 'sample:one' end, '{}',
       'tenant-' || n % 10, '0 6 * * *', 'UTC', 1 + n % 24, 1, now() + interval '1 day',
       case when n % 500 = 0 then 'the type is not declared' end
  from generate_series(1, $1::int) n
"""
OF_CODE = ["sample:tick:0", "sample:tick:1"]


@task("sample:both", schedule="0 3 1 * MON")
def sample_both(payload: Sample, ctx: TaskContext) -> None:
    """On the first of the month and on Mondays: two schedules on AWS."""


@task("sample:frequent", schedule="* * * * *")
def sample_frequent(payload: Sample, ctx: TaskContext) -> None:
    """A tick for each minute."""


def schedules(world: World, *rows: dict[str, Any]) -> None:
    world.run(INSERT, json.dumps(rows, default=str))


def declare(world: World, *tasks: Any, since: timedelta = timedelta()) -> None:
    """Register the schedules of the tasks. ``since``: the time since which their ticks are looked for."""
    register(world.database.get(), {one.type: one for one in tasks})
    world.run("update joblane.schedules set looked_for_from = now() - $1::interval", f"{since.total_seconds()} s")


@pytest.fixture(params=["acme", "sample:tick:0"])
def name(request: pytest.FixtureRequest, deployed: World) -> str:
    """The name of a schedule of each kind, both of sample:tick."""
    declare(deployed, sample_tick)
    deployed.client.schedules.put("acme", sample_tick, Sample(do="nothing", number=7), "0 6 1 1 *", tenant="acme")
    return str(request.param)


def names(inspector: Inspector, **given: Any) -> list[str]:
    return [one.name for one in inspector.schedules(**given).schedules]


def row_of(inspector: Inspector, name: str = "sample:tick:0") -> ScheduleRow:
    return inspector.schedule(name).row


# --- The listing ---------------------------------------------------------------------------------------------------


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["acme-nightly", "acme-weekly", "globex-nightly", "own", *OF_CODE]),
    ({"origin": "code"}, OF_CODE),
    ({"tenant": "acme"}, ["acme-nightly", "acme-weekly"]),
    ({"type": "sample:tick"}, ["acme-weekly", "own", *OF_CODE]),
    ({"type": "sample:tick", "origin": "run_time"}, ["acme-weekly", "own"]),
    ({"problem": True}, ["acme-weekly"]),
    ({"paused": True}, ["globex-nightly"]),
    ({"text": "NIGHT"}, ["acme-nightly", "globex-nightly"]),
    ({"sort": "ticks", "limit": 3}, ["acme-nightly", *reversed(OF_CODE)]),
    ({"tenant": "acme", "type": "sample:tick", "text": "week", "problem": True}, ["acme-weekly"]),
    ({"tenant": "unknown"}, []),
]


def test_schedules_of_both_kinds_are_found_by_each_filter(world: World, inspector: Inspector) -> None:
    declare(world, sample_tick)
    schedules(
        world,
        {"name": "acme-nightly", "tenant": "acme", "ticks_a_day": 1440},
        {"name": "acme-weekly", "tenant": "acme", "type": "sample:tick", "problem": "its type is not declared"},
        {"name": "globex-nightly", "tenant": "globex", "paused_at": datetime.now(UTC)},
        {"name": "own", "type": "sample:tick"},
    )
    assert [(given, names(inspector, **given)) for given, _ in FILTERS] == FILTERS
    assert inspector.schedules(tenant="acme").count == Count(2, exact=True)


@pytest.mark.parametrize("given", [{}, {"tenant": "acme"}, {"text": "s"}])
@pytest.mark.parametrize(
    ("sort", "pages"),
    [("name", [["s0", "s1"], ["s2", "s3"], ["s4"]]), ("ticks", [["s4", "s2"], ["s3", "s1"], ["s0"]])],
)
def test_a_page_continues_after_the_one_before(
    world: World, inspector: Inspector, given: dict[str, Any], sort: str, pages: list[list[str]]
) -> None:
    ticks = (1 / 7, 24.5, 1440, 24.5, 1440)
    schedules(world, *({"name": f"s{n}", "tenant": "acme", "ticks_a_day": each} for n, each in enumerate(ticks)))
    found, after = [], None
    for _ in range(3):
        page = inspector.schedules(**given, sort=sort, after=after, limit=2)
        assert (page.count.number, page.searched_to) == (5, None)
        found.append([one.name for one in page.schedules])
        after = page.after
    assert (found, after) == (pages, None)


@pytest.mark.parametrize("sort", ["name", "ticks"])
def test_a_search_reads_a_bounded_number_of_schedules(
    world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    # given ten schedules, of which a page reads four
    monkeypatch.setattr(stage_schedules, "BOUND", 4)
    schedules(world, *({"name": f"s{number}", "ticks_a_day": 10 - number} for number in range(10)))
    # when one is searched that comes after these
    first = inspector.schedules(text="s9", sort=sort)
    # then the page says how far it came, and the next ones find it
    assert (first.schedules, first.searched_to, first.count) == ((), "s3", Count(0, exact=False))
    second = inspector.schedules(text="s9", sort=sort, after=first.after)
    third = inspector.schedules(text="s9", sort=sort, after=second.after)
    assert ([one.name for one in third.schedules], third.after, third.searched_to) == (["s9"], None, None)


@pytest.mark.parametrize(
    "given",
    [
        *({"limit": 0}, {"limit": 201}, {"tenant": ""}, {"type": "RUB BISH"}, {"text": "ü"}, {"after": "\0"}),
        *({"problem": 1}, {"paused": "yes"}, {"origin": "yaml"}, {"sort": "age"}, {"after": "s1", "sort": "ticks"}),
    ],
)
def test_an_invalid_filter_names_its_field(inspector: Inspector, given: dict[str, Any]) -> None:
    with pytest.raises(SelectionError, match=f"^{next(iter(given))}: "):
        inspector.schedules(**given)


LARGE = int(os.environ.get("JOBLANE_SCHEDULES", "2000"))
"""Schedules of the next test; 100,000 in a check by hand."""


def test_every_page_of_many_schedules_is_found_by_an_index(world: World, inspector: Inspector) -> None:
    # given
    world.run(MANY, str(LARGE))
    world.run("analyze joblane.schedules")
    # then pages and counts are whole, at any number
    page = inspector.schedules(limit=200)
    assert (len(page.schedules), page.after) == (200, "tenant-000200")
    assert page.count == Count(min(LARGE, 10_000), exact=LARGE <= 10_000)
    assert inspector.schedules(problem=True).count == Count(LARGE // 500, exact=True)
    assert inspector.schedules(tenant="tenant-3", after="tenant-001000").schedules[0].name == "tenant-001003"
    assert names(inspector, type="sample:tick", limit=1) == ["tenant-001000"]
    assert inspector.schedules(sort="ticks", limit=1).schedules[0].ticks_a_day == 24


# --- One schedule --------------------------------------------------------------------------------------------------


def test_a_schedule_made_at_run_time_has_its_ticks_and_payload(world: World, inspector: Inspector) -> None:
    # given a schedule in Berlin, whose last tick has completed
    now = datetime.now(UTC)
    last, following = datetime(now.year - 1, 1, 10, 5, tzinfo=UTC), datetime(now.year + 1, 1, 10, 5, tzinfo=UTC)
    id_ = f"@daily:{last:%Y-%m-%dT%H:%MZ}:7"
    put(world, sample_one, id_, state="completed")
    schedules(
        world,
        {
            "name": "daily",
            "payload": {"do": "nothing", "number": 7},
            "timezone": "Europe/Berlin",
            "next_at": following,
            "last_at": last,
            "last_task": id_,
            "options": {"timeout": 60, "headers": {"authorization": "secret"}},
        },
    )
    # when
    view = inspector.schedule("daily")
    # then
    row = view.row
    assert (row.type, row.tenant, row.text, row.timezone) == ("sample:one", None, "0 6 * * *", "Europe/Berlin")
    assert (row.missed, row.pause, row.problem, row.last_at) == ("latest", None, None, last)
    assert [(tick.at, tick.task_id, tick.state) for tick in row.ticks] == [(last, id_, State.COMPLETED)]
    assert view.next == tuple(following + timedelta(days=days) for days in range(5))
    assert view.payload == {"do": "nothing", "number": 7}
    assert view.options == {"timeout": 60, "headers": {"authorization": "[redacted]"}}
    assert (row.id_prefix, row.missing, row.can_be_deleted) == ("@daily:", 0, True)


def test_a_schedule_of_the_code_has_its_next_times(world: World, inspector: Inspector) -> None:
    declare(world, sample_tick)
    view = inspector.schedule("sample:tick:0")
    row = view.row
    assert (row.type, row.text, row.timezone, view.overlap) == ("sample:tick", "0 * * * *", "UTC", "skip")
    assert view.next == tuple(hour(-number) for number in range(1, 6))
    assert (row.ticks_a_day, row.ticks, row.missing, row.can_be_deleted) == (24, (), 0, False)


def test_the_next_ticks_of_paused_late_and_frequent_schedules_are_shown(world: World, inspector: Inspector) -> None:
    now = datetime.now(UTC)
    ahead = now.replace(second=0, microsecond=0) + timedelta(minutes=15)
    schedules(
        world,
        {"name": "daily", "paused_at": now - timedelta(days=9), "next_at": now - timedelta(days=8)},
        {"name": "s", "expression": "* * * * *", "last_at": ahead, "next_at": ahead + timedelta(minutes=1)},
        {"name": "late", "expression": "* * * * *", "next_at": now - 3 * HOUR},
    )
    # then a paused one shows when it would run
    view = inspector.schedule("daily")
    assert view.row.pause is not None
    assert (view.row.next_at, view.row.pause.since) == (None, now - timedelta(days=9))
    assert len(view.next) == 5
    assert view.next[0] > now
    # and ticks whose tasks are made ahead are still the next ones
    assert inspector.schedule("s").next[0] <= now + timedelta(minutes=2)
    assert row_of(inspector, "late").next_at == now - 3 * HOUR


def test_a_schedule_that_sql_has_broken_is_still_shown(world: World, inspector: Inspector) -> None:
    schedules(world, {"name": "s", "expression": "at noon", "timezone": "Mars", "type": "no:type", "payload": {"a": 1}})
    view = inspector.schedule("s")
    assert (view.row.text, view.payload) == ("at noon", "[redacted]")
    assert names(inspector) == ["s"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("acme-nigthly", "there is no schedule 'acme-nigthly'. Did you mean 'acme-nightly'?"),
        ("sample:tikc:0", "there is no schedule 'sample:tikc:0'. Did you mean 'sample:tick:0' or 'sample:tick:1'?"),
        ("zebra", "there is no schedule 'zebra'"),
        ("a b", "there is no schedule 'a b'"),
    ],
)
def test_an_unknown_name_gets_the_nearest_one(world: World, inspector: Inspector, wrong: str, message: str) -> None:
    declare(world, sample_tick)
    schedules(world, {"name": "acme-nightly"}, {"name": "other"})
    with pytest.raises(UnknownScheduleError) as refused:
        inspector.schedule(wrong)
    assert str(refused.value) == message


# --- Ticks ---------------------------------------------------------------------------------------------------------


def hour(ago: int) -> datetime:
    """A full hour of a tick of ``sample:tick``; the last one is too recent to count as missed."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - ago * HOUR


def tick_row(world: World, at: datetime, state: str = "completed") -> str:
    id_ = id_of("sample:tick", "0", at)
    put(world, sample_tick, id_, state=state, schedule="sample:tick:0")
    return id_


def insert_ticks(world: World, type_: str, times: list[datetime]) -> None:
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload, payload_digest, max_attempts, retention_seconds)"
        " select x.id, $1, 'default', 'pending', '{}', '', 4, 60 from jsonb_array_elements_text($2::jsonb) as x(id)",
        type_,
        json.dumps([id_of(type_, "0", at) for at in times]),
    )


def test_recorded_and_missed_ticks_are_shown(world: World, inspector: Inspector) -> None:
    # given: ticks of five, three and two hours ago, one at another time, and a tick of the other schedule
    declare(world, sample_tick, since=5 * HOUR)
    recorded = [tick_row(world, hour(5)), tick_row(world, hour(3), "archived"), tick_row(world, hour(2), "cancelled")]
    other = tick_row(world, hour(4) + timedelta(minutes=7))
    put(world, sample_tick, id_of("sample:tick", "1", hour(3)))
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation, duration_ms) values ($1, 1, 1, 0, 9),"
        " ($1, 2, 2, 0, 1234)",
        recorded[0],
    )
    ticks = row_of(inspector).ticks
    assert {tick.task_id: tick.duration_ms for tick in ticks if tick.duration_ms} == {recorded[0]: 1234}  # the last run
    found = {tick.at: (tick.task_id, tick.state) for tick in ticks}
    assert found.pop(hour(0), None) is None or datetime.now(UTC).minute >= 30
    found.pop(hour(1), None)
    assert found == {
        hour(5): (recorded[0], State.COMPLETED),
        hour(4) + timedelta(minutes=7): (other, State.COMPLETED),
        hour(4): (id_of("sample:tick", "0", hour(4)), None),
        hour(3): (recorded[1], State.ARCHIVED),
        hour(2): (recorded[2], State.CANCELLED),
    }


def test_the_last_ten_ticks_are_shown_newest_first(world: World, inspector: Inspector) -> None:
    declare(world, sample_tick)
    for ago in range(15):
        tick_row(world, hour(ago))
    assert [tick.at for tick in row_of(inspector).ticks] == [hour(ago) for ago in range(10)]


def test_a_frequent_schedule_names_ticks_that_were_missed_hours_ago(world: World, inspector: Inspector) -> None:
    # given a schedule of every minute with all ticks of two hours, except for three that are an hour and more old
    declare(world, sample_frequent, since=UNDELIVERED + timedelta(minutes=119))
    latest = datetime.now(UTC).replace(second=0, microsecond=0) - UNDELIVERED
    lost = [latest - timedelta(minutes=minutes) for minutes in (60, 61, 90)]
    ticks = [at for at in (latest - timedelta(minutes=minutes) for minutes in range(-30, 120)) if at not in lost]
    insert_ticks(world, "sample:frequent", ticks)
    # when
    row = row_of(inspector, "sample:frequent:0")
    # then, though none of them is among the last ticks
    assert all(tick.state for tick in row.ticks)
    assert (row.missing, row.missing_at) == (3, tuple(lost))


def test_many_missed_ticks_are_counted_and_the_last_are_named(world: World, inspector: Inspector) -> None:
    declare(world, sample_frequent, since=UNDELIVERED + timedelta(minutes=300))
    row = row_of(inspector, "sample:frequent:0")
    assert row.missing in (300, 301)  # a minute may end meanwhile
    assert (len(row.missing_at), row.missing_at[0] - row.missing_at[-1]) == (20, timedelta(minutes=19))


def test_ticks_are_missed_only_from_the_deploy_of_their_times_on(world: World, inspector: Inspector) -> None:
    # given an hourly schedule whose ticks came, and a deploy that makes it fire each minute
    hourly = replace(sample_frequent, schedules=(replace(cron("0 * * * *"), name="0"),))
    declare(world, hourly, since=timedelta(days=1))
    insert_ticks(world, "sample:frequent", [hour(ago) for ago in range(24)])
    register(world.database.get(), {hourly.type: sample_frequent})
    # then none is missing, also not of the time until EventBridge has the new times
    assert row_of(inspector, "sample:frequent:0").missing == 0
    world.run("update joblane.schedules set looked_for_from = looked_for_from - interval '65 min'")
    expected = (4, 5, 6)  # a minute may end meanwhile, and the tick of a full hour came
    assert row_of(inspector, "sample:frequent:0").missing in expected
    # and a schedule that the code has dropped misses none
    world.client.schedules.pause("sample:frequent:0")
    register(world.database.get(), {})
    assert row_of(inspector, "sample:frequent:0").missing == 0
    with pytest.raises(SelectionError, match="the code does not declare 'sample:frequent:0' any more"):
        inspector.resume_schedule("sample:frequent:0")


def test_ticks_whose_tasks_are_made_ahead_are_not_among_the_last(world: World, inspector: Inspector) -> None:
    world.client.schedules.put("own", sample_one, Sample(do="nothing"), "* * * * *")
    assert world.run("select count(*) > 10 from joblane.tasks") == [[True]]
    assert [tick.at for tick in row_of(inspector, "own").ticks if tick.at > datetime.now(UTC)] == []


def test_the_state_on_aws_is_shown(world: World, inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(world, sample_both, sample_tick)
    assert [row.on_aws for row in inspector.schedules().schedules] == [None, None, None]
    scheduler = boto3.client("scheduler")
    scheduler.create_schedule_group(Name="jobs-cron")
    target = {"Arn": "arn:aws:sqs:us-east-1:123456789012:q", "RoleArn": "arn:aws:iam::123456789012:role/r"}
    for name, state in (("sample-both.0", "ENABLED"), ("sample-both.0.2", "DISABLED"), ("sample-tick.0", "ENABLED")):
        scheduler.create_schedule(
            Name=name,
            GroupName="jobs-cron",
            State=state,  # type: ignore[arg-type]
            ScheduleExpression="cron(0 3 * * ? *)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target=target,  # type: ignore[arg-type]
        )
    assert [row.on_aws for row in inspector.schedules().schedules] == ["DISABLED", "ENABLED", "MISSING"]
    # and an unreachable scheduler is not an error
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert row_of(inspector).on_aws is None


# --- Actions, on a schedule of each kind ---------------------------------------------------------------------------


def test_each_action_has_an_entry_with_person_and_reason(name: str, inspector: Inspector) -> None:
    # when
    pause = inspector.pause_schedule(name, reason="a holiday").row.pause
    resumed = inspector.resume_schedule(name, reason="it is over")
    inspector.run_schedule(name, reason="the customer asks")
    # then
    assert pause is not None
    assert (pause.by, pause.reason, pause.until) == ("op", "a holiday", None)
    assert (resumed.row.pause, resumed.row.next_at is None) == (None, False)
    assert [(one.who, one.action, one.target, one.reason) for one in inspector.audit()] == [
        ("op", "run_schedule", f"schedule:{name}", "the customer asks"),
        ("op", "resume_schedule", f"schedule:{name}", "it is over"),
        ("op", "pause_schedule", f"schedule:{name}", "a holiday"),
    ]
    assert [one.action for one in resumed.audit] == ["resume_schedule", "pause_schedule"]


def test_a_pause_with_an_end_shows_it_and_the_tick_after_it_until_it_has_expired(
    name: str, deployed: World, inspector: Inspector
) -> None:
    until = datetime.now(UTC) + timedelta(days=400)
    row = inspector.pause_schedule(name, until=until).row
    assert row.pause is not None
    assert row.pause.until == until
    assert row.next_at is not None
    assert row.next_at >= until
    assert names(inspector, paused=True) == [name]
    # and once it has ended, although no sweep has removed it yet, another can start
    deployed.run("update joblane.schedules set paused_until = clock_timestamp()")
    assert row_of(inspector, name).pause is None
    with pytest.raises(SelectionError, match="is not paused"):
        inspector.resume_schedule(name)
    pause = inspector.pause_schedule(name, reason="again").row.pause
    assert pause is not None
    assert (pause.reason, pause.until) == ("again", None)


def test_a_pause_that_would_end_in_the_past_is_refused(name: str, inspector: Inspector) -> None:
    with pytest.raises(SelectionError, match=r"^until: a time in the future is required"):
        inspector.pause_schedule(name, until=datetime.now(UTC) - timedelta(seconds=5))
    assert (row_of(inspector, name).pause, inspector.audit()) == (None, ())


def test_a_schedule_runs_now_with_its_payload_in_a_new_task(name: str, deployed: World, inspector: Inspector) -> None:
    acted = inspector.run_schedule(name)
    row = deployed.row(str(acted.new_id))
    at_run_time = name == "acme"
    tenant = "acme" if at_run_time else None
    assert (row["type"], row["tenant"], row["schedule"]) == ("sample:tick", tenant, name)
    assert row["payload"].get("number") == (7 if at_run_time else 0)
    assert [json.loads(message["Body"])["id"] for message in deployed.take(sample_tick)] == [acted.new_id]
    [entry] = inspector.audit()
    assert entry.details == {"type": "sample:tick", "tenant": tenant, "id": acted.new_id}


def test_only_a_schedule_that_no_code_declares_is_deleted(deployed: World, inspector: Inspector) -> None:
    # given a paused schedule of the code
    declare(deployed, sample_tick)
    deployed.client.schedules.put("acme", sample_one, Sample(), "0 6 1 1 *")
    inspector.pause_schedule("sample:tick:0")
    with pytest.raises(SelectionError, match=r"^name: "):
        inspector.delete_schedule("sample:tick:0")
    # when a deploy removes it
    declare(deployed)
    # then it can be deleted, as one made at run time
    row = row_of(inspector)
    assert (row.problem, row.can_be_deleted) == (GONE, True)
    assert inspector.delete_schedule("sample:tick:0") == row
    assert inspector.delete_schedule("acme").name == "acme"
    assert names(inspector) == []


def test_a_pause_and_a_delete_cancel_the_ticks_that_were_made_ahead(deployed: World, inspector: Inspector) -> None:
    # given schedules of every minute, with the tasks of the next minutes
    for name in ("paused", "deleted"):
        deployed.client.schedules.put(name, sample_one, Sample(), cron("* * * * *"))
    made = "select id from joblane.tasks where schedule = $1 and state = 'scheduled' order by id"
    ids = [id_ for (id_,) in deployed.run(made, "paused")]
    assert len(ids) >= 14
    # when
    inspector.pause_schedule("paused")
    inspector.delete_schedule("deleted")
    # then, and the task names its schedule
    assert [deployed.run(made, name) for name in ("paused", "deleted")] == [[], []]
    why = inspector.task(ids[-1]).why
    assert why.reason is Reason.ENDED
    assert why.text.endswith(
        ": SchedulePaused: its schedule was paused before it ran. "
        "Its schedule is paused: `joblane schedules show paused`."
    )
    # and after the end of the pause they are made again, and sent
    inspector.resume_schedule("paused")
    assert len(deployed.run(made, "paused")) >= 14


def test_a_tick_of_a_paused_schedule_of_the_code_names_its_schedule(deployed: World, inspector: Inspector) -> None:
    declare(deployed, sample_tick)
    inspector.pause_schedule("sample:tick:0", reason="year's end")
    for number in ("0", "1"):
        tick = Tick(schedule=number, at="2026-01-01T00:00:00Z")
        deployed.deliver(sample_tick, Message("sample:tick", tick=tick).encode())
    assert deployed.run("select state from joblane.tasks order by id") == [["cancelled"], ["completed"]]
    why = inspector.task("sample:tick:0:2026-01-01T00:00Z").why
    assert why.text.endswith("Its schedule is sample:tick:0: `joblane schedules show sample:tick:0`.")


@pytest.mark.parametrize(
    ("action", "wanted", "message"),
    [
        ("pause_schedule", "paused", "name: the schedule 'paused' is paused already"),
        ("resume_schedule", "acme", "name: the schedule 'acme' is not paused"),
        ("run_schedule", "old", "type: there is no task type 'no:type'. `joblane types` lists all"),
        ("pause_schedule", "jobs:sweep:0", "name: jobs:sweep cannot be paused: without it no waiting task"),
    ],
)
def test_an_action_that_is_not_possible_says_why_and_leaves_no_entry(
    deployed: World, inspector: Inspector, action: str, wanted: str, message: str
) -> None:
    declare(deployed, jobs_sweep)
    schedules(deployed, {"name": "acme"}, {"name": "paused", "paused_at": datetime.now(UTC)})
    schedules(deployed, {"name": "old", "type": "no:type"})
    with pytest.raises(SelectionError, match=f"^{message}"):
        getattr(inspector, action)(wanted)
    assert inspector.audit() == ()


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ('payload = \'{"number": "many"}\'', "UnreadablePayloadError: payload: "),
        ("timezone = 'Mars/Base'", "DeclarationError: "),
        ("expression = '0 0 31 2 *'", "DeclarationError: "),
    ],
)
def test_a_schedule_that_gives_no_task_is_paused_and_resumed_and_has_its_problem(
    deployed: World, inspector: Inspector, wrong: str, problem: str
) -> None:
    deployed.client.schedules.put("own", sample_one, Sample(do="nothing"), "* * * * *")
    inspector.pause_schedule("own", until=datetime.now(UTC) + HOUR)
    inspector.resume_schedule("own")
    inspector.pause_schedule("own")
    deployed.run(f"update joblane.schedules set {wrong}")
    inspector.resume_schedule("own")
    make_ticks(deployed.database.get(), {sample_one.type: sample_one}.get, PREFIX)
    assert str(row_of(inspector, "own").problem).startswith(problem)
    inspector.pause_schedule("own", until=datetime.now(UTC) + HOUR)


@pytest.mark.parametrize("action", ["pause_schedule", "resume_schedule", "delete_schedule", "run_schedule"])
def test_an_action_on_an_unknown_schedule_leaves_no_entry(deployed: World, inspector: Inspector, action: str) -> None:
    for wrong in ("unknown", "a b", "nul\0"):
        with pytest.raises(UnknownScheduleError):
            getattr(inspector, action)(wrong)
    assert inspector.audit() == ()


def test_a_schedule_that_another_transaction_changes_is_busy(name: str, deployed: World, inspector: Inspector) -> None:
    deployed.run("alter function joblane.lock_schedule_VERSION set lock_timeout = '20ms'".replace("VERSION", VERSION))
    with deployed.locked() as holder:
        holder.get().run("update joblane.schedules set problem = 'x'")
        with pytest.raises(BusyError):
            inspector.pause_schedule(name)
    assert inspector.pause_schedule(name).row.pause is not None


def test_a_schedule_of_a_type_that_is_not_declared_can_be_paused_resumed_and_deleted(
    deployed: World, inspector: Inspector
) -> None:
    schedules(deployed, {"name": "old", "type": "no:type", "expression": "* * * * *"})
    assert inspector.pause_schedule("old").row.pause is not None
    assert inspector.resume_schedule("old").row.pause is None
    assert inspector.delete_schedule("old").name == "old"
