"""Debounced tasks: many enqueues are one task, which runs when they stop, and no later than its longest wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import text

from joblane import (
    DuplicateTaskError,
    Enqueued,
    EnqueueError,
    Job,
    Keep,
    Payload,
    Queue,
    Rate,
    RetryAfter,
    Snooze,
    TaskContext,
    task,
)
from joblane.client.client import client_within
from joblane.inspector.actions.changes import change
from joblane.inspector.filter import BulkAction
from joblane.quotas import EARLY_RECEIVES
from joblane.record.driver.database import Database
from joblane.record.flow.free_slots import serve
from joblane.record.row.states import Passed, State
from joblane.record.task.claim import arrival, claim
from joblane.record.task.insert import EXISTING
from joblane.sqs.message import Message
from joblane.testing import JobTester
from joblane.testing.faults import HookedDatabase

WaitUntil = Callable[[Callable[[], bool]], None]
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
LEASE = timedelta(seconds=65)


class Change(Payload):
    """``shop``: the key of limits. ``ends``: how the runs end, one after the other; after them the task completes."""

    number: int
    shop: str = "acme"
    ends: tuple[str, ...] = ()


RAN: list[int] = []
DURING: list[Callable[[TaskContext], object]] = []
"""Functions that the next run calls."""


def run(payload: Change, ctx: TaskContext) -> None:
    RAN.append(payload.number)
    if DURING:
        DURING.pop()(ctx)
    runs = RAN.count(payload.number)
    match payload.ends[runs - 1] if len(payload.ends) >= runs else "":
        case "retry":
            raise RetryAfter(MINUTE, "again")
        case "snooze":
            raise Snooze(MINUTE)
        case "fail":
            raise ValueError("failed")


UNIQUE: dict[str, Any] = {"unique_for": 24 * HOUR, "unique_until": "start", "also": [Queue.LOW], "max_retry": 1}


@task("index:rebuild", **UNIQUE)
def index_rebuild(payload: Change, ctx: TaskContext) -> None:
    run(payload, ctx)


@task("index:single", key="shop", max_per_key=1, **UNIQUE)
def index_single(payload: Change, ctx: TaskContext) -> None:
    run(payload, ctx)


@task("index:rated", rate=Rate(1, per=MINUTE), **UNIQUE)
def index_rated(payload: Change, ctx: TaskContext) -> None:
    run(payload, ctx)


@task("index:ordered", key="shop", order="first-due", **UNIQUE)
def index_ordered(payload: Change, ctx: TaskContext) -> None:
    run(payload, ctx)


HOW: dict[str, Any] = {"unique_key": "acme", "debounce": 30 * SECOND, "longest": 3 * MINUTE}
"""A test lets at most 20 of the 30 seconds pass if nothing shall run, so that it passes on a slow machine too."""


@pytest.fixture(autouse=True)
def no_runs() -> None:
    RAN.clear()
    DURING.clear()


def ask(jobs: JobTester, number: int, task: Any = index_rebuild, **options: Any) -> Enqueued:
    shop = options.pop("shop", "acme")
    return jobs.enqueue(task, Change(number=number, shop=shop, ends=options.pop("ends", ())), **HOW | options)


def row(jobs: JobTester, id_: str) -> dict[str, Any]:
    [[found]] = jobs._database.get().run("select to_jsonb(t) from joblane.tasks t where id = $1", id_)
    return found  # type: ignore[no-any-return]


def asks(jobs: JobTester, id_: str) -> int:
    return row(jobs, id_)["asks"]  # type: ignore[no-any-return]


def due_after(jobs: JobTester, id_: str, since: str) -> int:
    sql = f"select round(extract(epoch from due_at - {since}))::int from joblane.tasks where id = $1"
    return jobs._database.get().run(sql, id_)[0][0]  # type: ignore[no-any-return]


def due_after_first(jobs: JobTester, id_: str) -> int:
    """Return the seconds from the first enqueue until a task is due."""
    return due_after(jobs, id_, "created_at")


def due_after_last(jobs: JobTester, id_: str) -> int:
    """Return the seconds from the last enqueue, which has renewed the unique key, until a task is due."""
    return due_after(jobs, id_, "(unique_expires_at - interval '24 hours')")


def messages(jobs: JobTester) -> int:
    return sum(len(queue) for queue in jobs._queues.queues.values())


def start(jobs: JobTester, id_: str, task: Any = index_rebuild) -> str:
    """Claim a task, which then runs, or is held. Return its verdict."""
    with Database(jobs.url) as database:
        message = Message(task.type, id_, rec=True)
        return claim(database.get(), [arrival(task, message, id_, Queue.DEFAULT)], LEASE, "request")[id_].verdict


# --- The push --------------------------------------------------------------------------------------------------------


def test_many_enqueues_are_one_task_with_the_last_payload(jobs: JobTester) -> None:
    first = ask(jobs, 1)
    assert (first.state, first.created, first.sent) == (State.SCHEDULED, True, True)
    for number in (2, 3):
        jobs.travel(20 * SECOND)
        jobs.drain()
        assert RAN == []
        again = ask(jobs, number)
        assert again == Enqueued(first.id, "index:rebuild", Queue.DEFAULT, State.SCHEDULED, sent=False, created=False)
    assert (due_after_last(jobs, first.id), asks(jobs, first.id)) == (30, 3)
    jobs.drain(within=HOUR).check()
    assert RAN == [3]


def test_the_first_payload_is_kept_if_that_is_asked_for(jobs: JobTester) -> None:
    first = ask(jobs, 1, keep="first", tags=["first"], queue=Queue.LOW)
    jobs.travel(20 * SECOND)
    ask(jobs, 2, keep=Keep.FIRST, tags=["second"], max_retry=0)
    pushed = row(jobs, first.id)
    assert (pushed["tags"], pushed["queue"], pushed["max_attempts"]) == (["first"], "low", 2)
    assert (due_after_last(jobs, first.id), asks(jobs, first.id)) == (30, 2)
    jobs.drain(within=HOUR).check()
    assert RAN == [1]


def test_the_last_enqueue_decides_on_all_options_and_on_the_time(jobs: JobTester) -> None:
    first = ask(jobs, 1, tags=["first"], tenant="a", retention=HOUR)
    again = ask(jobs, 2, tags=["second"], max_retry=0, timeout=5 * SECOND, debounce=MINUTE)
    pushed = row(jobs, first.id)
    assert (again.id, pushed["tags"], pushed["tenant"], pushed["max_attempts"]) == (first.id, ["second"], None, 1)
    assert (pushed["retention_seconds"], pushed["options"]["timeout"]) == (86400, 5)
    assert due_after_last(jobs, first.id) == 60


def test_the_shortest_longest_wait_of_all_enqueues_holds(jobs: JobTester) -> None:
    first = ask(jobs, 1, longest=HOUR)
    ask(jobs, 2, longest=MINUTE)
    jobs.travel(20 * SECOND)
    ask(jobs, 3, longest=HOUR, debounce=2 * MINUTE)
    assert due_after_first(jobs, first.id) == 60


def test_a_waiting_task_of_another_enqueue_counts_as_the_first_ask(jobs: JobTester) -> None:
    first = jobs.enqueue(index_rebuild, Change(number=1), unique_key="acme", unique_until="finish", unique_for=HOUR)
    again = ask(jobs, 2)
    assert (again.id, again.created, again.state) == (first.id, False, State.SCHEDULED)
    assert (asks(jobs, first.id), row(jobs, first.id)["unique_until"]) == (2, "start")
    jobs.drain(within=HOUR).check()
    assert RAN == [2]


def test_a_task_whose_deadline_is_kept_is_not_pushed_past_it(jobs: JobTester) -> None:
    soon: dict[str, Any] = {"unique_key": "acme", "process_in": 5 * SECOND, "deadline": datetime.now(UTC) + 20 * SECOND}
    first = jobs.enqueue(index_rebuild, Change(number=1), **soon)
    assert ask(jobs, 2, keep="first").id == first.id
    jobs.drain(within=HOUR).check()
    assert RAN == [1]


def test_a_push_of_an_old_task_is_due_now_and_not_before(jobs: JobTester) -> None:
    first = jobs.enqueue(index_rebuild, Change(number=1), unique_key="acme", process_in=HOUR)
    jobs.travel(10 * MINUTE)
    ask(jobs, 2)
    [[late]] = jobs._database.get().run(
        "select extract(epoch from clock_timestamp() - due_at)::float8 from joblane.tasks where id = $1", first.id
    )
    assert late < 5


def test_enqueues_of_one_call_are_counted_and_the_last_payload_wins(jobs: JobTester) -> None:
    def many(*numbers: int, **options: Any) -> list[Any]:
        jobs_ = [Job(index_rebuild, Change(number=number), **HOW | options) for number in numbers]
        return jobs.client.enqueue_many(jobs_)

    first, *others = many(1, 2, 3)
    assert [(one.id, one.created) for one in others] == [(first.id, False)] * 2
    assert (asks(jobs, first.id), row(jobs, first.id)["payload"]["number"]) == (3, 3)
    many(4, 5, keep="first")
    assert (asks(jobs, first.id), row(jobs, first.id)["payload"]["number"]) == (5, 3)
    kept = [Job(index_rebuild, Change(number=7), keep="first", **HOW)]
    jobs.client.enqueue_many([Job(index_rebuild, Change(number=6), **HOW), *kept])
    assert (asks(jobs, first.id), row(jobs, first.id)["payload"]["number"]) == (7, 6)
    assert messages(jobs) == 1


def test_keys_are_debounced_apart(jobs: JobTester) -> None:
    ids = {ask(jobs, number, unique_key=f"k{number % 2}").id for number in range(6)}
    jobs.drain(within=HOUR).check()
    assert (len(ids), sorted(RAN)) == (2, [4, 5])


# --- It belongs to its row -------------------------------------------------------------------------------------------


def test_agenda_1736_a_push_near_the_longest_wait_does_not_pass_it(jobs: JobTester) -> None:
    """With a delay and a longest wait of 2 s each, an enqueue after 0.5 s moved the job to 2.5 s: the new time was not
    cut to the longest wait. Here the time is cut to the first enqueue, whatever the debounce is."""
    first = ask(jobs, 1, longest=30 * SECOND)
    jobs.travel(10 * SECOND)
    ask(jobs, 2, longest=30 * SECOND)
    assert due_after_first(jobs, first.id) == 30
    jobs.drain(within=20 * SECOND).check()
    assert RAN == [2]


def test_laravel_61281_the_next_burst_has_a_longest_wait_of_its_own(jobs: JobTester) -> None:
    """The time of the first dispatch was in a cache, and stayed there after the job had run: the first dispatch of the
    next burst was overdue, and not debounced at all. Here the first enqueue is the row's insert."""
    first = ask(jobs, 1, longest=MINUTE)
    jobs.drain(within=30 * SECOND).check()
    jobs.travel(62 * SECOND)
    second = ask(jobs, 2, longest=MINUTE)
    assert (second.created, due_after_last(jobs, second.id)) == (True, 30)
    assert second.id != first.id
    jobs.travel(10 * SECOND)
    ask(jobs, 3, longest=MINUTE)
    assert due_after_last(jobs, second.id) == 30


