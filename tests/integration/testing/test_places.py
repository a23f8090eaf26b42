"""Tasks of a place in the kit: one lane, one invocation for a batch, and each message runs its own type."""

from __future__ import annotations

from datetime import timedelta

import pytest

from joblane import Grants, Lambda, Payload, State, TaskContext, task
from joblane.testing import JobTester
from tests.integration.testing.conftest import Effects
from tests.integration.testing.samples import write

WEB = Lambda("web", batch_size=10)


class Nothing(Payload):
    pass


@task("web:first", runs_on=WEB, timeout=timedelta(seconds=2), grants=Grants(enqueue=("web:second",)))
def web_first(payload: Nothing, ctx: TaskContext) -> None:
    write(ctx, "first")
    ctx.enqueue(web_second, Nothing())


@task("web:second", runs_on=WEB, timeout=timedelta(seconds=50), retry_delay=timedelta(minutes=1))
def web_second(payload: Nothing, ctx: TaskContext) -> None:
    write(ctx, f"second, attempt {ctx.attempt}")
    if ctx.attempt == 1:
        raise ValueError("again")


@pytest.mark.parametrize("number", [1, 3])
def test_a_batch_of_both_types_is_one_invocation(jobs: JobTester, effects: Effects, number: int) -> None:
    for _ in range(number):
        jobs.client.enqueue(web_first, Nothing())
        jobs.client.enqueue(web_second, Nothing())
    done = jobs.drain(within=timedelta(seconds=30))
    assert done.invocations == 2  # those, and what they have enqueued
    assert effects().count("first") == number
    jobs.drain(within=timedelta(minutes=2))
    assert effects().count("second, attempt 2") == 2 * number


def test_a_kill_returns_the_messages_of_both_types(jobs: JobTester, effects: Effects) -> None:
    first, second = jobs.client.enqueue(web_first, Nothing()), jobs.client.enqueue(web_second, Nothing())
    with jobs.crash_before_commit(web_first):
        jobs.drain(within=timedelta(seconds=30))
    assert [jobs.task(each.id).state for each in (first, second)] == [State.ACTIVE, State.PENDING]
    jobs.drain(within=timedelta(hours=1))
    assert jobs.task(first.id).state is State.COMPLETED
    assert (jobs.task(second.id).state, jobs.task(second.id).attempts) == (State.COMPLETED, 2)
    assert effects().count("first") == 1
