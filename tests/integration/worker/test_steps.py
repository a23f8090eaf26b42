"""Steps whose values are remembered: one call, one key, and the runs that return a value without a call.

``test_kills.py`` kills processes between the statements of steps.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from joblane import RetryAfter, Snooze, TaskContext
from joblane.errors import JobError, LeaseLostError, StepError, TaskCancelled
from joblane.handler import context
from joblane.handler.steps import MAX_STEPS, MAX_VALUE_BYTES, key_of
from joblane.inspector.actions.changes import change
from joblane.inspector.filter import BulkAction
from joblane.record.driver.database import Database
from joblane.record.task.claim import CLAIMS
from joblane.record.task.finish import FINISHES
from joblane.testing.faults import HookedDatabase, Send
from tests.builders.events import message, record
from tests.builders.handlers import Handler, run, write, write_async, written
from tests.samples import Sample, behaviour, sample_async, sample_batch, sample_one
from tests.samples_long import sample_long
from tests.world import World, handle


def stored(world: World) -> dict[str, str]:
    return {
        row[0]: row[1] for row in world.run("select name, value::text from joblane.task_steps where task_id = 'it'")
    }


class Calls:
    """A service that is called by steps. It answers with the number of the call."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, key: str) -> dict[str, int]:
        self.keys.append(key)
        return {"call": len(self.keys)}


@pytest.fixture
def service() -> Calls:
    return Calls()


# --- One call ------------------------------------------------------------------------------------------------------


def test_a_retry_returns_the_value_of_the_first_run_without_a_call(world: World, service: Calls) -> None:
    values: list[Any] = []

    def charge_and_mail(ctx: TaskContext) -> None:
        values.append(ctx.step("charge", service))
        if ctx.attempt == 1:
            raise ValueError("the mail server does not answer")

    assert [run(world, charge_and_mail)["state"] for _ in range(2)] == ["retry", "completed"]
    assert values == [{"call": 1}, {"call": 1}]
    assert service.keys == [key_of("it", "charge")]


def test_an_exception_stores_nothing_and_the_next_attempt_calls_with_the_same_key(world: World, service: Calls) -> None:
    def fail_at_first(key: str) -> Any:
        if service(key) == {"call": 1}:
            raise TimeoutError("no answer")
        return "charged"

    def charge(ctx: TaskContext) -> Any:
        return ctx.step("charge", fail_at_first)

    row = run(world, charge)
    assert (row["state"], row["error_type"], stored(world)) == ("retry", "TimeoutError", {})
    row = run(world, charge)
    assert (row["state"], row["result"]) == ("completed", "charged")
    assert service.keys == [key_of("it", "charge")] * 2


def test_the_key_never_changes_between_releases() -> None:
    assert key_of("0190c1de-7c2f-7d53-b1f5-0e3c8a2c9d11", "charge") == "456aae85-27f4-503d-9763-ae4a56bffbe3"
    assert key_of("a", "b") != key_of("a", "c")
    assert key_of("b", "b") != key_of("a", "b")


def test_work_in_the_function_commits_with_the_value_exactly_once(effects: World) -> None:
    def two_steps(ctx: TaskContext) -> None:
        ctx.step("one", lambda _: write(ctx, "one"))
        ctx.step("two", lambda _: write(ctx, "two"))
        write(ctx, "end")
        if ctx.attempt < 3:
            raise ValueError("not yet")

    run(effects, two_steps)
    assert (written(effects), stored(effects)) == (["one", "two"], {"one": "null", "two": "null"})
    run(effects, two_steps)
    assert run(effects, two_steps)["state"] == "completed"
    assert written(effects) == ["end", "one", "two"]


def test_an_enqueue_in_a_step_is_sent_once(world: World) -> None:
    watched = world.watch()

    def enqueue(ctx: TaskContext) -> None:
        ctx.step("child", lambda _: ctx.enqueue(sample_one, Sample(), task_id="child").id)
        if ctx.attempt == 1:
            raise ValueError("after the step")

    assert [run(world, enqueue)["state"] for _ in range(2)] == ["retry", "completed"]
    assert (world.row("child")["state"], len(watched.sent)) == ("pending", 1)


