"""Enqueueing in an ``AsyncSession``: the outbox's rules, and sends that do not block the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from joblane.sqs.message import decode
from tests.samples import Sample, sample_one
from tests.sends import Sends
from tests.world import World

LANE = "jobs-default-sample-one"
DRIVERS = ["asyncpg", "psycopg"]


@pytest.fixture
def sends(world: World) -> Sends:
    world.lane(sample_one)
    world.client._sqs = world.sqs
    world.run("create table work (what text)")
    return Sends.of(world.sqs)


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


async def enqueue(world: World, session: AsyncSession | None = None, task_id: str | None = None, **options: Any) -> str:
    return (await world.client.aenqueue(sample_one, Sample(), session=session, task_id=task_id, **options)).id


def sent(sends: Sends) -> list[str | None]:
    return [decode(entry["MessageBody"]).id for entry in sends.to(LANE)]


def rows(world: World) -> list[str]:
    return [row[0] for row in world.run("select id from joblane.tasks order by id")]


# --- The rules of the outbox ---------------------------------------------------------------------------------------


def test_the_task_commits_with_the_callers_work_and_is_sent_in_a_thread(
    world: World, sends: Sends, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, threads = world.client.send_committed, list[str]()

    def note(tasks: Any) -> None:
        threads.append(threading.current_thread().name)
        real(tasks)

    monkeypatch.setattr(world.client, "send_committed", note)

    async def main() -> str:
        async with engine_of(world, driver, pool_size=1, max_overflow=0) as engine, AsyncSession(engine) as session:
            await work(session)
            result = await world.client.aenqueue(sample_one, Sample(number=7), session=session)
            assert (result.sent, rows(world), sends.messages) == (False, [], [])
            await session.commit()
            assert sent(sends) == [result.id], "the commit ends after the send"
            await work(session)  # the session is usable, and gave its connection back
            await session.commit()
            return result.id

    id_ = asyncio.run(main())
    assert (rows(world), world.run("select what from work")) == ([id_], [["done"], ["done"]])
    assert [name.startswith("joblane") for name in threads] == [True]


def test_only_what_a_transaction_commits_is_sent(world: World, sends: Sends, driver: str) -> None:
    async def main() -> list[str]:
        async with engine_of(world, driver) as engine:
            async with AsyncSession(engine) as session:  # two commits, and a rollback between them
                first = await enqueue(world, session)
                await session.commit()
                await enqueue(world, session)
                await session.rollback()
                second = await enqueue(world, session)
                await session.commit()
            async with AsyncSession(engine) as session:  # closed without a commit
                await enqueue(world, session)
            async with AsyncSession(engine) as session, session.begin():  # savepoints
                async with session.begin_nested():
                    third = await enqueue(world, session)
                with suppress(ZeroDivisionError):
                    async with session.begin_nested():
                        await enqueue(world, session)
                        raise ZeroDivisionError
                assert sent(sends) == [first, second]
            with suppress(ZeroDivisionError):
                async with async_sessionmaker(engine).begin() as session:
                    await enqueue(world, session)
                    raise ZeroDivisionError
            return [first, second, third]

    committed = asyncio.run(main())
    assert sent(sends) == committed
    assert rows(world) == sorted(committed)
