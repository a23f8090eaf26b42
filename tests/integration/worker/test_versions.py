"""Old and new code on the same database, during a deploy or after a rollback."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from joblane import Payload, Queue, TaskContext, task
from joblane.names import dead_letter_name, lane_name
from joblane.record.migrate import migrate
from joblane.sqs.message import Message
from joblane.tasks.task import Task
from tests.builders.events import record
from tests.world import PREFIX, World, handle


class Old(Payload):
    number: int


class Wider(Payload):
    """The next version: one more field, with a default."""

    number: int
    unit: str = "euro"


class Stricter(Payload):
    """A version that old messages cannot satisfy."""

    number: int
    unit: str


def version(payload_class: type[Payload], **declared: Any) -> tuple[Task[Any, Any], list[Payload]]:
    """Return the task with that payload class, and the payloads that its handler gets."""
    ran: list[Payload] = []

    def sample_changing(payload: payload_class, ctx: TaskContext) -> None:  # type: ignore[valid-type]
        ran.append(payload)

    sample_changing.__annotations__["payload"] = payload_class
    return task("sample:changing", **declared)(sample_changing), ran


def deliver(world: World, code: Task[Any, Any], body: Any, lane: str | None = None, **how: Any) -> list[str]:
    """Deliver to a process with this version of the code. Return the ids of the messages that stay in the queue."""
    with world.rival(code) as worker:
        return handle(worker, record(body, lane or world.lane(code), **how))


def enqueued(world: World, code: Task[Any, Any], payload: Payload) -> tuple[str, str]:
    """Enqueue a task by this version of the code. Return its id and its message."""
    world.lane(code)
    id_ = world.client.enqueue(code, payload).id
    [message] = world.take(code)
    return id_, message["Body"]


def test_old_code_runs_what_new_code_has_enqueued_without_the_field_it_does_not_know(world: World) -> None:
    (old, ran), (new, _) = version(Old), version(Wider)
    id_, message = enqueued(world, new, Wider(number=7, unit="yen"))
    assert deliver(world, old, message) == []
    assert ran == [Old(number=7)]
    assert world.row(id_)["state"] == "completed"


def test_new_code_runs_what_old_code_has_enqueued_with_the_default(world: World) -> None:
    (old, _), (new, ran) = version(Old), version(Wider)
    _, message = enqueued(world, old, Old(number=7))
    assert deliver(world, new, message) == []
    assert ran == [Wider(number=7)]


def test_a_payload_that_new_code_cannot_read_waits_uncounted_and_runs_with_old_code(world: World) -> None:
    (old, ran), (new, unread) = version(Old), version(Stricter)
    id_, message = enqueued(world, old, Old(number=7))
    assert deliver(world, new, message) != []
    row = world.row(id_)
    assert (row["state"], row["attempts"], unread) == ("pending", 0, [])
    world.later(id_)
    assert deliver(world, old, message) == []
    assert ran == [Old(number=7)]
    assert world.row(id_)["attempts"] == 1


def test_a_payload_that_no_code_can_read_is_archived_after_an_hour_with_the_reason(world: World) -> None:
    (old, _), (new, _) = version(Old), version(Stricter)
    id_, message = enqueued(world, old, Old(number=7))
    deliver(world, new, message)
    world.run("update joblane.tasks set mismatch_since = mismatch_since - interval '61 min' where id = $1", id_)
    world.later(id_)
    assert deliver(world, new, message) == []
    row = world.row(id_)
    assert row["state"] == "archived"
    assert "unit" in row["reason"]
    assert len(world.dead_letters(new)) == 1


def test_a_typing_error_under_the_codes_own_schema_does_not_wait(world: World) -> None:
    new, _ = version(Wider)
    body = Message("sample:changing", "it", {"number": 1, "nuit": "yen"}, schema=new.schema_digest).encode()
    world.lane(new)
    assert deliver(world, new, body) == []
    assert world.row("it")["state"] == "archived"


def test_old_code_runs_on_the_schema_of_newer_code_after_a_deploy_that_went_back(world: World) -> None:
    # given additive migrations of newer code: a column more in each table that the code writes, and a table
    for table in ("tasks", "task_attempts", "task_types"):
        world.run(f"alter table joblane.{table} add column of_newer_code text not null default 'x'")
    world.run("create table joblane.of_newer_code (id text primary key)")
    world.run("update joblane.alembic_version set version_num = '9999'")
    # when this code is deployed again, and a task runs
    migrate(world.url)
    (code, ran) = version(Old)
    id_, message = enqueued(world, code, Old(number=7))
    assert deliver(world, code, message) == []
    # then
    assert ran == [Old(number=7)]
    assert world.row(id_)["state"] == "completed"
    assert world.run("select of_newer_code from joblane.tasks") == [["x"]]
    assert world.run("select count(*) > 5 from joblane.task_types") == [[True]]


# --- A type that was renamed ---------------------------------------------------------------------------------------


class SampleRenamed(Payload):
    number: int


ran_renamed: list[tuple[str, int]] = []


@task("sample:renamed", aliases=["sample:changing"], timeout=timedelta(seconds=10))
def sample_renamed(payload: SampleRenamed, ctx: TaskContext) -> None:
    ran_renamed.append((ctx.task_id, payload.number))


def old_lane(world: World) -> str:
    old, _ = version(Old)
    world.lane(sample_renamed)
    return world.lane(old)


def test_messages_and_rows_of_the_old_name_run_under_the_new_one(world: World) -> None:
    # given a task that old code enqueued under the old name
    old, _ = version(Old)
    lane = old_lane(world)
    id_, message = enqueued(world, old, Old(number=7))
    # when
    assert deliver(world, sample_renamed, message, lane) == []
    # then
    assert ran_renamed[-1] == (id_, 7)
    row = world.row(id_)
    assert (row["type"], row["state"]) == ("sample:changing", "completed")


def test_an_external_message_with_the_old_name_runs_too(world: World) -> None:
    lane = old_lane(world)
    body = Message("sample:changing", "it", {"number": 3}).encode()
    assert deliver(world, sample_renamed, body, lane) == []
    assert ran_renamed[-1] == ("it", 3)
    assert lane == lane_name(PREFIX, Queue.DEFAULT, "sample:changing")


def test_an_archived_task_with_the_old_name_is_revived_by_its_dead_letter(world: World) -> None:
    # given a task with an unreadable payload
    lane = old_lane(world)
    body = Message("sample:changing", "it", {"number": "many"}).encode()
    assert deliver(world, sample_renamed, body, lane) == []
    [dead_letter] = world.received(dead_letter_name(lane))
    world.run("""update joblane.tasks set payload = '{"number": 5}' where id = 'it'""")
    # when
    attributes = {"joblane-dead": ("Number", dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"])}
    assert deliver(world, sample_renamed, dead_letter["Body"], lane, attributes=attributes) == []
    # then
    assert ran_renamed[-1] == ("it", 5)
    assert world.row("it")["state"] == "completed"


def test_a_name_it_never_had_is_refused(world: World) -> None:
    old_lane(world)
    assert deliver(world, sample_renamed, Message("sample:other", "it", {"number": 3}).encode()) == []
    assert world.run("select count(*) from joblane.tasks") == [[0]]
    [dead_letter] = world.dead_letters(sample_renamed)
    assert "sample:other" in dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"]
