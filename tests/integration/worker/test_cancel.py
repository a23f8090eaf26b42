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
from tests.stories import SOME, Story, cancel, deliver, outcomes, play, row, sql, step, stories, sweep
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


# --- What waits, and what is lost ----------------------------------------------------------------------------------


@step
def dead_letters(world: World) -> int:
    return len(world.dead_letters(sample_one))


given = step(put)
STORIES: dict[str, Story] = {
    **{
        f"a task that waits never runs and its message is acknowledged: {state}": [
            given(sample_one, "it", {"do": "never", "number": 0}, **columns),
            cancel("it").gives(State.CANCELLED),
            sql("update joblane.tasks set due_at = clock_timestamp()"),
            *(deliver(sample_one, recorded("it")).gives([]) for _ in range(2)),
            row("it", state="cancelled", runs=columns.get("runs", 0)),
            row("it", reason="cancelled while it waited" if "runs" in columns else "cancelled before it ran"),
            row("it", finished_at=SOME, expire_at=SOME, cancel_requested_at=SOME),
            dead_letters().gives(0),
            # and the sweep leaves it alone
            sweep(sent=0),
            cancel("it").gives(None),
        ]
        for state, columns in WAITING.items()
    },
    **{
        f"a lost run that was asked to stop does not run again: attempt {attempts}, of {batch_size}": [
            given(sample_one, "it", **active(-1, attempts=attempts, runs=attempts, batch_size=batch_size)),
            *(cancel("it").gives(State.ACTIVE) for _ in range(2)),
            deliver(sample_one, recorded("it")).gives([]),
            row("it", state="cancelled", runs=attempts, lease_token=None, reason="cancelled while it ran"),
            outcomes("it").gives(["lost"]),
            dead_letters().gives(0),
            sweep(),
            row("it", finished_at=SOME, expire_at=SOME),
        ]
        for attempts, batch_size in ((1, 1), (1, 10), (4, 1), (4, 10))
    },
    "a live run of another process is left to end by itself": [
        given(sample_one, "it", **active(30)),
        cancel("it").gives(State.ACTIVE),
        deliver(sample_one, recorded("it")).gives_some(1),
        row("it", state="active"),
    ],
}


@pytest.mark.usefixtures("client")
@stories(STORIES)
def test_story(world: World, story: Story) -> None:
    play(world, story)


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