def test_laravel_61548_a_longest_wait_is_not_forgotten_however_often_it_is_pushed(jobs: JobTester) -> None:
    """The time of the first dispatch expired in the cache before a long maxWait was over, and started anew: a job that
    was dispatched often never ran. Here it is as old as the row."""
    how: dict[str, Any] = {"debounce": MINUTE, "longest": 35 * 50 * SECOND + 30 * SECOND}  # the loop itself takes time
    first = ask(jobs, 0, **how)
    for number in range(1, 37):
        jobs.travel(50 * SECOND)
        jobs.drain()
        if RAN:
            break
        assert ask(jobs, number, **how).id == first.id
    assert (number, RAN) == (36, [35])


def test_graphile_583_the_time_moves_up_to_its_bound_and_then_a_new_cycle_starts(jobs: JobTester) -> None:
    """Asked for, and not there: each call moves the time, never past a bound from the first call, and the next call
    after the run starts a new cycle. Seconds are ten times those of the request."""
    how: dict[str, Any] = {"debounce": 20 * SECOND, "longest": 100 * SECOND}
    first = ask(jobs, 0, **how)
    for at in range(10, 90, 10):
        jobs.travel(10 * SECOND)
        jobs.drain()
        assert RAN == []
        ask(jobs, at, **how)
        assert due_after_last(jobs, first.id) == 20 or at == 80
    jobs.travel(10 * SECOND)
    ask(jobs, 90, **how)
    assert due_after_first(jobs, first.id) == 100
    jobs.drain(within=10 * SECOND).check()
    assert RAN == [90]
    fresh = ask(jobs, 120, **how)
    assert (fresh.created, due_after_first(jobs, fresh.id)) == (True, 20)


