"""Every writer sends a wake-up before its commit: the sweep finds what it leaves, wherever it is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from joblane import Job, MessageClient, TaskContext, settings
from joblane.client.client import JobClient
from joblane.enqueue import wake as wakes
from joblane.enqueue.wake import AFTER_COMMIT
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.names import SWEEP, Queue, lane_name
from joblane.record.driver import database as databases
from joblane.record.task_types import register_limits
from joblane.sqs.client import Sqs
from tests.builders.rows import archived, put
from tests.samples import LIMITED, Sample, behaviour, sample_one, sample_single
from tests.world import PREFIX, World

LANE = lane_name(PREFIX, Queue.LOW, SWEEP)
TABLES = ("tasks", "batches", "pauses", "limit_changes", "schedules", "bulks", "audit", "causes", "task_signals")


@pytest.fixture
def waking(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contents of the database at each wake-up."""
    world.make(LANE)
    world.lane(sample_one)
    world.lane(sample_single)
    register_limits(world.database.get(), {task.type: task for task in LIMITED})
    found: list[str] = []
    send = wakes._send

    def noting(sqs: Sqs, prefix: str, id_: str, delay_seconds: int) -> str | None:
        if id_.startswith(AFTER_COMMIT):
            found.append(contents(world))
        return send(sqs, prefix, id_, delay_seconds)

    monkeypatch.setattr(wakes, "_send", noting)
    return found


def contents(world: World) -> str:
    parts = [f"(select md5(string_agg(t::text, ',' order by t::text)) from joblane.{name} t)" for name in TABLES]
    return str(world.run(f"select concat({', '.join(parts)})"))


def in_session(world: World, work: Callable[[JobClient, Session], object]) -> None:
    engine = create_engine(world.url.replace("postgresql://", "postgresql+pg8000://"))
    with Session(engine) as session:
        work(world.client, session)
        session.commit()
    engine.dispose()


def in_async_session(world: World) -> None:
    async def enqueue() -> None:
        engine = create_async_engine(world.url.replace("postgresql://", "postgresql+asyncpg://"))
        async with AsyncSession(engine) as session:
            await world.client.aenqueue(sample_one, Sample(), session=session)
            await session.commit()
        await engine.dispose()

    asyncio.run(enqueue())


def by_psycopg(world: World) -> None:
    callbacks: list[Callable[[], None]] = []
    with psycopg.connect(world.url) as connection:
        world.client.enqueue(sample_one, Sample(), connection=connection, after_commit=callbacks.append)
    for callback in callbacks:
        callback()


def in_batch(world: World) -> None:
    with world.client.batch("it", on_end=Job(sample_one, Sample())) as batch:
        batch.enqueue(sample_one, Sample())


def seal(world: World) -> None:
    batch = world.client.batch("it")
    batch.enqueue(sample_one, Sample())
    Sqs.covered.clear()
    before = contents(world)
    seen.append(before)
    batch.seal()


seen: list[str] = []
"""The contents of the database before the last write."""


def inspector(world: World) -> Inspector:
    tasks = {task.type: task for task in (sample_one, *LIMITED)}
    return Inspector(Scope(world.database, world.sqs, PREFIX, tasks, "me"))


PRODUCERS: dict[str, Callable[[World], object]] = {
    "enqueue": lambda world: world.client.enqueue(sample_one, Sample()),
    "aenqueue": lambda world: asyncio.run(world.client.aenqueue(sample_one, Sample())),
    "enqueue_many": lambda world: world.client.enqueue_many([Job(sample_one, Sample())]),
    "a long wait": lambda world: world.client.enqueue(sample_one, Sample(), process_in=timedelta(days=1)),
    "a session": lambda world: in_session(
        world, lambda jobs, session: jobs.enqueue(sample_one, Sample(), session=session)
    ),
    "an asynchronous session": in_async_session,
    "psycopg": by_psycopg,
    "a batch": in_batch,
    "signal": lambda world: world.client.signal("a", "approval"),
    "asignal": lambda world: asyncio.run(world.client.asignal("a", "approval")),
    "the signal of a session": lambda world: in_session(
        world, lambda jobs, session: jobs.signal("a", "approval", session=session)
    ),
    "cancel": lambda world: world.client.cancel("a"),
    "limits.set": lambda world: world.client.limits.set(sample_single.type, max_total=3),
    "an external message": lambda world: world.deliver(sample_one, {"type": "sample:one", "id": "it", "payload": {}}),
}
ACTIONS: dict[str, Callable[[Inspector], object]] = {
    "run_now": lambda inspector: inspector.run("a"),
    "cancel": lambda inspector: inspector.cancel("a"),
    "archive": lambda inspector: inspector.archive("a"),
    "delete": lambda inspector: inspector.delete("a"),
    "retry": lambda inspector: inspector.retry("dead"),
    "replay": lambda inspector: inspector.replay("dead"),
    "edit": lambda inspector: inspector.edit("a", {"number": 5}),
    "pause": lambda inspector: inspector.pause(PauseScope.TYPE, sample_one.type),
}


