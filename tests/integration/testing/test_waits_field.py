"""Failures of waits in other systems that were reported in public, each as a test that the waits here pass.

The other promises of waits have their tests in the files `test_waits.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from joblane import Grants, Payload, State, TaskContext, task
from joblane.testing import JobTester

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
calls: Counter[str] = Counter()
deployed: list[Callable[[TaskContext], Any]] = []
"""The handler of `field:any`; a new one is another deploy."""


class Round(Payload):
    number: int = 1


@task("field:any", max_retry=1, timeout=timedelta(seconds=1))
def field_any(payload: Round, ctx: TaskContext) -> Any:
    return deployed[-1](ctx)


@task("field:rounds", max_retry=0, grants=Grants(enqueue=("field:rounds",)))
def field_rounds(payload: Round, ctx: TaskContext) -> Any:
    """A loop without an end: each round is a task of its own."""
    answer = ctx.wait("go", timeout=HOUR)
    ctx.enqueue(field_rounds, Round(number=payload.number + 1), task_id=f"round-{payload.number + 1}")
    return answer


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def started(jobs: JobTester, handler: Callable[[TaskContext], Any]) -> None:
    deployed.append(handler)
    jobs.enqueue(field_any, Round(), task_id="t")
    jobs.drain()


def test_vercel_3911_a_wake_up_whose_message_is_lost_is_repaired(
    jobs: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of a hook was stored, and the message that wakes its run was accepted and never came: nothing starts
    the run. Here the row of the task says when the sweep sends the message again."""
    started(jobs, lambda ctx: ctx.wait("go", timeout=DAY))
    with monkeypatch.context() as lost:
        lost.setattr(jobs.client._producer.sqs, "send_many", lambda entries, **_: {})
        assert jobs.signal("t", "go", 1)
    assert jobs.task("t").state is State.PENDING
    jobs.travel(HOUR / 4, ticks=True)
    assert jobs.task("t").result == 1


def test_hatchet_4128_a_task_that_waits_past_its_timeout_is_not_taken_for_lost(jobs: JobTester) -> None:
    """A task that waited longer than the timeout of its step failed, and ran twice. Here it has no run and no lease."""
    started(jobs, lambda ctx: ctx.sleep("days", 3 * DAY))
    jobs.travel(4 * DAY, ticks=True)
    assert jobs.task("t").outcomes == ("waiting", "completed")


def test_druks_619_dbos_go_479_and_temporal_python_135_new_code_continues_a_task(jobs: JobTester) -> None:
    """After a deploy no process had the version of the code of the runs that waited: they stayed, without an error.
    Elsewhere a change of the code failed them as not deterministic. Here the newest code continues, by names."""

    def once(ctx: TaskContext, name: str) -> Any:
        def call(key: str) -> str:
            calls[name] += 1
            return f"{name} {calls[name]}"

        return ctx.step(name, call)

    def first(ctx: TaskContext) -> Any:
        done = [once(ctx, "one"), once(ctx, "two"), once(ctx, "three")]
        return [*done, ctx.wait("go", timeout=DAY)]

    def second(ctx: TaskContext) -> Any:
        """A step and a wait are new, one step is gone, and the order is another one."""
        done = [once(ctx, "new"), once(ctx, "three"), once(ctx, "one")]
        return [*done, ctx.wait("more", timeout=HOUR, default="none"), ctx.wait("go", timeout=HOUR)]

    started(jobs, first)
    jobs.signal("t", "go", "went")
    deployed.append(second)
    jobs.travel(2 * HOUR, ticks=True)
    assert jobs.task("t").result == ["new 1", "three 1", "one 1", "none", "went"]
    assert jobs.task("t").outcomes == ("waiting", "waiting", "completed")


def test_temporal_1289_and_8097_a_successor_loses_no_signal(jobs: JobTester) -> None:
    """Signals that came while a workflow continued as a new one made it start again, or were refused. Here a successor
    is a task with its own signals, and a signal of the task that has ended returns False."""
    jobs.enqueue(field_rounds, Round(), task_id="round-1")
    jobs.signal("round-1", "go", "first")
    with jobs.crash_after_commit(field_rounds):
        jobs.drain()
    assert jobs.signal("round-1", "go", "too late") is False
    assert jobs.signal("round-2", "go", "second")
    jobs.drain(within=HOUR / 4)
    assert [jobs.task(f"round-{number}").result for number in (1, 2)] == ["first", "second"]


def test_langgraph_2870_and_7780_an_answer_goes_to_its_question_of_a_loop(jobs: JobTester) -> None:
    """Answers belong to questions by their order, so that a value answered a second question too, and a loop got
    extra answers. Here each question has a name."""

    def ask(ctx: TaskContext) -> list[str]:
        return [ctx.wait(f"question {number}", timeout=DAY) for number in range(3)]

    started(jobs, ask)
    for number in (2, 0, 1):
        assert jobs.signal("t", f"question {number}", f"answer {number}")
        jobs.drain()
    assert jobs.task("t").result == ["answer 0", "answer 1", "answer 2"]
    assert jobs.task("t").outcomes == ("waiting", "waiting", "completed")  # the early answer stopped nothing
