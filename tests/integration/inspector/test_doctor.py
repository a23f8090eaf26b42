"""The doctor: a complete deployment has no findings, and each missing or wrong part is reported."""

from __future__ import annotations

import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from joblane.cli import connect
from joblane.cli.main import main
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.sentences.batching import later_line, saving_line
from joblane.inspector.stage.doctor import aws as doctor_aws
from joblane.inspector.stage.doctor import database as doctor_database
from joblane.inspector.stage.doctor import doctor, sessions
from joblane.inspector.views import Check, Grade, Obstacle
from joblane.names import (
    TICKER,
    Queue,
    cron_group_name,
    dead_letter_name,
    front_door_name,
    function_name,
    lane_name,
    schedule_name,
)
from joblane.quotas import Numbers
from joblane.record import sql_functions as functions
from joblane.record.driver.advice import ADVICE
from joblane.record.driver.database import Database
from joblane.record.schedules import register
from joblane.settings import EVENT_BUS
from joblane.sqs.tick import id_of
from joblane.tasks.limit import Flow
from joblane.tasks.schedule import cron, every
from joblane.tasks.task import Grants, Task
from tests.builders.revisions import second_revision
from tests.builders.rows import In, active, put
from tests.builders.snapshots import pid_of, session, swept
from tests.integration.inspector.scene import is_like
from tests.samples import Sample, sample_batch, sample_one, sample_tick
from tests.samples_events import sample_heard
from tests.world import PREFIX, World

TASKS = {task.type: task for task in (sample_one, sample_batch, sample_tick, jobs_sweep)}
ACCOUNT = "123456789012"
FORBIDDEN = "42501"


@dataclass
class Stage:
    """A deployed stage in moto, and the clients that damage it."""

    world: World
    scope: Scope
    functions: Any
    schedules: Any
    mappings: dict[str, str]
    """Queue → its mapping's UUID."""

    def sql(self, statement: str, *parameters: Any) -> Self:
        self.world.run(statement, *parameters)
        return self

    def insert(self, id_: str, type_: str, state: str) -> Self:
        put(self.world, sample_one, id_, type=type_, queue="low", state=state, due_at=In(0))
        return self

    def declare(self, task: Task[Any, Any]) -> None:
        """Let the code declare a task too, or otherwise."""
        self.scope = replace(self.scope, tasks={**self.scope.tasks, task.type: task})

    def found(self, grade: Grade | None = None) -> dict[str, Check]:
        return {check.what: check for check in Inspector(self.scope).doctor() if grade in (None, check.grade)}

    def wrong(self) -> dict[str, Check]:
        return {what: check for what, check in self.found().items() if check.grade is not Grade.GOOD}


def deploy(world: World, scope: Scope) -> Stage:
    role = boto3.client("iam").create_role(RoleName="any", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    functions, schedules = boto3.client("lambda"), boto3.client("scheduler")
    with zipfile.ZipFile(code := io.BytesIO(), "w") as archive:
        archive.writestr("nothing.py", "")
    consumers = {front_door_name(PREFIX, queue): f"{PREFIX}-router" for queue in Queue}
    timeouts = {f"{PREFIX}-router": 30}
    for task in TASKS.values():
        timeouts[function_name(PREFIX, task.type)] = int(task.numbers.function_timeout.total_seconds())
        for queue in task.lanes:
            consumers[lane_name(PREFIX, queue, task.type)] = function_name(PREFIX, task.type)
    for name, seconds in timeouts.items():
        functions.create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=role,
            Handler="nothing.handler",
            Code={"ZipFile": code.getvalue()},
            Timeout=seconds,
        )
    mappings = {}
    for queue_name, function in consumers.items():
        for name in (queue_name, dead_letter_name(queue_name)):
            world.sqs.client.create_queue(QueueName=name)
        mappings[queue_name] = functions.create_event_source_mapping(
            EventSourceArn=f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue_name}",
            FunctionName=function,
            ScalingConfig={"MaximumConcurrency": 2},
            FunctionResponseTypes=["ReportBatchItemFailures"],
        )["UUID"]
    group = cron_group_name(PREFIX)
    world.sqs.client.create_queue(QueueName=dead_letter_name(group))
    schedules.create_schedule_group(Name=group)
    for task in TASKS.values():
        for schedule in task.schedules:
            for number, expression in enumerate(schedule.expressions, start=1):
                schedules.create_schedule(
                    GroupName=group,
                    Name=schedule_name(task.type, str(schedule.name), number),
                    ScheduleExpression=expression,
                    ScheduleExpressionTimezone=schedule.timezone,
                    FlexibleTimeWindow={"Mode": "OFF"},
                    Target={"Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{PREFIX}-low", "RoleArn": role},
                )
    return Stage(world, scope, functions, schedules, mappings)


@pytest.fixture
def stage(world: World, scope: Scope) -> Stage:
    """A complete stage, with a sweep that completed a minute ago."""
    made = deploy(world, replace(scope, tasks=TASKS)).insert("swept", "jobs:sweep", "completed")
    register(world.database.get(), TASKS)
    return made


# --- No findings ------------------------------------------------------------------------------------------------


def test_a_complete_deployment_has_no_findings(stage: Stage) -> None:
    assert stage.wrong() == {}
    found = stage.found()
    assert found.keys() == {
        "migrations",
        "writes",
        "clock",
        "jobs:sweep",
        "ticks",
        "types",
        "mappings",
        "queues",
        "functions",
        "schedules",
        "runs",
        "timeouts",
        "connections",
        "storage",
        "throttles",
        "waits",
        "leases",
        "stored schedules",
        "batches",
        "tenants",
    }
    assert found["mappings"].found == "all 8 exist and are enabled"
    assert found["queues"].found == "all 17 exist, and none has dead letters"
    assert all(one.do == "" for one in found.values())


RUNS_OF_HOUR = """
insert into joblane.run_statistics (kind, name, queue, seconds, at, completed, failed, archived, lost, others, cost_usd,
                                    waits, durations, wait_ms, duration_ms)
select 'type', $1, $2, $3::int, date_trunc('hour', now() - $4::interval), $5::int, 0, 0, 0, 0, $5::int * 2e-6, '{}',
       '{}', $5::bigint * $6::int, $5::bigint * 3
"""
"""Runs of 3 ms that have waited for $6 ms each."""


