"""Concurrent deliveries, claims, finishes and sweeps, each stopped at the worst time."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError, InterfaceError

from joblane import JobClient, RetryAfter, TaskContext
from joblane.enqueue.check import check
from joblane.errors import TaskIdConflictError, sqlstate
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.sql_functions import VERSION
from joblane.record.task import dead_letters, finish, insert
from joblane.record.task.claim import CLAIM, CLAIMS, Verdict, arrival, claim
from joblane.record.task.finish import FINISH, FINISHES, Finish
from joblane.sqs.client import Sqs
from joblane.sqs.message import Message
from joblane.sweep import sweep
from joblane.sweep.sends import GIVE_BACK
from joblane.tasks.job import Job
from joblane.testing.faults import Send
from tests.builders.events import record
from tests.builders.handlers import commit_slowly, write, written
from tests.builders.rows import In, active, put
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.ways import Ways
from tests.world import World, handle

WaitUntil = Callable[[Callable[[], bool]], None]
LEASE = timedelta(seconds=60)
SWEPT = "2026-01-01T00:00:00Z"


def waiting_for_a_lock(world: World) -> bool:
    return bool(
        world.run("select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'")
    )


@pytest.fixture(params=[True, False], ids=["short way", "functions"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test once with the short way of ordinary tasks, and once without it."""
    with Ways(lambda: request.param).switched():
        yield


# --- Concurrent deliveries of a message ----------------------------------------------------------------------------


class WinnerDiedError(InterfaceError):  # type: ignore[misc]
    """The connection of the first claim broke."""