def test_a_change_while_the_task_runs_makes_another_task(jobs: JobTester) -> None:
    later: list[Enqueued] = []
    first = ask(jobs, 1)
    DURING.append(lambda ctx: later.extend([ask(jobs, 2), ask(jobs, 3)]))
    jobs.drain(within=30 * SECOND).check()
    assert [(one.id == later[0].id, one.created) for one in later] == [(True, True), (True, False)]
    assert first.id != later[0].id
    jobs.drain(within=HOUR).check()
    assert RAN == [1, 3]


@pytest.mark.parametrize("ends", ["retry", "snooze"])
def test_a_task_that_has_begun_is_not_touched(jobs: JobTester, ends: str) -> None:
    first = ask(jobs, 1, ends=(ends,))
    jobs.drain(within=30 * SECOND)
    before = row(jobs, first.id)
    assert before["state"] in ("retry", "scheduled", "pending")
    assert before["runs"] == 1
    second = ask(jobs, 2)
    assert (second.created, row(jobs, first.id)) == (True, before)
    jobs.drain(within=HOUR).check()
    assert sorted(RAN) == [1, 1, 2]


def test_asks_whose_runs_die_before_the_handler_end_in_an_archived_task(jobs: JobTester) -> None:
    # given two asks, for a task of which each run dies between its claim and the call of the handler
    first = ask(jobs, 1)
    assert ask(jobs, 2).id == first.id
    jobs.travel(30 * SECOND)
    assert start(jobs, first.id) == "run"
    # when further asks come before the second run, before its lease is over, and after both
    between = ask(jobs, 3)
    jobs.travel(LEASE)
    assert start(jobs, first.id) == "run"
    during = ask(jobs, 4)
    jobs.travel(LEASE)
    assert start(jobs, first.id) == "archived"
    after = ask(jobs, 5)
    # then the first two are in the archived task, with its reason, and the others in a task that runs
    lost = row(jobs, first.id)
    assert (lost["state"], lost["reason"][:5], lost["payload"]["number"]) == ("archived", "lost:", 2)
    assert (asks(jobs, first.id), RAN) == (2, [])
    assert first.id != between.id == during.id == after.id
    jobs.drain(within=HOUR)
    assert RAN == [5]
    # and a retry runs the archived task with its payload, here after the task of a later ask
    with Database(jobs.url) as database:
        change(database.get(), BulkAction.RETRY, [first.id], who="op")
    later = ask(jobs, 6)
    jobs.drain(within=HOUR)
    assert (later.id != first.id, RAN) == (True, [5, 6, 2])


