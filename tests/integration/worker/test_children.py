"""Tasks that a running task enqueues: they exist if its work commits, and then they are sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from joblane import EnqueueError, Job, JobClient, JobError, SkipRetry, TaskContext
from joblane.enqueue.transaction import INLINE_SENDS
from joblane.errors import TaskIdConflictError
from joblane.names import SWEEP, Queue, lane_name
from joblane.quotas import MAX_BATCH
from joblane.sqs.client import Entry
from joblane.testing.faults import HookedDatabase
from tests.builders import handlers
from tests.builders.events import record
from tests.builders.handlers import Handler
from tests.builders.rows import put
from tests.kills import KILLED, killable_workers
from tests.samples import Sample, sample_one
from tests.samples_long import counts, make_things, sample_long, write
from tests.sends import is_before_commit
from tests.world import PREFIX, RecordingSqs, World

each_sweep = pytest.mark.usefixtures("each_sweep")


@pytest.fixture(autouse=True)
def things(world: World) -> None:
    make_things(world, 0)


run = partial(handlers.run, task=sample_long)


def children(world: World, where: str = "true") -> int:
    found = world.run(f"select count(*) from joblane.tasks where type = 'sample:one' and {where}")
    return int(found[0][0])


def receive_all(world: World, queue: str) -> list[str]:
    """Return the bodies of all messages of a queue."""
    bodies: list[str] = []
    while found := world.received(queue, visibility=300):
        bodies += [one["Body"] for one in found]
    return bodies


# --- One child -----------------------------------------------------------------------------------------------------


@each_sweep
def test_a_child_is_sent_when_its_parents_work_has_committed_and_runs(world: World) -> None:
    during: list[Any] = []

    def have_a_child(ctx: TaskContext) -> str:
        write(ctx, 1)
        child = ctx.enqueue(sample_one, Sample(), task_id="child", process_in=timedelta(seconds=30))
        during.append((child.sent, children(world), world.depth(world.lane(sample_one))))
        return child.id

    watched = world.watch()
    world.lane(sample_one)
    assert run(world, have_a_child)["state"] == "completed"

    assert during == [(False, 0, 0)]
    assert [(entry.queue, 28 <= entry.delay_seconds <= 30) for entry in watched.sent] == [
        (world.lane(sample_one), True)
    ]
    assert world.row("child")["state"] == "scheduled"
    assert (world.row("it")["result"], counts(world)) == ("child", {1: 1})
    world.later("child")
    assert world.deliver(sample_one, {"type": "sample:one", "id": "child", "rec": True}) == []
    assert world.row("child")["state"] == "completed"


def fail(ctx: TaskContext) -> None:
    raise ValueError("no")


def give_up(ctx: TaskContext) -> None:
    raise SkipRetry("no")


def return_what_json_lacks(ctx: TaskContext) -> Any:
    return object()


def break_the_commit(ctx: TaskContext) -> None:
    ctx.connection().run("create table c (n int unique deferrable initially deferred)")
    ctx.connection().run("insert into c values (1), (1)")


def be_cancelled(ctx: TaskContext) -> None:
    with JobClient() as client:
        client.cancel(ctx.task_id)


def lose_the_lease(ctx: TaskContext) -> None:
    with ctx._producer.database().another() as other:
        other.get().run("update joblane.tasks set lease_token = gen_random_uuid()")


@each_sweep
@pytest.mark.parametrize(
    ("end", "state"),
    [
        (fail, "retry"),
        (give_up, "archived"),
        (return_what_json_lacks, "retry"),
        (break_the_commit, "retry"),
        (be_cancelled, "cancelled"),
        (lose_the_lease, "active"),
    ],
)
def test_a_child_of_a_task_that_does_not_complete_never_exists_and_is_never_sent(
    world: World, end: Handler, state: str
) -> None:
    def have_children(ctx: TaskContext) -> Any:
        ctx.enqueue(sample_one, Sample(), task_id="child")
        ctx.enqueue_many([Job(sample_one, Sample(number=number)) for number in range(3)])
        return end(ctx)

    watched = world.watch()
    assert run(world, have_children)["state"] == state
    assert children(world) == 0
    assert [entry for entry in watched.sent if not entry.queue.endswith("-dlq")] == []


def test_a_retry_enqueues_its_children_once_in_all(world: World) -> None:
    def work_at_second(ctx: TaskContext) -> None:
        ctx.enqueue(sample_one, Sample(), task_id="child")
        if ctx.attempt == 1:
            raise ValueError("no")

    watched = world.watch()
    assert run(world, work_at_second)["state"] == "retry"
    assert run(world, work_at_second)["state"] == "completed"
    assert (children(world), len(watched.sent)) == (1, 1)


def test_children_of_a_chunk_are_sent_with_the_chunk(world: World) -> None:
    def enqueue_per_chunk(ctx: TaskContext) -> None:
        for item in ctx.resume(range(7), chunk=3):
            ctx.enqueue(sample_one, Sample(number=item), task_id=f"child-{item}")
            if ctx.attempt == 1 and item == 4:
                raise ValueError("in the second chunk")

    watched = world.watch()
    world.lane(sample_one)
    assert run(world, enqueue_per_chunk)["state"] == "retry"
    assert (children(world), len(watched.sent)) == (3, 3)
    assert run(world, enqueue_per_chunk)["state"] == "completed"
    assert (children(world), len(watched.sent)) == (7, 7)


def test_a_child_that_is_refused_costs_its_parent_nothing_it_does_not_want(world: World) -> None:
    caught: list[type[BaseException]] = []

    def have_bad_children(ctx: TaskContext) -> None:
        write(ctx, 1)
        for options in ({"task_id": "it"}, {"queue": "low"}, {"task_id": "a\0b"}):
            try:
                ctx.enqueue(sample_one, Sample(), **options)  # type: ignore[arg-type]
            except EnqueueError as error:
                caught.append(type(error))
        results = ctx.enqueue_many([Job(sample_one, Sample(), task_id=name) for name in ("it", "child")])
        assert [isinstance(result, JobError) for result in results] == [True, False]

    assert run(world, have_bad_children)["state"] == "completed"
    assert len(caught) == 3
    assert caught[0] is TaskIdConflictError
    assert (children(world), counts(world)) == (1, {1: 1})


def test_a_child_whose_message_cannot_be_sent_is_left_to_the_sweep(world: World) -> None:
    def have_a_child_while_sqs_is_unavailable(ctx: TaskContext) -> None:
        ctx.enqueue(sample_one, Sample(), task_id="child")

    lane = lane_name(PREFIX, Queue.DEFAULT, "sample:one")  # there is no such queue yet
    assert run(world, have_a_child_while_sqs_is_unavailable)["state"] == "completed"
    assert world.lane(sample_one) == lane
    world.later("child")
    assert world.sweep().sent == 1
    assert world.depth(lane) == 1


# --- Many ----------------------------------------------------------------------------------------------------------

MANY = 10_000


class BottomlessSqs(RecordingSqs):
    """Accepts every message and keeps none, because moto gets slower with each stored message."""

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.sent += (entry for entry in entries if not is_before_commit(entry.body))
        return {}


def test_ten_thousand_children_are_one_statement_and_a_hundred_messages(world: World) -> None:
    statements: list[str] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        statements.append(sql)
        return send()

    def fan_out(ctx: TaskContext) -> int:
        ctx.session.connection()  # the first one asks the server what it is
        statements.clear()
        results = ctx.enqueue_many(Job(sample_one, Sample(number=number)) for number in range(MANY))
        return len({result.id for result in results if not isinstance(result, JobError)})

    world.database = HookedDatabase(world.url, hook)
    world.sqs = watched = BottomlessSqs()
    lane, low = world.lane(sample_one), lane_name(PREFIX, Queue.LOW, SWEEP)
    assert run(world, fan_out)["state"] == "completed"

    assert world.row("it")["result"] == MANY
    commands = [" ".join(statement.split()[:2]).lower().partition("_")[0] for statement in statements]
    # the insert, the finish, and the reset of the session
    assert commands == [
        "begin transaction",
        "select *",
        "select joblane.finish",
        "commit",
        "close all;",
    ]
    assert Counter(entry.queue for entry in watched.sent) == {lane: INLINE_SENDS, low: 1}
    assert (children(world), children(world, "sweep_at > due_at")) == (MANY, INLINE_SENDS)

    swept = world.sweep()
    assert (swept.sent, swept.unsent) == (MANY - INLINE_SENDS, 0)
    assert children(world, "sweep_at < due_at") == 0
    assert world.sweep().sent == 0  # they are not claimed yet, which is no reason to send them again
    assert Counter(entry.queue for entry in watched.sent) == {lane: MANY, low: 1}
    ids = {entry.body for entry in watched.sent if entry.queue == lane}
    assert len(ids) == MANY, "one message per child"


@each_sweep
def test_children_of_several_calls_share_what_is_sent_at_once(world: World) -> None:
    def fan_out_in_parts(ctx: TaskContext) -> None:
        for part in range(3):
            ctx.enqueue_many([Job(sample_one, Sample(number=number)) for number in range(part, part + 60)])

    watched = world.watch()
    lane, low = world.lane(sample_one), lane_name(PREFIX, Queue.LOW, SWEEP)
    world.sqs.client.create_queue(QueueName=low)
    assert run(world, fan_out_in_parts)["state"] == "completed"
    assert Counter(entry.queue for entry in watched.sent) == {lane: INLINE_SENDS, low: 1}
    assert world.sweep().sent == 180 - INLINE_SENDS


def test_children_that_are_due_in_days_are_not_sent_now(world: World) -> None:
    def plan(ctx: TaskContext) -> None:
        ctx.enqueue_many([Job(sample_one, Sample(), process_in=timedelta(days=number)) for number in (0, 3)])

    watched = world.watch()
    assert run(world, plan)["state"] == "completed"
    assert (children(world), len(watched.sent)) == (2, 1)
    assert world.sweep().sent == 0


@each_sweep
def test_the_sweep_sends_the_children_of_a_process_killed_before_the_send(world: World) -> None:
    put(world, sample_long, "it", {"do": "enqueue_children", "number": 15})
    lane = world.lane(sample_one)
    sent = record({"type": "sample:long", "id": "it", "rec": True}, world.lane(sample_long))
    with killable_workers() as pool, pool.over(world) as workers:
        assert workers.handle("sample:long", sent, dies="before the send") is None
        assert workers.status == KILLED
        assert (world.row("it")["state"], children(world)) == ("completed", 15)
        assert world.depth(lane) == 0
        assert world.sweep().sent == 0  # it may be sending them now
        world.run("update joblane.tasks set sweep_at = clock_timestamp() where id like 'child-%'")
        assert world.sweep().sent == 15
        assert workers.handle("sample:long", sent) == []  # the parent's message, once more

    assert world.outcomes("it") == ["completed"]
    assert len(receive_all(world, lane)) == 15


def test_children_of_a_process_killed_before_its_commit_never_existed(world: World) -> None:
    put(world, sample_long, "it", {"do": "enqueue_children", "number": 2 * MAX_BATCH})
    lane = world.lane(sample_one)
    sent = record({"type": "sample:long", "id": "it", "rec": True}, world.lane(sample_long))
    with killable_workers() as pool, pool.over(world) as workers:
        assert workers.handle("sample:long", sent, dies="before the finish") is None
        assert workers.status == KILLED
        assert (world.row("it")["state"], children(world), world.depth(lane)) == ("active", 0, 0)
        world.expire_leases()
        assert workers.handle("sample:long", sent) == []

    assert world.outcomes("it") == ["lost", "completed"]
    assert (children(world), world.depth(lane)) == (2 * MAX_BATCH, 2 * MAX_BATCH)