class Barrier:
    """A hook that runs the claim in an open transaction and holds it, until it commits or breaks."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.claimed = threading.Event()
        self.open = threading.Event()
        self.dies = False

    def __call__(self, sql: str, send: Send) -> Any:
        if sql not in CLAIMS or self.claimed.is_set():
            return send()
        assert self.connection is not None
        self.connection.execute_simple("begin")
        answer = send()
        self.claimed.set()
        assert self.open.wait(PATIENCE_SECONDS)
        self.connection.execute_simple("rollback" if self.dies else "commit")
        if self.dies:
            raise WinnerDiedError("network error")
        return answer


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("recorded", [False, True], ids=["new id", "pending row"])
def test_one_of_two_concurrent_deliveries_runs_and_the_other_message_stays(
    effects: World, wait_until: WaitUntil, recorded: bool
) -> None:
    # given a message that SQS delivers twice
    decided = threading.Event()

    @behaviour
    def run_once(payload: Sample, ctx: TaskContext) -> None:
        assert decided.wait(PATIENCE_SECONDS)  # so that the loser does not find a completed task
        write(ctx, f"run {ctx.attempt}")

    lane = effects.lane(sample_one)
    if recorded:
        effects.client.enqueue(sample_one, Sample(do="run_once"), task_id="it")
    else:
        body = {"type": "sample:one", "id": "it", "payload": {"do": "run_once"}}
        effects.sqs.client.send_message(QueueUrl=effects.sqs.url(lane), MessageBody=json.dumps(body))
    (first,) = effects.receive(lane, visibility=0)
    (second,) = effects.receive(lane)
    barrier = Barrier()
    with effects.rival(sample_one, barrier) as winner, effects.rival(sample_one) as loser:
        barrier.connection = winner.database.get()
        with ThreadPoolExecutor(2) as threads:
            # when the second delivery claims before the claim of the first is committed
            won = threads.submit(handle, winner, first)
            assert barrier.claimed.wait(PATIENCE_SECONDS)
            lost = threads.submit(handle, loser, second)
            wait_until(lambda: waiting_for_a_lock(effects))
            barrier.open.set()
            # then the loser keeps its message, after a live lease as after a row that stayed locked
            assert lost.result(20) == [second["messageId"]]
            decided.set()
            assert won.result(20) == []
        # and the kept message is still in the queue
        effects.acknowledge(lane, [second], lost.result())
        assert effects.depth(lane) == 1
        effects.acknowledge(lane, [first], won.result())
        assert handle(loser, second) == []
    assert written(effects) == ["run 1"]
    row = effects.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 1, 1)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("recorded", [False, True], ids=["new id", "pending row"])
def test_the_loser_runs_if_the_claim_of_the_winner_is_rolled_back(
    effects: World, wait_until: WaitUntil, recorded: bool
) -> None:
    @behaviour
    def run_instead(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "done")

    if recorded:
        put(effects, sample_one, "it", {"do": "run_instead", "number": 0})
    body = {"type": "sample:one", "id": "it", "rec": recorded, "payload": {"do": "run_instead", "number": 0}}
    first, second = (record(body, effects.lane(sample_one)) for _ in range(2))
    barrier = Barrier()
    barrier.dies = True
    with effects.rival(sample_one, barrier) as winner, effects.rival(sample_one) as loser:
        barrier.connection = winner.database.get()
        with ThreadPoolExecutor(2) as threads:
            died = threads.submit(handle, winner, first)
            assert barrier.claimed.wait(PATIENCE_SECONDS)
            lost = threads.submit(handle, loser, second)
            wait_until(lambda: waiting_for_a_lock(effects))
            barrier.open.set()
            # the winner claims again on a new connection; it finds the lease or the end of the loser's run, or runs
            # itself because the loser has stopped waiting
            assert died.result(20) in ([first["messageId"]], [])
            if lost.result(20):  # it stopped waiting before the winner died: deliver the message again
                assert handle(loser, second) == []
    assert written(effects) == ["done"]
    assert effects.outcomes("it") == ["completed"]


@pytest.mark.parametrize(("receives", "waits"), [(1, (5, 5)), (5, (72, 80))])
def test_a_locked_row_is_not_claimed_and_uses_no_attempt(world: World, receives: int, waits: tuple[int, int]) -> None:
    """SQS would dead-letter a message that returns every five seconds behind a long transaction."""
    watched = world.watch()
    for id_ in ("locked", "free"):
        put(world, sample_batch, id_)
    bodies = [{"type": "sample:batch", "id": id_, "rec": True} for id_ in ("free", "locked")]
    with world.locked("locked"):
        assert len(world.deliver(sample_batch, *bodies, receives=receives)) == 1
        assert waits[0] <= watched.visibilities[0] <= waits[1]
        assert [world.row(id_)["state"] for id_ in ("free", "locked")] == ["completed", "pending"]
        assert world.row("locked")["attempts"] == 0
        assert world.database.get().idle
    assert world.deliver(sample_batch, bodies[1]) == []
    assert world.row("locked")["attempts"] == 1


def test_a_message_with_an_id_of_an_open_transaction_waits_for_its_end(world: World) -> None:
    payload = {"do": "nothing", "number": 0}
    new = check(Job(sample_one, Sample(**payload), task_id="it"), record=True, prefix="jobs")
    external = {"type": "sample:one", "id": "it", "payload": payload}
    with Database(world.url) as producer:
        producer.get().execute_simple("begin")
        producer.get().run(insert.INSERT, json.dumps([new.row()]))
        assert len(world.deliver(sample_one, external)) == 1
        assert world.run("select from joblane.tasks") == []
        producer.get().execute_simple("commit")
    assert world.deliver(sample_one, external) == []
    assert world.row("it")["runs"] == 1


# --- Statements over many rows -------------------------------------------------------------------------------------


def test_overlapping_batches_do_not_deadlock_and_have_one_winner_per_id(world: World) -> None:
    # given forty ids, half of them with rows, and eight workers that claim and finish them in batches of ten
    seed = random.randrange(10**6)
    ids = [f"{'Aa'[n % 2]}{n:02}" for n in range(40)]
    for id_ in ids[::2]:
        put(world, sample_batch, id_)
    wins: list[tuple[str, str]] = []
    codes: Counter[str | None] = Counter()
    start = threading.Barrier(8)

    def work(number: int) -> None:
        chance = random.Random(seed + number)
        database = Database(world.url)
        mine: list[Finish] = []
        try:
            start.wait(PATIENCE_SECONDS)
            for _ in range(25):
                messages = [
                    Message("sample:batch", id_, {"do": "nothing", "number": 0}) for id_ in chance.sample(ids, 10)
                ]
                batch = [arrival(sample_batch, message, str(message.id), Queue.DEFAULT) for message in messages]
                try:
                    for claimed in claim(database.get(), batch, LEASE, f"worker {number}").values():
                        if claimed.verdict is Verdict.RUN:
                            wins.append((claimed.id, claimed.token))
                            mine.append(Finish(claimed.id, claimed.token, claimed.run, "completed", State.COMPLETED))
                    chance.shuffle(mine)
                    while len(mine) > 2 or (mine and chance.random() < 0.3):
                        ends, mine = mine[:10], mine[10:]  # the size of a batch
                        assert finish.finish(database.get(), ends) == {end.id for end in ends}
                except DatabaseError as error:
                    codes[sqlstate(error)] += 1
            finish.finish(database.get(), mine)
        finally:
            database.drop()

    # when all work at the same time
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))

    # then no statement met a deadlock (on a slow machine the lock of a finish may time out: 55P03)
    assert set(codes) <= {"55P03"}, f"seed {seed}: {codes}"
    assert Counter(id_ for id_, _ in wins) == dict.fromkeys(ids, 1), f"seed {seed}"
    assert world.run("select state, runs, count(*)::int from joblane.tasks group by 1, 2") == [["completed", 1, 40]]
    assert world.run("select outcome, count(*)::int from joblane.runs group by 1") == [["completed", 40]]


def lock_statements(ids: list[str]) -> dict[str, tuple[str, list[str | None]]]:
    """Return each statement that locks several rows, with parameters for ``ids`` in the given order."""
    arrivals = [arrival(sample_batch, Message("sample:batch", id_, None, rec=True), id_, Queue.DEFAULT) for id_ in ids]
    claimed = [json.dumps(arrivals), str(uuid.uuid4()), "60", "request"]
    finished = [
        {"id": id_, "token": "00000000-0000-4000-8000-000000000001", "run": 1, "outcome": "completed"}
        | {
            "state": "completed",
            "delay_seconds": 0,
            "counted": True,
            "snoozed": False,
            "mismatch": False,
            "continued": False,
        }
        for id_ in ids
    ]
    return {
        "claim": (CLAIM, [*claimed]),
        "finish": (FINISH, [json.dumps(finished), "true"]),
        "give back": (
            GIVE_BACK,
            [json.dumps([{"id": id_, "taken": "2026-01-01", "before": "2026-01-01"} for id_ in ids])],
        ),
        "mark dead letters": (dead_letters.MARK_DEAD_SENT, [json.dumps([{"id": id_, "generation": 0} for id_ in ids])]),
    }


STATES: dict[str, dict[str, Any]] = {
    "give back": {"sweep_at": SWEPT},
    "claim": {},
    "finish": active(60),
    "mark dead letters": {"state": "archived"},
}


@pytest.mark.parametrize("name", STATES)
def test_every_statement_over_many_rows_locks_them_in_the_order_of_the_ids(
    world: World, wait_until: WaitUntil, name: str
) -> None:
    for id_ in ("c", "a", "B", "d"):
        put(world, sample_batch, id_, **STATES[name])
    world.run(f"alter function joblane.claim_{VERSION} set lock_timeout = '20s'")  # on a slow machine
    sql, parameters = lock_statements(["d", "a", "c", "B"])[name]
    # given a row locked by another transaction
    with world.locked("a") as holder, Database(world.url) as worker, ThreadPoolExecutor(1) as threads:
        # when the statement waits for it
        waits = threads.submit(worker.get().run, sql, *parameters)
        wait_until(lambda: waiting_for_a_lock(world))
        # then it has locked the rows before it, and no row after it
        free = world.run("select id from joblane.tasks order by id for update skip locked")
        holder.get().execute_simple("rollback")
        waits.result(20)
    assert free == [["c"], ["d"]]


# --- Copies and waits ----------------------------------------------------------------------------------------------


def test_a_second_copy_during_the_back_off_does_not_run_early(world: World) -> None:
    watched = world.watch()

    @behaviour
    def fails_first(payload: Sample, ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            raise ValueError("no")

    id_ = world.client.enqueue(sample_one, Sample(do="fails_first")).id
    body = {"type": "sample:one", "id": id_, "rec": True}
    assert len(world.deliver(sample_one, body)) == 1

    for _ in range(3):
        assert len(world.deliver(sample_one, body)) == 1

    assert [35 <= seconds <= 40 for seconds in watched.visibilities] == [True] * 4
    assert (world.row(id_)["state"], world.row(id_)["runs"]) == ("retry", 1)
    world.later(id_)
    assert world.deliver(sample_one, body) == []
    assert world.row(id_)["runs"] == 2


def test_a_swept_message_that_is_handled_at_once_keeps_the_times_of_its_run(world: World) -> None:
    """The sweep marks a message after the send. By then the task may have run, and may wait for a retry."""

    @behaviour
    def wait_long(payload: Sample, ctx: TaskContext) -> None:
        raise RetryAfter(timedelta(hours=3))

    class Quick(Sqs):
        """A queue whose consumer finishes before the sender gets SQS's response."""

        def send_many(self, entries: Any, *, brief: bool = False) -> dict[int, str]:
            for entry in entries:
                with world.rival(sample_one) as worker:
                    assert handle(worker, record(entry.body, entry.queue)) == []
            return super().send_many(entries, brief=brief)

    put(world, sample_one, "it", {"do": "wait_long", "number": 0}, sweep_at=In(-1))
    world.lane(sample_one)

    sweep.sweep(world.database.get(), Quick(), "jobs")

    row = world.run(
        "select state, extract(epoch from due_at - sweep_at)::int, sends from joblane.tasks where id = 'it'"
    )
    assert row == [["retry", 900, 0]]