def test_an_ask_whose_only_run_dies_before_the_handler_has_its_reason(jobs: JobTester) -> None:
    only = ask(jobs, 1, max_retry=0)
    jobs.travel(30 * SECOND)
    assert start(jobs, only.id) == "run"
    jobs.drain(within=HOUR)
    assert (jobs.task(only.id).state, RAN) == (State.ARCHIVED, [])
    assert str(jobs.task(only.id).reason).startswith("lost: the last run did not report its end")
    assert row(jobs, only.id)["dead_sent_at"] is not None


@pytest.mark.parametrize("state", ["runs", "waits"])
def test_a_holder_that_keeps_its_key_until_it_ends_is_named(jobs: JobTester, state: str) -> None:
    how: dict[str, Any] = {"unique_key": "acme", "unique_until": "finish"}
    first = jobs.enqueue(index_rebuild, Change(number=1, ends=("retry",)), **how)
    if state == "runs":
        start(jobs, first.id)
    else:
        jobs.drain()
    before = row(jobs, first.id)
    with pytest.raises(
        DuplicateTaskError, match=f"{first.id}', which is {before['state']}; it has begun, or"
    ) as caught:
        ask(jobs, 2)
    assert "enqueue all tasks with this key with debounce" in str(caught.value)
    assert row(jobs, first.id) == before


