"""Children for which a task waits, in a worker: commits, messages, each end of a child, what is refused, and kills."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from joblane import Job, TaskContext
from joblane.errors import ChildFailed, DuplicateTaskError, EnqueueError, JobError, StepError
from joblane.handler import children, steps
from joblane.inspector.actions.changes import change, serve_freed
from joblane.inspector.filter import BulkAction
from joblane.record.task.waits import read_children
from joblane.sqs.message import Message
from tests.builders.events import record
from tests.builders.handlers import Handler, run, write, write_async, written
from tests.integration.worker.test_waits import STRICT, DiedError, dies_at
from tests.samples import (
    Sample,
    behaviours,
    sample_async,
    sample_forgotten,
    sample_one,
    sample_only,
    sample_ordered,
    sample_single,
)
from tests.world import World, handle

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ALL = ("sample:forgotten", "sample:one", "sample:only", "sample:ordered", "sample:single")


@pytest.fixture(autouse=True)
def _may_enqueue_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (sample_one, sample_async, sample_ordered):
        monkeypatch.setitem(vars(task.grants), "run", ALL)
    behaviours["child_of_a_wait"] = lambda payload, ctx: {"number": payload.number}


def job(number: int = 1, **options: Any) -> Job:
    return Job(sample_one, Sample(do="child_of_a_wait", number=number), **options)


def three(ctx: TaskContext) -> Any:
    write(ctx, "asked")
    found = ctx.gather("three", [job(number) for number in range(3)])
    write(ctx, "answered")
    return [each["number"] for each in found]


async def three_async(ctx: TaskContext) -> Any:
    await write_async(ctx, "asked")
    found = await ctx.agather("three", [job(number) for number in range(3)])
    await write_async(ctx, "answered")
    return [each["number"] for each in found]


def children_of(world: World, id_: str = "it") -> list[str]:
    rows = world.run("select unnest(children) from joblane.task_waits where task_id = $1", id_)
    return [child for (child,) in rows]


def end(world: World, *ids: str) -> None:
    """Run children to their ends."""
    for id_ in ids:
        assert not world.deliver(sample_one, Message(sample_one.type, id_, rec=True).encode())
        assert world.row(id_)["state"] == "completed"


# --- Commits and messages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("handler", "task"), [(three, sample_one), (three_async, sample_async)])
def test_the_children_commit_with_the_stop_and_the_last_end_sends_the_message(
    effects: World, handler: Handler, task: Any
) -> None:
    watched = effects.watch()
    row = run(effects, handler, task=task)
    assert (row["state"], row["wait_kind"], row["attempts"], row["kept"]) == ("held", "parents", 0, False)
    ids = children_of(effects)
    sent = [(json.loads(entry.body)["id"], entry.keeps_chain) for entry in watched.sent]
    assert sent == [(id_, True) for id_ in ids]
    watched.sent.clear()
    assert [effects.row(id_)["payload"]["number"] for id_ in ids] == [0, 1, 2]
    assert {(effects.row(id_)["enqueued_by"], effects.row(id_)["depth"]) for id_ in ids} == {("it", 1)}
    assert {effects.row(id_)["retention_seconds"] for id_ in ids} == {30 * 86_400}
    end(effects, *ids[:2])
    assert watched.sent == []
    end(effects, ids[2])
    assert [(json.loads(entry.body)["id"], entry.keeps_chain) for entry in watched.sent] == [("it", False)]
    assert effects.row("it")["state"] == "pending"
    row = run(effects, handler, task=task)
    assert (row["state"], row["result"], effects.outcomes("it")) == ("completed", [0, 1, 2], ["waiting", "completed"])
    assert written(effects) == ["answered", "asked", "asked"]


def test_the_results_are_remembered_as_one_step_when_they_are_read(effects: World) -> None:
    fails = iter([True, False])

    def then_fails(ctx: TaskContext) -> Any:
        found = ctx.gather("three", [job(number) for number in range(3)])
        if next(fails):
            raise ValueError("again")
        return found

    run(effects, then_fails)
    end(effects, *children_of(effects))
    assert run(effects, then_fails)["state"] == "retry"
    effects.run("update joblane.tasks set result = '7' where id <> 'it'")
    assert run(effects, then_fails)["result"] == [{"number": number} for number in range(3)]


def test_the_result_of_one_child_may_be_null(effects: World) -> None:
    def one(ctx: TaskContext) -> Any:
        return ["it returned", ctx.run("one", sample_one, Sample(do="nothing"), retention=90 * DAY)]

    run(effects, one)
    [child] = children_of(effects)
    assert effects.row(child)["retention_seconds"] == 90 * 86_400
    end(effects, child)
    assert run(effects, one)["result"] == ["it returned", None]


def test_a_task_that_is_run_early_stops_again_and_its_claim_decides(effects: World) -> None:
    watched = effects.watch()
    run(effects, three)
    first, second, third = children_of(effects)
    end(effects, first)
    for early in range(2):
        assert len(change(effects.database.get(), BulkAction.RUN, ["it"], who="op")) == 1
        watched.sent.clear()
        row = run(effects, three)
        assert (row["state"], row["wait_kind"], row["place"], row["kept"]) == ("pending", "parents", None, False)
        assert [(json.loads(entry.body)["id"], entry.delay_seconds) for entry in watched.sent] == [("it", 0)]
        if not early:  # its message finds the children live, and it is held for them
            assert run(effects, three)["state"] == "held"
    end(effects, second, third)
    assert effects.row("it")["state"] == "pending"
    assert run(effects, three)["result"] == [0, 1, 2]
    assert len(children_of(effects)) == 3


def test_a_run_with_an_old_snapshot_stops_again_and_its_message_continues(effects: World) -> None:
    """A child ends after the snapshot of the run, and before its stop."""
    effects.run(STRICT)
    effects.database.drop()
    run(effects, three)
    ids = children_of(effects)
    end(effects, *ids[:2])
    change(effects.database.get(), BulkAction.RUN, ["it"], who="op")

    def overtaken(ctx: TaskContext) -> Any:
        ctx.session.execute(text("select from effects"))
        with effects.rival(sample_one) as worker:
            effects.workers, kept = {sample_one.type: worker}, effects.workers
            behaviours["handler_of_the_test"] = lambda _, ctx: three(ctx)
            end(effects, ids[2])
            effects.workers = kept
        return three(ctx)

    assert run(effects, overtaken)["state"] == "pending"
    assert run(effects, three)["result"] == [0, 1, 2]


def test_a_redriven_task_waits_for_a_child_that_was_retried(effects: World) -> None:
    run(effects, three)
    first, *others = children_of(effects)
    _ended(effects, BulkAction.ARCHIVE, first)
    end(effects, *others)
    assert run(effects, three)["state"] == "archived"
    for id_ in (first, "it"):
        change(effects.database.get(), BulkAction.RETRY, [id_], who="op")
    assert run(effects, three)["state"] == "pending"
    assert run(effects, three)["state"] == "held"
    end(effects, first)
    assert run(effects, three)["result"] == [0, 1, 2]


def test_a_cancelled_run_leaves_no_child(effects: World) -> None:
    def cancelled(ctx: TaskContext) -> Any:
        effects.client.cancel("it")
        return three(ctx)

    assert run(effects, cancelled)["state"] == "cancelled"
    assert effects.run("select count(*) from joblane.tasks") == [[1]]
    assert (children_of(effects), effects.depth(effects.lane(sample_one))) == ([], 0)


# --- Every end of a child ------------------------------------------------------------------------------------------


def _ended(world: World, action: BulkAction, id_: str) -> None:
    connection = world.database.get()
    serve_freed(connection, world.sqs, "jobs", change(connection, action, [id_], who="op"))


def _fails(world: World, id_: str) -> None:
    def broken(payload: Sample, ctx: TaskContext) -> None:
        raise StepError("s", "it is broken")

    behaviours["child_of_a_wait"] = broken
    world.deliver(sample_one, Message(sample_one.type, id_, rec=True).encode())


def _cancelled_while_it_runs(world: World, id_: str) -> None:
    def cancelled(payload: Sample, ctx: TaskContext) -> None:
        world.client.cancel(id_)
        ctx.check()

    behaviours["child_of_a_wait"] = cancelled
    world.deliver(sample_one, Message(sample_one.type, id_, rec=True).encode())


def _past_its_deadline(world: World, id_: str) -> None:
    world.run("update joblane.tasks set deadline = clock_timestamp() where id = $1", id_)
    world.deliver(sample_one, Message(sample_one.type, id_, rec=True).encode())


def _lost(world: World, id_: str) -> None:
    world.run(
        "update joblane.tasks set state = 'active', attempts = 4, runs = 4, lease_token = gen_random_uuid(),"
        " lease_until = clock_timestamp(), sweep_at = clock_timestamp() where id = $1",
        id_,
    )
    world.deliver(sample_one, Message(sample_one.type, id_, rec=True).encode())


def _by_sql(world: World, id_: str) -> None:
    world.run("update joblane.tasks set state = 'cancelled' where id = $1", id_)
    world.sweep()
    world.sweep()


def _deleted_by_sql(world: World, id_: str) -> None:
    world.run("delete from joblane.tasks where id = $1", id_)
    world.sweep()


ENDS: dict[str, tuple[Callable[[World, str], object], str]] = {
    "fails": (_fails, "archived"),
    "client": (lambda world, id_: world.client.cancel(id_), "cancelled"),
    "while it runs": (_cancelled_while_it_runs, "cancelled"),
    "archive": (lambda world, id_: _ended(world, BulkAction.ARCHIVE, id_), "archived"),
    "cancel": (lambda world, id_: _ended(world, BulkAction.CANCEL, id_), "cancelled"),
    "delete": (lambda world, id_: _ended(world, BulkAction.DELETE, id_), "deleted"),
    "deadline": (_past_its_deadline, "archived"),
    "lost": (_lost, "archived"),
    "sql": (_by_sql, "cancelled"),
    "deleted by sql": (_deleted_by_sql, "deleted"),
}


def test_every_end_of_the_last_child_continues_the_task_which_names_the_ends(effects: World) -> None:
    found: dict[str, Mapping[str, str]] = {}

    def gathered(ctx: TaskContext) -> Any:
        try:
            return ctx.gather("two", [job(1), job(2)])
        except ChildFailed as error:
            found[ctx.task_id] = error.ends
            raise

    for name, (ends, state) in ENDS.items():
        id_ = name.replace(" ", "-")
        behaviours["child_of_a_wait"] = lambda payload, ctx: payload.number
        assert run(effects, gathered, id_)["state"] == "held"
        first, last = children_of(effects, id_)
        end(effects, first)
        assert effects.row(id_)["state"] == "held"
        ends(effects, last)
        assert effects.row(id_)["state"] == "pending", id_
        row = run(effects, gathered, id_)
        assert (row["state"], row["error_type"]) == ("archived", "ChildFailed")
        assert f"wait 'two': not all children have completed: {last} was {state}; " in row["error_message"]
        then = "replay this task" if state == "deleted" else "retry them, and then this task"
        assert then in row["error_message"]
        assert found[id_] == {last: state}


def test_many_failed_children_are_counted() -> None:
    error = ChildFailed("w", {f"c{number}": "archived" for number in range(1_006)})
    assert str(error).endswith("c4 was archived, and 1,001 more; retry them, and then this task")


@pytest.mark.parametrize("action", [BulkAction.CANCEL, BulkAction.ARCHIVE, BulkAction.DELETE])
def test_children_continue_after_the_end_of_the_task_and_start_nothing(effects: World, action: BulkAction) -> None:
    watched = effects.watch()
    run(effects, three)
    ids = children_of(effects)
    watched.sent.clear()
    _ended(effects, action, "it")
    state = effects.row("it")["state"]
    end(effects, *ids)
    assert watched.sent == []
    assert effects.row("it")["state"] == state != "held"
    effects.sweep()
    assert effects.run("select from joblane.task_parents") == []


# --- What is refused -----------------------------------------------------------------------------------------------


def in_a_step(ctx: TaskContext) -> None:
    ctx.step("a", lambda key: ctx.gather("b", [job()]))


def in_a_loop(ctx: TaskContext) -> None:
    for _ in ctx.each(["a"]):
        ctx.run("b", sample_one, Sample())


def in_a_savepoint(ctx: TaskContext) -> None:
    with ctx.session.begin_nested():
        ctx.gather("b", [job()])


def name_twice(ctx: TaskContext) -> None:
    ctx.step("a", lambda key: 1)
    ctx.gather("a", [job()])


def too_many_steps(ctx: TaskContext) -> None:
    for number in range(2):
        ctx.step(f"s{number}", lambda key: 1)
    ctx.gather("a", [job()])


REFUSED: list[tuple[Handler, type[JobError], str]] = [
    (in_a_step, StepError, "step 'b': it cannot be inside another step, or run with it"),
    (in_a_loop, StepError, "step 'b': it cannot be inside a loop over ctx.each"),
    (in_a_savepoint, StepError, "step 'b': ctx.gather cannot be inside of begin_nested"),
    (name_twice, StepError, "step 'a': this run has used the name already"),
    (too_many_steps, StepError, "a task has at most 2 steps and waits"),
    (lambda ctx: ctx.gather("a", [job()] * 4), StepError, "at most 3 jobs, not 4; divide them among several waits"),
    (lambda ctx: ctx.gather("a", [job(), "b"]), StepError, "job 1: a Job(task, payload) is required, not str"),  # type: ignore[list-item]
    (lambda ctx: ctx.gather("a", job()), StepError, "jobs: a list of Job(task, payload) is required, not Job"),  # type: ignore[arg-type]
    (
        lambda ctx: ctx.run("a", job(), Sample()),  # type: ignore[arg-type]
        StepError,
        "job 0: task: a function declared by @task is required, not Job",
    ),
    (lambda ctx: ctx.gather("a", [job(), job(task_id="b")]), EnqueueError, "job 1: task_id: leave it out: a child"),
    (lambda ctx: ctx.gather("a", [job(debounce=HOUR)]), EnqueueError, "job 0: debounce: leave it out: a child that"),
    (
        lambda ctx: ctx.run("a", sample_only, Sample(), on_conflict="return"),
        EnqueueError,
        "on_conflict: leave it out: a child that its parent waits for is always a new task, with an id of its own",
    ),
    (lambda ctx: ctx.run("a", sample_one, Sample(), taks_id="b"), EnqueueError, "did you mean task_id?"),  # type: ignore[call-arg]
    (lambda ctx: ctx.run("a", sample_one, Sample(), after=[ctx.task_id]), EnqueueError, "after: it cannot wait for"),
    (lambda ctx: ctx.run("a", sample_one, Sample(), max_retry=9), EnqueueError, "max_retry"),
    (lambda ctx: ctx.run("a", sample_one, Sample(), retention=-HOUR), EnqueueError, "retention"),
]


def test_children_in_a_wrong_place_or_with_wrong_options_are_refused(
    effects: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "MAX_STEPS", 2)
    monkeypatch.setattr(children, "MOST_CHILDREN", 3)
    for number, (handler, error, problem) in enumerate(REFUSED):
        row = run(effects, handler, f"t{number}")
        found = row["error_type"], row["state"], problem in row["error_message"]
        assert found == (error.__name__, "archived" if error is StepError else "retry", True), row["error_message"]
    assert effects.run("select count(*) from joblane.tasks") == [[len(REFUSED)]]
    assert effects.run("select from joblane.task_waits") == []


def by_context(handler: Handler, _: Sample, ctx: TaskContext) -> Any:
    return handler(ctx)


def test_a_child_in_the_ordered_key_of_its_parent_is_refused(effects: World) -> None:
    def same_key(ctx: TaskContext) -> Any:
        return ctx.gather("a", [Job(sample_ordered, Sample(do="child_of_a_wait", number=1), tenant="t")])

    def another_key(ctx: TaskContext) -> Any:
        return ctx.gather("a", [Job(sample_ordered, Sample(do="child_of_a_wait", number=0), tenant="u")])

    effects.lane(sample_ordered)
    for id_, handler, state in (("same", same_key, "retry"), ("another", another_key, "held")):
        behaviours["handler_of_the_test"] = partial(by_context, handler)
        effects.client.enqueue(sample_ordered, Sample(do="handler_of_the_test", number=1), task_id=id_, tenant="t")
        effects.deliver(sample_ordered, Message(sample_ordered.type, id_, rec=True).encode(), group="t")
        assert effects.row(id_)["state"] == state, effects.row(id_)
        if state == "retry":
            assert (
                "job 0: key: it is in the order of 'sample:ordered/t 1', in which the task that waits for it comes "
                "first, so it could never start; give it another key" in effects.row(id_)["error_message"]
            )
            effects.client.cancel(id_)


def test_a_held_unique_key_leaves_no_child_of_the_call(effects: World) -> None:
    """The attempt fails, and its retry may find the key free. A handler that catches it can do something else."""
    holder = effects.client.enqueue(sample_only, Sample(number=7))
    caught: list[JobError] = []

    def unique(ctx: TaskContext) -> Any:
        try:
            return ctx.gather("a", [job(1), Job(sample_only, Sample(number=7))])
        except DuplicateTaskError as error:
            caught.append(error)
            return "somebody else does it"

    row = run(effects, unique)
    assert (row["state"], row["result"], len(caught)) == ("completed", "somebody else does it", 1)
    assert effects.run("select count(*) from joblane.tasks") == [[2]]
    assert effects.depth(effects.lane(sample_one)) == 0
    assert run(effects, lambda ctx: ctx.run("a", sample_only, Sample(number=7)), "t")["error_type"] == (
        "DuplicateTaskError"
    )
    effects.client.cancel(holder.id)
    assert run(effects, lambda ctx: ctx.run("a", sample_only, Sample(number=7)), "t")["state"] == "held"


def test_a_type_that_is_not_granted_is_refused(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(sample_one.grants), "run", ())
    row = run(effects, lambda ctx: ctx.run("a", sample_only, Sample(number=7)))
    problem = "'sample:one' does not declare that it waits for 'sample:only', so IAM refuses the messages on AWS; add "
    assert f"job 0: task: {problem}grants=Grants(run=('sample:only',)) in its handler.py" in row["error_message"]


def test_a_later_run_gives_the_same_jobs_and_the_same_kind_of_wait(effects: World) -> None:
    changes: list[tuple[Handler, str]] = [
        (lambda ctx: ctx.gather("w", [job()]), "an earlier run has enqueued 2 jobs here, and this run gives 1; put"),
        (lambda ctx: ctx.gather("w", []), "an earlier run has enqueued 2 jobs here, and this run gives 0; put"),
        (
            lambda ctx: ctx.gather("w", [job(), Job(sample_single, Sample())]),
            "job 1: an earlier run has enqueued a task of 'sample:one' here, and this run gives 'sample:single'",
        ),
        (lambda ctx: ctx.sleep("w", HOUR), "an earlier run has stopped at another kind of wait"),
        (lambda ctx: ctx.wait("w", timeout=HOUR), "an earlier run has stopped at another kind of wait"),
        (lambda ctx: ctx.poll("w", lambda: 1, every=HOUR, timeout=HOUR), "an earlier run has stopped at another kind"),
        (lambda ctx: ctx.step("w", lambda key: 1), "an earlier run has stopped at a wait of this name"),
        (lambda ctx: ctx.gather("s", [job()]), "an earlier run has stored a step of this name"),
    ]
    for number, (changed, problem) in enumerate(changes):

        def first(ctx: TaskContext) -> None:
            ctx.step("s", lambda key: 1)
            ctx.gather("w", [job(), job()])

        run(effects, first, f"t{number}")
        change(effects.database.get(), BulkAction.RUN, [f"t{number}"], who="op")
        row = run(effects, changed, f"t{number}")
        assert (row["state"], problem in (row["error_message"] or "")) == ("archived", True), (problem, row)
    run(effects, lambda ctx: ctx.sleep("w", HOUR), "sleeps")
    row = run(effects, lambda ctx: ctx.gather("w", [job()]), "sleeps")
    assert "an earlier run has stopped at another kind of wait" in row["error_message"]


def test_children_in_another_asyncio_task_are_refused(effects: World) -> None:
    async def at_the_same_time(ctx: TaskContext) -> None:
        await asyncio.gather(ctx.agather("a", [job()]), ctx.arun("b", sample_one, Sample()))

    row = run(effects, at_the_same_time, task=sample_async)
    assert "ctx.agather is in another asyncio task or thread than the handler" in row["error_message"]
    assert effects.run("select count(*) from joblane.tasks") == [[1]]


@pytest.mark.parametrize("size", [30_000, 40_000, 200_000])
def test_results_have_a_limited_size_together(effects: World, size: int) -> None:
    def two(ctx: TaskContext) -> int:
        return sum(len(each) for each in ctx.gather("two", [job(), job()]))

    behaviours["child_of_a_wait"] = lambda payload, ctx: "x" * size
    run(effects, two)
    end(effects, *children_of(effects))
    row = run(effects, two)
    if size == 30_000:
        assert row["result"] == 60_000
    else:
        assert row["state"] == "archived"
        assert "the results of the children have more than 65,536 bytes as JSON together" in row["error_message"]


def test_children_of_a_type_whose_retention_is_zero_keep_their_results(effects: World) -> None:
    def one(ctx: TaskContext) -> Any:
        return ctx.run("one", sample_forgotten, Sample(do="child_of_a_wait", number=4))

    run(effects, one)
    [child] = children_of(effects)
    effects.deliver(sample_forgotten, Message(sample_forgotten.type, child, rec=True).encode())
    assert run(effects, one)["result"] == {"number": 4}


def test_a_coroutine_that_has_a_plain_session_uses_it(effects: World) -> None:
    async def plain(ctx: TaskContext) -> Any:
        write(ctx, "asked")
        return await ctx.arun("one", sample_one, Sample(do="child_of_a_wait", number=4))

    assert run(effects, plain, task=sample_async)["state"] == "held"
    end(effects, *children_of(effects))
    assert run(effects, plain, task=sample_async)["result"] == {"number": 4}
    assert written(effects) == ["asked", "asked"]


# --- A former life -------------------------------------------------------------------------------------------------


def test_a_task_that_is_enqueued_again_has_children_of_its_own(effects: World) -> None:
    run(effects, three)
    former = children_of(effects)
    end(effects, *former)
    assert run(effects, three)["state"] == "completed"
    effects.run("update joblane.tasks set expire_at = now() where id = 'it'")
    effects.sweep()
    effects.run("update joblane.tasks set expire_at = now() where id = 'it'")
    effects.sweep()
    assert effects.run("select from joblane.tasks where id = 'it'") == []
    assert run(effects, three)["state"] == "held"
    assert not {*children_of(effects)} & {*former}


# --- Kills ---------------------------------------------------------------------------------------------------------


def survives(world: World, number: int, id_: str) -> bool:
    """Deliver the message of a task to a process that dies after its statement of this number."""
    with suppress(DiedError), world.rival(sample_one, dies_at(number)) as worker:
        handle(worker, record(Message(sample_one.type, id_, rec=True).encode(), world.lane(sample_one)))
        return True
    return False


@pytest.mark.parametrize("part", ["stop", "child", "resume"])
def test_a_process_that_dies_after_any_statement_loses_no_child(effects: World, part: str) -> None:
    def two(ctx: TaskContext) -> Any:
        found = ctx.gather("two", [job(1), job(2)])
        ctx.step("end", lambda key: write(ctx, f"end {ctx.task_id}"))
        return [each["number"] for each in found]

    for number in itertools.count(1):
        id_ = f"t{number}"
        behaviours["handler_of_the_test"] = lambda _, ctx: two(ctx)
        effects.client.enqueue(sample_one, Sample(do="handler_of_the_test"), task_id=id_)
        is_alive = True
        if part == "stop":
            is_alive = survives(effects, number, id_)
            effects.expire_leases()
        if part != "stop" or not children_of(effects, id_):
            run(effects, two, id_)
        first, last = children_of(effects, id_)
        end(effects, first)
        if part == "child":
            is_alive = survives(effects, number, last)
            effects.expire_leases()
        end(effects, last)
        if effects.row(id_)["state"] == "held":  # nobody has released it
            effects.sweep()
        assert effects.row(id_)["state"] == "pending", id_
        if part == "resume":
            is_alive = survives(effects, number, id_)
            effects.expire_leases()
        if effects.row(id_)["state"] != "completed":
            run(effects, two, id_)
        row = effects.row(id_)
        assert (row["state"], row["result"]) == ("completed", [1, 2]), id_
        assert effects.run("select what from effects where task_id = $1", id_) == [[f"end {id_}"]]
        assert effects.run("select count(*) from joblane.tasks where enqueued_by = $1", id_) == [[2]]
        if is_alive:
            break
    assert number > 2


# --- Planted faults ------------------------------------------------------------------------------------------------


def test_results_that_are_read_before_the_children_have_ended_are_found(
    effects: World, monkeypatch: pytest.MonkeyPatch
) -> None:

    def as_if_ended(*args: Any, **named: Any) -> list[list[Any]]:
        return [[id_, type_, "completed", False, *rest] for id_, type_, _, _, *rest in read_children(*args, **named)]

    monkeypatch.setattr(children, "read_children", as_if_ended)
    with pytest.raises(AssertionError):
        test_a_task_that_is_run_early_stops_again_and_its_claim_decides(effects)


def test_a_failure_that_a_handler_has_caught_is_remembered(effects: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def careful(ctx: TaskContext) -> Any:
        try:
            return ctx.run("one", sample_one, Sample(do="child_of_a_wait"))
        except ChildFailed as error:
            ctx.sleep("a while", HOUR)
            return list(error.ends.values())

    def taken(id_: str) -> Any:
        run(effects, careful, id_)
        [child] = children_of(effects, id_)
        _ended(effects, BulkAction.CANCEL, child)
        assert run(effects, careful, id_)["state"] == "scheduled"
        effects.run("update joblane.tasks set state = 'completed', result = '5' where id = $1", child)
        effects.run("update joblane.task_waits set until = clock_timestamp() where children is null")
        return run(effects, careful, id_)["result"]

    assert taken("t") == ["cancelled"]
    monkeypatch.setattr(children, "MARK_FAILED", "select :id, :name, :value")
    assert taken("u") == 5  # the planted fault: the run takes the other way