@pytest.mark.parametrize("error", [Snooze(timedelta(0)), RetryAfter(timedelta(0))], ids=["snooze", "retry"])
def test_a_step_is_kept_by_each_way_to_run_again(world: World, service: Calls, error: Exception) -> None:
    def again(ctx: TaskContext) -> None:
        ctx.step("charge", service)
        if world.row("it")["runs"] < 3:
            raise error

    for _ in range(3):
        row = run(world, again)

    assert row["state"] == "completed"
    assert len(service.keys) == 1


def test_a_revived_task_keeps_its_steps_and_its_key(world: World, service: Calls) -> None:
    def fail_twice(key: str) -> Any:
        if service(key)["call"] < 3:
            raise ValueError("broken")

    def charge(ctx: TaskContext) -> None:
        ctx.step("prepare", lambda _: "prepared")
        ctx.step("charge", fail_twice)

    once = replace(sample_one, max_retry=0)
    for _ in range(2):
        assert run(world, charge, task=once)["state"] == "archived"
        with Database(world.url) as database:
            assert change(database.get(), BulkAction.RETRY, ["it"], who="ann")
    row = run(world, charge, task=once)

    assert (row["state"], row["generation"]) == ("completed", 2)
    assert service.keys == [key_of("it", "charge")] * 3


def test_a_task_without_a_step_runs_no_statement_more_and_a_step_one(world: World) -> None:
    statements: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        statements.append("finish" if sql in FINISHES else "claim" if sql in CLAIMS else " ".join(sql.split()[:3]))
        return send()

    world.database = HookedDatabase(world.url, hook)
    run(world, lambda _: None)
    plain = Counter(statements)
    assert not any("step" in statement for statement in plain)
    world.run("delete from joblane.tasks")
    statements.clear()

    def two_steps(ctx: TaskContext) -> None:
        ctx.step("one", lambda _: 1)
        ctx.step("two", lambda _: 2)
        if ctx.attempt == 1:
            raise ValueError

    run(world, two_steps)
    first = Counter(statements) - plain
    assert first == {"insert into joblane.task_steps": 2, "with owned as": 1}  # a check for a cancel, once a second
    statements.clear()
    run(world, two_steps)
    assert Counter(statements) - plain == {"select 'step', name,": 1}


# --- Values --------------------------------------------------------------------------------------------------------


class Charge(BaseModel):
    id: str
    cents: int
    at: datetime


AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
SAME: list[Any] = [
    None, True, False, 0, -1, 2**80, 1.0, 1e20, 1e-7, -0.0, "", "ü\u2028\t🙂", [], {}, [1, [2.5, None]],
    {"b": 1, "a": {"": [True]}},
]  # fmt: skip


def returning(value: Any) -> Callable[[str], Any]:
    return lambda _: value


def test_json_values_come_back_as_they_are_and_others_as_json_in_each_run(world: World) -> None:
    given = [*SAME, (1, (2,)), Charge(id="ch_1", cents=42, at=AT), AT, Decimal("1.50"), b"ok", timedelta(minutes=1)]
    charge = {"id": "ch_1", "cents": 42, "at": "2026-11-27T12:00:00Z"}
    expected = [*SAME, [1, [2]], charge, "2026-11-27T12:00:00Z", "1.50", "ok", "PT1M"]
    runs: list[list[Any]] = []

    def steps(ctx: TaskContext) -> None:
        runs.append([ctx.step(f"value {number}", returning(value)) for number, value in enumerate(given)])
        if ctx.attempt == 1:
            raise ValueError

    for _ in range(2):
        run(world, steps)
    assert [repr(values) for values in runs] == [repr(expected)] * 2


def test_a_value_may_be_changed_by_the_handler_without_an_effect_on_a_retry(world: World) -> None:
    returned = {"items": [1]}
    values: list[Any] = []

    def change(ctx: TaskContext) -> None:
        value = ctx.step("one", lambda _: returned)
        values.append(list(value["items"]))
        value["items"].append(2)
        if ctx.attempt == 1:
            raise ValueError

    run(world, change)
    run(world, change)
    assert (values, returned) == ([[1], [1]], {"items": [1]})


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


def cyclic() -> Any:
    made: list[Any] = []
    made.append(made)
    return made


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("s3cret")


