"""A hook that fails, before its yield or after it: attempts, messages, and the name of the hook."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from joblane import RateLimited, RevokeTask, Snooze, TaskContext, TaskTimeout, around
from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import doctor
from joblane.inspector.stage.glance import glance
from joblane.inspector.views import Grade
from joblane.tasks.task import Task
from joblane.worker import outcome
from joblane.worker.run import KILL_MARGIN_SECONDS
from tests.builders.events import message
from tests.builders.handlers import run, write, write_async, written
from tests.logs import lines
from tests.samples import sample_async, sample_batch, sample_one
from tests.world import PREFIX, World

HOUR = timedelta(hours=1)
SHORT = KILL_MARGIN_SECONDS + 1
"""Seconds of an invocation whose handler has one."""
pytestmark = pytest.mark.usefixtures("standing_clock")


def doctored(world: World) -> list[Any]:
    scope = Scope(world.database, world.sqs, PREFIX, {}, "op")
    return [check for check in doctor.hooks(glance(scope)) if check.grade is Grade.BAD]


def check_early(world: World) -> None:
    ran: list[str] = []

    @around
    def bind_tenant(ctx: TaskContext) -> Iterator[None]:
        write(ctx, "rolled back")
        if not ran:
            raise KeyError("tenant")
        yield

    row = run(world, lambda ctx: ran.append("the handler"))
    assert (row["state"], row["attempts"], row["kept"], ran) == ("pending", 0, True, [])
    assert written(world) == []
    ran.append("repaired")
    assert run(world, lambda ctx: None)["state"] == "completed"
    assert [each["attempt"] for each in world.attempts("it")] == [1, 1]


def test_a_hook_that_fails_before_its_yield_spends_no_attempt(
    effects: World,
) -> None:
    with lines() as logged:
        check_early(effects)
    [line] = [line for line in logged.fields if line.get("outcome") == "not_started"]
    assert "check_early.<locals>.bind_tenant has failed before its yield" in line["error"]
    assert "KeyError: 'tenant'" in line["error"]
    [found] = doctored(effects)
    assert "check_early.<locals>.bind_tenant" in found.found
    assert found.what == "hooks of sample:one"


def test_the_messages_of_a_hook_that_fails_stay_longer_with_each_receive(
    effects: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "growing_seconds", lambda receives: 10 * receives)

    @around
    def fails(ctx: TaskContext) -> Iterator[None]:
        raise OSError("no route")
        yield

    watched = effects.watch()
    for receives in (1, 2, 3):
        effects.later("it") if receives > 1 else None
        effects.deliver(sample_one, message("nothing"), receives=receives)
    assert watched.visibilities == [10, 20, 30]
    assert effects.row("it")["attempts"] == 0


def test_in_a_batch_of_ten_only_the_tasks_of_a_failing_hook_stay(effects: World) -> None:
    @around
    def fails_for_odd(ctx: TaskContext) -> Iterator[None]:
        if int(ctx.task_id) % 2:
            raise KeyError("tenant")
        yield

    bodies = [message("nothing", str(number), type_=sample_batch.type) for number in range(10)]
    kept = effects.deliver(sample_batch, *bodies)
    assert len(kept) == 5
    assert {effects.row(str(n))["state"] for n in range(0, 10, 2)} == {"completed"}
    assert {effects.row(str(n))["state"] for n in range(1, 10, 2)} == {"pending"}


def test_a_timeout_before_the_yield_is_a_start_that_failed(effects: World) -> None:
    @around
    def hangs_first(ctx: TaskContext) -> Iterator[None]:
        with suppress(TaskTimeout):
            time.sleep(30)
        yield

    row = run(effects, lambda ctx: None, seconds=SHORT)
    assert (row["state"], row["attempts"], effects.outcomes("it")) == ("pending", 0, ["not_started"])


@pytest.mark.parametrize(
    ("end", "state"),
    [(RevokeTask("no such tenant"), "cancelled"), (Snooze(HOUR), "pending"), (RateLimited(HOUR), "pending")],
)
def test_a_hook_decides_the_end_of_a_run_before_its_yield(effects: World, end: Exception, state: str) -> None:
    @around
    def decides(ctx: TaskContext) -> Iterator[None]:
        raise end
        yield

    assert run(effects, lambda ctx: 1 / 0)["state"] == state
    assert effects.outcomes("it") != ["not_started"]


class Unusual(BaseException):
    """An exception that ``except Exception`` does not catch."""


@pytest.mark.parametrize("error", [Unusual, SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("task", [sample_one, sample_async])
def test_a_hook_is_named_whatever_it_raises(effects: World, task: Task[Any, Any], error: type[BaseException]) -> None:
    is_early = True

    @around
    def fails(ctx: TaskContext) -> Iterator[None]:
        if is_early:
            raise error
        yield
        raise error

    @around(sample_async)
    async def fails_too(ctx: TaskContext) -> AsyncIterator[None]:
        yield
        raise error

    async def handler(ctx: TaskContext) -> None: ...

    for id_, is_early in (("early", True), ("late", False)):  # noqa: B007
        run(effects, handler if task.is_async else handler_of_nothing, id_, task=task)
    found = [effects.attempts(id_)[0] for id_ in ("early", "late")]
    assert [(each["outcome"], each["error_type"]) for each in found] == [
        ("not_started", "HookError"),
        ("failed", "HookError"),
    ]


def handler_of_nothing(ctx: TaskContext) -> None: ...


def no_yield(ctx: TaskContext) -> Iterator[None]:
    if ctx.task_id == "never":
        yield


def two_yields(ctx: TaskContext) -> Iterator[None]:
    yield
    yield


def two_yields_after_an_error(ctx: TaskContext) -> Iterator[None]:
    try:
        yield
    except ZeroDivisionError:
        yield


def fails_at_the_end(ctx: TaskContext) -> Iterator[None]:
    yield
    raise KeyError("tenant")


def fails_at_an_error(ctx: TaskContext) -> Iterator[None]:
    try:
        yield
    finally:
        raise KeyError("tenant")


async def two_yields_async(ctx: TaskContext) -> AsyncIterator[None]:
    yield
    yield


async def no_yield_async(ctx: TaskContext) -> AsyncIterator[None]:
    if ctx.task_id == "never":
        yield


async def fails_async(ctx: TaskContext) -> AsyncIterator[None]:
    yield
    raise KeyError("tenant")


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (no_yield, "has returned without a yield"),
        (two_yields, "has yielded twice"),
        (two_yields_after_an_error, "has yielded twice"),
        (fails_at_the_end, "has failed after its yield: KeyError: 'tenant'"),
        (fails_at_an_error, "has failed after its yield: KeyError: 'tenant'"),
        (no_yield_async, "has returned without a yield"),
        (two_yields_async, "has yielded twice"),
        (fails_async, "has failed after its yield: KeyError: 'tenant'"),
    ],
)
def test_another_fault_of_a_hook_is_the_error_of_the_run(effects: World, hook: Any, problem: str) -> None:
    is_async = hook.__name__.endswith("async")
    fails = hook.__name__.endswith("an_error")
    around(sample_async if is_async else sample_one)(hook)

    def handler(ctx: TaskContext) -> None:
        write(ctx)
        _ = 1 / 0 if fails else None

    async def handler_async(ctx: TaskContext) -> None:
        await write_async(ctx, "done")

    row = run(effects, handler_async if is_async else handler, task=sample_async if is_async else sample_one)
    [attempt] = effects.attempts("it")
    assert (row["state"], attempt["outcome"], attempt["error_type"]) == ("retry", "failed", "HookError")
    assert attempt["error_message"].startswith(f"hook {hook.__module__}.{hook.__name__} {problem}")
    assert written(effects) == []
    assert ("ZeroDivisionError" in attempt["traceback"]) is fails  # the error of the handler is not lost


# --- A planted fault -----------------------------------------------------------------------------------------------


def counts_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure before the yield is a failed attempt."""
    monkeypatch.setattr(
        outcome, "_not_started", lambda task, claim, error, scrub, _: outcome._decide(task, claim, error, scrub)
    )


def test_a_failed_start_that_counts_is_found(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counts_early(monkeypatch)
    with pytest.raises(AssertionError):
        check_early(effects)
