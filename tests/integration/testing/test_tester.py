"""Running jobs in a test: a single one, all due ones, or only the function."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from joblane import ArchivedTask, Job, JobClient, MessageClient, Queue, SkipRetry, Snooze, State, TaskContext, task
from joblane.errors import EnqueueError, LeaseLostError, TaskCancelled, UnknownTaskError
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.sqs.client import Sqs
from joblane.sqs.tick import tick_entry
from joblane.testing import JobTester, KitError, NotRunError
from tests.integration.testing.conftest import Effects
from tests.integration.testing.samples import (
    Nothing,
    Order,
    Receipt,
    order_chunks,
    order_fail,
    order_mail,
    order_nightly,
    order_parts,
    order_quiet,
    order_refuse,
    order_ship,
    order_snooze,
)
from tests.patience import PATIENCE_SECONDS

early = JobClient()
"""As an application makes it: when it is imported."""


def test_run_returns_what_the_handler_returns_and_commits_its_work(jobs: JobTester, effects: Effects) -> None:
    assert jobs.run(order_ship, Order(number=7)) == {"number": 7}
    assert effects() == ["shipped 7"]
    [done] = jobs.enqueued(order_ship)
    assert jobs.task(done.id).state is State.COMPLETED


def test_run_raises_what_the_handler_raises_and_records_the_attempt(jobs: JobTester, effects: Effects) -> None:
    with pytest.raises(ValueError, match="attempt 1 of 1"):
        jobs.run(order_fail, Order(number=1), task_id="one")
    failed = jobs.task("one")
    assert (failed.state, failed.attempts, failed.error_type) == (State.RETRY, 1, "ValueError")
    assert effects() == []
    with pytest.raises(SkipRetry, match="never"):
        jobs.run(order_refuse, Order(number=1), task_id="two")
    assert jobs.task("two").state is State.ARCHIVED
    with pytest.raises(Snooze):
        jobs.run(order_snooze, Order(number=1))


def test_run_hands_over_the_options_and_waits_for_no_time(jobs: JobTester) -> None:
    @task("order:look", also=[Queue.LOW])
    def order_look(payload: Order, ctx: TaskContext) -> Receipt:
        assert (ctx.task_id, ctx.queue, ctx.max_retry) == ("mine", Queue.LOW, 1)
        assert ctx.headers["traceparent"] == "t"
        return Receipt(number=payload.number)

    options = {"task_id": "mine", "queue": Queue.LOW, "max_retry": 1, "headers": {"traceparent": "t"}}
    receipt = jobs.run(order_look, Order(number=3), process_in=timedelta(days=3), **options)  # type: ignore[call-overload]
    assert receipt == Receipt(number=3)  # the object itself; the row has its JSON form
    assert jobs.task("mine").result == {"number": 3}


def test_a_result_that_cannot_be_kept_is_a_failed_attempt(jobs: JobTester) -> None:
    @task("order:object")
    def order_object(payload: Order, ctx: TaskContext) -> object:
        return object()

    with pytest.raises(NotRunError, match="order:object mine is retry after 1 of 6 attempts, TypeError"):
        jobs.run(order_object, Order(number=1), task_id="mine")


def test_run_raises_if_the_task_ends_without_an_error_of_the_handler(jobs: JobTester) -> None:
    @task("order:stop")
    def order_stop(payload: Order, ctx: TaskContext) -> None:
        jobs.client.cancel(ctx.task_id)

    with pytest.raises(
        NotRunError, match=r"order:stop mine is cancelled after 1 of 6 attempts, cancelled while it ran"
    ):
        jobs.run(order_stop, Order(number=1), task_id="mine")


def test_a_context_of_a_task_that_was_cancelled_keeps_nothing(jobs: JobTester, effects: Effects) -> None:
    with pytest.raises(TaskCancelled):  # noqa: PT012, SIM117 - the block is its end
        with jobs.context(order_mail, Order(number=1), task_id="mine") as ctx:
            order_mail(Order(number=1), ctx)
            jobs.client.cancel("mine")
    assert jobs.task("mine").state is State.CANCELLED
    assert effects() == []


def test_a_context_commits_nothing_if_another_run_has_claimed_its_task(jobs: JobTester, effects: Effects) -> None:
    with pytest.raises(LeaseLostError):  # noqa: PT012, SIM117 - the block is its end
        with jobs.context(order_mail, Order(number=1), task_id="mine") as ctx:
            order_mail(Order(number=1), ctx)
            with jobs.session() as session:
                session.execute(text("update joblane.tasks set lease_token = gen_random_uuid()"))
    assert jobs.task("mine").state is State.ACTIVE
    assert effects() == []


@pytest.mark.parametrize("delay", [timedelta(minutes=1), timedelta(minutes=16), timedelta(hours=10)])
def test_drain_within_runs_what_is_due_at_its_end(delay: timedelta, jobs: JobTester) -> None:
    jobs.enqueue(order_quiet, Order(number=1), process_in=delay)
    assert len(jobs.drain(within=delay - timedelta(seconds=5))) == 0
    jobs.enqueue(order_quiet, Order(number=2), process_in=delay, task_id="two")
    assert "two" in [one.id for one in jobs.drain(within=delay)]


def test_run_refuses_what_the_client_refuses(jobs: JobTester) -> None:
    with pytest.raises(EnqueueError, match="no lane"):
        jobs.run(order_quiet, Order(number=1), queue=Queue.LOW)
    assert jobs.enqueued() == []


def test_drain_runs_everything_that_is_due_and_the_children_of_it(jobs: JobTester, effects: Effects) -> None:
    for number in (1, 2):
        jobs.enqueue(order_ship, Order(number=number))
    jobs.enqueue(order_ship, Order(number=3), process_in=timedelta(minutes=5))
    ran = jobs.drain()
    assert sorted(effects()) == ["mailed 1", "mailed 2", "shipped 1", "shipped 2"]
    assert [one.type for one in ran] == ["order:ship", "order:ship", "order:mail", "order:mail"]
    assert ran.check() is ran
    assert len(ran.of(order_mail)) == 2
    assert ran[0].result == {"number": 1}
    assert (ran.invocations, ran.killed) == (4, 0)
    assert len(jobs.drain()) == 0
    assert str(jobs.drain()) == "no task was due"


def test_drain_reports_what_failed_and_raises_only_where_asked(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=9), task_id="nine")
    jobs.enqueue(order_quiet, Order(number=1), task_id="quiet")
    ran = jobs.drain()
    failed = ran.of("order:fail")[0]
    assert (failed.state, failed.attempts, failed.max_retry, failed.outcomes) == (State.RETRY, 1, 2, ("failed",))
    assert str(failed) == "order:fail nine is retry after 1 of 3 attempts, ValueError: attempt 1 of 9"
    with pytest.raises(AssertionError, match="1 of 2 tasks have not completed:\n  order:fail nine is retry"):
        ran.check()
    with pytest.raises(KitError, match="one task was expected to run, not 2"):
        _ = ran.only


def test_drain_within_continues_to_the_end_of_all_retries(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=2))
    ran = jobs.drain(within=timedelta(hours=3)).only
    assert (ran.state, ran.attempts, ran.outcomes) == (State.COMPLETED, 3, ("failed", "failed", "completed"))
    assert effects() == ["attempt 3"]


def test_drain_within_leaves_what_is_due_later(jobs: JobTester, effects: Effects) -> None:
    jobs.enqueue(order_fail, Order(number=2))
    before = jobs.now
    assert jobs.drain(within=timedelta(hours=1)).only.attempts == 2
    assert jobs.now - before < timedelta(minutes=2)  # no further than it had to go


def test_drain_ends_at_its_limit(jobs: JobTester) -> None:
    jobs.enqueue(order_snooze, Order(number=1))
    with pytest.raises(KitError, match=r"tasks are still due after 5 invocations(?s:.*)order:snooze .* is pending"):
        jobs.drain(limit=5)


def test_an_archived_task_leaves_a_dead_letter_that_can_be_redriven(jobs: JobTester) -> None:
    jobs.enqueue(order_fail, Order(number=3), task_id="dead", max_retry=0)
    assert jobs.drain().only.state is State.ARCHIVED
    [dead_letter] = jobs.dead_letters(order_fail)
    assert (dead_letter.id, dead_letter.payload, dead_letter.generation) == ("dead", {"number": 3, "note": ""}, 0)
    assert dead_letter.reason.startswith("attempt 1 of 1 failed: ")
    assert jobs.redrive(order_fail) == 1
    assert jobs.dead_letters(order_fail) == []
    assert jobs.drain().only.runs == 2
    assert [dead_letter.generation for dead_letter in jobs.dead_letters(order_fail)] == [1]


def test_a_batch_is_handed_over_together(jobs: JobTester) -> None:
    @task("order:batch", batch_size=10)
    def order_batch(payload: Order, ctx: TaskContext) -> int:
        return payload.number

    for number in range(25):
        jobs.enqueue(order_batch, Order(number=number))
    ran = jobs.drain().check()
    assert (len(ran), ran.invocations) == (25, 3)


def test_a_resumable_task_continues_in_the_next_invocation(jobs: JobTester, effects: Effects) -> None:
    jobs.invocation = timedelta(seconds=8)  # of which a task gets 5: two chunks would not fit
    jobs.enqueue(order_chunks, Order(number=6))
    ran = jobs.drain()
    assert (ran.only.state, ran.only.attempts) == (State.COMPLETED, 1)
    assert "continued" in ran.only.outcomes
    assert ran.invocations > 1
    assert effects() == [f"part {part}" for part in range(6)]


def test_a_context_is_for_calling_a_function_by_itself(jobs: JobTester, effects: Effects) -> None:
    with jobs.context(order_ship, Order(number=4), task_id="mine") as ctx:
        assert (ctx.task_id, ctx.attempt, ctx.max_retry) == ("mine", 1, 2)
        assert order_ship(Order(number=4), ctx) == {"number": 4}
        assert effects() == []
    assert effects() == ["shipped 4"]
    jobs.assert_enqueued(order_mail, number=4)
    assert jobs.task("mine").state is State.COMPLETED
    assert [one.type for one in jobs.drain()] == ["order:mail"]


def test_a_context_whose_block_raises_rolls_back(jobs: JobTester, effects: Effects) -> None:
    with pytest.raises(ZeroDivisionError), jobs.context(order_ship, Order(number=4), task_id="mine") as ctx:
        assert order_ship(Order(number=4), ctx) == {"number": 4 / 0}
    assert effects() == []
    assert jobs.enqueued(order_mail) == []
    assert (jobs.task("mine").state, jobs.task("mine").error_type) == (State.RETRY, "ZeroDivisionError")


def test_a_context_loops_over_items(jobs: JobTester, effects: Effects) -> None:
    with jobs.context(order_parts, Order(number=2)) as ctx:
        assert order_parts(Order(number=2), ctx) == 2
    assert effects() == ["part 0", "part 1"]


def test_a_task_in_a_session_exists_after_its_commit(jobs: JobTester, effects: Effects) -> None:
    with jobs.session() as session:
        session.execute(text("insert into effects (what) values ('ordered')"))
        jobs.enqueue(order_mail, Order(number=1), session=session)
        assert jobs.enqueued() == []
        assert len(jobs.drain()) == 0
    jobs.drain().check()
    assert effects() == ["ordered", "mailed 1"]
    with pytest.raises(ZeroDivisionError), jobs.session() as session:
        assert jobs.client.enqueue(order_mail, Order(number=2), session=session).id == str(1 / 0)
    assert len(jobs.enqueued()) == 1


@pytest.mark.parametrize("time", [1, 2])
def test_clients_of_the_application_enqueue_here_in_every_test(time: int, jobs: JobTester, effects: Effects) -> None:
    early.enqueue(order_mail, Order(number=time))
    early.enqueue(order_quiet, Order(number=time), process_in=timedelta(hours=1))
    MessageClient().enqueue(order_mail, Order(number=10 * time), tenant="acme")
    assert len(jobs.enqueued()) == 3
    jobs.assert_enqueued(order_mail, number=10 * time, tenant="acme", queue="default")
    jobs.drain().check()
    assert effects() == [f"mailed {time}", f"mailed {10 * time}"]
    assert len(jobs.enqueued()) == 3


@pytest.fixture
def aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with which boto3 makes a client, whose requests fail at once."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


@pytest.mark.parametrize("name", ["client", "brief_client", "sender", "brief_sender"])
def test_nothing_reaches_sqs(aws_settings: None, jobs: JobTester, name: str) -> None:
    Sqs().send(tick_entry("jobs", order_nightly, order_nightly.schedules[0], jobs.now))
    for sqs in (Sqs(), early._producer.sqs, jobs._queues):
        with pytest.raises(KitError, match="has no SQS"):
            getattr(sqs, name)


def test_a_client_of_sqs_that_was_made_before_the_test_is_not_used(
    aws_settings: None, joblane_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqs = Sqs()
    assert sqs.client.meta.endpoint_url == "http://127.0.0.1:1"
    with JobTester(joblane_database), pytest.raises(KitError, match="has no SQS"):
        sqs.receive_many("jobs-default-order-mail", 0)


def test_an_enqueue_of_many_tasks_wakes_no_sweep(jobs: JobTester) -> None:
    with jobs.session() as session:
        jobs.client.enqueue_many([Job(order_quiet, Order(number=number)) for number in range(101)], session=session)
    assert {one.type for one in jobs.enqueued()} == {order_quiet.type}
    assert {one.type for one in jobs.drain().check()} == {order_quiet.type}


def test_a_tick_of_the_sweep_reads_the_queues_of_the_test(
    aws_settings: None, jobs: JobTester, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.tick(jobs_sweep)
    assert jobs.drain().check().only.type == "jobs:sweep"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []


def test_on_archived_finds_the_other_task(jobs: JobTester) -> None:
    heard: list[str] = []

    @task("order:heard")
    def order_heard(payload: ArchivedTask, ctx: TaskContext) -> None:
        heard.append(payload.task_id)

    @task("order:lost", on_archived=order_heard)
    def order_lost(payload: Order, ctx: TaskContext) -> None:
        raise SkipRetry("lost")

    jobs.enqueue(order_lost, Order(number=1), task_id="lost")
    assert [one.state for one in jobs.drain()] == [State.ARCHIVED, State.COMPLETED]
    assert heard == ["lost"]


def test_messages_of_tasks_that_are_not_known_are_named(jobs: JobTester) -> None:
    @task("nobody:knows", schedule="0 * * * *")
    def nobody_knows(payload: Nothing, ctx: TaskContext) -> None:
        pass

    Sqs().send(tick_entry("jobs", nobody_knows, nobody_knows.schedules[0], jobs.now))
    with pytest.raises(KitError, match=r"the type 'nobody:knows' is known.*jobs\.register"):
        jobs.drain()
    jobs.register(nobody_knows)
    assert jobs.drain().check().only.type == "nobody:knows"


def test_tasks_are_found_by_their_folders(jobs: JobTester) -> None:
    from functions.system_user_expiry.handler import SystemUserExpiry, system_user_expiry

    jobs.client.enqueue(system_user_expiry, SystemUserExpiry())
    jobs._lanes.known.tasks.clear()
    assert jobs.drain().check().only.result == {"deactivated": 0, "warned": 0, "failed": 0}


def test_producers_in_sql_enqueue_registered_tasks(jobs: JobTester, effects: Effects) -> None:
    jobs.register(order_mail)
    with jobs.session() as session:
        session.execute(text("""select joblane.enqueue('order:mail', '{"number": 5}')"""))
    jobs.drain().check()
    assert effects() == ["mailed 5"]


def test_an_unknown_task_is_an_error(jobs: JobTester) -> None:
    with pytest.raises(UnknownTaskError, match="'nobody'"):
        jobs.task("nobody")


def test_the_alarm_of_another_library_is_restored(jobs: JobTester) -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rang.append(number))
    left = signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
    try:
        jobs.run(order_quiet, Order(number=1))
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= PATIENCE_SECONDS
        signal.raise_signal(signal.SIGALRM)
        assert rang == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *left)


def test_the_database_of_the_test_is_in_the_environment(jobs: JobTester) -> None:
    assert os.environ["DATABASE_URL"] == jobs.url


def test_asynchronous_enqueues_are_diverted_too(jobs: JobTester, effects: Effects) -> None:
    async def main() -> None:
        engine = create_async_engine(jobs.url.replace("postgresql://", "postgresql+psycopg://"))
        async with early as client, AsyncSession(engine) as session:
            await asyncio.gather(*(client.aenqueue(order_ship, Order(number=number)) for number in range(9)))
            await client.aenqueue(order_mail, Order(number=9), session=session)
            assert jobs.enqueued(order_mail) == []
            await session.commit()
        await engine.dispose()

    asyncio.run(main())
    jobs.assert_enqueued(order_mail, count=1)
    assert len(jobs.drain()) == 19  # each shipment enqueues a mail
    assert {f"shipped {number}" for number in range(9)} <= set(effects())
