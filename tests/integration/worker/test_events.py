"""The worker sends the events of the runs that it has ended, and calls the listeners, after its response is decided."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from joblane import Event, SkipRetry, TaskContext, on
from joblane.errors import WrongStageError
from joblane.record.events import BY_ID, OF_TASKS
from joblane.tasks.event_kinds import Kind
from joblane.tasks.task import Task
from joblane.testing.faults import Send
from joblane.worker.worker import Worker
from tests import logs
from tests.builders.events import record
from tests.builders.rows import active, put
from tests.samples import Sample, behaviour, sample_one
from tests.samples_events import Bus, sample_heard
from tests.world import PREFIX, World, handle

HEARD = ["completed", "archived", "cancelled"]


@behaviour
def end_dead_at_once(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("enough")


@pytest.fixture
def bus(world: World) -> Bus:
    """The bus of the world's workers."""
    made = Bus()
    for task in (sample_heard, sample_one):
        world.lane(task)
        world.workers[task.type] = Worker(task, world.database, world.sqs, PREFIX, bus=made)
    return made


@pytest.fixture
def heard() -> list[Event]:
    """The events that the test's listeners hear."""
    return []


def listen_to(heard: list[Event], *kinds: Kind, task: Task[Any, Any] | None = None) -> None:
    @on(*kinds, task=task)
    def listen(event: Event) -> None:
        heard.append(event)


def enqueued(world: World, *ids: str, do: str = "nothing", task: Task[Any, Any] = sample_heard) -> list[dict[str, Any]]:
    for id_ in ids:
        world.client.enqueue(task, Sample(do=do), task_id=id_)
    return [record({"type": task.type, "id": id_, "rec": True}, world.lane(task)) for id_ in ids]


def waiting(world: World) -> list[str]:
    return [id_ for (id_,) in world.run("select id from joblane.events order by created_at, id")]


# --- Sending -------------------------------------------------------------------------------------------------------


def test_the_events_of_a_batch_are_sent_together_and_their_rows_deleted(world: World, bus: Bus) -> None:
    kept = handle(world.worker(sample_heard), *enqueued(world, "a", "b"), *enqueued(world, "c", do="end_dead_at_once"))

    assert kept == []
    assert sorted(bus.ids) == ["a:0:completed", "b:0:completed", "c:0:archived"]
    assert (bus.calls, waiting(world)) == (1, [])


def test_a_claim_that_archives_a_killed_run_sends_its_event_and_calls_listeners(
    world: World, bus: Bus, heard: list[Event]
) -> None:
    listen_to(heard, "archived")
    put(world, sample_heard, "it", events=HEARD, **active(-1, attempts=2))
    world.deliver(sample_heard, {"type": "sample:heard", "id": "it", "rec": True})

    assert (bus.ids, waiting(world)) == (["it:0:archived"], [])
    assert [event.error_type for event in heard] == ["Lost"]


def test_a_worker_without_events_reads_none(world: World, bus: Bus) -> None:
    statements: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        statements.append(sql)
        return send()

    with world.rival(sample_one, hook) as worker:
        worker.ends._bus = bus
        handle(worker, *enqueued(world, "it", task=sample_one))

    assert world.row("it")["state"] == "completed"
    assert not any("events" in sql for sql in statements)


def test_after_a_refusal_the_worker_leaves_the_events_to_the_sweep_for_a_minute(world: World, bus: Bus) -> None:
    bus.refusal = "AccessDeniedException: no. Allow it."
    with logs.lines() as written:
        for id_ in ("a", "b"):
            assert handle(world.worker(sample_heard), *enqueued(world, id_)) == []
    assert bus.calls == 1
    bus.refusal = None
    world.worker(sample_heard).ends._paused_until = time.monotonic()  # the minute is over
    handle(world.worker(sample_heard), *enqueued(world, "c"))

    assert (bus.ids, waiting(world)) == (["c:0:completed"], ["a:0:completed", "b:0:completed"])
    [line] = [line for line in written.fields if "bus" in line]
    assert line["message"] == "the bus did not accept events; the sweep sends them"
    assert (line["bus"], line["events"], line["error"]) == ("jobs-events", 1, "AccessDeniedException: no. Allow it.")


def test_with_little_time_left_the_sweep_sends(world: World, bus: Bus) -> None:
    assert handle(world.worker(sample_heard), *enqueued(world, "it"), seconds=5) == []

    assert world.row("it")["state"] == "completed"
    assert (bus.calls, waiting(world)) == (0, ["it:0:completed"])


DATABASE_ERRORS = [OSError("cut"), WrongStageError("acme", "other")]


