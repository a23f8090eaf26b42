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
from tests.builders.events import message, record
from tests.builders.rows import In, active, put
from tests.samples import Sample, behaviour, sample_one
from tests.samples_events import Bus, sample_dying, sample_followed, sample_following, sample_heard
from tests.world import PREFIX, World, handle

TASKS = {task.type: task for task in (sample_heard, sample_dying, sample_one)}
HEARD = ["completed", "archived", "cancelled"]


@behaviour
def end_dead(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("enough")


@pytest.fixture
def inspector(world: World) -> Iterator[Inspector]:
    world.deploy(TASKS.values())
    database = Database(world.url)
    yield Inspector(Scope(database, world.sqs, PREFIX, TASKS, "op"))
    database.drop()


def events(world: World) -> list[Event]:
    rows = world.run("select id, detail::text from joblane.events order by created_at, id")
    found = [Event.read(json.loads(detail)) for _, detail in rows]
    assert [id_ for id_, _ in rows] == [event.id for event in found]
    return found


def ids(world: World) -> list[str]:
    return [event.id for event in events(world)]


def enqueue(world: World, do: str = "nothing", id_: str = "it", **options: Any) -> dict[str, Any]:
    world.client.enqueue(sample_heard, Sample(do=do), task_id=id_, **options)
    return record({"type": "sample:heard", "id": id_, "rec": True}, world.lane(sample_heard))


def test_the_end_of_a_run_writes_its_event_with_the_facts_of_the_row(world: World) -> None:
    began = datetime.now(UTC) - timedelta(milliseconds=1)
    delivery = enqueue(world, "end_dead", tenant="acme", owner="ann", tags=["nightly"])
    handle(world.worker(sample_heard), delivery)

    [event] = events(world)

    assert (event.id, event.kind, event.type, event.task_id) == ("it:0:archived", "archived", "sample:heard", "it")
    assert (event.queue, event.tenant, event.owner, event.tags) == ("default", "acme", "ann", ("nightly",))
    assert (event.redrives, event.attempts, event.error_type) == (0, 1, "SkipRetry")
    assert event.reason == world.row("it")["reason"]
    assert event.fingerprint == world.row("it")["fingerprint"]
    assert began <= event.enqueued_at <= event.finished_at <= datetime.now(UTC)


def test_only_the_declared_kinds_have_events_and_tasks_without_them_have_none(world: World) -> None:
    world.client.enqueue(sample_dying, Sample(), task_id="completed")
    world.client.enqueue(sample_one, Sample(do="end_dead"), task_id="none")
    world.deliver(sample_dying, {"type": "sample:dying", "id": "completed", "rec": True})
    world.deliver(sample_one, {"type": "sample:one", "id": "none", "rec": True})

    assert world.row("none")["events"] is None
    assert {world.row(id_)["state"] for id_ in ("completed", "none")} == {"completed", "archived"}
    assert events(world) == []


def test_a_task_of_an_external_producer_has_the_events_of_its_declaration(world: World) -> None:
    world.deliver(sample_heard, message("nothing", type_="sample:heard"))

    assert ids(world) == ["it:0:completed"]


def test_a_task_enqueued_by_sql_has_the_events_of_its_declaration(world: World) -> None:
    with Database(world.url) as database:
        register(database.get(), TASKS)
    [[id_, _]] = world.run("select * from joblane.enqueue('sample:heard', '{}')")
    world.deliver(sample_heard, {"type": "sample:heard", "id": id_, "rec": True})

    assert ids(world) == [f"{id_}:0:completed"]


def test_a_killed_run_that_the_next_claim_archives_has_its_event(world: World) -> None:
    put(world, sample_heard, "it", events=HEARD, **active(-1, attempts=2))
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})

    [event] = events(world)
    assert (event.id, event.error_type) == ("it:0:archived", "Lost")


def test_a_task_past_its_deadline_has_its_event(world: World) -> None:
    put(world, sample_heard, "it", events=HEARD, deadline=In(-1))
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})

    assert [(event.id, event.error_type) for event in events(world)] == [("it:0:archived", "DeadlinePassed")]


def test_a_new_message_past_its_deadline_has_its_event(world: World) -> None:
    late = {"options": {"deadline": "2020-01-01T00:00:00Z"}}
    world.deliver(sample_heard, message("nothing", type_="sample:heard") | late)

    assert (world.row("it")["state"], ids(world)) == ("archived", ["it:0:archived"])


