"""Hooks around a run: their order, the transaction, what they see, and what they cannot do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from joblane import Payload, RateLimited, RetryAfter, RevokeTask, Snooze, TaskContext, TaskTimeout, around, task
from joblane.errors import DeclarationError, LeaseLostError
from joblane.inspector.scope import Scope
from joblane.inspector.stage import doctor
from joblane.inspector.views import Grade
from joblane.record.row.transitions import CANCEL
from joblane.tasks.redaction import Redacted
from joblane.tasks.task import Task
from joblane.worker import blocked_loop, outcome
from joblane.worker import hooks as module
from joblane.worker.group import NOT_IMPORTED, Group
from joblane.worker.hooks import Around
from joblane.worker.run import KILL_MARGIN_SECONDS
from joblane.worker.worker import Worker
from tests.builders.events import deliveries, invocation, message, record
from tests.builders.handlers import Clock, run, write, write_async, written
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


def doctored(world: World) -> list[Any]:
    scope = Scope(world.database, world.sqs, PREFIX, {}, "op")
    return [check for check in doctor.hooks(scope) if check.grade is Grade.BAD]


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


def cancels(ctx: TaskContext) -> None:
    ctx._work._own.get().run(CANCEL, ctx.task_id)
    ctx.check()


def loses(ctx: TaskContext) -> None:
    raise LeaseLostError("another run has it")


def hangs(ctx: TaskContext) -> None:
    time.sleep(30)


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


# --- What a hook cannot do -----------------------------------------------------------------------------------------


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


# --- A hook that fails ---------------------------------------------------------------------------------------------


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


def swallows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that catches an exception ends it, as a context manager of Python does."""
    end_error = module._end_error

    def swallowing(hook: Any, error: Any, raised: Any, *rest: Any) -> Any:
        return end_error(hook, None if isinstance(raised, StopIteration) else error, raised, *rest)

    monkeypatch.setattr(module, "_end_error", swallowing)


def shares_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hooks run in the context of the process."""
    monkeypatch.setattr(module, "copy_context", lambda: SimpleNamespace(run=lambda call, *given: call(*given)))


def counts_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure before the yield is a failed attempt."""
    monkeypatch.setattr(
        outcome, "_not_started", lambda task, claim, error, scrub, _: outcome._decide(task, claim, error, scrub)
    )


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
        (swallows, check_swallowed_stop),
        (swallows, check_swallowed_error),
        (shares_context, check_context),
        (counts_early, check_early),
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