def test_a_batch_that_pays_is_a_note_from_the_waits_of_the_last_7_days(stage: Stage) -> None:
    # given hours whose messages waited, in two lanes, one whose messages did not, an old one, and minutes
    for queue, seconds, ago, waited in (
        ("default", "3600", "1 h", "300"),
        ("low", "3600", "1 h", "999"),
        ("default", "3600", "2 h", "200"),
        ("default", "3600", "8 days", "300"),
        ("default", "60", "1 h", "300"),
    ):
        stage.sql(RUNS_OF_HOUR, "sample:one", queue, seconds, ago, "360000", waited)
    for other in ("sample:batch", "jobs:sweep", "not:declared"):
        stage.sql(RUNS_OF_HOUR, other, "low", "3600", "1 h", "360000", "300")
    # when
    full, found = sorted(Inspector(stage.scope).batching(), key=lambda one: one.type)
    # then
    assert (full.type, full.advised, full.obstacle) == ("sample:batch", None, Obstacle.FULL)
    assert (found.type, found.runs, found.batch_size, found.advised) == ("sample:one", 3 * 360_000, 1, 10)
    assert found.messages == pytest.approx(3 / 1.2)
    assert Inspector(stage.scope).batching(types=("sample:one",)) == (found,)
    note = stage.found()["batches of sample:one"]
    assert note == Check(
        Grade.GOOD, "batches of sample:one", saving_line(found), f"declare `batch_size=10`: {later_line(found)}"
    )
    assert stage.wrong() == {}
    # when the saving is below a dollar a month
    stage.sql("update joblane.run_statistics set completed = completed / 4, wait_ms = wait_ms / 4")
    assert "batches of sample:one" not in stage.found()
    # and rows written by hand, without runs or with a cost that is no number, count for nothing
    stage.sql("update joblane.run_statistics set completed = 0 where name = 'sample:one'")
    stage.sql("update joblane.run_statistics set cost_usd = 'NaN' where name = 'sample:batch'")
    assert Inspector(stage.scope).batching() == ()


@pytest.mark.parametrize(
    ("tenants", "key", "is_noted"),
    [
        (["acme", "globex", "acme"], (), True),
        (["acme", "globex"], ("tenant",), False),
        (["acme", "acme", None], (), False),
        ([None, None], (), False),
    ],
)
def test_tenants_without_a_limit_per_key_are_a_note(
    stage: Stage, tenants: list[str | None], key: tuple[str, ...], is_noted: bool
) -> None:
    # given a type with runs of these tenants
    flow = Flow(key=key, max_per_key=2) if key else None
    stage.declare(replace(sample_one, flow=flow))
    for number, tenant in enumerate(tenants):
        ran: dict[str, Any] = {"state": "completed", "runs": 1, "attempts": 1, "started_at": In(-60)}
        put(stage.world, sample_one, f"done-{number}", tenant=tenant, **ran)
    # when
    check = stage.found()["tenants"]
    # then
    assert (check.grade, check.found.startswith("sample:one: runs of several tenants")) == (Grade.GOOD, is_noted)
    assert ('key="tenant", max_per_key=' in check.do) is is_noted
    assert stage.wrong() == {}


