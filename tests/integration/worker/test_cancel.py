"""Cancelling: a waiting task never runs, a running one stops without an effect; the status of a task meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any
from unittest.mock import patch

import pytest

from joblane import JobClient, JobError, RetryAfter, SkipRetry, Snooze, State, TaskCancelled, TaskContext
from joblane.errors import DatabaseUnavailableError, UnknownTaskError, WaitTimeoutError
from tests import emf
from tests.builders.handlers import Handler, run, write, written
from tests.builders.rows import In, active, archived, put
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_batch, sample_forgotten, sample_one
from tests.world import World

WAITING: dict[str, dict[str, Any]] = {
    "pending": {},
    "scheduled": {"state": "scheduled", "due_at": In(3600)},
    "retry": {"state": "retry", "attempts": 1, "runs": 1, "due_at": In(40)},
}


@pytest.fixture
def client(world: World) -> JobClient:
    world.lane(sample_one)
    world.client._producer.sqs = world.sqs
    return world.client


@pytest.fixture
def other(world: World) -> Iterator[JobClient]:
    """A client of another thread."""
    made = JobClient()
    yield made
    made.close()


def recorded(id_: str) -> dict[str, Any]:
    return {"type": "sample:one", "id": id_, "rec": True}


# --- What waits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", WAITING)
def test_a_task_that_waits_never_runs_and_its_message_is_acknowledged(
    world: World, client: JobClient, state: str
) -> None:
    put(world, sample_one, "it", {"do": "never", "number": 0}, **WAITING[state])
    runs = world.row("it")["runs"]

    assert client.cancel("it") is State.CANCELLED

    world.run("update joblane.tasks set due_at = clock_timestamp()")
    for _ in range(2):
        assert world.deliver(sample_one, recorded("it")) == []
    row = world.row("it")
    assert (row["state"], row["runs"], row["reason"]) == (
        "cancelled",
        runs,
        "cancelled while it waited" if runs else "cancelled before it ran",
    )
    assert None not in (row["finished_at"], row["expire_at"], row["cancel_requested_at"])
    assert world.dead_letters(sample_one) == []
    # and the sweep leaves it alone
    assert world.sweep().sent == 0
    assert client.cancel("it") is None


def test_what_has_ended_or_is_not_known_cannot_be_cancelled(world: World, client: JobClient) -> None:
    put(world, sample_one, "done", state="completed")
    put(world, sample_one, "dead", **archived())
    before = [world.row(id_) for id_ in ("done", "dead")]
    assert [client.cancel(id_) for id_ in ("done", "dead", "unknown", "", "a\0b", "é", "\ud800")] == [None] * 7
    assert [world.row(id_) for id_ in ("done", "dead")] == before


# --- What runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("touches", [True, False], ids=["with its session", "without"])
@pytest.mark.parametrize(
    "ask", [TaskContext.check, lambda ctx: ctx.progress(1, 2)], ids=["at a check", "at a report of its progress"]
)
def test_a_run_sees_the_cancel_as_soon_as_it_asks_and_leaves_no_effect(
    effects: World, client: JobClient, other: JobClient, ask: Handler, touches: bool
) -> None:
    seen: list[object] = []
    watched = effects.watch()

    def ask_after_cancel(ctx: TaskContext) -> None:
        if touches:
            write(ctx, "half")
        seen.append(other.cancel(ctx.task_id))
        seen.append(other.get(ctx.task_id).cancel_requested)  # type: ignore[union-attr]
        try:
            ask(ctx)
        except Exception:
            seen.append("swallowed")
        seen.append("continued")

    for _ in range(2):  # its message comes again
        row = run(effects, ask_after_cancel)
        assert (row["kept"], row["state"], row["reason"]) == (False, "cancelled", "cancelled while it ran")
        assert (row["attempts"], row["runs"]) == (1, 1)
    assert seen == [State.ACTIVE, True]
    assert None not in (row["finished_at"], row["expire_at"])
    assert (effects.outcomes("it"), written(effects), watched.sent) == (["cancelled"], [], [])
    assert effects.dead_letters(sample_one) == []


ENDS: dict[str, BaseException | None] = {
    "returns": None,
    "fails": ValueError("no"),
    "fails for the last time": ValueError("no"),
    "waits": RetryAfter(timedelta(hours=3)),
    "snoozes": Snooze(timedelta(seconds=5)),
    "gives up": SkipRetry("no use"),
    "is interrupted": TaskCancelled("by itself"),
}


@pytest.mark.parametrize("touches", [True, False], ids=["with its session", "without"])
@pytest.mark.parametrize("end", ENDS)
def test_a_run_that_does_not_check_is_cancelled_at_its_end(
    effects: World, other: JobClient, end: str, touches: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = effects.watch()

    def end_after_cancel(ctx: TaskContext) -> str:
        if touches:
            write(ctx, "half")
        assert other.cancel(ctx.task_id) is State.ACTIVE
        if (error := ENDS[end]) is not None:
            raise error
        return "done"

    payload = {"do": "handler_of_the_test", "number": 0}
    put(effects, sample_one, "it", payload, max_attempts=1 if end == "fails for the last time" else 2)
    row = run(effects, end_after_cancel)
    assert (row["kept"], row["state"], row["result"]) == (False, "cancelled", None)
    assert row["reason"] == "cancelled while it ran"
    (metrics,) = emf.documents(capsys.readouterr().out)
    assert (metrics["Started"], metrics["Cancelled"], metrics.get("Completed")) == (1, 1, None)
    assert (effects.outcomes("it"), written(effects), watched.sent) == (["cancelled"], [], [])
    assert run(effects, end_after_cancel)["runs"] == 1


def test_a_cancelled_task_in_a_batch_costs_the_others_nothing(world: World, other: JobClient) -> None:
    @behaviour
    def cancel_number_1(payload: Sample, ctx: TaskContext) -> int:
        if payload.number == 1:
            other.cancel(ctx.task_id)
        return payload.number

    for number in range(3):
        put(world, sample_batch, f"it-{number}", {"do": "cancel_number_1", "number": number})
    bodies = [{"type": "sample:batch", "id": f"it-{number}", "rec": True} for number in range(3)]
    assert world.deliver(sample_batch, *bodies) == []
    rows = [world.row(f"it-{number}") for number in range(3)]
    assert [(row["state"], row["result"]) for row in rows] == [("completed", 0), ("cancelled", None), ("completed", 2)]


def test_a_cancelled_task_without_retention_is_cleared_at_once(world: World, other: JobClient) -> None:
    @behaviour
    def cancel_forgotten(payload: Sample, ctx: TaskContext) -> None:
        other.cancel(ctx.task_id)

    put(world, sample_forgotten, "it", {"do": "cancel_forgotten", "number": 0}, retention_seconds=0)
    assert world.deliver(sample_forgotten, {"type": "sample:forgotten", "id": "it", "rec": True}) == []
    row = world.row("it")
    assert (row["state"], row["payload"], row["cleared"]) == ("cancelled", None, True)


@pytest.mark.parametrize("attempts", [1, 4], ids=["attempts left", "none left"])
@pytest.mark.parametrize("batch_size", [1, 10])
def test_a_lost_run_that_was_asked_to_stop_ends_cancelled_without_running_again(
    world: World, client: JobClient, attempts: int, batch_size: int
) -> None:
    put(world, sample_one, "it", **active(-1, attempts=attempts, runs=attempts, batch_size=batch_size))
    assert client.cancel("it") is State.ACTIVE
    assert client.cancel("it") is State.ACTIVE

    assert world.deliver(sample_one, recorded("it")) == []

    row = world.row("it")
    assert (row["state"], row["runs"], row["lease_token"]) == ("cancelled", attempts, None)
    assert row["reason"] == "cancelled while it ran"
    assert world.outcomes("it") == ["lost"]
    assert world.dead_letters(sample_one) == []
    world.sweep()
    assert None not in (world.row("it")["finished_at"], world.row("it")["expire_at"])


def test_a_live_run_of_another_process_is_left_to_end_by_itself(world: World, client: JobClient) -> None:
    put(world, sample_one, "it", **active(30))
    assert client.cancel("it") is State.ACTIVE
    assert len(world.deliver(sample_one, recorded("it"))) == 1
    assert world.row("it")["state"] == "active"


# --- Looking and waiting -------------------------------------------------------------------------------------------


def test_the_status_of_a_task(world: World, client: JobClient) -> None:
    @behaviour
    def look_at_me(payload: Sample, ctx: TaskContext) -> dict[str, int]:
        return {"number": payload.number}

    deadline = datetime.now(UTC) + timedelta(hours=1)
    id_ = client.enqueue(
        sample_one, Sample(do="look_at_me", number=3), tenant="acme", owner="u1", tags=["a"], max_retry=2,
        deadline=deadline,
    ).id  # fmt: skip

    waits = client.get(id_)
    assert waits is not None
    assert (waits.id, waits.type, waits.queue, waits.state) == (id_, "sample:one", "default", State.PENDING)
    assert (waits.tenant, waits.owner, waits.tags, waits.max_retry) == ("acme", "u1", ("a",), 2)
    assert (waits.deadline, waits.ended, waits.result, waits.progress) == (deadline, False, None, None)

    world.deliver(sample_one, recorded(id_))
    done = client.get(id_)
    assert done is not None
    assert (done.state, done.ended, done.result, done.attempts) == (State.COMPLETED, True, {"number": 3}, 1)
    assert done.finished_at is not None


def test_get_returns_none_for_an_unknown_task_and_wait_raises(world: World, client: JobClient) -> None:
    for id_ in ("unknown", "", "a\0b", "é", "\ud800", "x" * 201):
        assert client.get(id_) is None
        with pytest.raises(UnknownTaskError, match="there is no task") as caught:
            client.wait(id_, timedelta(seconds=5))
        assert isinstance(caught.value, JobError)
        assert caught.value.task_id == id_


def test_waiting_returns_as_soon_as_the_task_has_ended(world: World, client: JobClient, other: JobClient) -> None:
    id_ = client.enqueue(sample_one, Sample(do="handler_of_the_test"), task_id="it").id
    looked = Event()
    ask = other.get

    def get(id_: str) -> Any:
        looked.set()
        return ask(id_)

    with ThreadPoolExecutor(1) as threads, patch.object(other, "get", get):
        waiter = threads.submit(other.wait, id_, timedelta(seconds=20))
        run(world, lambda ctx: "done" if looked.wait(PATIENCE_SECONDS) else "nobody waits")
        status = waiter.result(PATIENCE_SECONDS)
    assert (status.state, status.result) == (State.COMPLETED, "done")
    assert client.wait(id_, timedelta(0)).result == "done"


@pytest.mark.parametrize(("columns", "state"), [(archived(), "archived"), ({"state": "cancelled"}, "cancelled")])
def test_waiting_returns_for_every_end(world: World, client: JobClient, columns: dict[str, Any], state: str) -> None:
    put(world, sample_one, "it", **columns)
    assert client.wait("it", timedelta(seconds=5)).state == state


def test_waiting_too_long_is_an_error_with_the_tasks_state(world: World, client: JobClient) -> None:
    put(world, sample_one, "it", **WAITING["retry"])
    started = time.monotonic()
    with pytest.raises(WaitTimeoutError, match=r"task 'it' has not ended within 0:00:00.400000: it is retry") as caught:
        client.wait("it", timedelta(seconds=0.4))
    assert 0.4 <= time.monotonic() - started < 30
    assert (caught.value.task_id, caught.value.state) == ("it", "retry")
    assert isinstance(caught.value, TimeoutError)


def test_an_unavailable_database_is_an_error_for_every_method(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/jobs")
    away = JobClient()
    for ask in (away.get, away.cancel, lambda id_: away.wait(id_, timedelta(seconds=5))):
        with pytest.raises(DatabaseUnavailableError, match="the database is unavailable"):
            ask("it")