def test_a_holder_that_waits_for_other_tasks_is_named_and_not_pushed(jobs: JobTester) -> None:
    parent = jobs.enqueue(index_rebuild, Change(number=1), process_in=HOUR, unique_key="parent")
    child = jobs.enqueue(index_rebuild, Change(number=2), after=[parent], unique_key="acme", process_in=MINUTE)
    before = row(jobs, child.id)
    with pytest.raises(
        DuplicateTaskError, match="it has begun, or waits for other tasks, or has a signal, and cannot be pushed"
    ):
        ask(jobs, 3)
    assert row(jobs, child.id) == before


def test_a_holder_with_a_signal_is_not_pushed(jobs: JobTester) -> None:
    first = ask(jobs, 1)
    with jobs.session() as session:
        session.execute(text("select joblane.signal(:id, 'approval')"), {"id": first.id})
    with pytest.raises(DuplicateTaskError, match="or has a signal, and cannot be pushed"):
        ask(jobs, 2)


def test_a_task_waits_for_a_debounced_task_however_often_it_is_pushed(jobs: JobTester) -> None:
    first = ask(jobs, 1)
    jobs.enqueue(index_rebuild, Change(number=2), after=[first], unique_key="child")
    jobs.travel(20 * SECOND)
    ask(jobs, 3)
    jobs.travel(20 * SECOND)
    jobs.drain()
    assert RAN == []
    jobs.drain(within=HOUR).check()
    assert RAN == [3, 2]


def test_a_member_of_a_batch_is_not_debounced(jobs: JobTester) -> None:
    with pytest.raises(EnqueueError, match="debounce: a task that is pushed would not become a member"):
        jobs.client.batch("import-7").enqueue(index_rebuild, Change(number=1), **HOW)


@pytest.mark.parametrize("ends", ["cancel", "archive"])
def test_the_end_of_the_task_ends_the_debounce(jobs: JobTester, ends: str) -> None:
    first = ask(jobs, 1, ends=("fail",), max_retry=0)
    jobs.travel(10 * SECOND)
    ask(jobs, 2, ends=("fail",), max_retry=0)
    if ends == "cancel":
        assert jobs.client.cancel(first.id) is State.CANCELLED
    else:
        jobs.drain(within=30 * SECOND)
        assert jobs.task(first.id).state is State.ARCHIVED
    fresh = ask(jobs, 3)
    assert (fresh.created, asks(jobs, fresh.id), due_after_first(jobs, fresh.id)) == (True, 1, 30)


def test_a_task_that_begins_just_before_its_push_is_not_pushed(jobs: JobTester) -> None:
    first = jobs.enqueue(index_rebuild, Change(number=1), unique_key="acme", unique_until="finish")
    begin = "update joblane.tasks set state = 'retry', runs = 1, attempts = 1, error_type = 'E'"

    def between(statement: str, send: Callable[[], Any]) -> Any:
        result = send()
        if statement == EXISTING:
            jobs._database.get().run(begin)
        return result

    with HookedDatabase(jobs.url, between) as database:
        client = client_within(database, jobs._queues, "jobs")
        with pytest.raises(DuplicateTaskError, match="which is retry; it has begun"):
            client.enqueue(index_rebuild, Change(number=2), **HOW)
    assert row(jobs, first.id)["payload"]["number"] == 1


