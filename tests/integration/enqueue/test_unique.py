"""Unique tasks: one live task per key, for every producer and every end."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from joblane import (
    DuplicateTaskError,
    Enqueued,
    Job,
    JobClient,
    Queue,
    SkipRetry,
    TaskContext,
)
from joblane.errors import TaskIdConflictError
from joblane.record.driver.connection import Connection
from joblane.record.row.states import State
from joblane.record.task.claim import CLAIMS
from joblane.record.task.insert import EXISTING, INSERT
from joblane.tasks.task import Task
from joblane.testing.faults import Hook, Send
from tests.builders.events import record
from tests.builders.rows import In, active, archived, put
from tests.integration.enqueue.conftest import Another
from tests.patience import PATIENCE_SECONDS
from tests.samples import (
    Sample,
    behaviour,
    sample_batch,
    sample_latest,
    sample_one,
    sample_only,
    sample_overlap,
    sample_tick,
)
from tests.world import World, handle

WaitUntil = Callable[[Callable[[], bool]], None]
HOUR = timedelta(hours=1)


def recorded(task: Task[Any, Any], id_: str) -> dict[str, Any]:
    return {"type": task.type, "id": id_, "rec": True}


def external(task: Task[Any, Any], id_: str, **payload: Any) -> dict[str, Any]:
    return {"type": task.type, "id": id_, "payload": payload}


def dead(generation: int) -> dict[str, tuple[str, str]]:
    return {"joblane-dead": ("Number", str(generation))}


def states(world: World) -> dict[str, str]:
    return {row[0]: row[1] for row in world.run("select id, state from joblane.tasks")}


# --- The result of the second caller ----------------------------------------------------------------------------


def test_a_second_task_of_the_same_payload_is_refused_with_the_id_of_the_first(world: World, client: JobClient) -> None:
    first = client.enqueue(sample_only, Sample(number=1))

    with pytest.raises(DuplicateTaskError, match=f"unique_key: held by task '{first.id}', which is pending") as caught:
        client.enqueue(sample_only, Sample(number=1))

    assert (caught.value.field, caught.value.task_id, caught.value.state) == ("unique_key", first.id, "pending")
    assert client.enqueue(sample_only, Sample(number=2)).created
    assert len(states(world)) == 2


def test_the_key_is_of_its_type_and_by_default_of_queue_and_payload(world: World, client: JobClient) -> None:
    for queue in (Queue.DEFAULT, Queue.CRITICAL):
        client.enqueue(sample_batch, Sample(), queue=queue, unique_for=HOUR)
    client.enqueue(sample_one, Sample(), unique_for=HOUR)
    for task in (sample_one, sample_batch):
        client.enqueue(task, Sample(), unique_for=HOUR, unique_key="mine")
    assert len(states(world)) == 5

    with pytest.raises(DuplicateTaskError):
        client.enqueue(sample_batch, Sample(), queue=Queue.CRITICAL, unique_for=HOUR)
    with pytest.raises(DuplicateTaskError):
        client.enqueue(sample_one, Sample(number=9), unique_for=HOUR, unique_key="mine")


def test_a_caller_may_get_the_existing_task(world: World, client: JobClient) -> None:
    watched = world.watch()
    client._producer.sqs = watched
    first = client.enqueue(sample_only, Sample(), process_in=timedelta(minutes=5))
    watched.sent.clear()

    past = datetime.now(UTC) - HOUR
    second = client.enqueue(sample_only, Sample(), on_conflict="return", process_at=past)

    assert second == Enqueued(first.id, "sample:only", first.queue, State.SCHEDULED, sent=False, created=False)
    assert watched.sent == []
    assert world.row(first.id)["state"] == "scheduled"


def test_a_replaced_task_runs_with_the_new_payload_time_and_options(world: World, client: JobClient) -> None:
    # given a task that waits for its next attempt, with what its first one left
    seen: list[tuple[int, int, int]] = []

    @behaviour
    def see(payload: Sample, ctx: TaskContext) -> None:
        seen.append((payload.number, ctx.attempt, ctx.max_retry))

    first = client.enqueue(sample_only, Sample(do="see", number=1), unique_key="k", tags=["old"], tenant="old")
    world.run(
        "update joblane.tasks set state = 'retry', attempts = 1, runs = 1, error_type = 'E', snoozes = 3, used_ms = 9"
    )
    world.run("insert into joblane.task_items (task_id, key) values ($1, 'a')", first.id)
    world.run("insert into joblane.task_cursors (task_id, cursor, done) values ($1, '7', 7)", first.id)
    world.run("insert into joblane.task_steps (task_id, name, value) values ($1, 'a', '1')", first.id)
    world.run("insert into joblane.task_progress (task_id, done) values ($1, 7)", first.id)

    # when it is replaced
    second = client.enqueue(
        sample_only,
        Sample(do="see", number=2),
        unique_key="k",
        on_conflict="replace",
        process_in=timedelta(minutes=3),
        tags=["new"],
        max_retry=0,
        retention=timedelta(hours=2),
    )

    # then the same row is what a new one would be
    assert second == Enqueued(first.id, "sample:only", first.queue, State.SCHEDULED, sent=True, created=False)
    row = world.row(first.id)
    assert (row["tags"], row["tenant"], row["max_attempts"], row["attempts"]) == (["new"], None, 1, 0)
    assert (row["retention_seconds"], row["error_type"], row["snoozes"], row["used_ms"]) == (7200, None, 0, 0)
    for table in ("task_items", "task_cursors", "task_steps", "task_progress"):
        assert world.run(f"select from joblane.{table}") == []
    # and runs once, whichever of its messages comes, when it is due
    assert len(world.deliver(sample_only, recorded(sample_only, first.id))) == 1
    assert seen == []
    world.later(first.id)
    for message in world.take(sample_only):
        assert world.deliver(sample_only, message["Body"]) == []
    assert seen == [(2, 1, 0)]


def test_a_replaced_external_task_still_recognises_its_message(world: World, client: JobClient) -> None:
    @behaviour
    def fail_at_1(payload: Sample, ctx: TaskContext) -> None:
        if payload.number == 1:
            raise ValueError("no")

    body = external(sample_only, "it", do="fail_at_1", number=1)
    assert len(world.deliver(sample_only, body)) == 1
    world.run("update joblane.tasks set unique_key = 'sample:only k'")

    info = client.enqueue(sample_only, Sample(do="fail_at_1", number=2), unique_key="k", on_conflict="replace")

    assert info.id == "it"
    assert world.deliver(sample_only, body) == []
    assert world.row("it")["state"] == "completed"
    assert world.dead_letters(sample_only) == []


def test_a_running_task_cannot_be_replaced(world: World, client: JobClient) -> None:
    caught: list[DuplicateTaskError] = []

    @behaviour
    def replace_me(payload: Sample, ctx: TaskContext) -> int:
        with pytest.raises(DuplicateTaskError) as info:
            client.enqueue(sample_only, Sample(number=2), unique_key="k", on_conflict="replace")
        caught.append(info.value)
        return payload.number

    first = client.enqueue(sample_only, Sample(do="replace_me", number=1), unique_key="k")
    assert world.deliver(sample_only, recorded(sample_only, first.id)) == []

    assert str(caught[0]) == (
        f"unique_key: held by task '{first.id}', which is active; a running task cannot be replaced, "
        "nor one that waits for other tasks or has stopped at a wait or has a signal"
    )
    assert (world.row(first.id)["result"], len(states(world))) == (1, 1)


@pytest.mark.parametrize(
    "written",
    [
        "insert into joblane.task_waits (task_id, name, until, run) values ($1, 'a', now(), 1)",
        "insert into joblane.task_signals (task_id, name, value) values ($1, 'a', '1')",
    ],
)
def test_a_task_with_a_wait_or_a_signal_cannot_be_replaced(world: World, client: JobClient, written: str) -> None:
    first = client.enqueue(sample_only, Sample(number=1), unique_key="k")
    world.run(written, first.id)
    with pytest.raises(DuplicateTaskError, match="has stopped at a wait or has a signal"):
        client.enqueue(sample_only, Sample(number=2), unique_key="k", on_conflict="replace")
    assert world.row(first.id)["payload"]["number"] == 1


def between(world: World, statement: str, what: str) -> Hook:
    """Apply ``what`` to all rows after a client has executed ``statement`` for the first time."""
    left = [what]

    def hook(sql: str, send: Send) -> Any:
        rows = send()
        if sql == statement and left:
            world.run(left.pop())
        return rows

    return hook


def test_the_key_of_a_holder_that_ends_before_it_is_read_is_taken(
    world: World, client: JobClient, another: Another
) -> None:
    client.enqueue(sample_only, Sample())
    ends = "update joblane.tasks set state = 'completed', finished_at = now(), expire_at = now()"
    assert another(between(world, INSERT, ends)).enqueue(sample_only, Sample()).created
    assert sorted(states(world).values()) == ["completed", "pending"]


def test_a_task_that_starts_just_before_its_replacement_is_not_replaced(
    world: World, client: JobClient, another: Another
) -> None:
    first = client.enqueue(sample_only, Sample(number=1), unique_key="k")
    jobs = another(between(world, EXISTING, "update joblane.tasks set state = 'active'"))
    with pytest.raises(DuplicateTaskError, match="which is active; a running task cannot be replaced"):
        jobs.enqueue(sample_only, Sample(number=2), unique_key="k", on_conflict="replace")
    assert world.row(first.id)["payload"]["number"] == 1


@pytest.mark.parametrize("position", [0, 1])
def test_the_id_of_a_task_that_has_ended_is_not_taken_for_the_holder_of_its_key(
    world: World, client: JobClient, position: int
) -> None:
    put(world, sample_only, "live", unique_key="sample:only k")
    put(world, sample_only, "ended", state="completed", unique_key="sample:only k")
    jobs = [Job(sample_only, Sample(), unique_key="k")]
    jobs.insert(position, Job(sample_only, Sample(), unique_key="k", task_id="ended"))

    results = client.enqueue_many(jobs)

    assert isinstance(results.pop(position), TaskIdConflictError)
    (duplicate,) = results
    assert isinstance(duplicate, DuplicateTaskError)
    assert (duplicate.task_id, duplicate.state) == ("live", "pending")


# --- When the key is free again ------------------------------------------------------------------------------------


@behaviour
def archive_at_once(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no use")


@behaviour
def fail_and_wait(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("end", ["completed", "archived", "cancelled"])
def test_the_end_of_a_task_frees_its_key_at_once(world: World, client: JobClient, end: str) -> None:
    do = {"completed": "nothing", "archived": "archive_at_once", "cancelled": "nothing"}[end]
    first = client.enqueue(sample_only, Sample(do=do))
    if end == "cancelled":
        assert client.cancel(first.id) is State.CANCELLED
    else:
        world.deliver(sample_only, recorded(sample_only, first.id))

    second = client.enqueue(sample_only, Sample(do=do))

    assert states(world) == {first.id: end, second.id: "pending"}


def test_a_failed_attempt_does_not_free_the_key(world: World, client: JobClient) -> None:
    first = client.enqueue(sample_only, Sample(do="fail_and_wait"))
    world.deliver(sample_only, recorded(sample_only, first.id))
    with pytest.raises(DuplicateTaskError, match="which is retry"):
        client.enqueue(sample_only, Sample(do="fail_and_wait"))
    world.later(first.id)
    world.deliver(sample_only, recorded(sample_only, first.id))
    assert world.row(first.id)["state"] == "archived"
    assert client.enqueue(sample_only, Sample(do="fail_and_wait")).created


@pytest.mark.parametrize("state", ["pending", "active"])
def test_a_key_that_outlived_its_time_is_taken_from_its_holder_by_the_next(
    world: World, client: JobClient, state: str
) -> None:
    columns: dict[str, Any] = active(60) if state == "active" else {}
    put(world, sample_only, "old", unique_key="sample:only k", unique_expires_at=In(-1), **columns)
    put(world, sample_only, "other", unique_key="sample:only other", unique_expires_at=In(-1))

    new = client.enqueue(sample_only, Sample(), unique_key="k", unique_for=timedelta(minutes=5))

    assert [world.row(id_)["unique_key"] for id_ in ("old", "other", new.id)] == [
        None,
        "sample:only other",
        "sample:only k",
    ]
    assert world.row("old")["state"] == state
    left = world.run(
        "select extract(epoch from unique_expires_at - created_at)::int from joblane.tasks where id = $1", new.id
    )
    assert left == [[300]]


def test_a_change_that_is_enqueued_while_the_task_runs_is_not_lost(world: World, client: JobClient) -> None:
    later: list[str] = []

    @behaviour
    def change_meanwhile(payload: Sample, ctx: TaskContext) -> None:
        if not later:
            later.append(client.enqueue(sample_latest, Sample(do="change_meanwhile")).id)
            with pytest.raises(DuplicateTaskError, match=later[0]):
                client.enqueue(sample_latest, Sample(do="change_meanwhile"))

    first = client.enqueue(sample_latest, Sample(do="change_meanwhile"))
    with pytest.raises(DuplicateTaskError, match=first.id):
        client.enqueue(sample_latest, Sample(do="change_meanwhile"))
    assert world.deliver(sample_latest, recorded(sample_latest, first.id)) == []
    assert states(world) == {first.id: "completed", later[0]: "pending"}
    assert world.deliver(sample_latest, recorded(sample_latest, later[0])) == []
    assert set(states(world).values()) == {"completed"}


def test_a_task_held_to_its_end_may_be_enqueued_to_hold_until_its_start(world: World, client: JobClient) -> None:
    during: list[bool] = []

    @behaviour
    def again(payload: Sample, ctx: TaskContext) -> None:
        during.append(client.enqueue(sample_only, Sample(do="nothing"), unique_key="k").created)

    first = client.enqueue(sample_only, Sample(do="again"), unique_key="k", unique_until="start")
    world.deliver(sample_only, recorded(sample_only, first.id))
    assert during == [True]


# --- Many at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [{}, {"task_id": "mine", "unique_key": "{}"}], ids=["key", "id"])
def test_of_fifty_enqueues_of_one_key_or_id_at_once_one_wins_and_the_others_name_it(
    world: World, client: JobClient, another: Another, same: dict[str, str]
) -> None:
    start = threading.Barrier(50)
    clients = [another() for _ in range(50)]

    def enqueue(number: int) -> str:
        start.wait(PATIENCE_SECONDS)
        options: Any = {name: value.format(number) for name, value in same.items()}
        try:
            return clients[number].enqueue(sample_only, Sample(), **options).id
        except (DuplicateTaskError, TaskIdConflictError) as error:
            return f"held by {error.task_id}"

    with ThreadPoolExecutor(50) as threads:
        answers = Counter(threads.map(enqueue, range(50)))
    ((id_, state),) = states(world).items()
    assert state == "pending"
    assert answers == {id_: 1, f"held by {id_}": 49}
    assert len(world.take(sample_only)) == 1


def test_each_of_many_has_its_own_answer(world: World, client: JobClient) -> None:
    held = client.enqueue(sample_only, Sample(), unique_key="held")
    put(world, sample_only, "known", state="completed")
    jobs = [
        Job(sample_only, Sample(number=1), unique_key="a"),
        Job(sample_only, Sample(number=2), unique_key="held"),
        Job(sample_only, Sample(number=3), unique_key="a"),
        Job(sample_only, Sample(number=4), unique_key="b", task_id="known"),
        Job(sample_only, Sample(number=5), unique_key="held", on_conflict="return"),
        Job(sample_only, Sample(number=6), unique_key="c", process_in=HOUR),
        Job(sample_only, Sample(number=7), unique_key="c", on_conflict="replace"),
        Job(sample_one, Sample(number=8)),
    ]

    results: list[Any] = client.enqueue_many(jobs)

    one, two, three, _, five, six, seven, eight = results
    refused = {1: DuplicateTaskError, 2: DuplicateTaskError, 3: TaskIdConflictError}
    assert [type(one) for one in results] == [refused.get(position, Enqueued) for position in range(8)]
    assert (two.task_id, three.task_id, five.id, seven.id) == (held.id, one.id, held.id, six.id)
    assert [(made.created, made.sent) for made in (one, five, seven, eight)] == [
        (True, True),
        (False, False),
        (False, True),
        (True, True),
    ]
    assert world.row(six.id)["payload"]["number"] == 7
    assert set(states(world)) == {held.id, "known", one.id, six.id, eight.id}


def test_of_equal_keys_in_one_call_the_first_holds_it_and_the_last_replaces_it(world: World, client: JobClient) -> None:
    jobs = [Job(sample_only, Sample(number=number), unique_key="k", on_conflict="replace") for number in range(20)]

    made = client.enqueue_many(jobs)

    assert [isinstance(one, Enqueued) and one.created for one in made] == [True] + [False] * 19
    ((id_, number),) = world.run("select id, payload -> 'number' from joblane.tasks")
    assert {one.id for one in made if isinstance(one, Enqueued)} == {id_}
    assert number == 19


@pytest.mark.parametrize("on_conflict", ["raise", "return", "replace"])
@pytest.mark.parametrize("in_a_session", [False, True])
def test_two_callers_with_the_same_keys_in_opposite_order_do_not_block_each_other(
    world: World, client: JobClient, another: Another, on_conflict: str, in_a_session: bool
) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    rounds = 6
    keys = [[f"{turn}-{number}" for number in range(12)] for turn in range(rounds)]
    for turn in range(rounds):  # some keys are held, some of these for too long, some are free
        for key in keys[turn][::3]:
            expires = In(chance.choice([-5, 500]))
            put(world, sample_only, f"holder-{key}", unique_key=f"sample:only {key}", unique_expires_at=expires)
        chance.shuffle(keys[turn])
    start = threading.Barrier(2)

    def enqueue(step: int) -> list[int]:
        mine, made = another(), list[int]()
        for turn in range(rounds):
            jobs = [Job(sample_only, Sample(), unique_key=key, on_conflict=on_conflict) for key in keys[turn]]
            start.wait(PATIENCE_SECONDS)
            with Session(mine._producer.database().engine) as session:
                results = mine.enqueue_many(jobs[::step], session=session if in_a_session else None)
                session.commit()
            made.append(sum(isinstance(one, Enqueued) and one.created for one in results))
            assert all(isinstance(one, (Enqueued, DuplicateTaskError)) for one in results)
        return made

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(enqueue, (1, -1))

    live = world.run("select unique_key from joblane.tasks where state = 'pending' and unique_key is not null")
    assert sorted(row[0] for row in live) == sorted(f"sample:only {key}" for turn in keys for key in turn), seed
    kept = "select count(*)::int from joblane.tasks where id like $1 and unique_key is not null"
    wanted = [12 - world.run(kept, f"holder-{turn}-%")[0][0] for turn in range(rounds)]
    assert [a + b for a, b in zip(first, second, strict=True)] == wanted, f"seed {seed}"


def test_what_is_replaced_in_a_session_is_locked_in_the_order_of_keys(
    world: World, client: JobClient, session: Session, wait_until: WaitUntil
) -> None:
    for key in ("a", "b", "c"):
        put(world, sample_only, f"holder-{key}", unique_key=f"sample:only {key}", unique_expires_at=In(500))
    jobs = [Job(sample_only, Sample(), unique_key=key, on_conflict="replace") for key in ("c", "b", "a")]
    with world.locked("holder-b") as holder, ThreadPoolExecutor(1) as threads:
        waits = threads.submit(client.enqueue_many, jobs, session=session)
        wait_until(lambda: waiting_for_a_lock(world))
        free = world.run("select id from joblane.tasks order by id for update skip locked")
        holder.get().rollback()
        waits.result(PATIENCE_SECONDS)
    assert free == [["holder-c"]]


def waiting_for_a_lock(world: World) -> bool:
    return bool(
        world.run("select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'")
    )


# --- In the caller's transaction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_conflict", ["raise", "return", "replace"])
def test_a_duplicate_does_not_end_the_callers_transaction(
    world: World, client: JobClient, session: Session, on_conflict: str
) -> None:
    world.run("create table work (what text)")
    first = client.enqueue(sample_only, Sample(number=1), unique_key="k")

    session.execute(text("insert into work values ('before')"))
    if on_conflict == "raise":
        with pytest.raises(DuplicateTaskError, match=first.id):
            client.enqueue(sample_only, Sample(number=2), unique_key="k", session=session)
    else:
        info = client.enqueue(sample_only, Sample(number=2), unique_key="k", on_conflict=on_conflict, session=session)
        assert (info.id, info.created, info.sent) == (first.id, False, False)
    session.execute(text("insert into work values ('after')"))
    session.commit()

    assert world.run("select what from work") == [["before"], ["after"]]
    assert world.row(first.id)["payload"]["number"] == (2 if on_conflict == "replace" else 1)
    sent = len(world.received(world.lane(sample_only)))
    assert sent == (2 if on_conflict == "replace" else 1)


def test_a_session_that_is_rolled_back_frees_the_key(world: World, client: JobClient, session: Session) -> None:
    client.enqueue(sample_only, Sample(), session=session)
    session.rollback()
    assert states(world) == {}
    assert client.enqueue(sample_only, Sample()).created


def test_a_session_that_is_rolled_back_has_replaced_nothing(world: World, client: JobClient, session: Session) -> None:
    first = client.enqueue(sample_only, Sample(number=1), unique_key="k")
    client.enqueue(sample_only, Sample(number=2), unique_key="k", on_conflict="replace", session=session)
    session.rollback()
    assert world.row(first.id)["payload"]["number"] == 1


def test_a_second_task_in_the_same_transaction_is_a_duplicate(
    world: World, client: JobClient, session: Session
) -> None:
    first = client.enqueue(sample_only, Sample(), session=session)
    with pytest.raises(DuplicateTaskError, match=first.id):
        client.enqueue(sample_only, Sample(), session=session)
    session.commit()
    assert list(states(world)) == [first.id]


def test_an_enqueue_waits_for_the_transaction_with_the_key_and_names_its_task(
    world: World, client: JobClient, another: Another, session: Session, wait_until: WaitUntil
) -> None:
    first = client.enqueue(sample_only, Sample(), session=session)
    with ThreadPoolExecutor(1) as threads:
        waits = threads.submit(another().enqueue, sample_only, Sample())
        wait_until(lambda: waiting_for_a_lock(world))
        session.commit()
        with pytest.raises(DuplicateTaskError, match=first.id):
            waits.result(PATIENCE_SECONDS)


# --- Ticks and external messages ------------------------------------------------------------------------------------


def tick(task: Task[Any, Any], minute: str, *, schedule: str = "0", **payload: Any) -> dict[str, Any]:
    at = {"schedule": schedule, "at": f"2026-01-31T02:{minute}:00Z"}
    return {"type": task.type, "tick": at} | ({"payload": payload} if payload else {})


@pytest.mark.parametrize("payload", [{"do": "nothing", "number": 0}, {}], ids=["whole", "without the defaults"])
def test_an_external_message_whose_key_is_held_is_cancelled_and_names_the_holder(
    world: World, client: JobClient, payload: dict[str, Any]
) -> None:
    first = client.enqueue(sample_only, Sample())

    assert world.deliver(sample_only, external(sample_only, "second", **payload)) == []

    row = world.row("second")
    assert (row["state"], row["runs"], row["lease_token"]) == ("cancelled", 0, None)
    assert row["reason"] == f"DuplicateTask: its unique key is held by {first.id}"
    assert None not in (row["finished_at"], row["expire_at"])
    assert world.attempts("second") == []
    assert states(world)[first.id] == "pending"


def test_an_external_task_holds_the_key_of_its_declaration(world: World, client: JobClient) -> None:
    @behaviour
    def external_holds(payload: Sample, ctx: TaskContext) -> None:
        with pytest.raises(DuplicateTaskError, match=f"'{ctx.task_id}', which is active"):
            client.enqueue(sample_only, payload)

    assert world.deliver(sample_only, external(sample_only, "first", do="external_holds", number=0)) == []
    assert states(world) == {"first": "completed"}
    assert world.deliver(sample_only, external(sample_only, "second", do="external_holds", number=0)) == []
    assert states(world) == {"first": "completed", "second": "completed"}


def test_an_external_task_that_holds_its_key_until_its_start_frees_it_when_it_runs(
    world: World, client: JobClient
) -> None:
    @behaviour
    def external_started(payload: Sample, ctx: TaskContext) -> None:
        client.enqueue(sample_latest, Sample(do="nothing"))
        client.enqueue(sample_latest, payload)

    assert world.deliver(sample_latest, external(sample_latest, "first", do="external_started", number=0)) == []
    assert Counter(states(world).values()) == {"completed": 1, "pending": 2}


def test_an_expired_holder_does_not_stop_an_external_message(world: World, client: JobClient) -> None:
    first = client.enqueue(sample_only, Sample())
    world.run("update joblane.tasks set unique_expires_at = clock_timestamp() - interval '1 s'")
    assert world.deliver(sample_only, external(sample_only, "second", do="nothing", number=0)) == []
    assert states(world) == {first.id: "pending", "second": "completed"}


def test_an_expired_holder_that_is_locked_does_not_hold_up_the_claim(world: World, client: JobClient) -> None:
    first = client.enqueue(sample_only, Sample())
    world.run("update joblane.tasks set unique_expires_at = clock_timestamp() - interval '1 s'")
    with world.locked(first.id):
        started = time.monotonic()
        assert len(world.deliver(sample_only, external(sample_only, "second", do="nothing", number=0))) == 1
        assert time.monotonic() - started < 2
    assert states(world) == {first.id: "pending"}


def test_a_tick_is_skipped_while_the_last_one_of_its_schedule_is_live(world: World) -> None:
    @behaviour
    def tick_again(payload: Sample, ctx: TaskContext) -> None:
        with world.rival(sample_tick) as other:
            lane = world.lane(sample_tick)
            assert handle(other, record(tick(sample_tick, "15", do="nothing"), lane)) == []
            assert handle(other, record(tick(sample_tick, "30", schedule="1", do="nothing"), lane)) == []

    assert world.deliver(sample_tick, tick(sample_tick, "00", do="tick_again")) == []

    first, skipped, other = (
        f"sample:tick:{end}Z" for end in ("0:2026-01-31T02:00", "0:2026-01-31T02:15", "1:2026-01-31T02:30")
    )
    assert states(world) == {first: "completed", skipped: "cancelled", other: "completed"}
    assert world.row(skipped)["reason"] == f"DuplicateTask: its unique key is held by {first}"
    # and the next one runs
    assert world.deliver(sample_tick, tick(sample_tick, "45", do="nothing")) == []
    assert world.row("sample:tick:0:2026-01-31T02:45Z")["state"] == "completed"


def test_a_tick_is_skipped_while_the_last_one_waits_for_its_next_attempt(world: World) -> None:
    assert len(world.deliver(sample_tick, tick(sample_tick, "00", do="fail_and_wait"))) == 1
    assert world.deliver(sample_tick, tick(sample_tick, "15", do="fail_and_wait")) == []
    assert sorted(states(world).values()) == ["cancelled", "retry"]
    # and comes twice without harm
    assert world.deliver(sample_tick, tick(sample_tick, "15", do="fail_and_wait")) == []
    assert len(world.deliver(sample_tick, tick(sample_tick, "00", do="fail_and_wait"))) == 1
    assert sorted(states(world).values()) == ["cancelled", "retry"]


def test_ticks_that_may_overlap_do(world: World) -> None:
    assert len(world.deliver(sample_overlap, tick(sample_overlap, "00", do="fail_and_wait"))) == 1
    assert world.deliver(sample_overlap, tick(sample_overlap, "15", do="nothing")) == []
    assert sorted(states(world).values()) == ["completed", "retry"]


def test_a_tick_of_a_unique_task_is_held_to_its_key(world: World, client: JobClient) -> None:
    first = client.enqueue(sample_only, Sample())
    assert world.deliver(sample_only, tick(sample_only, "00")) == []
    row = world.row("sample:only:0:2026-01-31T02:00Z")
    assert (row["state"], row["reason"]) == ("cancelled", f"DuplicateTask: its unique key is held by {first.id}")


class Held:
    """A hook that holds the first claim in an open transaction."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.claimed, self.open = threading.Event(), threading.Event()

    def __call__(self, sql: str, send: Send) -> Any:
        if sql not in CLAIMS or self.claimed.is_set():
            return send()
        assert self.connection is not None
        self.connection.execute_simple("begin")
        answer = send()
        self.claimed.set()
        assert self.open.wait(PATIENCE_SECONDS)
        self.connection.execute_simple("commit")
        return answer