# --- Leases --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("touches", [True, False], ids=["with its session", "without"])
def test_a_run_whose_lease_was_taken_over_is_rolled_back_and_leaves_the_message(effects: World, touches: bool) -> None:
    # given a run that is longer than its lease, while another run takes over the task and completes it
    body = {"type": "sample:one", "id": "it", "payload": {"do": "slow", "number": 0}}
    taken: list[list[str]] = []

    @behaviour
    def slow(payload: Sample, ctx: TaskContext) -> str:
        if touches or ctx.attempt > 1:
            write(ctx, f"run {ctx.attempt}")
        if ctx.attempt == 1:
            effects.expire_leases()
            with effects.rival(sample_one) as other:
                taken.append(handle(other, record(body, effects.lane(sample_one))))
        return f"run {ctx.attempt}"

    # when it returns
    kept = effects.deliver(sample_one, body)

    # then its message stays, and only the work of the other run is committed
    assert taken == [[]]
    assert len(kept) == 1
    assert written(effects) == ["run 2"]
    row = effects.row("it")
    assert (row["state"], row["result"], row["runs"], row["attempts"]) == ("completed", "run 2", 2, 2)
    assert effects.outcomes("it") == ["lost", "completed"]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("fails", [True, False], ids=["raises", "returns"])