def test_an_enqueue_during_a_claim_waits_for_it_and_makes_another_task(jobs: JobTester, wait_until: WaitUntil) -> None:
    first = ask(jobs, 1)
    jobs.travel(30 * SECOND)
    waiting = "select exists (select from pg_locks where not granted)"
    with Database(jobs.url) as worker, Database(jobs.url) as database, ThreadPoolExecutor(1) as threads:
        other = client_within(database, jobs._queues, "jobs")
        worker.get().execute_simple("begin")
        message = Message(index_rebuild.type, first.id, rec=True)
        claim(worker.get(), [arrival(index_rebuild, message, first.id, Queue.DEFAULT)], LEASE, "request")
        asked = threads.submit(lambda: other.enqueue(index_rebuild, Change(number=2), **HOW))
        wait_until(lambda: jobs._database.get().run(waiting)[0][0])
        worker.get().commit()
        assert asked.result(20).created
    assert row(jobs, first.id)["payload"]["number"] == 1


def test_a_claim_during_an_enqueue_waits_for_its_commit(jobs: JobTester) -> None:
    first = ask(jobs, 1)
    jobs.travel(30 * SECOND)
    with jobs.session() as session:
        ask(jobs, 2, session=session)
        assert start(jobs, first.id) == "locked"
    assert start(jobs, first.id) == "wait"


# --- Its message -----------------------------------------------------------------------------------------------------


def test_a_pushed_task_has_one_message(jobs: JobTester) -> None:
    for number in range(8):
        ask(jobs, number)
        jobs.travel(20 * SECOND)
        jobs.drain()
    assert (messages(jobs), len(jobs._queues.sent), RAN) == (1, 1, [])
    jobs.drain(within=HOUR).check()
    assert (messages(jobs), len(jobs._queues.sent), RAN) == (0, 1, [7])


def test_a_task_whose_time_comes_earlier_gets_a_message_for_it(jobs: JobTester) -> None:
    ask(jobs, 1, debounce=5 * MINUTE, longest=5 * MINUTE)
    assert ask(jobs, 2, longest=5 * MINUTE).sent
    jobs.drain(within=MINUTE).check()
    assert RAN == [2]


def test_a_task_in_another_queue_gets_a_message_there(jobs: JobTester) -> None:
    ask(jobs, 1)
    assert ask(jobs, 2, queue=Queue.LOW).sent
    assert [entry.queue for entry in jobs._queues.sent] == ["jobs-default-index-rebuild", "jobs-low-index-rebuild"]
    jobs.drain(within=HOUR).check()
    assert RAN == [2]


def test_a_task_that_is_pushed_far_ahead_waits_without_a_message(jobs: JobTester) -> None:
    how: dict[str, Any] = {"debounce": 20 * MINUTE, "longest": 2 * HOUR}
    assert not ask(jobs, 0, **how).sent
    for number in range(1, 12):
        jobs.travel(10 * MINUTE)
        jobs.drain()
        ask(jobs, number, **how)
    assert len(jobs._queues.sent) <= 11
    assert RAN == []
    jobs.drain(within=15 * MINUTE).check()
    assert RAN == [11]
    jobs.drain(within=HOUR)
    assert (messages(jobs), RAN) == (0, [11])


def test_a_message_that_was_lost_is_sent_by_the_sweep(jobs: JobTester) -> None:
    ask(jobs, 1)
    jobs._queues.queues.clear()
    jobs.travel(10 * SECOND)
    ask(jobs, 2)
    jobs.drain(within=30 * SECOND)
    assert RAN == []
    jobs.drain(within=5 * MINUTE).check()
    assert RAN == [2]


def test_early_arrivals_are_no_receives_that_lead_to_a_dead_letter(jobs: JobTester) -> None:
    arrivals = 0
    for number in range(270):
        ask(jobs, number, longest=3 * HOUR)
        jobs.travel(20 * SECOND)
        arrivals += jobs.drain().invocations
    assert RAN == []
    assert arrivals > index_rebuild.numbers.max_receive_count
    assert len(jobs._queues.sent) - 1 == arrivals // (EARLY_RECEIVES + 1)
    jobs.drain(within=MINUTE).check()
    assert (RAN, messages(jobs)) == ([269], 0)


# --- In a transaction ------------------------------------------------------------------------------------------------