BAD_VALUES = [
    (object(), "its value is of type object, which cannot be written as JSON"),
    (Unprintable(), "its value is of type Unprintable"),
    ({"charge": [1, {"at": float("nan")}]}, r"its value\.charge\[1\]\.at is NaN or infinite"),
    (float("inf"), "its value is NaN or infinite"),
    ({"a": {1: 2}}, r"its value\.a has a key of type int, and JSON has only strings as keys"),
    ("a\0b", "its value: contains a NUL character"),
    ({"\ud800": 1}, "a key of its value: contains a lone surrogate"),
    (nested(70), "its value is nested deeper than 64 levels"),
    (cyclic(), "its value is nested deeper than 64 levels"),
    (10**5000, "its value has a number that is too long for JSON"),
    (b"\xff", "its value is of type bytes"),
    ("x" * (MAX_VALUE_BYTES - 1), "its value has 65,537 bytes as JSON, and at most 65,536 are stored"),
    ("ü" * MAX_VALUE_BYTES, "its value has 131,074 bytes"),
]


@pytest.mark.parametrize(("value", "problem"), BAD_VALUES, ids=[problem for _, problem in BAD_VALUES])
def test_a_value_that_cannot_be_stored_archives_the_task_with_nothing_of_the_step(
    effects: World, service: Calls, value: Any, problem: str
) -> None:
    def charge(ctx: TaskContext, key: str) -> Any:
        service(key)
        write(ctx, "charge")
        return value

    def steps(ctx: TaskContext) -> None:
        ctx.step("prepare", lambda _: None)
        ctx.step("charge", partial(charge, ctx))

    row = run(effects, steps)

    assert row["state"] == "archived"
    assert row["reason"].startswith("StepError: step 'charge': ")
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(row["reason"])
    assert "The function was called, and nothing is stored" in row["reason"]
    assert "s3cret" not in row["reason"]
    assert (written(effects), stored(effects), len(service.keys)) == ([], {"prepare": "null"}, 1)


def test_the_largest_value_is_stored(world: World) -> None:
    row = run(world, lambda ctx: len(ctx.step("x" * 100, lambda _: "x" * (MAX_VALUE_BYTES - 2))))
    assert (row["state"], row["result"]) == ("completed", MAX_VALUE_BYTES - 2)


# --- Names, and the place of a step --------------------------------------------------------------------------------


def called(_: str) -> None:
    raise AssertionError("it was called")


async def coroutine(_: str) -> None: ...


def no_key() -> None:
    raise AssertionError("it was called")


