"""``async def`` handlers in the kit: runs, faults, and tests that are coroutines themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from joblane import Grants, State, TaskContext, TaskTimeout, task
from joblane.errors import JobError
from joblane.testing import CrashedError, JobTester, KitError
from tests.integration.testing.conftest import Effects
from tests.integration.testing.samples import Order, order_mail

LONG = timedelta(hours=1)
INSERT = text("insert into effects (task_id, what) values (:id, :what)")


async def write(ctx: TaskContext, what: str) -> None:
    await ctx.async_session.execute(INSERT, {"id": ctx.task_id, "what": what})


@task("order:async", retry_delay=timedelta(minutes=1), grants=Grants(enqueue=("order:mail",)))
async def order_async(payload: Order, ctx: TaskContext) -> dict[str, int]:
    await write(ctx, f"shipped {payload.number}")
    await ctx.aenqueue(order_mail, Order(number=payload.number))
    return {"number": payload.number}


@task("order:plain", retry_delay=timedelta(minutes=1), grants=Grants(enqueue=("order:mail",)))
async def order_plain(payload: Order, ctx: TaskContext) -> dict[str, int]:
    ctx.session.execute(INSERT, {"id": ctx.task_id, "what": f"shipped {payload.number}"})
    await ctx.aenqueue(order_mail, Order(number=payload.number))
    return {"number": payload.number}


@task("order:items", max_retry=2, retry_delay=timedelta(minutes=1))
async def order_items(payload: Order, ctx: TaskContext) -> int:
    async for part in ctx.aeach(range(payload.number)):
        await write(ctx, f"part {part}")
    return payload.number


@task("order:hang", timeout=timedelta(seconds=1), max_retry=0)
async def order_hang(payload: Order, ctx: TaskContext) -> None:
    await ctx.async_session.execute(text("select pg_sleep(30)"))


either = pytest.mark.parametrize("shipping", [order_async, order_plain], ids=["async_session", "session"])


@either
def test_a_run_returns_the_result_of_the_coroutine(shipping: Any, jobs: JobTester, effects: Effects) -> None:
    assert jobs.run(shipping, Order(number=7)) == {"number": 7}
    assert jobs.drain().check().only.type == "order:mail"
    assert effects() == ["shipped 7", "mailed 7"]


def test_a_timeout_of_a_coroutine_is_raised(jobs: JobTester) -> None:
    with pytest.raises(TaskTimeout):
        jobs.run(order_hang, Order(number=1))


FAULTS: dict[str, Callable[[JobTester], Any]] = {
    "duplicate": lambda jobs: jobs.duplicate(),
    "duplicate while running": lambda jobs: jobs.duplicate(while_running=True),
    "crash before commit": lambda jobs: jobs.crash_before_commit(),
    "crash after commit": lambda jobs: jobs.crash_after_commit(),
    "late acknowledgement": lambda jobs: jobs.late_acknowledgement(),
}


@either
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_does_nothing_twice(shipping: Any, fault: str, jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(shipping, Order(number=1))
    with FAULTS[fault](jobs):
        jobs.drain()
    jobs.drain(within=LONG).check()
    assert effects() == ["shipped 1", "mailed 1"]
    jobs.assert_enqueued(order_mail, count=1)


def test_a_crash_between_items_keeps_those_that_are_done(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_items, Order(number=3))
    with jobs.crash_before_commit(order_items, commit=2):
        assert jobs.drain().only.state is State.ACTIVE
    assert effects() == ["part 0"]
    with jobs.crash_after_commit(order_items, commit=1):
        jobs.drain(within=LONG)
    jobs.drain(within=LONG).check()
    assert effects() == ["part 0", "part 1", "part 2"]


@either
def test_a_run_that_crashes_is_an_error(shipping: Any, jobs: JobTester) -> None:
    with jobs.session() as session:
        session.execute(text("create table effects (task_id text, what text)"))
    with jobs.crash_before_commit(), pytest.raises(CrashedError):
        jobs.run(shipping, Order(number=1))


def test_a_test_that_is_a_coroutine_drains_in_a_thread(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_async, Order(number=1))

    async def the_test() -> None:
        with pytest.raises(KitError, match=r"make the test a plain `def`, .* await asyncio.to_thread\(jobs.drain\)"):
            jobs.drain()
        (await asyncio.to_thread(jobs.drain, within=LONG)).check()

    asyncio.run(the_test())
    assert effects() == ["shipped 1", "mailed 1"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_test_that_is_a_coroutine_calls_the_handler_itself(fails: bool, jobs: JobTester, effects: Effects) -> None:
    async def the_test() -> None:
        async with jobs.acontext(order_async, Order(number=1)) as ctx:
            assert await order_async(Order(number=1), ctx) == {"number": 1}
            if fails:
                raise ValueError("no")

    if fails:
        with pytest.raises(ValueError, match="no"):
            asyncio.run(the_test())
    else:
        asyncio.run(the_test())
    assert effects() == ([] if fails else ["shipped 1"])
    jobs.assert_enqueued(order_mail, count=0 if fails else 1)


def test_the_plain_context_has_no_asynchronous_session(jobs: JobTester, effects: Effects) -> None:
    with (
        pytest.raises(JobError, match=r"inside of `async with jobs.acontext\(…\)`"),
        jobs.context(order_async, Order(number=1)) as ctx,
    ):
        asyncio.run(order_async(Order(number=1), ctx))
    with jobs.context(order_plain, Order(number=1)) as ctx:
        asyncio.run(order_plain(Order(number=1), ctx))
    assert effects() == ["shipped 1"]