@pytest.mark.parametrize("loser", ["new", "revived"])
def test_of_two_duplicates_claimed_at_once_one_runs_and_the_other_names_it(
    world: World, wait_until: WaitUntil, loser: str
) -> None:
    # given a first whose claim is not committed yet, and that runs for a while
    go_on = threading.Event()

    @behaviour
    def run_for_a_while(payload: Sample, ctx: TaskContext) -> None:
        assert go_on.wait(PATIENCE_SECONDS)

    payload = {"do": "run_for_a_while", "number": 0}
    watched = world.watch()
    lane = world.lane(sample_only)
    bodies = [external(sample_only, id_, **payload) for id_ in ("first", "second")]
    attributes = {}
    if loser == "revived":
        key = sample_only.key_of_message(Queue.DEFAULT, payload, None)
        assert key is not None
        put(world, sample_only, "second", payload, **archived(unique_key=key.key))
        attributes = dead(0)
    held = Held()
    with world.rival(sample_only, held) as one, world.rival(sample_only) as other, ThreadPoolExecutor(2) as threads:
        held.connection = one.database.get()
        won = threads.submit(handle, one, record(bodies[0], lane))
        assert held.claimed.wait(PATIENCE_SECONDS)
        # when the second claims
        lost = threads.submit(handle, other, record(bodies[1], lane, attributes=attributes))
        wait_until(lambda: waiting_for_a_lock(world))
        held.open.set()
        # then it waits for the commit and sees the holder of the key
        if lost.result(20):  # on a slow machine it stops waiting, and its message comes again
            assert watched.visibilities == [5]
            assert handle(other, record(bodies[1], lane, attributes=attributes)) == []
        go_on.set()
        assert won.result(20) == []
    row = world.row("second")
    if loser == "new":
        assert states(world) == {"first": "completed", "second": "cancelled"}
        assert row["reason"] == "DuplicateTask: its unique key is held by first"
    else:
        assert states(world) == {"first": "completed", "second": "archived"}
        (dead_letter,) = world.dead_letters(sample_only)
        assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"].endswith("held by first")
    assert row["runs"] == (0 if loser == "new" else 4)


