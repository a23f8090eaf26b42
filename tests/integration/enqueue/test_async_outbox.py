"""Enqueueing in an ``AsyncSession``: sends that do not block the event loop. ``test_transports`` has the outbox."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from joblane import Enqueued, Job, JobClient, telemetry
from joblane.client.batch import Batch
from joblane.errors import EnqueueError, TaskIdConflictError, UnknownTaskError, WaitTimeoutError
from joblane.sqs.client import CONNECTIONS, Entry
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_one
from tests.sends import Sends, is_before_commit
from tests.transports import LANE, rows, sent
from tests.world import World

AnyAsyncSession = AsyncSession | async_scoped_session[AsyncSession]
DRIVERS = ["asyncpg", "psycopg"]


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def engine_of(world: World, driver: str = "asyncpg", **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(world.url.replace("postgresql://", f"postgresql+{driver}://"), **options)
    try:
        yield engine
    finally:
        await engine.dispose()


async def work(session: AsyncSession, what: str = "done") -> None:
    """The caller's own write in the same transaction."""
    await session.execute(text("insert into work values (:what)"), {"what": what})


async def enqueue(
    world: World, session: AnyAsyncSession | None = None, task_id: str | None = None, **options: Any
) -> str:
    return (await world.client.aenqueue(sample_one, Sample(), session=session, task_id=task_id, **options)).id


# --- The rules of the outbox ---------------------------------------------------------------------------------------


def test_a_session_in_a_transaction_of_its_callers_leaves_the_send_to_the_sweep(
    world: World, sends: Sends, driver: str
) -> None:
    async def main() -> str:
        async with engine_of(world, driver) as engine, engine.connect() as connection:
            outer = await connection.begin()
            async with AsyncSession(connection) as session:
                id_ = await enqueue(world, session)
                await session.commit()
            assert sends.messages == []
            await outer.commit()
            return id_

    id_ = asyncio.run(main())
    world.run("update joblane.tasks set sweep_at = now()")
    assert world.sweep().sent == 1
    assert sent(sends) == [id_]


def test_functions_that_run_in_the_plain_session_enqueue_as_ever(world: World, sends: Sends, driver: str) -> None:
    def bill(session: Session) -> list[str]:
        one = world.client.enqueue(sample_one, Sample(), session=session, task_id="one")
        with world.client.batch("import", on_end=Job(sample_one, Sample()), session=session) as batch:
            many = batch.enqueue_many([Job(sample_one, Sample(), task_id=f"m{number}") for number in range(3)])
        return [result.id for result in [one, *many] if isinstance(result, Enqueued)]

    async def main() -> list[str]:
        async with engine_of(world, driver) as engine:
            sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
            made = await sessions().run_sync(bill)
            # and the client takes the scope's session
            made.append(await enqueue(world, sessions, "scoped"))
            with pytest.raises(TaskIdConflictError):
                await enqueue(world, sessions, "one")
            results = await world.client.aenqueue_many(
                [Job(sample_one, Sample(), task_id=id_) for id_ in ("one", "more")],
                session=sessions,
            )
            assert [type(result) for result in results] == [TaskIdConflictError, Enqueued]
            assert sends.messages == []
            await sessions.commit()
            await sessions.remove()
            return [*made, "more"]

    made = asyncio.run(main())
    assert sorted(sent(sends), key=str) == rows(world) == sorted([*made, "import:on_end"])


@pytest.mark.parametrize("has_session", [True, False])
def test_a_batch_in_a_coroutine_is_one_transaction(world: World, sends: Sends, *, has_session: bool) -> None:
    async def undone(session: AsyncSession | None) -> None:
        async with world.client.abatch("undone", session=session) as batch:
            await batch.enqueue(sample_one, Sample(), task_id="undone")
            raise ZeroDivisionError

    async def main() -> None:
        async with engine_of(world) as engine, AsyncSession(engine) as session:
            given = session if has_session else None
            with pytest.raises(ZeroDivisionError):
                await undone(given)
            async with world.client.abatch("import", on_end=Job(sample_one, Sample()), session=given) as batch:
                await batch.enqueue(sample_one, Sample(), task_id="one")
                await batch.enqueue_many([Job(sample_one, Sample(), task_id="two")])
            if has_session:
                assert sends.messages == []
                await session.commit()
            with pytest.raises(EnqueueError, match="is sealed"):
                await batch.enqueue(sample_one, Sample())

    asyncio.run(main())
    assert rows(world) == ["import:on_end", "one", "two"]