@pytest.mark.parametrize("error", DATABASE_ERRORS)
def test_a_database_that_fails_after_the_finish_changes_nothing(world: World, bus: Bus, error: Exception) -> None:
    def hook(sql: str, send: Send) -> Any:
        if sql == BY_ID:
            raise error
        return send()

    with world.rival(sample_heard, hook) as worker:
        worker.ends._bus = bus
        assert handle(worker, *enqueued(world, "it")) == []

    assert world.row("it")["state"] == "completed"
    assert (bus.calls, waiting(world)) == (0, ["it:0:completed"])


# --- Listeners -----------------------------------------------------------------------------------------------------


def test_a_listener_hears_the_ends_of_its_kinds_after_they_are_committed(
    world: World, bus: Bus, heard: list[Event]
) -> None:
    seen: list[str] = []

    @on("archived", "cancelled")
    def listen(event: Event) -> None:
        heard.append(event)
        seen.append(world.row(event.task_id)["state"])

    handle(world.worker(sample_heard), *enqueued(world, "a"), *enqueued(world, "b", do="end_dead_at_once"))

    [event] = heard
    assert (event.id, event.reason, seen) == ("b:0:archived", "SkipRetry: enough", ["archived"])
    assert waiting(world) == []  # events do not wait for listeners


def test_a_listener_of_one_task_does_not_hear_another(world: World, bus: Bus, heard: list[Event]) -> None:
    listen_to(heard, "completed", task=sample_one)
    for task in (sample_heard, sample_one):
        handle(world.worker(task), *enqueued(world, task.folder, task=task))

    assert [event.type for event in heard] == ["sample:one"]


@pytest.mark.parametrize("is_decorated", [False, True])
def test_an_async_listener_is_awaited(world: World, bus: Bus, heard: list[Event], is_decorated: bool) -> None:
    async def listen(event: Event) -> None:
        await asyncio.sleep(0)
        heard.append(event)

    @wraps(listen)
    def plain(event: Event) -> Any:
        return listen(event)

    on("completed")(plain if is_decorated else listen)
    handle(world.worker(sample_one), *enqueued(world, "it", task=sample_one))

    assert [event.id for event in heard] == ["it:0:completed"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), asyncio.CancelledError()])
def test_the_error_of_a_listener_is_logged_and_changes_nothing(
    world: World, bus: Bus, heard: list[Event], error: BaseException
) -> None:
    def fail(event: Event) -> None:
        raise error

    on("completed")(fail)
    listen_to(heard, "completed")
    with logs.lines() as written:
        assert handle(world.worker(sample_one), *enqueued(world, "it", task=sample_one)) == []

    assert (world.row("it")["state"], len(heard)) == ("completed", 1)
    [line] = [line for line in written.fields if "listener" in line]
    assert line["message"] == "a listener failed"
    assert (line["task_id"], line["task_type"]) == ("it", "sample:one")
    assert line["listener"].endswith(".fail")
    assert line["error_type"] == type(error).__name__


def hang(event: Event) -> None:
    while True:
        pass


async def hang_awaiting(event: Event) -> None:
    await asyncio.Event().wait()


async def hang_blocking(event: Event) -> None:
    hang(event)


@pytest.mark.usefixtures("standing_clock")
@pytest.mark.parametrize("listener", [hang, hang_awaiting, hang_blocking])
def test_a_listener_that_hangs_ends_before_the_invocation(
    world: World, bus: Bus, heard: list[Event], listener: Callable[[Event], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.worker.listening.LOOP_SECONDS", 0.05)
    on("completed")(listener)
    listen_to(heard, "completed")
    with logs.lines() as written:
        assert handle(world.worker(sample_one), *enqueued(world, "it", task=sample_one), seconds=3.1) == []

    assert world.row("it")["state"] == "completed"
    lines = [line for line in written.fields if "listener" in line]
    assert {line["message"] for line in lines} == {"a listener has not ended in the time that the invocation had left"}
    assert lines[0]["listener"].endswith(listener.__name__)


@pytest.mark.parametrize("error", DATABASE_ERRORS)
def test_listeners_are_not_called_while_the_database_is_unavailable(
    world: World, bus: Bus, heard: list[Event], error: Exception
) -> None:
    listen_to(heard, "completed")

    def hook(sql: str, send: Send) -> Any:
        if sql == OF_TASKS:
            raise error
        return send()

    with world.rival(sample_one, hook) as worker, logs.lines() as written:
        assert handle(worker, *enqueued(world, "it", task=sample_one)) == []

    assert heard == []
    assert "listeners were not called, because the database did not answer" in [
        line["message"] for line in written.fields
    ]