@pytest.mark.parametrize("name", PRODUCERS)
def test_a_producer_sends_a_wake_up_before_its_commit(world: World, waking: list[str], name: str) -> None:
    put(world, sample_one, "a")
    before = contents(world)
    PRODUCERS[name](world)
    assert waking[:1] == [before]
    assert contents(world) != before


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_of_an_operator_sends_a_wake_up_before_its_commit(world: World, waking: list[str], name: str) -> None:
    put(world, sample_one, "a", state="scheduled")
    put(world, sample_one, "dead", **archived())
    before = contents(world)
    ACTIONS[name](inspector(world))
    assert waking[:1] == [before]
    assert contents(world) != before


WITHOUT_CONNECTION: dict[str, Callable[[World], object]] = {
    "enqueue": lambda world: JobClient().enqueue(sample_one, Sample()),
    "signal": lambda world: JobClient().signal("a", "approval"),
    "cancel": lambda world: JobClient().cancel("a"),
    "limits.set": lambda world: JobClient().limits.set(sample_single.type, max_total=3),
    "an operator's action": lambda world: inspector(world).cancel("a"),
}


@pytest.mark.parametrize("name", WITHOUT_CONNECTION)
def test_a_process_that_waits_for_the_database_sends_its_wake_up_after_that(
    world: World, waking: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    put(world, sample_one, "a", state="scheduled")
    world.database.drop()
    steps: list[str] = []
    connect, send = databases._connect, wakes._send

    def connecting(*given: Any, **named: Any) -> Any:
        steps.append("connect")
        return connect(*given, **named)

    def sending(*given: Any) -> Any:
        steps.append("wake")
        return send(*given)

    monkeypatch.setattr(databases, "_connect", connecting)
    monkeypatch.setattr(wakes, "_send", sending)
    WITHOUT_CONNECTION[name](world)
    assert steps[:2] == ["connect", "wake"]


def test_the_seal_of_a_batch_sends_a_wake_up_of_its_own(world: World, waking: list[str]) -> None:
    seal(world)
    assert waking[-1:] == [seen.pop()]


@behaviour
def outlast_the_wake_up(payload: Sample, ctx: TaskContext) -> None:
    Sqs.covered.clear()
    if payload.number == 1:
        ctx.session.execute(text("select 1"))
    if payload.number == 2:
        raise ValueError("no")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_end_of_a_long_run_sends_a_wake_up_of_its_own(world: World, waking: list[str], number: int) -> None:
    task = sample_single if number == 0 else sample_one
    world.client.enqueue(task, Sample(do="outlast_the_wake_up", number=number), task_id="it")
    Sqs.covered.clear()
    (message,) = world.take(task)
    states: list[str] = []
    send = wakes._send

    def noting(*given: Any) -> Any:
        states.append(world.row("it")["state"])
        return send(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakes, "_send", noting)
        world.deliver(task, message["Body"])
    assert states == ["pending", "active"]


def test_a_client_without_a_record_and_the_reads_wake_nobody(world: World, waking: list[str]) -> None:
    MessageClient().enqueue(sample_one, Sample())
    world.client.get("a")
    world.client.limits.get(sample_single.type)
    inspector(world).overview()
    assert waking == []
    assert Sqs.covered == {}


def test_a_command_without_access_to_sqs_acts_and_warns_on_its_error_output(world: World) -> None:
    put(world, sample_one, "a", state="scheduled")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "JOBLANE_"))}
    environment = kept | {"DATABASE_URL": world.url, "AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"}
    command = "import sys; sys.argv[:] = ['joblane', 'cancel', 'a']; from joblane.cli.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "a was scheduled, is cancelled\n"
    assert wakes.NOT_WOKEN in done.stderr


def test_an_asynchronous_session_does_not_wait_for_sqs_on_its_loop(
    world: World, waking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    send = wakes._send

    def noting(*given: Any) -> Any:
        threads.append(threading.current_thread())
        return send(*given)

    monkeypatch.setattr(wakes, "_send", noting)
    in_async_session(world)
    assert threads
    assert threading.main_thread() not in threads


def test_a_stage_whose_sweep_runs_often_is_not_woken(
    world: World, waking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(settings.SWEEP_MINUTES, "5")
    put(world, sample_one, "a")
    for write in PRODUCERS.values():
        write(world)
    assert waking == []