def test_a_cancelled_coroutine_leaves_no_open_transaction_of_a_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    real = Batch.enqueue

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert goes_on.wait(PATIENCE_SECONDS)
        return real(*arguments, **options)

    monkeypatch.setattr(Batch, "enqueue", slow)

    async def fill() -> None:
        async with world.client.abatch("import") as batch:
            await batch.enqueue(sample_one, Sample(), task_id="one")

    async def main() -> None:
        filling = asyncio.create_task(fill())
        await asyncio.to_thread(begun.wait, PATIENCE_SECONDS)
        filling.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await filling

    asyncio.run(main())
    assert rows(world) == []
    open_ = "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'"
    assert world.run(open_) == [[0]]


# --- The event loop ------------------------------------------------------------------------------------------------


class Gate:
    """Holds up the sends of a client after its commits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, client: JobClient) -> None:
        self.opens = threading.Event()
        self.on_send: Callable[[], object] = lambda: None
        real = client._producer.sqs.send_many

        def send(entries: Sequence[Entry], **how: Any) -> Any:
            if not is_before_commit(entries[0].body):
                self.on_send()
                assert self.opens.wait(PATIENCE_SECONDS)
            return real(entries, **how)

        monkeypatch.setattr(client._producer.sqs, "send_many", send)


def test_a_timeout_during_the_send_ends_the_commit_and_not_the_send(
    world: World, sends: Sends, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, world.client)

    async def main() -> str:
        loop = asyncio.get_running_loop()
        async with engine_of(world, driver, pool_size=1, max_overflow=0) as engine, AsyncSession(engine) as session:
            id_ = await enqueue(world, session)
            timeout = asyncio.timeout(None)
            gate.on_send = lambda: loop.call_soon_threadsafe(timeout.reschedule, loop.time())
            with pytest.raises(TimeoutError):
                async with timeout:
                    await session.commit()
            # then the session is whole: its transaction has ended, and its connection is in the pool
            assert (rows(world), session.in_transaction(), engine.pool.checkedout()) == ([id_], False, 0)  # type: ignore[attr-defined]
            assert sends.messages == []
            await work(session)
            await session.commit()
            gate.opens.set()
            return id_

    id_ = asyncio.run(main())
    wait_for_threads()
    assert sent(sends) == [id_]
    assert world.run("select what from work") == [["done"]]


def test_cancelled_requests_have_committed_and_are_sent_even_if_the_loop_ends_first(
    world: World, sends: Sends, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given more requests than the client has threads
    gate, ids = Gate(monkeypatch, world.client), [f"r{number}" for number in range(CONNECTIONS + 2)]

    async def request(engine: AsyncEngine, id_: str) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await enqueue(world, session, id_)

    async def main() -> None:
        async with engine_of(world, driver, pool_size=2, max_overflow=0) as engine:
            tasks = [asyncio.create_task(request(engine, id_)) for id_ in ids]
            while len(rows(world)) < len(ids) or engine.pool.checkedout():  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
            # when
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]

    asyncio.run(main())
    assert sends.messages == []
    gate.opens.set()
    wait_for_threads()
    # then
    assert sorted(sent(sends), key=str) == ids


def wait_for_threads() -> None:
    """Wait until the client has no thread."""
    for thread in threading.enumerate():
        if thread.name.startswith("joblane_"):  # of the pool; those of other parts may stay
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive()


@pytest.mark.parametrize(("in_session", "number"), [(False, 1_000), (True, 300)])
def test_a_thousand_enqueues_at_once_neither_block_the_loop_nor_leave_a_thread(
    world: World,
    sends: Sends,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    in_session: bool,
    number: int,
) -> None:
    # given sends that at first wait for the event loop
    messages, blocked, loop = list[Any](), list[bool](), asyncio.new_event_loop()

    def send_slowly(entries: Any, *, brief: bool = False) -> dict[int, str]:
        if len(messages) < 8 and not any(blocked):
            loop.call_soon_threadsafe((turned := threading.Event()).set)
            blocked.append(not turned.wait(PATIENCE_SECONDS))
        messages.extend(entry for entry in entries if entry.queue == LANE)
        return {}

    monkeypatch.setattr(world.client._producer.sqs, "send_many", send_slowly)

    async def one(engine: AsyncEngine) -> str:
        if not in_session:
            return await enqueue(world)
        async with AsyncSession(engine) as session, session.begin():
            return await enqueue(world, session)

    async def main() -> list[str]:
        async with engine_of(world, pool_size=4, pool_timeout=PATIENCE_SECONDS) as engine:
            tasks = list[asyncio.Task[str]]()
            for _ in range(number):
                tasks.append(asyncio.create_task(one(engine)))
                if len(tasks) % 50 == 0:
                    await asyncio.sleep(0)  # in debug mode it takes long to make a task
            return await asyncio.gather(*tasks)

    # when
    before = threading.active_count()
    loop.slow_callback_duration = PATIENCE_SECONDS  # a slow machine may need seconds for a callback
    with asyncio.Runner(debug=True, loop_factory=lambda: loop) as runner:
        ids = runner.run(main())
    # then
    assert blocked
    assert not any(blocked)
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio" and record.levelno > 20] == []
    assert rows(world) == sorted(ids)
    assert len(messages) == number
    wait_for_threads()
    assert threading.active_count() <= before  # a thread of an earlier test may have ended


def test_a_commit_that_can_start_no_thread_leaves_the_send_to_the_sweep(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(telemetry.logger(), "warning", lambda *_, extra: lines.append(extra))

    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> str:
        async with engine_of(world) as engine, AsyncSession(engine) as session, session.begin():
            monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
            return await enqueue(world, session)

    id_ = asyncio.run(main())
    assert lines == [{"error": "can't start new thread"}] * 2  # of the wake-up, and of the message
    assert (rows(world), sends.messages) == ([id_], [])


# --- Without a session ---------------------------------------------------------------------------------------------


def test_a_client_is_used_without_blocking(world: World, sends: Sends) -> None:
    async def main() -> JobClient:
        async with JobClient() as jobs:
            jobs._producer.sqs = world.sqs
            one = await jobs.aenqueue(sample_one, Sample())
            assert one.sent
            many = await jobs.aenqueue_many(Job(sample_one, Sample(), task_id=id_) for id_ in ("a", "b"))
            assert sent(sends) == [one.id, *(result.id for result in many if isinstance(result, Enqueued))]
            assert await jobs.acancel("a") == "cancelled"
            status = await jobs.await_end("a", timedelta(seconds=5))
            assert (status.state, await jobs.aget("unknown")) == ("cancelled", None)
            with pytest.raises(WaitTimeoutError):
                await jobs.await_end("b", timedelta(seconds=0.1))
            with pytest.raises(UnknownTaskError):
                await jobs.await_end("unknown", timedelta(seconds=5))
            with pytest.raises(EnqueueError, match="job 1: task: "):
                await jobs.aenqueue_many([Job(sample_one, Sample()), Job("no task", Sample())])  # type: ignore[arg-type]
            assert jobs._producer.database().open
        return jobs

    assert not asyncio.run(main())._producer.database().open


# --- What is refused -----------------------------------------------------------------------------------------------


def test_a_registry_of_plain_sessions_is_refused_with_the_call_that_takes_it(world: World, sends: Sends) -> None:
    odd: Any = scoped_session(sessionmaker(create_engine("sqlite://")))
    with pytest.raises(EnqueueError, match=r"session: with a plain Session use jobs\.enqueue\("):
        asyncio.run(enqueue(world, odd))


def test_another_event_loop_than_asyncios_is_named(world: World) -> None:
    with pytest.raises(RuntimeError, match=r"asyncio's event loop is required; .* call the plain function in a thread"):
        world.client.aget("a").send(None)


AUTOCOMMIT = "session: its connection is in AUTOCOMMIT, so the task could not commit together with your work"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "pg8000"])
def test_a_session_whose_statements_commit_by_themselves_is_refused(world: World, sends: Sends, driver: str) -> None:
    async def main() -> None:
        async with engine_of(world, driver, isolation_level="AUTOCOMMIT") as engine, AsyncSession(engine) as session:
            with pytest.raises(EnqueueError, match=AUTOCOMMIT):
                await enqueue(world, session)
            await session.commit()

    if driver != "pg8000":
        asyncio.run(main())
    if driver != "asyncpg":
        engine = create_engine(world.url.replace("postgresql://", f"postgresql+{driver}://"))
        with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
            with pytest.raises(EnqueueError, match=AUTOCOMMIT):
                world.client.enqueue(sample_one, Sample(), session=session)
            with pytest.raises(EnqueueError, match=AUTOCOMMIT):
                world.client.batch("b", session=session).enqueue(sample_one, Sample())
        engine.dispose()
    assert (rows(world), sends.messages) == ([], [])