def use_twice_after_an_error(ctx: TaskContext) -> None:
    try:
        ctx.step("one", lambda _: 1 // 0)
    except ZeroDivisionError:
        ctx.step("one", called)


MISUSES: list[tuple[Handler, str]] = [
    (lambda ctx: ctx.step("", called), "the name of a step or a wait is a string of 1 to 100 printable characters"),
    (lambda ctx: ctx.step("x" * 101, called), "a string of 1 to 100 printable characters"),
    (lambda ctx: ctx.step("a\nb", called), "a string of 1 to 100 printable characters"),
    (lambda ctx: ctx.step("\ud800", called), "a string of 1 to 100 printable characters"),
    (lambda ctx: ctx.step(7, called), "a string of 1 to 100 printable characters"),  # type: ignore[arg-type]
    (lambda ctx: ctx.step("one", no_key), "step 'one': its function gets the step's key as its only argument"),  # type: ignore[arg-type]
    (lambda ctx: ctx.step("one", 7), "step 'one': its function gets the step's key"),  # type: ignore[arg-type]
    (lambda ctx: ctx.step("one", coroutine), r"step 'one': ctx.step cannot await its function; use await ctx.astep"),
    (lambda ctx: (ctx.step("one", str), ctx.step("one", called)), "step 'one': this run has used the name already"),
    (use_twice_after_an_error, "step 'one': this run has used the name already"),
    (lambda ctx: ctx.step("one", lambda _: ctx.step("two", called)), "step 'two': it cannot be inside another step"),
    (lambda ctx: ctx.step("one", lambda _: ctx.step("one", called)), "step 'one': it cannot be inside another step"),
    (
        lambda ctx: [ctx.step("one", called) for _ in ctx.each([1])],
        r"'one': it cannot be inside a loop over ctx.each\(…\)",
    ),
    (
        lambda ctx: [ctx.step("one", called) for _ in ctx.resume([1])],
        r"step 'one': it cannot be inside a loop over ctx.resume\(…\)",
    ),
    (
        lambda ctx: [ctx.step(f"{number}", str if number < MAX_STEPS else called) for number in range(MAX_STEPS + 1)],
        "step '1000': a task has at most 1,000 steps and waits; loop over ctx.each",
    ),
]


@pytest.mark.parametrize(("handler", "problem"), MISUSES, ids=[str(number) for number in range(len(MISUSES))])
def test_a_misused_step_archives_the_task_before_the_call(world: World, handler: Handler, problem: str) -> None:
    def catch(ctx: TaskContext) -> None:
        with pytest.raises(StepError, match=problem) as caught:
            handler(ctx)
        raise caught.value

    row = run(world, catch)
    assert (row["state"], row["attempts"]) == ("archived", 1), row


def test_a_loop_inside_a_step_is_refused(world: World) -> None:
    def loop(ctx: TaskContext) -> None:
        with pytest.raises(JobError, match=r"cannot be inside ctx.step\(…\)"):
            ctx.step("one", lambda _: {*ctx.each([1])})

    assert run(world, loop)["state"] == "completed"


def test_steps_and_loops_follow_each_other_in_one_handler(effects: World, service: Calls) -> None:
    def mixed(ctx: TaskContext) -> Any:
        before = ctx.step("before", service)
        for item in ctx.each(["a", "b"]):
            write(ctx, item)
            if ctx.attempt == 1 and item == "b":
                raise ValueError
        for item in ctx.resume(["c", "d"], chunk=1):
            write(ctx, item)
            if ctx.attempt == 2 and item == "d":
                raise ValueError
        return [before, ctx.step("after", service)]

    for _ in range(3):
        row = run(effects, mixed)

    assert (row["state"], row["result"]) == ("completed", [{"call": 1}, {"call": 2}])
    assert written(effects) == ["a", "b", "c", "d"]


def test_after_the_end_of_its_run_a_context_has_no_steps(world: World) -> None:
    kept: list[TaskContext] = []
    run(world, kept.append)
    with pytest.raises(JobError, match=r"ctx\.step: the run has ended"):
        kept[0].step("late", called)
    with pytest.raises(JobError, match=r"ctx\.astep: the run has ended"):
        asyncio.run(kept[0].astep("late", called))


# --- Leases, cancellation and timeouts --------------------------------------------------------------------------------


def test_a_run_that_has_lost_its_lease_stores_nothing(effects: World) -> None:
    keys: list[str] = []

    def overtaken(ctx: TaskContext) -> str:
        def charge(key: str) -> str:
            keys.append(key)
            write(ctx, f"attempt {ctx.attempt}")
            if ctx.attempt == 1:
                effects.expire_leases()
                with effects.rival(sample_one) as other:
                    job = record(message("handler_of_the_test"), effects.lane(sample_one))
                    assert handle(other, job) == []
            return f"attempt {ctx.attempt}"

        return str(ctx.step("charge", charge))

    row = run(effects, overtaken)

    assert (row["state"], row["result"], effects.outcomes("it")) == ("completed", "attempt 2", ["lost", "completed"])
    assert (written(effects), stored(effects)) == (["attempt 2"], {"charge": '"attempt 2"'})
    assert keys == [key_of("it", "charge")] * 2


@pytest.mark.parametrize(
    ("change", "state", "error"),
    [
        ("cancel_requested_at = now()", "cancelled", TaskCancelled),
        ("lease_token = gen_random_uuid()", "active", LeaseLostError),
    ],
    ids=["cancelled", "overtaken"],
)
def test_a_step_is_not_called_by_a_run_that_was_cancelled_or_overtaken(
    world: World, service: Calls, monkeypatch: pytest.MonkeyPatch, change: str, state: str, error: type[BaseException]
) -> None:
    monkeypatch.setattr(context, "REPORT_EVERY_SECONDS", 0.0)

    def changed_between(ctx: TaskContext) -> None:
        ctx.step("one", service)
        world.run(f"update joblane.tasks set {change}")
        with pytest.raises(error) as caught:
            ctx.step("two", called)
        raise caught.value

    assert (run(world, changed_between)["state"], list(stored(world))) == (state, ["one"])


def test_a_timeout_in_a_step_stores_nothing_and_keeps_the_steps_before(effects: World) -> None:
    def hang(ctx: TaskContext) -> None:
        write(ctx, "hang")
        signal.raise_signal(signal.SIGALRM)  # its time is over

    def steps(ctx: TaskContext) -> None:
        ctx.step("one", lambda _: write(ctx, "one"))
        ctx.step("two", lambda _: hang(ctx) if ctx.attempt == 1 else write(ctx, "two"))

    assert run(effects, steps)["error_type"] == "TaskTimeout"
    assert (written(effects), list(stored(effects))) == (["one"], ["one"])
    assert run(effects, steps)["state"] == "completed"
    assert written(effects) == ["one", "two"]


def test_a_resumable_task_that_has_done_a_step_continues_in_another_invocation(world: World, service: Calls) -> None:
    def steps(ctx: TaskContext) -> None:
        ctx.step("one", service)
        if world.row("it")["runs"] == 1:
            signal.raise_signal(signal.SIGALRM)

    row = run(world, steps, task=sample_long)
    assert (row["state"], row["attempts"], row["continuations"]) == ("pending", 0, 1)
    assert run(world, steps, task=sample_long)["state"] == "completed"
    assert len(service.keys) == 1


def test_tasks_of_one_batch_have_their_own_steps(world: World) -> None:
    seen: dict[str, str] = {}

    @behaviour
    def step_in_a_batch(payload: Sample, ctx: TaskContext) -> None:
        seen[ctx.step("one", lambda key: f"{ctx.task_id} {key}")] = ctx.task_id

    ids = ["first", "second", "third"]
    bodies = [message("step_in_a_batch", id_, type_="sample:batch") for id_ in ids]
    assert world.deliver(sample_batch, *bodies) == []

    assert seen == {f"{id_} {key_of(id_, 'one')}": id_ for id_ in ids}


# --- In a coroutine ------------------------------------------------------------------------------------------------


def test_a_coroutine_has_steps_with_either_kind_of_function_and_session(effects: World, service: Calls) -> None:
    async def with_async_session(ctx: TaskContext) -> list[Any]:
        values = [await ctx.astep("one", lambda _: write_async(ctx, "one")), await ctx.astep("two", service)]
        if ctx.attempt == 1:
            await write_async(ctx, "lost")
            raise ValueError
        return values

    async def with_session(ctx: TaskContext) -> list[Any]:
        async def call(key: str) -> dict[str, int]:
            await asyncio.sleep(0)
            write(ctx, "plain")
            return service(key)

        values = [await ctx.astep("three", call), ctx.step("four", service)]
        if ctx.attempt == 1:
            raise ValueError
        return values

    results = []
    for handler in (with_async_session, with_session):
        run(effects, handler, task=sample_async)
        row = run(effects, handler, task=sample_async)
        results.append(row["result"])
        effects.run("delete from joblane.tasks")

    assert results == [["one", {"call": 1}], [{"call": 2}, {"call": 3}]]
    assert written(effects) == ["one", "plain"]


async def at_the_same_time(ctx: TaskContext) -> None:
    async def slow(_: str) -> None:
        await asyncio.sleep(0.01)

    await asyncio.gather(ctx.astep("one", slow), ctx.astep("two", called))


async def in_an_async_loop(ctx: TaskContext) -> None:
    async for _ in ctx.aeach(["a"]):
        await ctx.astep("one", called)


async def plain_step_of_an_async_session(ctx: TaskContext) -> None:
    await write_async(ctx, "one")
    ctx.step("one", called)


async def async_session_in_a_plain_step(ctx: TaskContext) -> None:
    ctx.step("one", lambda _: ctx.async_session)


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (at_the_same_time, "cannot be inside another step, or run with it"),
        (in_an_async_loop, "cannot be inside a loop over ctx.each"),
        (plain_step_of_an_async_session, r"ctx.step: a run has one session.*use await ctx.astep\(…\)"),
        (async_session_in_a_plain_step, "its work cannot commit in a plain loop or step"),
    ],
)
def test_a_misused_step_of_a_coroutine_is_refused(effects: World, handler: Handler, problem: str) -> None:
    async def catch(ctx: TaskContext) -> None:
        with pytest.raises(JobError, match=problem):
            await handler(ctx)

    assert run(effects, catch, task=sample_async)["state"] == "completed"