def test_a_cancel_has_its_event_only_if_it_commits(world: World) -> None:
    for id_ in ("kept", "ended"):
        enqueue(world, id_=id_)
    world.run("begin")
    world.run(CANCEL, "kept")
    assert ids(world) == ["kept:0:cancelled"]
    world.run("rollback")
    world.client.cancel("ended")

    assert ids(world) == ["ended:0:cancelled"]


def test_a_parent_that_ends_without_success_cancels_its_child_with_an_event(world: World) -> None:
    parent = enqueue(world, "end_dead", "parent")
    enqueue(world, id_="child", after=["parent"], on_parent_dead="cancel")
    handle(world.worker(sample_heard), parent)

    assert ids(world) == ["parent:0:archived", "child:0:cancelled"]


def test_operators_and_sql_that_end_a_task_write_its_event(world: World, inspector: Inspector) -> None:
    for id_ in ("archived", "cancelled", "deleted", "by-sql"):
        enqueue(world, id_=id_)
    inspector.archive("archived")
    inspector.cancel("cancelled")
    inspector.delete("deleted")
    world.run("update joblane.tasks set state = 'cancelled' where id = 'by-sql'")
    assert len(ids(world)) == 3
    world.sweep(Bus())

    assert ids(world) == ["archived:0:archived", "cancelled:0:cancelled", "deleted:0:cancelled", "by-sql:0:cancelled"]


def test_a_redriven_task_has_another_event_with_the_number_of_its_redrives(world: World, inspector: Inspector) -> None:
    handle(world.worker(sample_heard), enqueue(world, "end_dead"))
    inspector.retry("it")
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})

    assert ids(world) == ["it:0:archived", "it:1:archived"]


def test_a_change_of_an_ended_task_writes_no_second_event(world: World, inspector: Inspector) -> None:
    handle(world.worker(sample_heard), enqueue(world, "end_dead"))
    world.run("delete from joblane.events")  # it was sent
    inspector.delete("it")

    assert ids(world) == []


def test_a_task_that_sql_lets_end_twice_has_its_event_once(world: World) -> None:
    handle(world.worker(sample_heard), enqueue(world))
    world.run("update joblane.tasks set state = 'pending', finished_at = null, expire_at = null")
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})

    assert (world.row("it")["state"], ids(world)) == ("completed", ["it:0:completed"])


def test_a_task_that_is_refused_as_a_duplicate_has_its_event(world: World) -> None:
    world.deliver(sample_dying, message("end_dead", "first", type_="sample:dying"))
    put(world, sample_dying, "holder", unique_key="sample:dying x")
    world.run("update joblane.tasks set unique_key = $1 where id = 'holder'", world.row("first")["unique_key"])
    world.deliver(sample_dying, message("end_dead", "second", type_="sample:dying"))

    assert ids(world) == ["first:0:archived", "second:0:cancelled"]
    assert events(world)[1].reason == "DuplicateTask: its unique key is held by holder"


def test_a_replaced_task_keeps_its_declared_events(world: World) -> None:
    options: dict[str, Any] = {"unique_key": "x", "unique_for": timedelta(hours=1)}
    world.client.enqueue(sample_heard, Sample(), task_id="it", **options)
    world.client.enqueue(sample_heard, Sample(number=1), on_conflict=OnConflict.REPLACE, **options)
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})

    assert ids(world) == ["it:0:completed"]


def test_the_task_of_on_archived_has_the_events_of_its_own_declaration(world: World) -> None:
    world.lane(sample_following)
    world.client.enqueue(sample_followed, Sample(do="end_dead"), task_id="it")
    world.deliver(sample_followed, {"type": "sample:followed", "id": "it", "rec": True})
    world.deliver(sample_following, {"type": "sample:following", "id": "it:archived:0", "rec": True})

    assert ids(world) == ["it:archived:0:0:completed"]


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


def test_the_events_of_a_row_that_was_written_by_hand_are_checked(world: World) -> None:
    for wrong in ("dead", None, ""):
        with pytest.raises(Exception, match="events: a list of completed, archived and cancelled is required"):
            put(world, sample_heard, "it", events=[wrong])


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
    enqueue(world)
    with role(world, "select, update"):
        world.run("update joblane.tasks set state = 'cancelled', finished_at = now(), reason = 'x', expire_at = now()")

    assert ids(world) == ["it:0:cancelled"]


def test_a_role_that_may_only_read_cannot_write_an_event(world: World) -> None:
    handle(world.worker(sample_heard), enqueue(world))
    world.run("delete from joblane.events")
    with role(world, "select"), pytest.raises(DatabaseError, match="permission denied for table events"):
        world.run("select joblane.add_event(t) from joblane.tasks t")

    assert ids(world) == []


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

    assert ids(world) == []