def test_two_duplicates_in_one_batch_run_one_after_the_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sample_batch.__dict__, "unique_for", HOUR)
    running: list[str] = []

    @behaviour
    def alone(payload: Sample, ctx: TaskContext) -> None:
        assert running == []
        running.append(ctx.task_id)
        assert world.run("select count(*)::int from joblane.tasks where state = 'active'") == [[1]]
        running.clear()

    bodies = [external(sample_batch, id_, do="alone", number=0) for id_ in ("first", "second")]
    assert world.deliver(sample_batch, *bodies) == []
    assert states(world) == {"first": "completed", "second": "completed"}


# --- Redriven dead letters -----------------------------------------------------------------------------------------


def test_a_dead_letter_whose_key_is_taken_returns_with_the_holder_and_runs_later(
    world: World, client: JobClient
) -> None:
    # given a task that was archived, and a new one of its key
    first = client.enqueue(sample_only, Sample(do="archive_at_once"))
    assert world.deliver(sample_only, recorded(sample_only, first.id)) == []
    (dead_letter,) = world.dead_letters(sample_only)
    world.sqs.client.purge_queue(QueueUrl=world.sqs.url(f"{world.lane(sample_only)}-dlq"))
    second = client.enqueue(sample_only, Sample(do="archive_at_once"))
    before = world.row(first.id)

    # when its dead letter is redriven
    assert world.deliver(sample_only, dead_letter["Body"], attributes=dead(0)) == []

    # then it is a dead letter of the same generation again, and the row is unchanged
    (again,) = world.dead_letters(sample_only)
    marks = {name: value["StringValue"] for name, value in again["MessageAttributes"].items()}
    assert marks == {
        "joblane-dead": "0",
        "joblane-reason": f"DuplicateTask: its unique key is held by {second.id}",
    }
    assert json.loads(again["Body"])["id"] == first.id
    assert world.row(first.id) == before
    assert world.row(second.id)["state"] == "pending"

    # and it runs when the key is free
    assert client.cancel(second.id) is State.CANCELLED
    world.run("update joblane.tasks set payload = jsonb_set(payload, '{do}', '\"nothing\"') where id = $1", first.id)
    assert world.deliver(sample_only, again["Body"], attributes=dead(0)) == []
    row = world.row(first.id)
    assert (row["state"], row["generation"]) == ("completed", 1)


def test_a_revived_task_holds_its_key_again(world: World, client: JobClient) -> None:
    @behaviour
    def revived_holds(payload: Sample, ctx: TaskContext) -> None:
        if world.row(ctx.task_id)["generation"] == 0:
            raise SkipRetry("no use")
        with pytest.raises(DuplicateTaskError, match=ctx.task_id):
            client.enqueue(sample_only, payload)

    first = client.enqueue(sample_only, Sample(do="revived_holds"))
    world.deliver(sample_only, recorded(sample_only, first.id))
    assert world.deliver(sample_only, recorded(sample_only, first.id), attributes=dead(0)) == []
    assert states(world) == {first.id: "completed"}
