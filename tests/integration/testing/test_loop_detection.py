"""Lambda's recursive loop detection in the kit: it stops a task that sends itself, and no task that others start."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from joblane import JobClient, Lambda, Payload, RateLimited, State, TaskContext, task
from joblane.local.chains import MOST_INVOCATIONS
from joblane.record.flow.free_slots import Turn
from joblane.testing import JobTester
from tests.logs import lines

OUTSIDE = JobClient()
"""A client that no run has made, so that the depth of a chain is not counted."""
HOUR = timedelta(hours=1)
refused: list[str] = []
"""The runs of `loop:busy`."""


class Loop(Payload):
    account: int = 7


@task("loop:keyed", key="account", max_per_key=1)
def loop_keyed(payload: Loop, ctx: TaskContext) -> None:
    pass


@task("loop:busy", max_retry=0)
def loop_busy(payload: Loop, ctx: TaskContext) -> None:
    refused.append(ctx.task_id)
    if len(refused) <= 40:
        raise RateLimited(timedelta(seconds=1), "the service answered 429")


@task("loop:child")
def loop_child(payload: Loop, ctx: TaskContext) -> None:
    pass


@task("loop:long", max_depth=40)
def loop_long(payload: Loop, ctx: TaskContext) -> None:
    if payload.account < 40:
        ctx.enqueue(loop_long, Loop(account=payload.account + 1))


@task("loop:outside", max_retry=0)
def loop_outside(payload: Loop, ctx: TaskContext) -> None:
    OUTSIDE.enqueue(loop_outside, payload)


@task("loop:batched", batch_size=10)
def loop_batched(payload: Loop, ctx: TaskContext) -> None:
    if payload.account < 13:
        ctx.enqueue(loop_batched, Loop(account=payload.account + 1))


CLOSED, OPEN = Lambda("closed"), Lambda("open")


@task("loop:ping", runs_on=CLOSED)
def loop_ping(payload: Loop, ctx: TaskContext) -> None:
    OUTSIDE.enqueue(loop_pong, Loop(account=payload.account + 1))


@task("loop:pong", runs_on=CLOSED)
def loop_pong(payload: Loop, ctx: TaskContext) -> None:
    OUTSIDE.enqueue(loop_ping, Loop(account=payload.account + 1))


@task("loop:plain", runs_on=OPEN)
def loop_plain(payload: Loop, ctx: TaskContext) -> None:
    if payload.account < 40:
        OUTSIDE.enqueue(loop_plain, Loop(account=payload.account + 1))


@task("loop:deep", runs_on=OPEN, max_depth=40)
def loop_deep(payload: Loop, ctx: TaskContext) -> None:
    pass


def states(jobs: JobTester) -> Counter[State]:
    return Counter(jobs.task(one.id).state for one in jobs.enqueued())


def hundred_held(jobs: JobTester) -> None:
    """Hold a hundred tasks of one key, and let the first one start."""
    jobs.register(loop_keyed)
    jobs.limits.set("loop:keyed", key="7", max_per_key=0)
    for _ in range(100):
        jobs.enqueue(loop_keyed, Loop())
    jobs.drain()
    assert states(jobs) == {State.HELD: 100}
    jobs.limits.reset("loop:keyed", key="7")


def test_a_hundred_tasks_of_one_key_run_one_after_the_other(jobs: JobTester) -> None:
    hundred_held(jobs)
    jobs.drain()
    assert states(jobs) == {State.COMPLETED: 100}


def test_a_turn_in_the_chain_of_the_run_before_is_refused(jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> None:
    """This is what a limit would do without a chain of its own: it shows that the test above can fail."""
    entry = Turn.entry
    monkeypatch.setattr(Turn, "entry", lambda turn, prefix: replace(entry(turn, prefix), keeps_chain=True))
    hundred_held(jobs)
    with lines() as log:
        jobs.drain()
    assert states(jobs)[State.COMPLETED] == MOST_INVOCATIONS
    assert any("it was invoked 16 times in one chain of messages" in text for text in log.texts)


def test_a_task_is_rate_limited_forty_times(jobs: JobTester) -> None:
    refused.clear()
    jobs.enqueue(loop_busy, Loop(), task_id="it")
    jobs.drain(within=HOUR)
    assert (jobs.task("it").state, jobs.task("it").runs) == (State.COMPLETED, 41)


def test_a_chain_of_forty_children_runs(jobs: JobTester) -> None:
    last = jobs.enqueue(loop_child, Loop()).id
    for _ in range(40):
        last = jobs.enqueue(loop_child, Loop(), after=[last]).id
    jobs.drain()
    assert states(jobs) == {State.COMPLETED: 41}


def test_a_task_with_a_larger_max_depth_enqueues_itself_forty_times(jobs: JobTester) -> None:
    jobs.enqueue(loop_long, Loop(account=0))
    jobs.drain()
    assert states(jobs) == {State.COMPLETED: 41}


def test_a_task_that_enqueues_itself_past_its_depth_is_stopped_by_lambda(jobs: JobTester) -> None:
    first = jobs.enqueue(loop_outside, Loop()).id
    with lines() as log:
        jobs.drain()
    assert jobs.task(first).state is State.COMPLETED
    assert states(jobs) == {State.COMPLETED: MOST_INVOCATIONS, State.PENDING: 1}
    assert sum("Lambda would not invoke loop:outside" in text for text in log.texts) == 1


def test_two_types_of_a_place_that_start_each_other_are_one_function_to_lambda(jobs: JobTester) -> None:
    jobs.enqueue(loop_ping, Loop(account=0))
    with lines() as log:
        jobs.drain()
    assert states(jobs) == {State.COMPLETED: MOST_INVOCATIONS, State.PENDING: 1}
    assert sum("Lambda would not invoke closed" in text for text in log.texts) == 1


def test_a_place_allows_loops_if_one_of_its_types_has_a_larger_max_depth(jobs: JobTester) -> None:
    jobs.register(loop_deep)
    jobs.enqueue(loop_plain, Loop(account=0))
    jobs.drain()
    assert states(jobs) == {State.COMPLETED: 41}


def test_chains_of_different_lengths_in_one_batch_do_not_lengthen_each_other(jobs: JobTester) -> None:
    """Each chain has fourteen tasks, one less than the default of ``max_depth`` allows."""
    for _ in range(15):
        jobs.enqueue(loop_batched, Loop(account=0))
    jobs.drain()
    assert states(jobs) == {State.COMPLETED: 15 * 14}
