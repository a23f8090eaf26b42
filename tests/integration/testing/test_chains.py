"""The limits of an enqueue by a run: types that its task declares, and chains of a declared depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from joblane import EnqueueError, Grants, Job, JobClient, Payload, State, TaskContext, task
from joblane.enqueue.check import new_id
from joblane.tasks.payload import ArchivedTask
from joblane.testing import JobTester

OUTSIDE = JobClient()
"""A client that no run has made."""
LINE = (
    "task: 'chain:start' does not declare that it enqueues 'chain:other', so IAM refuses the message on AWS; add "
    "grants=Grants(enqueue=('chain:allowed', 'chain:other')) in its handler.py"
)


class Link(Payload):
    how: str = "enqueue"


@task("chain:other")
def chain_other(payload: Link, ctx: TaskContext) -> None:
    pass


@task("chain:allowed")
def chain_allowed(payload: Link, ctx: TaskContext) -> None:
    pass


@task("chain:start", max_retry=0, grants=Grants(enqueue=("chain:allowed",)))
def chain_start(payload: Link, ctx: TaskContext) -> None:
    ctx.enqueue(chain_allowed, Link())
    WAYS[payload.how](ctx)


@task("chain:any", grants=Grants(enqueue=("*",)))
def chain_any(payload: Link, ctx: TaskContext) -> None:
    ctx.enqueue(chain_other, Link())
    OUTSIDE.enqueue(chain_start, Link())


@task("chain:itself", max_retry=3)
def chain_itself(payload: Link, ctx: TaskContext) -> None:
    WAYS[payload.how](ctx)


@task("chain:short", max_depth=1)
def chain_short(payload: Link, ctx: TaskContext) -> None:
    ctx.enqueue(chain_short, Link())


@task("chain:archived", grants=Grants(enqueue=("chain:failing",)))
def chain_archived(payload: ArchivedTask, ctx: TaskContext) -> None:
    ctx.enqueue(chain_failing, Link())


@task("chain:failing", max_retry=0, max_depth=2, on_archived=chain_archived)
def chain_failing(payload: Link, ctx: TaskContext) -> None:
    raise ValueError("always")


def batch_of_member(ctx: TaskContext) -> Any:
    return ctx.batch.enqueue(chain_other, Link())


def members(ctx: TaskContext) -> None:
    with ctx.new_batch(f"{ctx.task_id}-members") as batch:
        batch.enqueue_many([Job(chain_itself, Link(how="members"))])


def callback(ctx: TaskContext) -> None:
    ctx.new_batch(new_id(), on_end=Job(chain_itself, Link(how="callback"))).seal()


WAYS: dict[str, Callable[[TaskContext], Any]] = {
    "enqueue": lambda ctx: ctx.enqueue(chain_other, Link()),
    "enqueue_many": lambda ctx: ctx.enqueue_many([Job(chain_allowed, Link()), Job(chain_other, Link())]),
    "on_end": lambda ctx: ctx.new_batch("b", on_end=Job(chain_other, Link())),
    "new_batch": lambda ctx: ctx.new_batch("b").enqueue(chain_other, Link()),
    "batch": batch_of_member,
    "itself": lambda ctx: ctx.enqueue(chain_itself, Link(how="itself")),
    "members": members,
    "callback": callback,
}


@pytest.mark.parametrize("how", ["enqueue", "enqueue_many", "on_end", "new_batch", "batch"])
def test_a_type_that_is_not_granted_is_refused_and_nothing_is_written(jobs: JobTester, how: str) -> None:
    # given a member of a batch, which enqueues another type without a grant
    with jobs.client.batch("all") as batch:
        batch.enqueue(chain_start, Link(how=how))
    # when
    ended = jobs.drain().only
    # then
    assert (ended.state, ended.error_type) == (State.ARCHIVED, "EnqueueError")
    assert LINE in (ended.error_message or "").replace("job 1: ", "").replace("on_end: ", "")
    assert [found.type for found in jobs.enqueued()] == ["chain:start"]


def test_all_types_and_a_client_outside_of_the_run_are_not_refused(jobs: JobTester) -> None:
    jobs.run(chain_any, Link())
    assert {found.type for found in jobs.enqueued()} == {"chain:any", "chain:other", "chain:start"}
    with pytest.raises(EnqueueError, match="add grants="), jobs.context(chain_start, Link()) as ctx:
        ctx.enqueue(chain_other, Link())


@pytest.mark.parametrize("how", ["itself", "members", "callback"])
def test_a_task_that_enqueues_itself_for_ever_is_archived_at_its_depth(jobs: JobTester, how: str) -> None:
    # when
    jobs.enqueue(chain_itself, Link(how=how))
    ran = jobs.drain()
    # then the sixteenth run is the last, and it is not tried again
    assert len(ran) == 16
    last = ran[-1]
    assert (last.state, last.attempts, last.error_type) == (State.ARCHIVED, 1, "DepthError")
    assert last.reason == (
        "DepthError: 'chain:itself' at depth 15 has enqueued 'chain:itself', which declares max_depth=15; if the chain "
        "has no end, end it; if it is a long one, declare a larger max_depth on 'chain:itself', or loop over "
        "ctx.resume(…) in one task"
    )
    assert [other.state for other in ran[:-1]] == [State.COMPLETED] * 15


def test_a_depth_is_counted_from_the_outside_and_declared(jobs: JobTester) -> None:
    jobs.enqueue(chain_short, Link())
    ran = jobs.drain()
    assert [each.state for each in ran] == [State.COMPLETED, State.ARCHIVED]
    assert "max_depth=1;" in (ran[-1].reason or "")


def test_a_task_that_its_on_archived_enqueues_again_ends_at_its_depth(jobs: JobTester) -> None:
    jobs.enqueue(chain_failing, Link())
    ran = jobs.drain()
    assert [each.type for each in ran] == ["chain:failing", "chain:archived"] * 3
    assert (ran[-1].state, ran[-1].error_type) == (State.ARCHIVED, "DepthError")
