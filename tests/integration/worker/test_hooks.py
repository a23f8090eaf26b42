"""Hooks around a run: their order, the transaction, what they see, and what belongs to them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from joblane import RetryAfter, TaskContext, around
from joblane.errors import DeclarationError
from joblane.tasks.task import Task
from joblane.worker import blocked_loop
from joblane.worker import hooks as module
from joblane.worker.group import NOT_IMPORTED, Group
from joblane.worker.hooks import Around
from joblane.worker.run import KILL_MARGIN_SECONDS
from joblane.worker.worker import Worker
from tests.builders.events import deliveries, invocation, message, record
from tests.builders.handlers import Clock, cancels, hangs, loses, run, write, write_async, written
from tests.logs import lines
from tests.samples import Sample, behaviour, behaviours, sample_async, sample_batch, sample_one
from tests.samples_long import sample_long
from tests.world import PREFIX, World, handle

HOUR = timedelta(hours=1)
SHORT = KILL_MARGIN_SECONDS + 1
"""Seconds of an invocation whose handler has one."""
pytestmark = pytest.mark.usefixtures("standing_clock")
bound: ContextVar[str] = ContextVar("bound", default="")


def seen_by_hook(log: list[str]) -> None:
    """Declare a hook that notes what it sees at its yield."""

    @around
    def sees(ctx: TaskContext) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            log.append(type(error).__name__)
            raise
        log.append("returned")


# --- Order and transaction -----------------------------------------------------------------------------------------


def test_the_first_declared_hook_is_the_outermost_and_all_write_in_the_transaction(effects: World) -> None:
    log: list[str] = []

    def declare(name: str, *types: Task[Any, Any] | str) -> None:
        @around(*types)
        def hook(ctx: TaskContext) -> Iterator[None]:
            log.append(f"{name} begins")
            write(ctx, f"{name} before")
            yield
            write(ctx, f"{name} after")
            log.append(f"{name} ends")

    declare("first")
    declare("second", sample_one)
    declare("third", "sample:one", sample_batch)
    declare("of another type", sample_batch)
    row = run(effects, lambda ctx: log.append("handler"))
    order = ["first", "second", "third"]
    assert log == [*(f"{name} begins" for name in order), "handler", *(f"{name} ends" for name in reversed(order))]
    assert row["state"] == "completed"
    everything = sorted(f"{name} {part}" for name in order for part in ("before", "after"))
    assert written(effects) == everything

    def fails(ctx: TaskContext) -> None:
        raise ValueError("as it should")

    assert run(effects, fails, "failed")["state"] == "retry"
    assert written(effects) == everything  # what the hooks have written is rolled back with the work


def check_transaction(world: World) -> None:
    @around
    def writes(ctx: TaskContext) -> Iterator[None]:
        write(ctx, "before")
        yield
        write(ctx, "after")

    with world.rival(sample_one, lambda sql, send: send()) as worker:
        behaviours["handler_of_the_test"] = lambda _, ctx: take_over(world)
        handle(worker, record(message("handler_of_the_test"), world.lane(sample_one)))
    assert written(world) == []  # the lease was lost, so nothing of the run stays


def take_over(world: World) -> None:
    world.run("update joblane.tasks set lease_token = gen_random_uuid() where id = 'it'")


def test_the_work_of_a_hook_is_lost_with_the_lease_of_its_run(effects: World) -> None:
    check_transaction(effects)
    assert effects.row("it")["state"] == "active"


# --- What a hook sees ----------------------------------------------------------------------------------------------


def retries(ctx: TaskContext) -> None:
    raise RetryAfter(HOUR)


@pytest.mark.parametrize(
    ("handler", "seen", "state"),
    [
        (lambda ctx: None, "returned", "completed"),
        (lambda ctx: 1 / 0, "ZeroDivisionError", "retry"),
        (retries, "RetryAfter", "retry"),
        (lambda ctx: ctx.sleep("a while", HOUR), "Stopped", "scheduled"),
        (cancels, "TaskCancelled", "cancelled"),
        (loses, "LeaseLostError", "active"),
        (hangs, "TaskTimeout", "retry"),
        (lambda ctx: ctx.session.execute(text("select 1/0")), "DatabaseError", "retry"),
    ],
)
def test_a_hook_sees_how_the_handler_ends(effects: World, handler: Any, seen: str, state: str) -> None:
    log: list[str] = []
    seen_by_hook(log)
    row = run(effects, handler, seconds=SHORT if handler is hangs else 60)
    assert (log, row["state"]) == ([seen], state)


def test_a_hook_sees_a_timeout_of_an_async_handler_as_one(effects: World) -> None:
    log: list[str] = []
    seen_by_hook(log)

    @around(sample_async)
    async def sees_too(ctx: TaskContext) -> AsyncIterator[None]:
        try:
            yield
        except BaseException as error:
            log.append(type(error).__name__)
            raise

    async def hang(ctx: TaskContext) -> None:
        await asyncio.sleep(30)

    row = run(effects, hang, task=sample_async, seconds=SHORT)
    assert (log, effects.attempts("it")[0]["outcome"], row["state"]) == (["TaskTimeout"] * 2, "timeout", "retry")


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = "effects"
    what: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[str]


def test_a_flush_that_fails_is_seen_as_an_error_of_the_handler(effects: World) -> None:
    log: list[str] = []
    seen_by_hook(log)
    effects.run("alter table effects alter what set not null, add check (what <> 'wrong')")
    assert run(effects, lambda ctx: ctx.session.add(Effect(what="wrong", task_id="it")))["state"] == "retry"
    assert log == ["DatabaseError"]


# --- Plain and asynchronous ----------------------------------------------------------------------------------------


def test_plain_and_async_hooks_are_in_the_task_and_transaction_of_an_async_handler(effects: World) -> None:
    log: list[Any] = []

    @around
    def plain(ctx: TaskContext) -> Iterator[None]:
        bound.set("by the plain hook")
        yield
        log.append(bound.get())

    @around(sample_async)
    async def asynchronous(ctx: TaskContext) -> AsyncIterator[None]:
        log.append(asyncio.current_task())
        await write_async(ctx, "before")
        bound.set(f"{bound.get()}, and the other one")
        yield
        await asyncio.sleep(0)
        await write_async(ctx, "after")

    async def handler(ctx: TaskContext) -> None:
        log.append(asyncio.current_task())
        log.append(bound.get())

    assert run(effects, handler, task=sample_async)["state"] == "completed"
    assert log[0] is log[1]
    assert log[2:] == ["by the plain hook, and the other one"] * 2
    assert written(effects) == ["after", "before"]
    assert bound.get() == ""


@pytest.mark.parametrize(("is_early", "outcome"), [(True, "not_started"), (False, "timeout")])
def test_an_async_hook_is_within_the_time_of_its_run(effects: World, outcome: str, *, is_early: bool) -> None:
    @around(sample_async)
    async def hangs_async(ctx: TaskContext) -> AsyncIterator[None]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30 * is_early)
        yield
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)

    async def handler(ctx: TaskContext) -> None:
        await asyncio.sleep(0)

    run(effects, handler, task=sample_async, seconds=SHORT)
    assert effects.outcomes("it") == [outcome]


def test_an_async_hook_is_refused_around_a_plain_handler(effects: World) -> None:
    with pytest.raises(DeclarationError, match="is asynchronous, and the handler of 'sample:one' is a plain `def`"):

        @around(sample_one)
        async def refused(ctx: TaskContext) -> AsyncIterator[None]:
            yield

    worker = effects.worker(sample_one)

    @around
    async def of_all(ctx: TaskContext) -> AsyncIterator[None]:
        yield

    with pytest.raises(DeclarationError, match="of_all is asynchronous"):
        Worker(sample_one, effects.database, effects.sqs, PREFIX)
    handle(worker, record(message("nothing"), effects.lane(sample_one)))  # the hook came after the start
    assert effects.outcomes("it") == ["not_started"]


def test_an_async_hook_around_a_plain_handler_keeps_the_messages_of_a_place(
    effects: World,
) -> None:
    @around
    async def of_all(ctx: TaskContext) -> AsyncIterator[None]:
        yield

    group = Group(
        {"sample:one": "sample:one"},
        effects.sqs,
        PREFIX,
        aliases={},
        load=lambda _: sample_one,
        worker=lambda kind, task: kind(task, effects.database, effects.sqs, PREFIX),
    )
    delivery = record(message("nothing"), effects.lane(sample_one))
    with lines() as logged:
        assert group.handle(deliveries([delivery]), invocation()).kept == [delivery["messageId"]]
    [line] = [line for line in logged.fields if line["message"] == NOT_IMPORTED]
    assert "of_all is asynchronous" in line["error"]


def test_a_hook_that_blocks_the_loop_is_named(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_loop, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(blocked_loop, "BEAT_SECONDS", 0.02)

    @around(sample_async)
    def blocks(ctx: TaskContext) -> Iterator[None]:
        yield
        time.sleep(0.5)

    async def handler(ctx: TaskContext) -> None:
        await asyncio.sleep(0)

    with lines() as logged:
        assert run(effects, handler, task=sample_async)["state"] == "completed"
    [line] = [line for line in logged.fields if "blocks the event loop" in line["message"]]
    assert ", in blocks, blocks" in line["message"]


# --- Context variables ---------------------------------------------------------------------------------------------


def check_context(world: World) -> None:
    seen: list[str] = []

    @around
    def binds(ctx: TaskContext) -> Iterator[None]:
        seen.append(bound.get())
        bound.set(ctx.task_id)
        yield
        seen.append(bound.get())

    bodies = [message("hooks_read_bound", id_, type_=sample_batch.type) for id_ in ("one", "two")]
    world.deliver(sample_batch, *bodies)
    assert seen == ["", "one", "", "two"]
    assert (world.row("one")["result"], world.row("two")["result"]) == ("one", "two")
    assert bound.get() == ""


@behaviour
def hooks_read_bound(payload: Sample, ctx: TaskContext) -> str:
    return bound.get()


def test_a_context_variable_of_a_hook_ends_with_its_run(effects: World) -> None:
    check_context(effects)


# --- Runs of one task ----------------------------------------------------------------------------------------------


def test_each_run_of_a_task_that_waits_has_its_hooks(effects: World) -> None:
    log: list[str] = []
    seen_by_hook(log)

    def program(ctx: TaskContext) -> list[Any]:
        paid = ctx.step("pay", lambda key: "paid")
        return [paid, ctx.wait("approval", timeout=HOUR)]

    run(effects, program)
    effects.client.signal("it", "approval", "yes")
    assert run(effects, program)["result"] == ["paid", "yes"]
    assert log == ["Stopped", "returned"]


def test_a_hook_is_around_a_loop_and_what_it_wrote_commits_with_the_first_item(effects: World) -> None:
    @around
    def writes(ctx: TaskContext) -> Iterator[None]:
        write(ctx, "before")
        yield
        write(ctx, "after")

    def program(ctx: TaskContext) -> None:
        for item in ctx.each(["1", "2"]):
            write(ctx, item)
            if item == "2":
                raise ValueError

    assert run(effects, program)["state"] == "retry"
    assert written(effects) == ["1", "before"]


def test_each_invocation_of_a_resumable_task_has_its_hooks(effects: World, clock: Clock) -> None:
    log: list[str] = []
    seen_by_hook(log)

    @behaviour
    def hooks_resume(payload: Sample, ctx: TaskContext) -> None:
        for item in ctx.resume(["1", "2", "3"], chunk=1):
            write(ctx, item)
            clock.ahead += 1000 * (item == "2" and not log)

    body = message("hooks_resume", type_=sample_long.type)
    effects.deliver(sample_long, body)
    effects.deliver(sample_long, body)
    assert (effects.outcomes("it"), log) == (["continued", "completed"], ["Continued", "returned"])
    assert written(effects) == ["1", "2", "3"]


def test_a_savepoint_that_a_hook_opens_is_its_own(effects: World) -> None:
    @around
    def writes(ctx: TaskContext) -> Iterator[None]:
        with suppress(ValueError), ctx.session.begin_nested():
            write(ctx, "rolled back")
            raise ValueError
        yield

    assert run(effects, write)["state"] == "completed"
    assert written(effects) == ["done"]


def test_the_sweep_has_no_hooks_of_the_project() -> None:
    from joblane.functions.jobs_sweep.handler import jobs_sweep
    from joblane.tasks.hooks import hooks_of

    seen_by_hook([])
    assert (len(hooks_of(sample_one)), hooks_of(jobs_sweep)) == (1, [])


# --- Planted faults ------------------------------------------------------------------------------------------------


def shares_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks run in the context of the process."""
    monkeypatch.setattr(module, "copy_context", lambda: SimpleNamespace(run=lambda call, *given: call(*given)))


def writes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a hook before its yield commits by itself."""
    part = Around._part

    async def committing(self: Around, hook: Any, generator: Any, error: Any) -> Any:
        raised = await part(self, hook, generator, error)
        with self.work._committing_now():
            self.work.session.commit()
        return raised

    monkeypatch.setattr(Around, "_part", committing)


@pytest.mark.parametrize(
    ("plant", "check"),
    [
        (shares_context, check_context),
        (writes_alone, check_transaction),
    ],
)
def test_a_planted_fault_is_found(
    effects: World,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[pytest.MonkeyPatch], None],
    check: Callable[[World], None],
) -> None:
    plant(monkeypatch)
    token = bound.set("")
    try:
        with pytest.raises(AssertionError):
            check(effects)
    finally:
        bound.reset(token)
