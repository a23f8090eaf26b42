"""The event of an end is written in the transaction of the end, for each way in which a task ends, and for no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane import Event, OnConflict, SkipRetry, TaskContext
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.record.driver.database import Database
from joblane.record.row.transitions import CANCEL
from joblane.record.task_types import register
from joblane.tasks.task import Task
from tests.builders.events import message
from tests.builders.rows import In, active, put
from tests.samples import Sample, behaviour, sample_one
from tests.samples_events import Bus, sample_dying, sample_followed, sample_following, sample_heard
from tests.stories import Story, cancel, deliver, lane, play, row, sql, step, stories
from tests.world import PREFIX, World

TASKS = {task.type: task for task in (sample_heard, sample_dying, sample_one)}
HEARD = ["completed", "archived", "cancelled"]


@behaviour
def end_dead(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("enough")


def events(world: World) -> list[Event]:
    rows = world.run("select id, detail::text from joblane.events order by created_at, id")
    found = [Event.read(json.loads(detail)) for _, detail in rows]
    assert [id_ for id_, _ in rows] == [event.id for event in found]
    return found


@step
def ids(world: World) -> list[str]:
    return [event.id for event in events(world)]


@step
def enqueue(world: World, /, do: str = "nothing", id_: str = "it", task: Any = sample_heard, **options: Any) -> None:
    world.lane(task)
    world.client.enqueue(task, Sample(do=do), task_id=id_, **options)


@step
def run(world: World, id_: str = "it", task: Task[Any, Any] = sample_heard) -> None:
    world.deliver(task, {"type": task.type, "id": id_, "rec": True})


@step
def operate(world: World, action: str, id_: str) -> None:
    """Do what an operator does."""
    world.deploy(TASKS.values())
    with Database(world.url) as database:
        getattr(Inspector(Scope(database, world.sqs, PREFIX, TASKS, "op")), action)(id_)


given = step(put)
UNIQUE: dict[str, Any] = {"unique_key": "x", "unique_for": timedelta(hours=1)}
LATE = {"options": {"deadline": "2020-01-01T00:00:00Z"}}
STORIES: dict[str, Story] = {
    "only the declared kinds have events": [
        enqueue(id_="completed", task=sample_dying),
        run("completed", sample_dying),
        row("completed", state="completed"),
        ids().gives([]),
    ],
    "a task without declared kinds has none": [
        enqueue("end_dead", task=sample_one),
        run(task=sample_one),
        row("it", state="archived", events=None),
        ids().gives([]),
    ],
    "a task of an external producer has the events of its declaration": [
        deliver(sample_heard, message("nothing", type_="sample:heard")),
        ids().gives(["it:0:completed"]),
    ],
    "a killed run that the next claim archives": [
        given(sample_heard, "it", events=HEARD, **active(-1, attempts=2)),
        run(),
        row("it", error_type="Lost"),
        ids().gives(["it:0:archived"]),
    ],
    "a task past its deadline": [
        given(sample_heard, "it", events=HEARD, deadline=In(-1)),
        run(),
        row("it", error_type="DeadlinePassed"),
        ids().gives(["it:0:archived"]),
    ],
    "a new message past its deadline": [
        deliver(sample_heard, message("nothing", type_="sample:heard") | LATE),
        row("it", state="archived"),
        ids().gives(["it:0:archived"]),
    ],
    "a cancel has its event only if it commits": [
        *(enqueue(id_=id_) for id_ in ("kept", "ended")),
        sql("begin"),
        sql(CANCEL, "kept"),
        ids().gives(["kept:0:cancelled"]),
        sql("rollback"),
        cancel("ended"),
        ids().gives(["ended:0:cancelled"]),
    ],
    "a parent that ends without success cancels its child with an event": [
        enqueue("end_dead", "parent"),
        enqueue(id_="child", after=["parent"], on_parent_dead="cancel"),
        run("parent"),
        ids().gives(["parent:0:archived", "child:0:cancelled"]),
    ],
    "operators and SQL that end a task": [
        *(enqueue(id_=id_) for id_ in ("archived", "cancelled", "deleted", "by-sql")),
        operate("archive", "archived"),
        operate("cancel", "cancelled"),
        operate("delete", "deleted"),
        sql("update joblane.tasks set state = 'cancelled' where id = 'by-sql'"),
        ids().gives_some(3),
        lambda world: world.sweep(Bus()),
        ids().gives(["archived:0:archived", "cancelled:0:cancelled", "deleted:0:cancelled", "by-sql:0:cancelled"]),
    ],
    "a redriven task has another event with the number of its redrives": [
        enqueue("end_dead"),
        run(),
        operate("retry", "it"),
        run(),
        ids().gives(["it:0:archived", "it:1:archived"]),
    ],
    "a change of an ended task writes no second event": [
        enqueue("end_dead"),
        run(),
        sql("delete from joblane.events"),  # it was sent
        operate("delete", "it"),
        ids().gives([]),
    ],
    "a task that SQL lets end twice has its event once": [
        enqueue(),
        run(),
        sql("update joblane.tasks set state = 'pending', finished_at = null, expire_at = null"),
        run(),
        row("it", state="completed"),
        ids().gives(["it:0:completed"]),
    ],
    "a replaced task keeps its declared events": [
        enqueue(**UNIQUE),
        lambda world: world.client.enqueue(sample_heard, Sample(number=1), on_conflict=OnConflict.REPLACE, **UNIQUE),
        run(),
        ids().gives(["it:0:completed"]),
    ],
    "the task of on_archived has the events of its own declaration": [
        lane(sample_following),
        enqueue("end_dead", task=sample_followed),
        run(task=sample_followed),
        run("it:archived:0", sample_following),
        ids().gives(["it:archived:0:0:completed"]),
    ],
    "the events of a row that was written by hand are checked": [
        given(sample_heard, "it", events=[wrong]).fails(
            DatabaseError, "events: a list of completed, archived and cancelled is required"
        )
        for wrong in ("dead", None, "")
    ],
}


@stories(STORIES)
def test_events(world: World, story: Story) -> None:
    play(world, story)


def test_the_end_of_a_run_writes_its_event_with_the_facts_of_the_row(world: World) -> None:
    began = datetime.now(UTC) - timedelta(milliseconds=1)
    enqueue("end_dead", tenant="acme", owner="ann", tags=["nightly"])(world)
    run()(world)

    [event] = events(world)

    assert (event.id, event.kind, event.type, event.task_id) == ("it:0:archived", "archived", "sample:heard", "it")
    assert (event.queue, event.tenant, event.owner, event.tags) == ("default", "acme", "ann", ("nightly",))
    assert (event.redrives, event.attempts, event.error_type) == (0, 1, "SkipRetry")
    assert event.reason == world.row("it")["reason"]
    assert event.fingerprint == world.row("it")["fingerprint"]
    assert began <= event.enqueued_at <= event.finished_at <= datetime.now(UTC)


def test_a_task_enqueued_by_sql_has_the_events_of_its_declaration(world: World) -> None:
    with Database(world.url) as database:
        register(database.get(), TASKS)
    [[id_, _]] = world.run("select * from joblane.enqueue('sample:heard', '{}')")
    world.deliver(sample_heard, {"type": "sample:heard", "id": id_, "rec": True})

    assert ids()(world) == [f"{id_}:0:completed"]


def test_a_task_that_is_refused_as_a_duplicate_has_its_event(world: World) -> None:
    world.deliver(sample_dying, message("end_dead", "first", type_="sample:dying"))
    put(world, sample_dying, "holder", unique_key="sample:dying x")
    world.run("update joblane.tasks set unique_key = $1 where id = 'holder'", world.row("first")["unique_key"])
    world.deliver(sample_dying, message("end_dead", "second", type_="sample:dying"))

    assert ids()(world) == ["first:0:archived", "second:0:cancelled"]
    assert events(world)[1].reason == "DuplicateTask: its unique key is held by holder"


def test_an_event_is_bounded_whatever_the_row_has(world: World) -> None:
    put(world, sample_heard, "it", events=HEARD, owner="o" * 9999, tags=["t" * 9999] * 99)
    world.run(
        "update joblane.tasks set state = 'archived', finished_at = now(), expire_at = now(), sweep_at = null,"
        " dead_letter_unsent = true, reason = repeat('ä', 9999), error_type = repeat('e', 9999),"
        " fingerprint = repeat('f', 9999)"
    )

    [[size]] = world.run("select octet_length(detail::text) from joblane.events")
    assert size < 24_000
    assert events(world)[0].reason == "ä" * 2000


@contextmanager
def role(world: World, rights: str) -> Iterator[None]:
    """Use a role with these rights on the tasks."""
    world.run("create role ender")
    world.run("grant usage on schema joblane to ender")
    world.run(f"grant {rights} on joblane.tasks to ender")
    try:
        world.run("set role ender")
        yield
    finally:
        world.run("reset role")
        world.run("drop owned by ender cascade")
        world.run("drop role ender")


def test_a_role_that_may_only_change_tasks_can_end_one(world: World) -> None:
    enqueue()(world)
    with role(world, "select, update"):
        world.run("update joblane.tasks set state = 'cancelled', finished_at = now(), reason = 'x', expire_at = now()")

    assert ids()(world) == ["it:0:cancelled"]


def test_a_role_that_may_only_read_cannot_write_an_event(world: World) -> None:
    enqueue()(world)
    run()(world)
    world.run("delete from joblane.events")
    with role(world, "select"), pytest.raises(DatabaseError, match="permission denied for table events"):
        world.run("select joblane.add_event(t) from joblane.tasks t")

    assert ids()(world) == []


def test_the_trigger_of_events_gives_its_rights_to_no_other_table(world: World) -> None:
    body = "begin raise exception 'run as %', current_user; end"
    with role(world, "select"):
        for statement in (
            "create temporary table lure (finished_at timestamptz, events text[])",
            f"create function pg_temp.tasks(lure) returns joblane.tasks language plpgsql as $$ {body} $$",
            "create cast (lure as joblane.tasks) with function pg_temp.tasks(lure) as implicit",
            "create trigger lure after update on lure for each row execute function joblane.task_ended()",
            "insert into lure values (null, '{}')",
            "update lure set finished_at = now()",
        ):
            world.run(statement)

    assert ids()(world) == []