# --- The database -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("revision", "grade", "found", "do"),
    [
        ("0001", Grade.BAD, "at revision 0001 and this code needs 0002", "`joblane migrate`"),
        ("abcd", Grade.BAD, "at revision 'abcd', which this library does not have", "alter schema joblane rename to"),
        ("9999", Grade.WARNING, "at revision 9999, newer than this code", "use the version that is deployed"),
        (None, Grade.BAD, "a schema joblane without a revision", "write it, and migrate"),
    ],
)
def test_another_schema_is_reported_with_its_revision(
    revision: str | None,
    grade: Grade,
    found: str,
    do: str,
    stage: Stage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second_revision(tmp_path, monkeypatch)
    if revision is None:
        stage.world.run("drop table joblane.alembic_version")
    else:
        stage.world.run("update joblane.alembic_version set version_num = $1", revision)
    assert [what for what, one in stage.found().items() if one.grade is not Grade.GOOD] == ["migrations"]
    check = stage.found()["migrations"]
    assert check.grade is grade
    assert found in check.found
    assert do in check.do


def test_a_database_without_tables_is_reported_once(stage: Stage) -> None:
    stage.world.run("drop schema joblane cascade")
    found = stage.found()
    assert found["migrations"] == Check(
        Grade.BAD,
        "migrations",
        "the database is empty: the migrations are missing",
        "run `joblane migrate`; on AWS, a deploy runs it",
    )
    assert [what for what, one in found.items() if one.grade is not Grade.GOOD] == ["migrations"]
    assert found.keys() == {"migrations", "mappings", "queues", "functions", "schedules", "throttles"}


def test_a_missing_migration_is_not_reported_twice(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_revision(tmp_path, monkeypatch)
    stage.world.run("alter table joblane.pauses drop column paused_by")
    assert stage.wrong().keys() == {"migrations"}
    assert stage.wrong()["migrations"].found.startswith("migrations are missing: ")


def test_a_dropped_table_is_reported_once_with_the_statement_that_creates_it(stage: Stage) -> None:
    stage.world.run("drop table joblane.pauses")
    (check,) = stage.wrong().values()
    assert (check.grade, check.what) == (Grade.BAD, "table joblane.pauses")
    assert check.found == "is missing: each statement that uses it fails"
    for statement in check.do.split("`")[1].split("; "):
        stage.world.run(statement)
    assert stage.wrong() == {}


def test_a_table_that_newer_code_has_lost_is_reported(stage: Stage) -> None:
    stage.world.run("update joblane.alembic_version set version_num = '9999'")
    stage.world.run("drop table joblane.pauses")
    assert stage.wrong()["types"].found.startswith(
        'the database lacks a table, column or function of its migrations: relation "joblane.pauses"'
    )


def test_edits_by_hand_are_graded_by_their_effect(stage: Stage) -> None:
    stage.world._observer.get().execute_simple(
        "drop index joblane.tasks_unique; drop index joblane.tasks_tags; create index mine on joblane.tasks (owner)"
    )
    found = stage.found()
    assert {what: one.grade for what, one in found.items() if "index" in what} == {
        "unique index tasks_unique of joblane.tasks": Grade.BAD,
        "index tasks_tags of joblane.tasks": Grade.WARNING,
        "index mine of joblane.tasks": Grade.GOOD,
    }
    assert found["index mine of joblane.tasks"].do == ""


@pytest.mark.parametrize(
    ("rights", "wrong"),
    [
        ("", {"migrations": "permission denied for schema joblane"}),
        (
            "grant usage on schema joblane to reader; grant select on all tables in schema joblane to reader",
            {"writes": "permission denied for table task_items"},
        ),
    ],
)
def test_what_a_role_may_not_check_is_unknown(rights: str, wrong: dict[str, str], stage: Stage) -> None:
    owner, address = stage.world._observer.get(), urlsplit(stage.world.url)
    owner.execute_simple(f"create role reader login password 'r'; {rights}")
    reader = Database(address._replace(netloc=f"reader:r@{address.hostname}:{address.port}").geturl())
    try:
        found = {check.what: check for check in Inspector(replace(stage.scope, database=reader)).doctor()}
    finally:
        reader.drop()
        owner.execute_simple("drop owned by reader; drop role reader")
    assert {what: one.found for what, one in found.items() if one.grade is Grade.UNKNOWN} == {
        what: f"this role may not check it: {text} ({FORBIDDEN})" for what, text in wrong.items()
    }
    assert not any(one.grade in (Grade.BAD, Grade.WARNING) for one in found.values())


@pytest.mark.parametrize(
    ("apart", "grade"), [(2, Grade.GOOD), (30, Grade.WARNING), (-30, Grade.WARNING), (600, Grade.BAD)]
)
def test_a_wrong_clock_is_reported_with_the_difference(
    apart: int, grade: Grade, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Off(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=apart)

    monkeypatch.setattr(doctor_database, "datetime", Off)
    (check,) = doctor_database.clock(stage.scope)
    assert check.grade is grade
    assert f"{abs(apart) - 1}" in check.found or f"{abs(apart)}" in check.found


def test_a_schema_before_pg_catalog_is_a_warning(stage: Stage) -> None:
    stage.scope.connection.execute_simple("create temp table x (); set search_path = public, pg_catalog")
    (check,) = stage.wrong().values()
    assert (check.what, check.grade) == ("search_path", Grade.WARNING)
    assert "searches public before pg_catalog" in check.found


def test_a_trigger_of_the_application_needs_a_search_path_of_its_own(stage: Stage) -> None:
    """It runs in the library's functions too, here in the release of a child."""
    stage.world._observer.get().execute_simple(
        "create table public.seen (id text); create function public.note() returns trigger language plpgsql as"
        " $$ begin insert into seen values (new.id); return null; end $$;"
        " create trigger note after insert or update on joblane.tasks for each row execute function public.note()"
    )
    (check,) = stage.wrong().values()
    assert (check.what, check.grade) == ("function public.note()", Grade.WARNING)
    stage.world._observer.get().execute_simple(check.do.split("`")[1])
    assert stage.wrong() == {}
    stage.world.client.enqueue(sample_one, Sample(), task_id="parent")
    stage.world.client.enqueue(sample_one, Sample(), task_id="child", after=["parent"])
    for id_ in ("child", "parent"):
        stage.world.deliver(sample_one, {"type": "sample:one", "id": id_, "rec": True})
    assert stage.world.row("child")["state"] == "pending"


# --- One thing that is wrong ------------------------------------------------------------------------------------

LANE = f"{PREFIX}-default-sample-one"
GROUP = cron_group_name(PREFIX)
FIRST, SECOND = (schedule_name("sample:tick", str(one.name)) for one in sample_tick.schedules)
HOUR = timedelta(hours=1)
RUNS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, type, outcome)
select 'x' || n, 1, 1, 1, clock_timestamp() - make_interval(mins => $1::int), 'sample:one',
       case when n <= $2::int then 'failed' else 'completed' end from generate_series(1, 20) as n
"""
STORED = """
insert into joblane.schedules (name, type, payload, expression, timezone, ticks_a_day, revision, next_at, problem,
                               paused_at)
select name, 'sample:one', '{}', '0 6 * * *', 'UTC', 1, 1, now() + after, problem, paused_at
  from (values ('acme', interval '1 day', 'its type is not declared', null), ('paused', '-1 day', null, now()),
               ('late', '-11 min', null, null), ('soon', '-9 min', null, null)) as x(name, after, problem, paused_at)
"""
PAUSES = """
insert into joblane.pauses (scope, name, reason, since, until, paused_by)
select scope, name, reason, clock_timestamp() + since, clock_timestamp() + until, paused_by
  from (values ('type', 'sample:one', 'a bad release', interval '-3 days', null::interval, 'ann'),
               ('queue', 'low', null, '-1 hour', null, null), ('tenant', 'acme', null, '-3 days', '1 h', 'bob'),
               ('tenant', 'over', null, '-3 days', '-1 hour', 'bob')) as x(scope, name, reason, since, until, paused_by)
"""
LIMITS = """
insert into joblane.limits (name, slots) values ('openai', 5), ('sample:one/', 1);
insert into joblane.limit_changes (name, slots, reason, changed_by, since, until)
values ('openai', 0, 'its quota', 'ann', clock_timestamp(), null),
       ('sample:one/7', 0, null, null, clock_timestamp(), null),
       ('gone', 0, 'its quota', 'ann', clock_timestamp() - interval '3 days', null),
       ('gone:type/a b', 0, null, null, clock_timestamp(), null),
       ('gone:over', 0, null, null, clock_timestamp(), clock_timestamp())
"""


def stop(stage: Stage, name: str, slots: int) -> Stage:
    """Let an operator set a shared limit whose declared value is 5."""
    stage.sql("insert into joblane.limits (name, slots) values ($1, 5) on conflict do nothing", name)
    return stage.sql(
        "insert into joblane.limit_changes (name, slots, reason, changed_by) values ($1, $2, 'by mistake', 'ann')"
        " on conflict (name) do update set slots = excluded.slots",
        name,
        slots,
    )


def wait_for(stage: Stage, limit: str, number: int) -> Stage:
    """Let tasks wait for a limit since a minute ago."""
    for n in range(number):
        waits: dict[str, Any] = {
            "wait_kind": "limit",
            "waits_for": limit,
            "shared_limit": limit,
            "place": 1.0,
            "seq": n + 1,
        }
        put(stage.world, sample_one, f"held-{n}", state="held", due_at=In(-60), first_due_at=In(-60), **waits)
    return stage


REFUSAL = "AccessDeniedException: no. Allow the function's role events:PutEvents on the bus."


def planned(stage: Stage, interval: str) -> None:
    """Let a sweep complete that has planned the next one, and would run by its schedule in two days."""
    coming = datetime.now(UTC) + timedelta(days=2)
    stage.declare(replace(jobs_sweep, schedules=(cron(f"0 0 {coming.day} {coming.month} *"),)))
    stage.sql("update joblane.tasks set finished_at = now() - interval '40 minutes'").sql(
        f"insert into joblane.stage (prefix, planned_sweep_at) values ('{PREFIX}', now() + interval '{interval}')"
        " on conflict (only_row) do update set planned_sweep_at = excluded.planned_sweep_at"
    )


def miss_a_tick(stage: Stage) -> None:
    """Let the first tick of a schedule arrive four hours ago, and its second tick not."""
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for hours in (4, 2, 1, 0):
        stage.insert(id_of("sample:tick", "0", hour - hours * HOUR), "sample:tick", "completed")
    stage.sql("update joblane.schedules set looked_for_from = now() - interval '4 h 30 min'")


def often(stage: Stage, minutes: int, *names: str) -> Stage:
    for name in names:
        stage.world.client.schedules.put(name, sample_one, Sample(), every(minutes=minutes))
    return stage


def damage_frequent_schedules(stage: Stage) -> None:
    often(often(stage, 1, "often0", "often1", "often2", "old"), 5, "calm").world.client.schedules.pause("often2")
    stage.sql("update joblane.schedules set updated_at = now() - interval '25 h' where name = 'old'")


def wait_for_others(stage: Stage) -> None:
    """Let a task wait for a task of another type, and one for a task of its own type."""
    stage.insert("parent", "sample:one", "completed").insert("same", "sample:one", "completed")
    stage.insert("child", "jobs:sweep", "completed").sql(
        "insert into joblane.task_parents values ('child', 'parent', 'hold'), ('same', 'parent', 'hold')"
    )


def lose_queues(stage: Stage, *names: str) -> Stage:
    for name in names:
        stage.world.sqs.client.delete_queue(QueueUrl=stage.scope.sqs.url(name))
    stage.scope.sqs._urls.clear()
    return stage


def send(stage: Stage, *queues: str) -> None:
    for name in queues:
        stage.world.sqs.client.send_message(QueueUrl=stage.world.sqs.url(name), MessageBody="{}")


def refuse_events(stage: Stage, number: int) -> None:
    """Let tasks have events, and a webhook that refused some."""
    stage.declare(sample_heard)
    variables = {"Variables": {EVENT_BUS: "jobs-events"}}
    stage.functions.update_function_configuration(FunctionName=f"{PREFIX}-jobs-sweep", Environment=variables)
    url = stage.world.sqs.client.create_queue(QueueName=f"{PREFIX}-events-dlq")["QueueUrl"]
    reason = {"ERROR_CODE": "SDK_CLIENT_ERROR", "ERROR_MESSAGE": "status\n404"}
    attributes: Any = {name: {"DataType": "String", "StringValue": text} for name, text in reason.items()}
    for _ in range(number):
        stage.world.sqs.client.send_message(QueueUrl=url, MessageBody="{}", MessageAttributes=attributes)


def consume(stage: Stage, queue: str) -> None:
    """Add a second consumer."""
    stage.functions.create_event_source_mapping(
        EventSourceArn=f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue}", FunctionName=f"{PREFIX}-sample-batch"
    )


def change_schedule(stage: Stage, name: str, **changes: Any) -> Stage:
    there = stage.schedules.get_schedule(GroupName=GROUP, Name=name)
    kept = {key: there[key] for key in ("FlexibleTimeWindow", "Target", "ScheduleExpression")}
    stage.schedules.update_schedule(GroupName=GROUP, Name=name, **kept | changes)
    return stage


@dataclass(frozen=True)
class Finds:
    """``found``, ``do``: what the check says, with "…" for any text. An empty ``found``: there is no such check."""

    given: Callable[[Stage], object]
    what: str
    grade: Grade
    found: str
    do: str = "…"


def same(stage: Stage) -> Stage:
    return stage


GOOD, WARNING, BAD = Grade.GOOD, Grade.WARNING, Grade.BAD
TICK = "schedule sample:tick:0"
SWEEP = {
    "a stopped sweep": (
        Finds(
            lambda stage: stage.sql("update joblane.tasks set finished_at = finished_at - interval '13 hours'"),
            "jobs:sweep",
            BAD,
            "it last completed 13 h ago, and was due … h ago",
            "…`joblane schedules run jobs:sweep:0`…",
        ),
    ),
    "a duty that failed in the last sweep": (
        Finds(
            lambda stage: stage.sql('update joblane.tasks set result = \'{"failed": ["held tasks"]}\''),
            "jobs:sweep",
            BAD,
            "… ago, and some of its duties failed: held tasks",
            "…`a duty of the sweep failed`…",
        ),
    ),
    "a planned sweep that did not run": (
        Finds(
            lambda stage: planned(stage, "-31 minutes"),
            "jobs:sweep",
            BAD,
            "it last completed 40 min ago, and was due 31 min ago",
        ),
        Finds(lambda stage: planned(stage, "-29 minutes"), "jobs:sweep", GOOD, "it last completed 40 min ago", ""),
        Finds(
            lambda stage: planned(stage, "90 minutes"),
            "jobs:sweep",
            GOOD,
            "it last completed 40 min ago, and is due in 1 h",
            "",
        ),
    ),
    "a sweep that has not run yet": (
        Finds(
            lambda stage: stage.sql("delete from joblane.tasks"),
            "jobs:sweep",
            WARNING,
            "it has not completed yet; its next time is in …",
        ),
    ),
}
SCHEDULES = {
    "missed ticks, from the first tick on": (
        Finds(
            miss_a_tick,
            TICK,
            WARNING,
            "1 of its ticks of the last day are missing, the latest at …",
            "…`joblane schedules run sample:tick:0`…",
        ),
    ),
    "a schedule without any tick, once it is registered": (
        Finds(
            lambda stage: stage.sql("delete from joblane.schedules"),
            TICK,
            WARNING,
            "the code declares it, but it is not registered",
            "`joblane migrate` registers it",
        ),
        Finds(
            lambda stage: register(stage.world.database.get(), TASKS),
            "ticks",
            GOOD,
            "no tick of the last day is missing",
            "",
        ),
        Finds(
            lambda stage: stage.sql("update joblane.schedules set looked_for_from = now() - interval '5 h'"),
            TICK,
            BAD,
            "… of its ticks of the last day are missing, and none arrived",
        ),
    ),
    "a schedule registered by hand, with other times than the code's": (
        Finds(
            lambda stage: stage.sql(
                "update joblane.schedules set expression = '0 2 * * *' where name = 'sample:tick:0'"
            ),
            TICK,
            WARNING,
            "it is registered with the times '0 2 * * *' UTC, but this code has others",
            "…`joblane migrate` with the settings of the stage…",
        ),
    ),
    "new schedules of programs that fire often": (
        Finds(
            damage_frequent_schedules,
            "frequent schedules",
            WARNING,
            "2 schedules have less than 5 minutes between two ticks, new or changed within a day…",
        ),
        Finds(lambda stage: often(stage, 2, "old"), "frequent schedules", WARNING, "3 schedules…"),
    ),
    "stored schedules with a problem or a late tick": (
        Finds(
            lambda stage: stage.sql(STORED),
            "stored schedules",
            WARNING,
            "1 schedule has a problem, for example acme: its type is not declared",
            "…joblane schedules --problem…",
        ),
        Finds(
            same,
            "ticks of schedules",
            BAD,
            "1 schedule has a tick that is more than 10 min late, for example late",
        ),
    ),
}
WORK = {
    "a type that fails, by its share of the last runs": (
        Finds(lambda stage: stage.sql(RUNS, "20", "20"), "runs", GOOD, "…"),
        Finds(
            lambda stage: stage.sql("delete from joblane.task_attempts").sql(RUNS, "1", "3"),
            "runs of sample:one",
            WARNING,
            "…3 of 20 runs…",
        ),
        Finds(
            lambda stage: stage.sql("update joblane.task_attempts set outcome = 'timeout' where task_id < 'x2'"),
            "runs of sample:one",
            BAD,
            "…",
            "…`joblane pause type sample:one`…",
        ),
    ),
    "a wait past the target, until a pause explains it": (
        Finds(
            lambda stage: stage.insert("late", "sample:one", "pending").sql(
                "update joblane.tasks set due_at = due_at - interval '30 min' where id = 'late'"
            ),
            "waits of sample:one",
            BAD,
            "1 task is due, the oldest for 30 min; the target is 10 min",
        ),
        Finds(
            lambda stage: stage.sql("insert into joblane.pauses (scope, name) values ('type', 'sample:one')"),
            "waits",
            GOOD,
            "…",
        ),
    ),
    "a stuck lease": (
        Finds(
            lambda stage: put(stage.world, sample_one, "stuck", **active(-600)),
            "leases of sample:one",
            WARNING,
            "…for example stuck",
        ),
    ),
    "undeclared types, with their number of live tasks": (
        Finds(
            lambda stage: (
                stage.insert("lost-1", "gone:away", "pending")
                .insert("lost-2", "gone:away", "pending")
                .insert("over", "gone:before", "completed")
            ),
            "type gone:away",
            BAD,
            "2 live tasks of this type, and no code declares it",
        ),
        Finds(same, "type gone:before", BAD, ""),
    ),
    "a type that may not start the tasks that wait for it": (
        Finds(
            wait_for_others,
            "type sample:one",
            WARNING,
            "tasks of 'jobs:sweep' wait for its tasks, and it may not send their messages…",
            "add 'jobs:sweep' to its grants.enqueue, and deploy it",
        ),
        Finds(
            lambda stage: stage.declare(replace(jobs_sweep, grants=Grants(run=("sample:one",)))),
            "type sample:one",
            WARNING,
            "",
        ),
    ),
    "events that wait, with the reason of the bus": (
        Finds(lambda stage: stage.declare(sample_heard), "events", GOOD, "no event waits for the bus", ""),
        Finds(
            lambda stage: stage.sql("insert into joblane.events values ('a', now() - interval '1 minute', '{}')"),
            "events",
            GOOD,
            "1 event waits for the bus, the oldest for 1 min",
            "…",
        ),
        Finds(
            lambda stage: stage.sql("insert into joblane.events values ('b', now() - interval '3 hours', '{}')"),
            "events",
            BAD,
            "2 events wait for the bus, the oldest for 3 h",
            "…its function has JOBLANE_EVENT_BUS…",
        ),
        Finds(
            lambda stage: stage.sql(
                "update joblane.tasks set result = $1::jsonb where id = 'swept'",
                json.dumps({"events_refusal": REFUSAL}),
            ),
            "events",
            BAD,
            f"2 events wait for the bus, the oldest for 3 h: {REFUSAL}",
            "they are sent as soon as the bus accepts them, and dropped after 3 days",
        ),
    ),
    "a bus that does not exist": (
        Finds(lambda stage: stage.declare(sample_heard), "bus jobs-events", BAD, ""),  # not deployed with it yet
        Finds(
            lambda stage: stage.functions.update_function_configuration(
                FunctionName="jobs-jobs-sweep", Environment={"Variables": {"JOBLANE_EVENT_BUS": "jobs-events"}}
            ),
            "bus jobs-events",
            BAD,
            "it does not exist: EventBridge drops the events, and reports no error",
            "`aws events create-event-bus --name jobs-events`: a deploy does not create it again; or…",
        ),
        Finds(
            lambda stage: boto3.client("events").create_event_bus(Name="jobs-events"),
            "bus jobs-events",
            GOOD,
            "…",
            "…",
        ),
    ),
    "an old pause without an end": (
        Finds(
            lambda stage: stage.sql(PAUSES),
            "type sample:one",
            WARNING,
            "paused 3 d ago by ann: a bad release",
            "if no longer needed, `joblane resume type sample:one` ends it",
        ),
        Finds(same, "queue low", GOOD, "…"),
        Finds(same, "tenant acme", GOOD, "…"),
        Finds(same, "tenant over", GOOD, ""),
    ),
    "values of undeclared limits": (
        Finds(
            lambda stage: stage.world._observer.get().execute_simple(LIMITS),
            "limit gone",
            WARNING,
            "0 at a time was set 3 d ago by ann: its quota. No task declares this limit any more",
            "`joblane limits reset gone` removes it",
        ),
        Finds(
            same,
            "limit gone:type, key a b",
            WARNING,
            "0 at a time was set … s ago by an unknown operator. No task declares this limit any more",
            "`joblane limits reset gone:type --key 'a b'` removes it",
        ),
        Finds(
            same,
            "limit openai",
            WARNING,
            "0 at a time was set … s ago by ann: its quota. Declared: 5 at a time",
            "`joblane limits reset openai` returns to the declared values",
        ),
        Finds(same, "limit sample:one, key 7", WARNING, "…", "`joblane limits reset sample:one --key 7` …"),
        Finds(same, "limit gone:over", WARNING, ""),
    ),
    "a limit that stops tasks, by an operator": (
        Finds(lambda stage: stop(stage, "openai", 0), "limit openai", WARNING, "0 at a time was set …. Declared: …"),
        Finds(
            lambda stage: wait_for(stage, "openai", 3),
            "limit openai",
            BAD,
            "0 at a time was set … ago by ann: by mistake. Declared: 5 at a time. 3 tasks wait, the oldest for 1 min",
            "`joblane limits reset openai` returns to the declared values",
        ),
        Finds(lambda stage: stop(stage, "openai", 4), "limit openai", WARNING, "4 at a time …. 3 tasks wait, …"),
        Finds(
            lambda stage: stage.sql("update joblane.tasks set due_at = due_at - interval '1 h' where state = 'held'"),
            "limit openai",
            BAD,
            "4 at a time …. 3 tasks wait, the oldest for 1 h; the target is 10 min",
        ),
        Finds(lambda stage: stop(stage, "openai", 6), "limit openai", BAD, ""),
    ),
    "a limit that stops tasks, by its declaration": (
        Finds(lambda stage: stage.sql("insert into joblane.limits values ('closed', 0)"), "limit closed", BAD, ""),
        Finds(
            lambda stage: wait_for(stage, "closed", 1),
            "limit closed",
            BAD,
            "the declared value is 0 at a time, so no task starts. 1 task waits, the oldest for 1 min",
            "`joblane limits set closed …` lets tasks start; or declare another value, and deploy",
        ),
    ),
    "more lowered limits than are named": (
        Finds(
            lambda stage: stage.sql(
                "insert into joblane.limits (name, slots) select 'l' || n, 5 from generate_series(1, 12) n"
            ).sql("insert into joblane.limit_changes (name, slots) select 'l' || n, 4 from generate_series(1, 12) n"),
            "limits",
            WARNING,
            "operators have lowered 2 more limits",
            "`joblane limits` lists them",
        ),
        Finds(same, "limit l1", WARNING, "…"),
    ),
    "a pause for which tasks are late": (
        Finds(lambda stage: stage.sql(PAUSES), "queue low", GOOD, "paused 1 h ago by an unknown operator"),
        Finds(
            lambda stage: stage.insert("late", "sample:tick", "pending").sql(
                "update joblane.tasks set due_at = due_at - interval '30 min' where id = 'late'"
            ),
            "queue low",
            WARNING,
            "paused 1 h ago by an unknown operator. 1 due task waits for its end, the oldest for 30 min",
            "if no longer needed, `joblane resume queue low` ends it",
        ),
    ),
}
AWS = {
    "a lane without a consumer": (
        Finds(
            lambda stage: stage.functions.delete_event_source_mapping(UUID=stage.mappings[LANE]),
            f"queue {LANE}",
            BAD,
            "no consumer",
            "deploy the stage",
        ),
    ),
    "a front door without a consumer": (
        Finds(
            lambda stage: stage.functions.delete_event_source_mapping(UUID=stage.mappings[f"{PREFIX}-low"]),
            f"queue {PREFIX}-low",
            BAD,
            "no consumer",
        ),
    ),
    "a lane with two consumers": (
        Finds(
            lambda stage: consume(stage, LANE),
            f"queue {LANE}",
            BAD,
            "2 consumers: each receives messages that others need",
        ),
    ),
    "a missing queue": (Finds(lambda stage: lose_queues(stage, LANE), f"queue {LANE}", BAD, "it does not exist"),),
    "dead letters": (
        Finds(
            lambda stage: send(stage, f"{PREFIX}-critical-dlq", f"{PREFIX}-cron-dlq"),
            "dead letters",
            WARNING,
            f"1 dead letter: 1 at the front door {PREFIX}-critical",
            "`joblane dead` lists their causes, and says how to send them back",
        ),
        Finds(
            same, f"queue {PREFIX}-cron-dlq", WARNING, "1 dead letter", "EventBridge Scheduler…`joblane dead` lists…"
        ),
    ),
    "events that a target refused": (
        Finds(
            lambda stage: refuse_events(stage, 0),
            "refused events",
            GOOD,
            f"{PREFIX}-events-dlq is empty",
        ),
        Finds(
            lambda stage: refuse_events(stage, 2),
            "refused events",
            WARNING,
            f"2 events in {PREFIX}-events-dlq, which a target refused; of 2, the oldest is … s old: "
            "SDK_CLIENT_ERROR status 404",
            f"repair the target; then `python send_again.py {PREFIX} jobs-events` sends them again. "
            "If no target needs them: "
            f"`aws sqs get-queue-attributes --queue-url …/{PREFIX}-events-dlq --attribute-names All` counts them, "
            f"`aws sqs purge-queue --queue-url …/{PREFIX}-events-dlq` deletes them",
        ),
        # their receive hides none of them
        Finds(same, "refused events", WARNING, f"2 events in {PREFIX}-events-dlq, …: SDK_CLIENT_ERROR status 404"),
        Finds(lambda stage: lose_queues(stage, f"{PREFIX}-events-dlq"), "refused events", GOOD, ""),
    ),
    "a missing function": (
        Finds(
            lambda stage: stage.functions.delete_function(FunctionName=f"{PREFIX}-sample-one"),
            f"function {PREFIX}-sample-one",
            BAD,
            "it does not exist",
        ),
    ),
    "a function with another timeout": (
        Finds(
            lambda stage: stage.functions.update_function_configuration(
                FunctionName=f"{PREFIX}-sample-batch", Timeout=3
            ),
            f"function {PREFIX}-sample-batch",
            WARNING,
            "its timeout is 3 s, and this code declares …",
        ),
    ),
    "a paused schedule, with its operator": (
        Finds(
            lambda stage: change_schedule(stage, FIRST, State="DISABLED").sql(
                "update joblane.schedules set paused_at = now(), paused_by = 'ann' where name = 'sample:tick:0'"
            ),
            f"schedule {FIRST}",
            WARNING,
            "it is disabled: paused by ann",
            "`joblane schedules resume sample:tick:0`",
        ),
    ),
}
WRONG = SWEEP | SCHEDULES | WORK | AWS


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_it_is_reported_with_its_grade_and_what_to_do(stage: Stage, case: tuple[Finds, ...]) -> None:
    for finds in case:
        finds.given(stage)
        check = stage.found().get(finds.what)
        assert (check is None) == (not finds.found)
        if check is not None:
            assert (check.grade, is_like(check.found, finds.found)) == (finds.grade, True), check
            assert is_like(check.do, finds.do), check


# --- Parts of the database that cannot be checked ----------------------------------------------------------------


def test_an_old_snapshot_is_a_warning_with_the_statement_that_ends_it(stage: Stage) -> None:
    with session(stage.world.url, name="pg_dump") as dump:
        swept(stage.world, 45)
        [[user, database]] = dump.run("select current_user::text, current_database()::text")
        assert stage.found(Grade.WARNING)["snapshots"] == Check(
            Grade.WARNING,
            "snapshots",
            f"the session {pid_of(dump)} (user {user}, database {database}, application pg_dump, idle in transaction) "
            "has kept dead rows for 45 min or longer: tasks with limits start more slowly",
            f"end it: select pg_terminate_backend({pid_of(dump)})",
        )
    assert "snapshots" not in stage.found()


NEAR = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, outcome,
                                   duration_ms)
select $1 || n, n, 1, 1, now() - $2::interval, now() - $2::interval, $1, 'timeout', $3::int - n
  from generate_series(1, 3) as n
"""


def test_a_run_near_its_timeout_is_a_warning(stage: Stage) -> None:
    # given: 80 % of 20 s, less, and long ago
    stage.sql(NEAR, "sample:one", "5 min", 16_001).sql(NEAR, "sample:batch", "1 h", 16_000)
    stage.sql(NEAR, "sample:tick", "5 h", 10**9)
    # when
    wrong = stage.wrong()
    of_type = {check.what: check for check in Inspector(stage.scope).why_slow("sample:one")}
    # then
    assert wrong.keys() == {"timeout of sample:one"}
    found = "a run of the last 3 hours took 16.0 s, 80% of its timeout of 20 s; a longer one is interrupted and fails"
    assert wrong["timeout of sample:one"].found == found
    found = "99 % of the runs of the last day took … or less (…% of the timeout of 20 s), the longest 16.0 s (80%)"
    assert is_like(of_type["timeout"].found, found), of_type["timeout"]
    assert of_type["timeout"].grade is Grade.WARNING


def test_the_first_finding_of_a_full_database_says_who_holds_its_connections(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "FULL_PERCENT", 0)
    monkeypatch.setattr(sessions, "MANY_DEAD", 0)
    first, *_ = Inspector(stage.scope).doctor()
    assert (first.grade, first.what) == (Grade.BAD, "connections")
    assert is_like(first.found, "… of … connections are in use: … of …, the oldest for …")


def test_a_statement_that_runs_for_long_is_named_by_its_user(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "select pid, usename, 'dump', 3600::float8 from pg_stat_activity where pid = pg_backend_pid()"
    monkeypatch.setattr(sessions, "LONG", rows)
    check = stage.wrong()["statements"]
    assert is_like(check.found, "a statement of … (dump) has run for 1 h…")
    assert is_like(check.do, "if not needed, `select pg_cancel_backend(…)` ends it")


def test_snapshots_are_unknown_to_a_role_that_may_not_see_sessions(stage: Stage) -> None:
    for statement in (
        "create role reader login password 'x'",
        "grant usage on schema joblane to reader",
        "grant select on all tables in schema joblane to reader",
        "revoke select on pg_stat_activity from public",
    ):
        stage.world.run(statement)
    try:
        with Database(f"postgresql://reader:x@{stage.world.url.split('@')[1]}") as database:
            [check] = doctor_database.snapshots(Scope(database, stage.scope.sqs, PREFIX, TASKS, "op"))
    finally:
        for statement in ("grant select on pg_stat_activity to public", "drop owned by reader", "drop role reader"):
            stage.world.run(statement)
    assert (check.grade, check.what) == (Grade.UNKNOWN, "snapshots")
    assert "permission denied for view pg_stat_activity" in check.found


def test_an_unavailable_database_is_reported_once_and_aws_is_still_checked(stage: Stage) -> None:
    unavailable = Scope(Database("postgresql://nobody@127.0.0.1:1/none"), stage.scope.sqs, PREFIX, TASKS, "op")
    first, *others = Inspector(unavailable).doctor()
    assert (first.grade, first.what) == (Grade.BAD, "migrations")
    assert first.found.startswith("the database cannot be reached: ")
    assert {one.what for one in others} == {"mappings", "queues", "functions", "schedules", "throttles"}
    assert {one.grade for one in others} == {Grade.GOOD}


def refuse_writes(world: World, code: str, message: str) -> None:
    """Let each insert of the doctor's fail with an error of the server, as on a full disk."""
    world.run(
        "create function refuse() returns trigger language plpgsql as"
        f" $$ begin raise exception '{message}' using errcode = '{code}'; end $$"
    )
    world.run("create trigger refuses before insert on joblane.task_items for each row execute function refuse()")


def refuse_logins(world: World, code: str, message: str) -> None:
    """Let each login fail with an error of the server."""
    world.run(
        "create function refuse() returns event_trigger language plpgsql as"
        f" $$ begin raise exception '{message}' using errcode = '{code}'; end $$"
    )
    world.run("create event trigger refuses on login execute function refuse()")


def make_read_only(world: World) -> None:
    [[name]] = world.run("select current_database()")
    world.run(f'alter database "{name}" set default_transaction_read_only = on')


def rename_functions(world: World) -> None:
    for name in functions.NAMES:
        world.run(f"alter function joblane.{name}_{functions.VERSION} rename to {name}_0000abcd")
    world.run("update joblane.functions set version = '0000abcd'")


def drop_functions(world: World) -> None:
    for name in functions.NAMES:
        world.run(f"drop function joblane.{name}_{functions.VERSION}")
    world.run("delete from joblane.functions")


LACKS = f"the database lacks the functions of this code, version {functions.VERSION}"
WAIT = "until then tasks wait in their queues, and enqueues fail"


@pytest.mark.parametrize(
    ("damage", "what", "found", "do"),
    [
        (
            lambda world: world.run("update joblane.tasks set finished_at = now() - interval '8 days 12 hours'"),
            "jobs:sweep",
            "it last completed 8 d ago, and was due 8 d ago",
            "check the log of its function, its schedule and its lane; `joblane schedules run jobs:sweep:0` runs it now",  # noqa: E501
        ),
        (
            make_read_only,
            "writes",
            "the database refuses writes: cannot execute INSERT in a read-only transaction (25006)",
            f"end the failover, or its default_transaction_read_only: {WAIT}",
        ),
        (
            lambda world: refuse_writes(world, "53100", "could not extend file: No space left on device"),
            "writes",
            "the database refuses writes: could not extend file: No space left on device (53100)",
            f"give it storage or memory: {WAIT}",
        ),
        (
            lambda world: refuse_logins(world, "53100", "could not write init file: No space left on device"),
            "migrations",
            "the database cannot be reached: could not write init file: No space left on device (53100)",
            f"give it storage or memory: {WAIT}",
        ),
        (
            lambda world: refuse_logins(world, "53300", "too many clients already"),
            "migrations",
            "the database cannot be reached: too many clients already (53300)",
            f"{ADVICE['53300']}: {WAIT}",
        ),
        (
            drop_functions,
            "functions",
            f"{LACKS}: it claims no task",
            "run `joblane migrate`; on AWS, a deploy runs it",
        ),
        (
            rename_functions,
            "functions",
            f"{LACKS}, and has 0000abcd: it claims no task",
            "use the code that is deployed, or run `joblane migrate`; on AWS, a deploy runs it",
        ),
    ],
    ids=["sweep", "read-only", "full", "full at login", "connections", "no functions", "other functions"],
)
def test_the_command_says_what_is_wrong_with_the_database_and_what_to_do(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[World], object],
    what: str,
    found: str,
    do: str,
) -> None:
    # given
    damage(stage.world)
    stage.scope.database.drop()
    monkeypatch.setattr(connect, "connect", lambda **_: Inspector(stage.scope))
    monkeypatch.setenv("COLUMNS", "400")
    # when
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    # then
    assert ended.value.code == 1
    first = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("bad"))
    assert re.split(r" {2,}", first.strip()) == ["bad", what, found, do]


# --- AWS --------------------------------------------------------------------------------------------------------


def test_a_disabled_mapping_is_reported_with_its_command_even_if_its_type_is_paused(stage: Stage) -> None:
    stage.functions.update_event_source_mapping(UUID=stage.mappings[LANE], Enabled=False)
    stage.sql("insert into joblane.pauses (scope, name, paused_by) values ('type', 'sample:one', 'ann')")
    [check] = [check for check in doctor_aws.mappings(stage.scope) if check.what == f"queue {LANE}"]
    assert (check.grade, "no pause disables it" in check.found) == (Grade.BAD, True)
    assert check.do == f"`aws lambda update-event-source-mapping --enabled --uuid {stage.mappings[LANE]}`"


def test_a_mapping_with_dangerous_settings_is_reported() -> None:
    mapping = {"State": "Enabled", "UUID": "u-1", "LastProcessingResult": "PROBLEM: Function call failed"}
    checks = list(doctor_aws._mapping(LANE, (Queue.DEFAULT, [sample_one]), [mapping]))
    assert [check.grade for check in checks] == [Grade.BAD] * 3
    assert ["MaximumConcurrency" in checks[0].found, "ReportBatchItemFailures" in checks[1].found] == [True, True]
    assert checks[2].found == "Lambda reports: PROBLEM: Function call failed"


def test_a_missing_lane_is_reported_once(stage: Stage) -> None:
    lose_queues(stage, LANE, dead_letter_name(LANE)).functions.delete_event_source_mapping(UUID=stage.mappings[LANE])
    assert list(stage.wrong().values()) == [Check(BAD, f"queue {LANE}", "it does not exist", "deploy the stage")]


def checks_of_function(declared: Task[Any, Any], timeout: timedelta, state: str = "Active") -> list[Check]:
    """Return the findings about a deployed function with this timeout. The templates round it up."""
    deployed = {"State": state, "Timeout": math.ceil(timeout.total_seconds())}
    aws = SimpleNamespace(get_function_configuration=lambda **_: deployed)
    return list(doctor_aws._function(aws, "sample", declared.numbers))


def test_a_timeout_that_is_not_whole_seconds_is_no_difference() -> None:
    numbers = Numbers.of(timeout=timedelta(seconds=1.5), batch_size=1, max_retry=1, what="")
    declared = replace(sample_one, numbers=numbers)
    assert checks_of_function(declared, timedelta(seconds=11.5)) == []
    assert [check.found for check in checks_of_function(declared, timedelta(seconds=13))] == [
        "its timeout is 13 s, and this code declares 12 s"
    ]


@pytest.mark.parametrize(
    ("state", "grade", "do"),
    [("Inactive", Grade.WARNING, "the next invocation wakes it"), ("Failed", Grade.BAD, "deploy the stage")],
)
def test_an_inactive_function_needs_no_deploy(state: str, grade: Grade, do: str) -> None:
    (check,) = checks_of_function(sample_one, sample_one.numbers.function_timeout, state)
    assert check.grade is grade
    assert do in check.do


def test_a_missing_disabled_or_different_schedule_is_reported(stage: Stage) -> None:
    stage.schedules.delete_schedule(GroupName=GROUP, Name=FIRST)
    change_schedule(stage, SECOND, ScheduleExpression="cron(1 1 * * ? *)", State="DISABLED")
    wrong = [one for one in Inspector(stage.scope).doctor() if one.grade is not Grade.GOOD]
    assert [(one.what, one.found.partition(":")[0].partition(",")[0]) for one in wrong] == [
        (f"schedule {FIRST}", "it does not exist"),
        (f"schedule {SECOND}", "it is disabled"),
        (f"schedule {SECOND}", "its times are cron(1 1 * * ? *) UTC"),
    ]


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:4566"])
def test_the_schedule_says_if_the_ticker_sends_its_ticks(
    endpoint: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = stage.schedules.get_schedule
    own = SimpleNamespace(get_schedule=declared, exceptions=stage.schedules.exceptions)
    monkeypatch.setattr(doctor_aws, "client", lambda *_: nullcontext(own))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)  # an emulator may have a stage that is not local
    assert [check.found for check in doctor_aws.schedules(stage.scope)] == ["all 3 exist and are enabled"]

    disabled = {"State": "DISABLED", "ScheduleExpressionTimezone": "UTC"}  # no emulator's name of the zone counts
    own.get_schedule = lambda **names: {**declared(**names), **disabled}
    assert Grade.BAD in {check.grade for check in doctor_aws.schedules(stage.scope)}
    own.get_schedule = lambda **names: {**declared(**names), **disabled, "Description": TICKER}
    assert [check.found for check in doctor_aws.schedules(stage.scope)] == [
        "all 3 exist, disabled because the local ticker sends the ticks"
    ]
    without = replace(stage.scope, ticker_runs=lambda: False)
    assert next(doctor_aws.schedules(without)) == Check(
        Grade.BAD,
        "schedules",
        "the schedules are disabled because the local ticker sends the ticks, but the ticker does not run",
        "`joblane status` shows it, `joblane up` starts it",
    )


def test_a_ticker_has_stopped_if_its_log_is_there_and_its_process_is_not(tmp_path: Path) -> None:
    assert connect.ticker_runs(tmp_path)
    (tmp_path / "ticker.log").touch()
    assert not connect.ticker_runs(tmp_path)
    state = {"pid": os.getpid(), "started": psutil.Process().create_time(), "program": "python", "remember": {}}
    (tmp_path / "ticker.json").write_text(json.dumps(state))
    assert connect.ticker_runs(tmp_path)


# --- Parts that cannot be checked -------------------------------------------------------------------------------


def refusing(error: Exception) -> Callable[[Scope], Iterator[Check]]:
    def part(scope: Scope) -> Iterator[Check]:
        yield Check(Grade.BAD, "half of an answer", "")
        raise error

    return part


@pytest.mark.parametrize(
    ("error", "found", "do"),
    [
        (
            ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetSchedule"),
            "AWS answers GetSchedule with AccessDeniedException",
            "allow scheduler:GetSchedule",
        ),
        (
            ClientError({"Error": {"Code": "Throttling"}}, "GetSchedule"),
            "AWS answers GetSchedule with Thr",
            "run this again",
        ),
        (
            EndpointConnectionError(endpoint_url="https://scheduler"),
            "AWS cannot be reached: ",
            "check credentials and region",
        ),
    ],
    ids=["denied", "throttled", "unreachable"],
)
def test_a_part_that_cannot_be_checked_is_unknown_and_the_others_are_checked(
    error: Exception, found: str, do: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [
        (what, permission, refusing(error) if what == "schedules" else part)
        for what, permission, part in doctor_aws.PARTS
    ]
    monkeypatch.setattr(doctor_aws, "PARTS", tuple(parts))
    wrong = stage.wrong()
    assert wrong.keys() == {"schedules"}
    assert wrong["schedules"].grade is Grade.UNKNOWN
    assert wrong["schedules"].found.startswith(found)
    assert wrong["schedules"].do.startswith(do)


def test_the_worst_finding_comes_first(stage: Stage) -> None:
    stage.functions.delete_function(FunctionName=f"{PREFIX}-sample-one")
    stage.world.run("update joblane.alembic_version set version_num = '9999'")
    grades = [one.grade for one in Inspector(stage.scope).doctor()]
    assert grades == sorted(grades, key=doctor.ORDER.index)
    assert grades[:2] == [Grade.BAD, Grade.WARNING]