def test_a_run_that_lost_its_lease_to_a_live_run_changes_nothing(effects: World, fails: bool) -> None:
    body = {"type": "sample:one", "id": "it", "payload": {"do": "overtaken", "number": 0}}
    seen: dict[str, Any] = {}

    @behaviour
    def overtaken(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "overtaken")
        effects.expire_leases()
        other = Database(effects.url)
        message = Message("sample:one", "it", {"do": "overtaken", "number": 0})
        arrived = arrival(sample_one, message, "it", Queue.DEFAULT)
        seen["claim"] = claim(other.get(), [arrived], LEASE, "the other")["it"]
        other.drop()
        seen["row"] = effects.row("it")
        if fails:
            raise ValueError("too late to matter")

    assert len(effects.deliver(sample_one, body)) == 1

    assert seen["claim"].verdict is Verdict.RUN
    assert effects.row("it") == seen["row"]
    assert effects.run("select * from effects") == []
    assert effects.outcomes("it") == ["lost", None]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("touches", [True, False], ids=["with its session", "without"])
def test_a_run_may_finish_after_its_lease_if_no_other_run_has_claimed(effects: World, touches: bool) -> None:
    @behaviour
    def late(payload: Sample, ctx: TaskContext) -> None:
        if touches:
            write(ctx, "late")
        effects.expire_leases()

    body = {"type": "sample:one", "id": "it", "payload": {"do": "late"}}
    assert effects.deliver(sample_one, body) == []
    row = effects.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 1, 1)
    assert len(effects.run("select * from effects")) == touches


