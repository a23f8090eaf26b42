"""Hooks and resources in the kit: of each way to enqueue, of runs, and after a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from joblane import Job, MessageClient, TaskContext, around, cron, enqueueing, resource
from joblane.testing import JobTester
from joblane.testing.report import NotRunError
from tests.samples import Sample, behaviour, sample_async, sample_one

request: ContextVar[str] = ContextVar("request", default="")


@behaviour
def hooks_enqueue(payload: Sample, ctx: TaskContext) -> dict[str, str]:
    ctx.enqueue(sample_one, Sample(), task_id="child")
    return dict(ctx.headers)


def headers_of(jobs: JobTester) -> dict[str, str]:
    return {task.id: task.headers.get("request", "") for task in jobs.enqueued()}


def test_a_hook_of_enqueues_sees_each_way_to_enqueue_in_the_context_of_the_caller(jobs: JobTester) -> None:
    @enqueueing
    def stamp(job: Job, headers: dict[str, str], tags: list[str]) -> None:
        headers["request"] = request.get()
        tags.append(f"of {job.task.type}")

    request.set("r1")
    client = jobs.client
    client.enqueue(sample_one, Sample(), task_id="one")
    client.enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in ("two", "three")])
    asyncio.run(client.aenqueue(sample_one, Sample(), task_id="async"))
    with jobs.session() as session:
        client.enqueue(sample_one, Sample(), task_id="in-a-session", session=session)
    with client.batch("all", on_end=Job(sample_one, Sample())) as batch:
        batch.enqueue(sample_one, Sample(), task_id="member")
    with MessageClient() as sender:
        sender.enqueue(sample_one, Sample(), task_id="message")
    jobs.run(sample_one, Sample(do="hooks_enqueue"), task_id="parent")
    stamped = headers_of(jobs)
    ids = ("one", "two", "three", "async", "in-a-session", "member", "all:on_end", "message", "parent", "child")
    assert {id_: stamped[id_] for id_ in ids} == dict.fromkeys(ids, "r1")
    assert jobs.task("parent").result == {"request": "r1"}
    assert all(f"of {task.type}" in task.tags for task in jobs.enqueued() if task.id != "message")


def test_a_schedule_and_its_ticks_have_no_hook_of_enqueues(jobs: JobTester) -> None:
    seen: list[Any] = []

    @enqueueing
    def sees(job: Job, headers: dict[str, str]) -> None:
        seen.append(job)

    jobs.register(sample_one)
    jobs.schedules.put("hourly", sample_one, Sample(), cron("0 * * * *"))
    assert len(jobs.travel(timedelta(hours=2), ticks=True).tasks) == 2
    assert seen == []


def test_a_failing_hook_is_in_the_error_of_a_run(jobs: JobTester) -> None:
    @around(sample_one)
    def fails(ctx: TaskContext) -> Iterator[None]:
        raise KeyError("tenant")
        yield

    with pytest.raises(NotRunError, match=r"HookError: hook .*fails has failed before its yield"):
        jobs.run(sample_one, Sample())


# --- Resources -----------------------------------------------------------------------------------------------------

log: list[str] = []


@resource
def client() -> Iterator[str]:
    log.append("opened")
    yield "client"
    log.append("closed")


@resource
async def pool() -> AsyncIterator[asyncio.AbstractEventLoop]:
    log.append("opened, async")
    yield asyncio.get_running_loop()
    log.append("closed, async")


@behaviour
def hooks_use_client(payload: Sample, ctx: TaskContext) -> str:
    return client()


@behaviour
async def hooks_use_pool(payload: Sample, ctx: TaskContext) -> bool:
    assert client() == "client"
    return await pool() is asyncio.get_running_loop()


def test_a_resource_is_opened_once_for_all_runs_and_closed_after_the_test(database_url: str) -> None:
    log.clear()
    with JobTester(database_url) as jobs:
        for _ in range(2):
            assert jobs.run(sample_one, Sample(do="hooks_use_client")) == "client"
            assert jobs.run(sample_async, Sample(do="hooks_use_pool")) is True
        assert log == ["opened", "opened, async"]
    assert log == ["opened", "opened, async", "closed, async", "closed"]


def test_a_resource_of_the_loop_of_a_test_is_closed_with_its_context(jobs: JobTester) -> None:
    log.clear()

    async def uses() -> bool:
        async with jobs.acontext(sample_async, Sample()) as ctx:
            return bool(await sample_async(Sample(do="hooks_use_pool"), ctx))

    assert asyncio.run(uses())
    assert log == ["opened", "opened, async", "closed, async"]


def test_a_resource_that_cannot_be_opened_fails_the_attempt_and_in_a_hook_the_start(jobs: JobTester) -> None:
    problems = ["refused", "refused"]

    @resource
    def service() -> Iterator[str]:
        if problems:
            raise ConnectionError(problems.pop())
        yield "service"

    @behaviour
    def hooks_use_service(payload: Sample, ctx: TaskContext) -> str:
        return service()

    with pytest.raises(ConnectionError):
        jobs.run(sample_one, Sample(do="hooks_use_service"), task_id="it")
    assert (jobs.task("it").attempts, jobs.task("it").state) == (1, "retry")

    @around(sample_one)
    def opens(ctx: TaskContext) -> Iterator[None]:
        service()
        yield

    with pytest.raises(NotRunError):
        jobs.run(sample_one, Sample(do="hooks_use_service"), task_id="other")
    assert jobs.task("other").attempts == 0
    jobs.drain(within=timedelta(minutes=1))
    assert [jobs.task(id_).result for id_ in ("it", "other")] == ["service", "service"]
