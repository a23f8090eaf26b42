"""Hooks around a run cannot swallow its exception or end its transaction."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

import pytest

from joblane import Payload, RetryAfter, TaskContext, TaskTimeout, around, task
from joblane.tasks.redaction import Redacted
from joblane.worker import hooks as module
from joblane.worker.run import KILL_MARGIN_SECONDS
from tests.builders.handlers import cancels, hangs, loses, run, write, write_async, written
from tests.logs import lines
from tests.samples import sample_async
from tests.world import World

HOUR = timedelta(hours=1)
SHORT = KILL_MARGIN_SECONDS + 1
"""Seconds of an invocation whose handler has one."""
pytestmark = pytest.mark.usefixtures("standing_clock")


def check_swallowing(world: World, handler: Callable[[TaskContext], Any], state: str, seconds: float = 60) -> None:
    @around
    def swallows(ctx: TaskContext) -> Iterator[None]:
        with suppress(BaseException):
            yield

    assert run(world, handler, seconds=seconds)["state"] == state


def check_swallowed_stop(world: World) -> None:
    check_swallowing(world, lambda ctx: ctx.sleep("a while", HOUR), "scheduled")
    assert world.outcomes("it") == ["waiting"]


def check_swallowed_error(world: World) -> None:
    check_swallowing(world, lambda ctx: 1 / 0, "retry")


def test_a_hook_swallows_no_stop_at_a_wait(effects: World) -> None:
    check_swallowed_stop(effects)


def test_a_hook_swallows_no_error(effects: World) -> None:
    check_swallowed_error(effects)


@pytest.mark.parametrize(("handler", "state"), [(cancels, "cancelled"), (loses, "active"), (hangs, "retry")])
def test_a_hook_swallows_no_interrupt(effects: World, handler: Any, state: str) -> None:
    check_swallowing(effects, handler, state, SHORT)


def test_a_hook_swallows_no_timeout_of_its_own(effects: World) -> None:
    @around
    def hangs_at_the_end(ctx: TaskContext) -> Iterator[None]:
        yield
        with suppress(TaskTimeout):
            time.sleep(30)

    assert run(effects, lambda ctx: None, seconds=SHORT)["state"] == "retry"
    assert effects.outcomes("it") == ["timeout"]


class Hidden(Payload):
    token: Annotated[str, Redacted]


@task("sample:hidden")
def sample_hidden(payload: Hidden, ctx: TaskContext) -> None:
    ctx.sleep("a while", HOUR)


def test_a_hook_that_fails_at_an_interrupt_is_logged_and_the_interrupt_decides(effects: World) -> None:
    @around
    def fails(ctx: TaskContext) -> Iterator[None]:
        try:
            yield
        finally:
            raise KeyError("token-of-the-payload was refused")

    payload = {"token": "token-of-the-payload"}
    with lines() as logged:
        effects.deliver(sample_hidden, {"type": sample_hidden.type, "id": "it", "payload": payload})
    assert effects.row("it")["state"] == "scheduled"
    [line] = [line for line in logged.fields if line["level"] == "ERROR"]
    assert ".fails has failed after its yield: KeyError: " in line["message"]
    assert "was refused" in line["message"]
    assert line["task_id"] == "it"
    assert payload["token"] not in "".join(logged.texts)


def test_a_hook_replaces_an_error_by_another(effects: World) -> None:
    @around
    def translates(ctx: TaskContext) -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            raise RetryAfter(2 * HOUR) from error
        except LookupError as error:
            raise OverflowError("translated") from error

    def refuses(ctx: TaskContext) -> None:
        raise ConnectionError

    assert run(effects, refuses)["state"] == "retry"
    assert run(effects, lambda ctx: ctx.settings["none"], "other")["state"] == "retry"
    assert [effects.attempts(id_)[0]["error_type"] for id_ in ("it", "other")] == ["RetryAfter", "OverflowError"]


def test_an_error_that_ends_generators_is_the_error_of_the_run(effects: World) -> None:
    log: list[str] = []

    @around
    def outermost(ctx: TaskContext) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.append(type(error).__name__)

    @around
    def passes(ctx: TaskContext) -> Iterator[None]:
        yield

    async def handler(ctx: TaskContext) -> None:
        raise StopAsyncIteration

    @around(sample_async)
    async def passes_too(ctx: TaskContext) -> AsyncIterator[None]:
        yield

    run(effects, lambda ctx: next(iter([])))
    run(effects, handler, "async", task=sample_async)
    errors = [effects.attempts(id_)[0]["error_type"] for id_ in ("it", "async")]
    assert log == errors == ["StopIteration", "StopAsyncIteration"]


def closes(ctx: TaskContext) -> None:
    ctx.session.close()


def resets(ctx: TaskContext) -> None:
    ctx.session.reset()


def invalidates(ctx: TaskContext) -> None:
    ctx.session.invalidate()


def rolls_back(ctx: TaskContext) -> None:
    ctx.session.rollback()


def commits(ctx: TaskContext) -> None:
    ctx.session.commit()


@pytest.mark.parametrize("does", [closes, resets, invalidates, rolls_back, commits])
@pytest.mark.parametrize("is_early", [True, False])
def test_a_hook_that_ends_the_transaction_is_refused_at_that_line(
    effects: World, does: Callable[[TaskContext], None], *, is_early: bool
) -> None:
    @around
    def ends(ctx: TaskContext) -> Iterator[None]:
        if is_early:
            write(ctx, "before")
            does(ctx)
        yield
        if not is_early:
            does(ctx)

    row = run(effects, write)
    [attempt] = effects.attempts("it")
    assert written(effects) == []
    assert attempt["error_type"] == "HookError"
    assert f", in {does.__name__}\n" in attempt["traceback"]
    assert row["state"] == ("pending" if is_early else "retry")


@pytest.mark.parametrize("does", ["close", "rollback"])
def test_an_async_hook_that_ends_the_transaction_is_refused_at_that_line(effects: World, does: str) -> None:
    @around(sample_async)
    async def ends(ctx: TaskContext) -> AsyncIterator[None]:
        yield
        await getattr(ctx.async_session, does)()

    async def writes(ctx: TaskContext) -> None:
        await write_async(ctx, "lost")

    assert run(effects, writes, task=sample_async)["state"] == "retry"
    assert written(effects) == []
    assert "ctx.async_session, which belongs to the handler" in effects.attempts("it")[0]["error_message"]


# --- A planted fault -----------------------------------------------------------------------------------------------


def swallows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that catches an exception ends it, as a context manager of Python does."""
    end_error = module._end_error

    def swallowing(hook: Any, error: Any, raised: Any, *rest: Any) -> Any:
        return end_error(hook, None if isinstance(raised, StopIteration) else error, raised, *rest)

    monkeypatch.setattr(module, "_end_error", swallowing)


@pytest.mark.parametrize("check", [check_swallowed_stop, check_swallowed_error])
def test_a_hook_that_swallows_is_found(
    effects: World, monkeypatch: pytest.MonkeyPatch, check: Callable[[World], None]
) -> None:
    swallows(monkeypatch)
    with pytest.raises(AssertionError):
        check(effects)
