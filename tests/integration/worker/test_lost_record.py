"""The tables are lost or replaced while a batch runs: each message is handled on its own, and none ends the batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from joblane import JobClient, SkipRetry, TaskContext
from joblane.record.driver import connection
from joblane.record.driver.database import Database
from joblane.sqs.client import Entry
from joblane.worker.worker import Worker
from tests.builders.events import record
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.sends import is_before_commit
from tests.world import World, handle

PREFIX = "jobs"
happens: list[Callable[[], Any]] = []
ran: list[int] = []


@behaviour
def lose_the_database(payload: Sample, ctx: TaskContext) -> None:
    ran.append(payload.number)
    if payload.number == 0:
        ctx.connection().run("select 1")
        happens[0]()
        raise ValueError("the handler's own")


@behaviour
def change_the_stage(payload: Sample, ctx: TaskContext) -> None:
    if payload.number == 0:
        happens[0]()
    elif payload.number == 9:
        raise SkipRetry("not this one")


@pytest.fixture(autouse=True)
def _fresh() -> None:
    happens.clear()
    ran.clear()


@pytest.fixture
def database(world: World) -> Any:
    world.run("insert into joblane.stage (prefix) values ('jobs') on conflict do nothing")
    with Database(world.url, prefix=PREFIX) as database:
        yield database


def bodies(do: str, *numbers: int) -> list[dict[str, Any]]:
    return [{"type": sample_batch.type, "id": f"i{n}", "payload": {"do": do, "number": n}} for n in numbers]


def test_a_database_that_goes_under_one_handler_stops_no_other(
    world: World, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PING_AFTER_SECONDS", 0)
    happens.append(postgres.stop)
    try:
        kept = world.deliver(sample_batch, *bodies("lose_the_database", 0, 1, 2))
    finally:
        postgres.start()
        world._observer.drop()
    assert (ran, len(kept)) == ([0, 1, 2], 3)


def test_a_stage_that_changes_while_a_batch_runs_keeps_its_messages(world: World, database: Database) -> None:
    def change() -> None:
        database.drop()
        world.run("update joblane.stage set prefix = 'other'")

    happens.append(change)
    worker, lane = Worker(sample_batch, database, world.sqs, PREFIX), world.lane(sample_batch)
    kept = handle(worker, *[record(body, lane) for body in bodies("change_the_stage", 0, 1)])
    assert len(kept) == 2
    assert [world.row(f"i{n}")["state"] for n in (0, 1)] == ["active", "active"]


def test_a_stage_that_changes_after_a_dead_letter_was_sent_lets_its_message_go(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_many = world.sqs.send_many

    def then_change(entries: list[Entry], **how: Any) -> dict[int, str]:
        failed = send_many(entries, **how)
        if is_before_commit(entries[0].body):
            return failed
        database.drop()
        world.run("update joblane.stage set prefix = 'other'")
        return failed

    monkeypatch.setattr(world.sqs, "send_many", then_change)
    worker, lane = Worker(sample_batch, database, world.sqs, PREFIX), world.lane(sample_batch)
    assert handle(worker, *[record(body, lane) for body in bodies("change_the_stage", 9)]) == []
    assert (world.row("i9")["state"], world.row("i9")["dead_sent_at"]) == ("archived", None)
    assert len(world.dead_letters(sample_batch)) == 1


def test_a_recorded_message_is_claimed_with_any_payload_of_its_own(world: World) -> None:
    world.lane(sample_one)
    with JobClient() as jobs:
        id_ = jobs.enqueue(sample_one, Sample()).id
    body = f'{{"type":"{sample_one.type}","id":"{id_}","rec":true,"payload":{{"x":1e400}}}}'
    assert world.deliver(sample_one, body) == []
    assert world.row(id_)["state"] == "completed"


def test_a_client_that_ends_in_a_forked_child_leaves_its_parent_connected(world: World) -> None:
    world.lane(sample_one)
    jobs = JobClient()
    jobs.enqueue(sample_one, Sample())
    child = os.fork()
    if child == 0:
        del jobs
        os._exit(0)
    os.waitpid(child, 0)
    assert jobs.enqueue(sample_one, Sample()).sent
    jobs.close()