def test_a_push_is_part_of_the_callers_transaction(jobs: JobTester) -> None:
    first = ask(jobs, 1)
    jobs.travel(10 * SECOND)
    before = row(jobs, first.id)
    with jobs.session() as session:
        ask(jobs, 2, session=session)
        session.rollback()
    assert row(jobs, first.id) == before
    with jobs.session() as session:
        again = ask(jobs, 3, session=session)
        assert (again.id, again.sent, again.created) == (first.id, False, False)
    assert (asks(jobs, first.id), due_after_last(jobs, first.id), messages(jobs)) == (2, 30, 1)
    jobs.drain(within=HOUR).check()
    assert RAN == [3]


def test_a_push_of_a_task_of_the_same_transaction_sends_one_message(jobs: JobTester) -> None:
    with jobs.session() as session:
        first = ask(jobs, 1, session=session)
        savepoint = session.begin_nested()
        ask(jobs, 2, session=session)
        savepoint.rollback()
        assert ask(jobs, 3, session=session).id == first.id
    assert (asks(jobs, first.id), messages(jobs)) == (2, 1)
    jobs.drain(within=HOUR).check()
    assert RAN == [3]


def test_a_handler_pushes_a_task_if_its_work_commits(jobs: JobTester) -> None:
    first = ask(jobs, 1)
    for fails, expected in ((True, 1), (False, 2)):
        jobs.enqueue(index_rebuild, Change(number=100 + fails, ends=("fail",) * fails), unique_key=f"of {fails}")
        DURING.append(lambda ctx: ctx.enqueue(index_rebuild, Change(number=2), **HOW))
        jobs.drain()
        assert asks(jobs, first.id) == expected
    jobs.drain(within=MINUTE)
    assert 2 in RAN


def test_asks_at_once_are_all_counted(jobs: JobTester) -> None:
    def ask_often(_: int) -> set[str]:
        with Database(jobs.url) as database:
            client = client_within(database, jobs._queues, "jobs")
            return {client.enqueue(index_rebuild, Change(number=number), **HOW).id for number in range(20)}

    with ThreadPoolExecutor(4) as threads:
        (id_,) = set().union(*threads.map(ask_often, range(4)))
    assert (asks(jobs, id_), messages(jobs)) == (80, 1)


# --- With limits -----------------------------------------------------------------------------------------------------


def held(jobs: JobTester) -> Enqueued:
    """Let a task run, and return one that waits behind it for the limit of their key."""
    jobs.register(index_single)
    first = ask(jobs, 1, index_single)
    jobs.travel(30 * SECOND)
    assert start(jobs, first.id, index_single) == "run"
    second = ask(jobs, 2, index_single)
    jobs.travel(30 * SECOND)
    jobs.drain()
    assert row(jobs, second.id)["state"] == "held"
    return second


PLACE = ("state", "due_at", "sweep_at", "first_due_at", "seq", "passed", "wait_kind", "waits_for", "place", "key_limit")


def pushed_in_its_place(jobs: JobTester, id_: str, task: Any, **options: Any) -> Enqueued:
    """Push a task. Assert that it has the new payload, no new message, and its place."""
    before, sent = row(jobs, id_), len(jobs._queues.sent)
    again, after = ask(jobs, 3, task, **options), row(jobs, id_)
    assert (again.id, after["payload"]["number"], after["asks"]) == (id_, 3, before["asks"] + 1)
    assert {name: after[name] for name in PLACE} == {name: before[name] for name in PLACE}
    assert len(jobs._queues.sent) == sent
    return again


def test_a_held_task_gets_the_new_payload_and_keeps_its_place(jobs: JobTester) -> None:
    second = held(jobs)
    again = pushed_in_its_place(jobs, second.id, index_single)
    assert again == Enqueued(second.id, "index:single", Queue.DEFAULT, State.HELD, sent=False, created=False)


def test_a_held_task_whose_new_payload_has_another_key_leaves_its_place(jobs: JobTester) -> None:
    second = held(jobs)
    ask(jobs, 3, index_single, shop="globex")
    after = row(jobs, second.id)
    assert (after["state"], after["key_limit"], after["place"]) == ("scheduled", "index:single/globex", None)
    ask(jobs, 4, index_single, shop="initech", keep="first")
    assert row(jobs, second.id)["key_limit"] == "index:single/globex"
    jobs.drain(within=MINUTE).check()
    assert RAN[0] == 3