@pytest.mark.usefixtures("both_ways")
def test_a_claim_during_a_finish_waits_for_the_commit_and_does_not_run(effects: World, wait_until: WaitUntil) -> None:
    # given a run that is longer than its lease and commits slowly
    commit_slowly(effects, 0.2)

    @behaviour
    def end_slowly(payload: Sample, ctx: TaskContext) -> None:
        write(ctx, "once")
        effects.expire_leases()

    body = {"type": "sample:one", "id": "it", "payload": {"do": "end_slowly"}}
    finishing = threading.Event()

    def hook(sql: str, send: Send) -> Any:
        answer = send()
        if sql in FINISHES:
            finishing.set()
        return answer

    lane = effects.lane(sample_one)
    with effects.rival(sample_one, hook) as slow, effects.rival(sample_one) as other, ThreadPoolExecutor(2) as threads:
        first = threads.submit(handle, slow, record(body, lane))
        assert finishing.wait(PATIENCE_SECONDS)
        # when another delivery claims during that commit
        second = handle(other, record(body, lane))
        assert first.result(20) == []
    # then it finds the task completed, or, on a slow machine, a locked row
    if second:
        assert effects.deliver(sample_one, body) == []
    assert written(effects) == ["once"]
    assert (effects.row("it")["state"], effects.row("it")["runs"]) == ("completed", 1)


def test_two_deliveries_send_the_same_dead_letter(world: World) -> None:
    watched = world.watch()
    put(world, sample_one, "it", **active(-1, attempts=4, runs=4))
    body = {"type": "sample:one", "id": "it", "rec": True}
    lane = world.lane(sample_one)
    second: list[list[str]] = []

    def hook(sql: str, send: Send) -> Any:
        if sql == dead_letters.MARK_DEAD_SENT and not second:  # sent, not marked yet
            second.append([])
            with world.rival(sample_one) as other:
                second[0] = handle(other, record(body, lane))
        return send()

    with world.rival(sample_one, hook) as first:
        assert handle(first, record(body, lane)) == []

    assert second == [[]]
    sent = [(entry.queue, dict(entry.attributes)["joblane-dead"]["StringValue"]) for entry in watched.sent]
    assert sent == [(f"{lane}-dlq", "0")] * 2
    assert world.row("it")["dead_sent_at"] is not None


@pytest.mark.usefixtures("both_ways")
def test_two_concurrent_enqueues_of_an_id_insert_one_task(world: World) -> None:
    world.lane(sample_one)

    def enqueue(number: int) -> str:
        try:
            with JobClient() as client:
                client.enqueue(sample_one, Sample(number=number), task_id="it")
        except TaskIdConflictError as error:
            return type(error).__name__
        return "enqueued"

    with ThreadPoolExecutor(4) as threads:
        results = Counter(threads.map(enqueue, range(4)))
    assert results == {"enqueued": 1, "TaskIdConflictError": 3}
    assert len(world.run("select from joblane.tasks")) == 1
