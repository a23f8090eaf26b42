"""The functions of several releases in one database, and claims that meet another transaction."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from joblane.enqueue.check import check
from joblane.errors import DatabaseUnavailableError
from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import database as doctor_database
from joblane.inspector.views import Grade
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.migrations import upgrade
from joblane.record.row.states import LEVELS, Passed, State
from joblane.record.sql_functions import FUNCTIONS, NAMES, VERSION, install, installed
from joblane.record.task.claim import CLAIM, Claim, Verdict, arrival, claim
from joblane.record.task.finish import FINISH, Finish, finish
from joblane.record.task.insert import INSERT
from joblane.sqs.message import Message
from joblane.tasks.job import Job
from tests.builders.rows import In, archived, put
from tests.logs import lines
from tests.samples import Sample, sample_batch, sample_one, sample_only
from tests.world import PREFIX, World

LEASE = timedelta(seconds=60)
HELD = """
insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, unique_key)
values ($1, 'sample:only', 'default', 'pending', '', 1, 0, $2)
"""
OF_RELEASE = "select right(proname, 8) from pg_proc where proname ~ '^(claim|finish|insert)_' group by 1 order by 1"


@pytest.fixture
def other(world: World) -> Iterator[Connection]:
    """A second connection with an open transaction."""
    with Database(world.url) as database:
        database.get().execute_simple("begin")
        yield database.get()


def migrate_release(world: World, version: str) -> None:
    """Do what ``joblane migrate`` of another release does to the functions."""
    functions = {name: text.replace(VERSION, version) for name, text in FUNCTIONS.items()}
    world.run("update joblane.functions set migrated_at = migrated_at - interval '1 hour'")
    world.database.get().execute_simple(";".join(install(version, functions)))


def claimed(world: World, *messages: tuple[str, Mapping[str, Any]], dead: int | None = None) -> dict[str, Claim]:
    """Claim messages of :data:`sample_batch`, or of :data:`sample_only` if they take a unique key."""
    batch = []
    for id_, how in messages:
        task = sample_only if "payload" in how else sample_batch
        batch.append(arrival(task, Message(task.type, id_, **how), id_, Queue.DEFAULT, dead_generation=dead))
    return claim(world.database.get(), batch, LEASE, "request")


def verdicts(world: World, *messages: tuple[str, Mapping[str, Any]], dead: int | None = None) -> dict[str, Verdict]:
    return {id_: one.verdict for id_, one in claimed(world, *messages, dead=dead).items()}


RECORDED: Mapping[str, Any] = {"rec": True}
UNIQUE: Mapping[str, Any] = {"payload": {"do": "nothing", "number": 0}}


def key() -> str:
    found = sample_only.key_of_message(Queue.DEFAULT, UNIQUE["payload"], None)
    assert found is not None
    return found.key


# --- Versions ------------------------------------------------------------------------------------------------------


def test_a_release_finds_its_functions_after_the_next_one_was_migrated(world: World) -> None:
    # given this release, and the next one
    migrate_release(world, "aaaaaaaa")
    assert world.run(OF_RELEASE) == sorted([[VERSION], ["aaaaaaaa"]])
    # when this one runs on, or runs again after a rollback
    put(world, sample_one, "it")
    assert world.deliver(sample_one, {"type": "sample:one", "id": "it", "rec": True}) == []
    # then its tasks run
    assert world.row("it")["state"] == "completed"
    # and the release after the next one drops its functions
    migrate_release(world, "bbbbbbbb")
    assert world.run(OF_RELEASE) == [["aaaaaaaa"], ["bbbbbbbb"]]
    assert not installed(world.database.get())
    assert world.run("select version from joblane.functions order by 1") == [["aaaaaaaa"], ["bbbbbbbb"]]


def test_older_code_that_is_migrated_on_a_newer_schema_creates_its_functions(world: World) -> None:
    for version in ("aaaaaaaa", "bbbbbbbb"):
        migrate_release(world, version)
    world.run("update joblane.alembic_version set version_num = '9999'")

    upgrade(world.url)

    assert installed(world.database.get())
    assert world.run(OF_RELEASE) == sorted([[VERSION], ["bbbbbbbb"]])


def test_without_its_functions_messages_wait_and_every_reader_says_what_to_run(world: World, scope: Scope) -> None:
    for name in NAMES:
        world.run(f"drop function joblane.{name}_{VERSION}")
    watched = world.watch()
    with lines() as logged:
        assert len(world.deliver(sample_one, {"type": "sample:one", "id": "it"}, receives=2)) == 1
    assert [27 <= seconds <= 30 for seconds in watched.visibilities] == [True]
    assert "run `joblane migrate`" in logged.texts[0]
    with pytest.raises(DatabaseUnavailableError, match="joblane migrate"):
        world.client.enqueue(sample_one, Sample())
    (found,) = [check for check in doctor_database.schema(scope) if check.what == "functions"]
    assert (found.grade, VERSION in found.found) == (Grade.BAD, True)
    # and after the migration the same process works
    upgrade(world.url)
    assert world.deliver(sample_one, {"type": "sample:one", "id": "it"}) == []


# --- Another transaction -------------------------------------------------------------------------------------------


def test_the_steps_through_limits_are_the_same_in_code_and_indexes(world: World) -> None:
    assert [*Passed] == [step for level in LEVELS.values() for step in (level.slot, level.time)]
    indexes = dict(world.run("select indexname, indexdef from pg_indexes where schemaname = 'joblane'"))
    for level in (LEVELS[2], LEVELS[3]):
        words = re.findall(r"'(\w+)'", indexes[f"tasks_{level.column}"])
        assert words == re.findall(r"'(\w+)'", level.has_slot)


def test_a_locked_row_is_an_answer_and_does_not_hold_the_batch(world: World, other: Connection) -> None:
    for id_ in "abc":
        put(world, sample_batch, id_)
    other.run("select from joblane.tasks where id = 'b' for update")

    assert verdicts(world, *((id_, RECORDED) for id_ in "abc")) == {"a": "run", "b": "locked", "c": "run"}

    assert world.row("b")["runs"] == 0
    other.rollback()
    assert verdicts(world, ("b", RECORDED)) == {"b": "run"}


def test_a_batch_of_locked_rows_waits_once(world: World, other: Connection) -> None:
    # given
    for id_ in "abcdefghij":
        put(world, sample_batch, id_)
    other.run("select from joblane.tasks for update")
    # when: ten waits of half a second would not fit
    world.database.get().execute_simple("set lock_timeout = 0; set statement_timeout = '3s'")
    # then
    assert verdicts(world, *((id_, RECORDED) for id_ in "abcdefghij")) == dict.fromkeys("abcdefghij", "locked")
    assert world.database.get().run("show lock_timeout") != [["10ms"]]


@pytest.mark.parametrize("held", ["an id", "a unique key"])
def test_a_new_message_waits_for_a_row_that_is_not_committed_yet(world: World, other: Connection, held: str) -> None:
    id_ = "it" if held == "an id" else "first"
    other.run(HELD, id_, key())

    assert verdicts(world, ("it", UNIQUE), ("other", RECORDED)) == {"it": "locked", "other": "gone"}

    other.commit()
    assert verdicts(world, ("it", UNIQUE)) == {"it": "conflict" if held == "an id" else "ended"}


def test_a_revived_task_waits_for_a_key_that_is_not_committed_yet(world: World, other: Connection) -> None:
    put(world, sample_only, "it", UNIQUE["payload"], **archived(unique_key=key()))
    put(world, sample_batch, "neighbour")
    other.run(HELD, "first", key())

    assert verdicts(world, ("it", UNIQUE), ("neighbour", RECORDED), dead=0) == {"it": "locked", "neighbour": "run"}

    other.commit()
    assert verdicts(world, ("it", UNIQUE), dead=0) == {"it": "taken"}
    assert world.row("it")["state"] == "archived"


def test_a_new_message_does_not_wait_for_the_holder_of_an_expired_key(world: World, other: Connection) -> None:
    put(world, sample_only, "holder", unique_key=key(), unique_expires_at=In(-1))
    other.run("select from joblane.tasks where id = 'holder' for update")
    world.run(f"alter function joblane.claim_{VERSION} set lock_timeout = '20s'")

    assert verdicts(world, ("it", UNIQUE)) == {"it": "locked"}

    other.rollback()
    assert verdicts(world, ("it", UNIQUE)) == {"it": "run"}
    assert world.row("holder")["unique_key"] is None


def test_a_claim_that_loses_the_insert_decides_on_the_row_that_won(world: World, other: Connection) -> None:
    """A prototype ran the task as its own."""
    world.run(f"alter function joblane.claim_{VERSION} set lock_timeout = '20s'")
    rival = [arrival(sample_batch, Message("sample:batch", "it", {"number": 0}), "it", Queue.DEFAULT)]
    assert claim(other, rival, LEASE, "the other")["it"].verdict is Verdict.RUN
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(claim, world.database.get(), rival, LEASE, "request")
        while not world.run("select from pg_stat_activity where wait_event_type = 'Lock'"):
            pass
        other.commit()
        assert lost.result(20)["it"].verdict is Verdict.LEASED
    assert world.run("select request_id from joblane.runs") == [["the other"]]


def test_a_task_that_was_lost_in_a_batch_is_not_claimed_with_others_again(world: World) -> None:
    put(world, sample_batch, "it", claim_alone=True, runs=1)
    put(world, sample_batch, "other")

    assert verdicts(world, ("it", RECORDED), ("other", RECORDED)) == {"it": "claim_alone", "other": "run"}
    assert verdicts(world, ("it", RECORDED)) == {"it": "run"}


def test_of_two_new_messages_of_a_batch_with_one_key_the_second_is_claimed_alone(world: World) -> None:
    """A prototype cancelled it."""
    assert verdicts(world, ("a", UNIQUE), ("b", UNIQUE)) == {"a": "run", "b": "claim_alone"}
    assert world.run("select id from joblane.tasks") == [["a"]]


# --- Plans ---------------------------------------------------------------------------------------------------------

MOST_BUFFERS = 40
"""Pages that a call for one task reads: it descends each index that it needs, and writes a few."""


def buffers(connection: Connection, call: str, *parameters: str) -> int:
    """Return the pages that a call reads, with those of the statements in the function."""
    [[plan]] = connection.run("explain (analyze, buffers, format json) " + call, *parameters)
    return int(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])


def one_life(world: World, number: int) -> dict[str, int]:
    """Insert, claim and finish a task with a unique key, and return the pages that each call reads."""
    connection, id_, token = world.database.get(), f"life-{number}", str(uuid.UUID(int=number))
    new = check(Job(sample_only, Sample(number=number), task_id=id_), record=True, prefix=PREFIX)
    external = Message(sample_only.type, f"external-{number}", {"do": "nothing", "number": number + 1000})
    arrivals = [arrival(sample_only, external, f"external-{number}", Queue.DEFAULT)]
    end = Finish(id_, token, 1, "completed", State.COMPLETED)
    recorded = [{"id": id_, "type": sample_only.type, "rec": True}]
    return {
        "insert": buffers(connection, INSERT, json.dumps([new.row()])),
        "claim": buffers(connection, CLAIM, json.dumps(recorded), token, "60", "request"),
        "claim of a new task": buffers(connection, CLAIM, json.dumps(arrivals), token, "60", "request"),
        "finish": buffers(connection, FINISH, json.dumps([end.row()]), "false"),
    }


@pytest.mark.parametrize("vacuumed", [False, True])
def test_no_call_reads_more_in_a_table_that_has_grown_since_its_plan_was_made(world: World, *, vacuumed: bool) -> None:
    # given a process that has called each function on empty tables
    if vacuumed:  # otherwise PostgreSQL takes a new table for one of ten pages
        for table in ("tasks", "task_attempts"):
            world.database.get().execute_simple(f"vacuum analyze joblane.{table}")
        nothing = Finish("none", str(uuid.UUID(int=0)), 1, "completed", State.COMPLETED)
        assert finish(world.database.get(), [nothing]) == set()
    one_life(world, 1)
    # when there are many live tasks, each with a key and a run, and no statistics
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds,"
        " unique_key, lease_token, lease_until, runs, attempts)"
        " select 'many-' || n, 'sample:only', 'default', 'active', '', 4, 60, 'sample:only ' || n, gen_random_uuid(),"
        " now() + interval '1 h', 1, 1 from generate_series(1, 20000) n"
    )
    world.run(
        "insert into joblane.task_attempts (task_id, run, attempt, generation)"
        " select id, 1, 1, 0 from joblane.tasks where id like 'many-%'"
    )
    # then a life reads as little as before, with the old plans
    assert max(one_life(world, 2).values()) <= MOST_BUFFERS
    # and with new ones, once they are made: for that a connection reads the catalogue
    world.database.drop()
    one_life(world, 3)
    assert max(one_life(world, 4).values()) <= MOST_BUFFERS
    states = world.run(
        "select state, count(*)::int from joblane.tasks where id not like 'many-%' group by 1 order by 1"
    )
    assert states == [["active", 4], ["completed", 4]]