def test_an_index_is_rebuilt_at_most_once_a_minute_and_never_twice_at_once(jobs: JobTester) -> None:
    how: dict[str, Any] = {"debounce": MINUTE, "longest": MINUTE}
    starts: list[datetime] = []

    def rebuild(ctx: TaskContext) -> None:
        starts.append(jobs.now)
        [[at_once]] = jobs._database.get().run("select count(*) from joblane.tasks where state = 'active'")
        assert at_once == 1

    jobs.register(index_single)
    for number in range(60):
        DURING[:] = [rebuild]
        ask(jobs, number, index_single, **how)
        jobs.travel(10 * SECOND)
        jobs.drain().check()
    DURING[:] = [rebuild]
    jobs.drain(within=2 * MINUTE).check()
    assert RAN[-1] == 59
    assert 8 <= len(starts) <= 11
    gaps = [second - first for first, second in pairwise(starts)]
    assert min(gaps) >= MINUTE - 2 * SECOND


def test_a_task_with_its_turn_keeps_it(jobs: JobTester) -> None:
    second = held(jobs)
    [[first]] = jobs._database.get().run("select id from joblane.tasks where state = 'active'")
    jobs.client.cancel(first)
    jobs._database.get().run("update joblane.tasks set lease_until = clock_timestamp() where id = $1", first)
    assert start(jobs, first, index_single) == "ended"
    with Database(jobs.url) as database:
        (turn,) = serve(database.get(), [["index:single/acme", None, None]])
    assert turn.id == second.id
    before = row(jobs, second.id)
    assert (before["state"], before["passed"]) == ("pending", Passed.ALL)
    again = pushed_in_its_place(jobs, second.id, index_single)
    assert (again.state, again.sent) == (State.PENDING, False)


def test_a_task_with_a_time_by_a_rate_keeps_it(jobs: JobTester) -> None:
    jobs.register(index_rated)
    for key in ("a", "b"):
        second = ask(jobs, 1, index_rated, unique_key=key)
    jobs.travel(30 * SECOND)
    jobs.drain()
    before = row(jobs, second.id)
    assert (before["state"], before["passed"]) == ("pending", Passed.TYPE_TIME)
    assert not pushed_in_its_place(jobs, second.id, index_rated, unique_key="b").sent
    jobs.drain(within=HOUR).check()
    assert RAN == [1, 3]


def test_a_pushed_task_has_its_place_in_an_order_from_its_new_time_on(jobs: JobTester) -> None:
    jobs.register(index_ordered)
    first = ask(jobs, 1, index_ordered)
    other = jobs.enqueue(index_ordered, Change(number=2), process_in=40 * SECOND, unique_key="other")
    jobs.travel(20 * SECOND)
    ask(jobs, 3, index_ordered)
    assert row(jobs, first.id)["first_due_at"] == row(jobs, first.id)["due_at"]
    jobs.travel(20 * SECOND)
    assert start(jobs, other.id, index_ordered) == "run"


def test_a_due_task_that_is_pushed_lets_the_next_in_its_order_run(jobs: JobTester) -> None:
    # given a due task whose message has not come yet, and one behind it
    jobs.register(index_ordered)
    first = ask(jobs, 1, index_ordered)
    jobs.travel(30 * SECOND)
    other = jobs.enqueue(index_ordered, Change(number=2), unique_key="other")
    assert start(jobs, other.id, index_ordered) == "held"
    # when it is pushed, then the other is first
    ask(jobs, 3, index_ordered)
    assert (row(jobs, first.id)["state"], row(jobs, other.id)["state"]) == ("scheduled", "pending")
    jobs.drain(within=HOUR).check()
    assert RAN == [2, 3]


# --- Written by hand -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["asks = 0", "asks = null", "longest_seconds = null", "longest_seconds = 'NaN'"])
def test_a_debounce_that_cannot_be_read_is_refused(jobs: JobTester, written: str) -> None:
    first = ask(jobs, 1)
    with pytest.raises(DatabaseError, match="asks: a number of at least 1, and longest_seconds"):
        jobs._database.get().run(f"update joblane.tasks set {written} where id = $1", first.id)
