"""The kit with tasks that run after others, and with batches."""

from __future__ import annotations

from datetime import timedelta

import pytest

from joblane import Grants, Job, Payload, SkipRetry, TaskContext, task
from joblane.testing import JobTester, Released

RAN: list[str] = []


class Step(Payload):
    name: str = ""
    dies: bool = False


@task("graph:step", max_retry=0)
def graph_step(payload: Step, ctx: TaskContext) -> None:
    RAN.append(ctx.task_id)
    if payload.dies:
        raise SkipRetry("no")


@task("graph:many", batch_size=10)
def graph_many(payload: Step, ctx: TaskContext) -> None:
    RAN.append(ctx.task_id)


@task("graph:fan", grants=Grants(enqueue=("graph:step",)))
def graph_fan(payload: Step, ctx: TaskContext) -> None:
    """Adds members to its batch, or makes one."""
    RAN.append(ctx.task_id)
    if ctx.batch_id is not None:
        ctx.batch.enqueue(graph_step, Step(), task_id="late")
        return
    with ctx.new_batch("fan", on_end=Job(graph_step, Step())) as batch:
        batch.enqueue_many([Job(graph_step, Step(), task_id=id_) for id_ in "xy"])


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def step(jobs: JobTester, id_: str, *after: str, dies: bool = False, **options: object) -> None:
    jobs.enqueue(graph_step, Step(dies=dies), task_id=id_, after=list(after), **options)  # type: ignore[arg-type]


def test_a_graph_runs_to_its_end_in_one_drain(jobs: JobTester) -> None:
    step(jobs, "a")
    step(jobs, "b", "a")
    step(jobs, "c", "a")
    step(jobs, "d", "b", "c")
    report = jobs.drain().check()
    assert [RAN[0], sorted(RAN[1:3]), RAN[3]] == ["a", ["b", "c"], "d"]
    assert sorted(one.id for one in report.released[:2]) == ["b", "c"]
    assert [one.parents for one in report.released] == [("a",), ("a",), (RAN[2],)]


def test_parents_of_one_invocation_are_named_together(jobs: JobTester) -> None:
    for id_ in "ab":
        jobs.enqueue(graph_many, Step(), task_id=id_)
    step(jobs, "child", "a", "b")
    assert jobs.drain().check().released == [Released("child", ("a", "b"))]


def test_a_child_is_held_by_its_parent(jobs: JobTester) -> None:
    step(jobs, "a", dies=True)
    step(jobs, "b")
    step(jobs, "child", "a", "b")
    report = jobs.drain()
    assert report.released == []
    assert [one.id for one in jobs.assert_held(graph_step, by="a")] == ["child"]
    with pytest.raises(AssertionError, match="no task 'graph:step' is held by 'b'; limits and tasks that hold some: a"):
        jobs.assert_held(graph_step, by="b")


def test_a_redriven_parent_lets_its_child_go(jobs: JobTester) -> None:
    step(jobs, "a", dies=True)
    step(jobs, "child", "a")
    jobs.drain()
    jobs.assert_held(graph_step, by="a")
    with jobs.session() as session:
        session.connection().exec_driver_sql("update joblane.tasks set payload = '{}' where id = 'a'")
    jobs.redrive(graph_step)
    assert jobs.drain().check().released == [Released("child", ("a",))]


def test_a_child_that_is_due_later_runs_in_the_time_of_the_test(jobs: JobTester) -> None:
    step(jobs, "a", process_in=timedelta(minutes=20))
    step(jobs, "child", "a", process_in=timedelta(hours=1))
    assert jobs.drain().released == []
    report = jobs.drain(within=timedelta(hours=2)).check()
    assert report.released == [Released("child", ("a",))]
    assert RAN == ["a", "child"]


def test_a_child_runs_although_the_worker_of_its_parent_was_killed(jobs: JobTester) -> None:
    step(jobs, "a", process_in=timedelta(minutes=1))
    step(jobs, "child", "a")
    jobs.drain()
    jobs.assert_held(graph_step, by="a")
    with jobs.crash_after_commit(graph_step):
        report = jobs.drain(within=timedelta(minutes=30)).check()
    assert report.released == [Released("child", ("a",))]
    assert report.killed == 1


def test_the_sweep_finds_a_parent_that_was_deleted(jobs: JobTester) -> None:
    step(jobs, "a", process_in=timedelta(minutes=1))
    step(jobs, "child", "a", on_parent_dead="run")
    jobs.drain()
    with jobs.session() as session:
        session.connection().exec_driver_sql("delete from joblane.tasks where id = 'a'")
    assert jobs.drain().released == [Released("child", ())]


def test_a_batch_runs_to_its_callbacks_in_one_drain(jobs: JobTester) -> None:
    with jobs.client.batch("import", on_end=Job(graph_step, Step()), on_success=Job(graph_step, Step())) as batch:
        batch.enqueue(graph_step, Step(), task_id="a")
        batch.enqueue(graph_fan, Step(), task_id="b")
    report = jobs.drain().check()
    assert RAN[-2:] == ["import:on_end", "import:on_success"]
    assert "late" in RAN
    assert {one.id for one in report.released} == {"import:on_end", "import:on_success"}
    assert {one.parents for one in report.released} == {(RAN[-3],)}


def test_a_handler_makes_a_batch(jobs: JobTester) -> None:
    jobs.enqueue(graph_fan, Step(), task_id="b")
    report = jobs.drain().check()
    assert RAN[-1] == "fan:on_end"
    assert len(report) == 4


def test_a_callback_is_held_by_its_batch_and_by_a_dead_member(jobs: JobTester) -> None:
    batch = jobs.client.batch("import", on_success=Job(graph_step, Step()))
    batch.enqueue(graph_step, Step(dies=True), task_id="a")
    jobs.drain()
    jobs.assert_held(graph_step, by="import")
    batch.seal()
    jobs.drain()
    assert [one.id for one in jobs.assert_held(graph_step, by="a")] == ["import:on_success"]
