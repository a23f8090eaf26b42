"""Enqueueing: delays are exact, results are in order, threads and forks share no connection."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import pytest
from moto import mock_aws
from sqlalchemy import text

from joblane import Enqueued, JobClient, MessageClient, Queue
from joblane.enqueue.check import new_id
from joblane.enqueue.wake import wake
from joblane.errors import (
    DatabaseUnavailableError,
    JobError,
    SendError,
    TaskIdConflictError,
)
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.record.task.insert import INSERT
from joblane.sqs.client import PAUSE_SECONDS
from joblane.sqs.message import decode
from joblane.sweep.sweep import sweep
from joblane.tasks.job import Job
from joblane.testing.faults import Send
from tests.integration.enqueue.conftest import Another, Loose, sample_loose
from tests.samples import Sample, sample_batch, sample_one
from tests.sends import Sends
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
END_OTHERS = """
select pg_terminate_backend(pid) from pg_stat_activity
 where pid <> pg_backend_pid() and datname = current_database()
"""


@pytest.fixture
def bare(world: World) -> MessageClient:
    world.lane(sample_one)
    return MessageClient()


def seconds_until(world: World, id_: str, column: str) -> float:
    """Return the seconds from the row's creation to a time in it."""
    sql = f"select extract(epoch from {column} - created_at)::float8 from joblane.tasks where id = $1"
    return float(world.run(sql, id_)[0][0])


# --- Connections -----------------------------------------------------------------------------------------------------


def test_a_client_closes_its_connection_at_the_end_of_a_block(world: World) -> None:
    with JobClient() as jobs:
        made = jobs.enqueue(sample_one, Sample())
        database = jobs._producer.database()
        assert database.open
    assert not database.open
    # and it can be used again
    assert jobs.get(made.id) is not None
    jobs.close()


def test_a_client_that_was_not_closed_leaves_no_socket_open(world: World) -> None:
    jobs = JobClient()
    jobs.enqueue(sample_one, Sample())
    database = jobs._producer.database()
    del jobs
    gc.collect()
    assert not database.open


def test_a_connection_that_the_server_ended_is_replaced(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample())
    world.run(END_OTHERS)
    assert world.client.enqueue(sample_one, Sample()).sent
    assert world.run("select count(*)::int from joblane.tasks") == [[2]]


# --- One task ------------------------------------------------------------------------------------------------------


def test_a_task_is_a_row_and_a_message_with_the_same_id(world: World, sends: Sends) -> None:
    info = world.client.enqueue(sample_one, Sample(number=7), tenant="acme", headers={"traceparent": "t"})
    assert info == Enqueued(info.id, "sample:one", Queue.DEFAULT, info.state, sent=True)
    row = world.row(info.id)
    assert (row["type"], row["queue"], row["tenant"], row["state"]) == ("sample:one", "default", "acme", "pending")
    assert (row["payload"], row["headers"]) == ({"do": "nothing", "number": 7}, {"traceparent": "t"})
    assert (row["max_attempts"], row["attempts"], row["retention_seconds"], row["sends"]) == (4, 0, 86400, 0)
    (entry,) = sends.to(LANE)
    message = decode(entry["MessageBody"])
    assert (message.id, message.rec, message.payload) == (info.id, True, {"do": "nothing", "number": 7})
    assert message.schema == sample_one.schema_digest
    assert message.enqueued_at is not None
    assert abs(message.enqueued_at - time.time()) < 60
    assert entry["MessageGroupId"] == "acme"


def test_another_lane_of_the_type_may_be_named(world: World, sends: Sends) -> None:
    world.sqs.client.create_queue(QueueName="jobs-critical-sample-batch")
    for queue in (Queue.CRITICAL, "critical"):
        assert world.client.enqueue(sample_batch, Sample(), queue=queue).queue is Queue.CRITICAL  # type: ignore[arg-type]
    assert len(sends.to("jobs-critical-sample-batch")) == 2


def test_the_prefix_is_a_setting(world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_PREFIX", "dev")
    world.sqs.client.create_queue(QueueName="dev-default-sample-one")
    world.client.enqueue(sample_one, Sample())
    assert len(sends.to("dev-default-sample-one")) == 1


def test_ids_are_uuids_of_version_7_in_order_of_time() -> None:
    import uuid

    ids = [new_id()]
    for _ in range(3):
        time.sleep(0.002)
        ids.append(new_id())
    assert ids == sorted(ids)
    assert {uuid.UUID(id_).version for id_ in ids} == {7}
    assert {uuid.UUID(id_).variant for id_ in ids} == {uuid.RFC_4122}
    assert len({new_id() for _ in range(5000)}) == 5000


def test_odd_text_arrives_as_it_was_given(world: World, sends: Sends) -> None:
    odd = 'é\u2028\ufffe\uffff\U0001fffe\u0001\x7f\\ " </script>'
    world.lane(sample_loose)
    id_ = world.client.enqueue(sample_loose, Loose(value={odd: odd}), headers={odd: odd}).id
    assert world.row(id_)["payload"]["value"] == {odd: odd}
    assert world.row(id_)["headers"] == {odd: odd}
    (body,) = (message["Body"] for message in world.take(sample_loose))
    assert decode(body).payload == {"value": {odd: odd}, "number": 0.0}


def test_a_payload_above_a_message_stays_in_the_row(world: World, sends: Sends) -> None:
    world.lane(sample_loose)
    big = Loose(value="é" * (MAX_MESSAGE_BYTES // 2))
    info = world.client.enqueue(sample_loose, big)
    assert info.sent
    (body,) = (message["Body"] for message in world.take(sample_loose))
    assert decode(body).payload is None
    assert world.deliver(sample_loose, body) == []
    assert world.row(info.id)["state"] == "completed"


# --- Distances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "delay"),
    [
        *((0, 0), (0.4, 1), (1, 1), (899, 899), (899.5, 900), (900, 900)),
        *((far, None) for far in (901, 3 * 3600, 86400 * 20, 86400 * 3650)),
    ],
)
def test_a_task_within_reach_of_sqs_waits_there_and_another_in_its_row_alone(
    world: World, sends: Sends, seconds: float, delay: int | None
) -> None:
    info = world.client.enqueue(sample_one, Sample(), process_in=timedelta(seconds=seconds))
    assert sends.delays(LANE) == ([] if delay is None else [delay])
    assert (info.sent, info.state) == (delay is not None, "scheduled" if seconds else "pending")
    assert world.row(info.id)["state"] == info.state
    assert abs(seconds_until(world, info.id, "due_at") - seconds) < 0.5
    assert abs(seconds_until(world, info.id, "sweep_at") - (seconds + (60 if info.sent else -900))) < 0.5


@pytest.mark.parametrize("zone", [ZoneInfo("Asia/Kolkata"), timezone(timedelta(hours=23))], ids=str)
def test_a_moment_of_any_time_zone_is_kept_exactly(world: World, sends: Sends, zone: tzinfo) -> None:
    for ahead in (-(10**9), -5, 0, 30, 890, 3 * 3600):
        sends.clear()
        at = datetime.now(UTC) + timedelta(seconds=ahead)
        end = datetime.now(UTC) + timedelta(days=1)
        info = world.client.enqueue(sample_one, Sample(), process_at=at.astimezone(zone), deadline=end.astimezone(zone))
        row = world.row(info.id)
        assert [datetime.fromisoformat(row[name]) for name in ("due_at", "deadline")] == [at, end]
        assert info.sent == (ahead <= 900)
        assert all(max(0, ahead - 5) <= delay <= max(0, ahead) for delay in sends.delays(LANE))


def test_the_earliest_moment_there_is_means_now(world: World, sends: Sends) -> None:
    info = world.client.enqueue(sample_one, Sample(), process_at=datetime.min.replace(tzinfo=UTC))
    assert sends.delays(LANE) == [0]
    assert world.row(info.id)["state"] == "pending"


def test_a_task_out_of_reach_is_sent_by_the_sweep_with_the_rest_of_its_delay(world: World, sends: Sends) -> None:
    info = world.client.enqueue(sample_one, Sample(), process_in=timedelta(hours=3))
    sweep(world.database.get(), world.sqs, PREFIX)
    assert sends.messages == []
    world.run(
        "update joblane.tasks set due_at = due_at - interval '2 h 50 min', sweep_at = sweep_at - interval '2 h 50 min'"
        " where id = $1",
        info.id,
    )
    sweep(world.database.get(), world.sqs, PREFIX)
    assert [590 < delay <= 600 for delay in sends.delays(LANE)] == [True]


# --- Ids that are taken --------------------------------------------------------------------------------------------


def test_an_id_that_is_known_is_a_conflict_even_after_the_end_of_its_task(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample(number=1), task_id="mine")
    for state in ("pending", "completed"):
        with pytest.raises(TaskIdConflictError, match="task_id: 'mine' is the id of") as caught:
            world.client.enqueue(sample_one, Sample(number=2), task_id="mine", process_in=timedelta(1))
        row = world.row("mine")
        assert (caught.value.task_id, row["payload"]["number"], row["state"]) == ("mine", 1, state)
        for message in world.take(sample_one):
            world.deliver(sample_one, message["Body"])
    assert len(sends.messages) == 1


def test_clients_whose_many_ids_overlap_do_not_deadlock(world: World, sends: Sends, another: Another) -> None:
    ids = [f"task-{number}" for number in range(300)]

    def enqueue(order: list[str]) -> list[Enqueued | JobError]:
        return another().enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in order])

    with ThreadPoolExecutor(2) as threads:
        results = [type(one) for answers in threads.map(enqueue, (ids, ids[::-1])) for one in answers]
    assert Counter(results) == {Enqueued: 300, TaskIdConflictError: 300}


# --- Many ----------------------------------------------------------------------------------------------------------


def test_a_thousand_tasks_are_one_insert_and_batched_sends(world: World, sends: Sends, another: Another) -> None:
    statements: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        statements.append(sql)
        return send()

    jobs = another(hook)
    jobs.enqueue(sample_one, Sample())  # connected, addresses known
    sends.clear()
    statements.clear()
    results = jobs.enqueue_many(Job(sample_one, Sample(number=number)) for number in range(1000))
    assert statements == [INSERT]
    assert sends.requests == 100
    assert len(sends.messages) == 1000
    numbers = dict(world.run("select id, (payload->>'number')::int from joblane.tasks"))
    assert [numbers[result.id] for result in results if isinstance(result, Enqueued)] == list(range(1000))


@pytest.mark.parametrize("client", [JobClient, MessageClient])
def test_no_jobs_are_no_work(sends: Sends, client: type[JobClient | MessageClient]) -> None:
    assert client().enqueue_many([]) == []
    assert sends.messages == []


def test_results_come_in_the_order_of_the_jobs_for_any_ids_and_delays(world: World, sends: Sends) -> None:
    hours, ids = (0, 3, 0, 5, 0), ("z", "b", "a", "y", "c")
    jobs = [
        Job(sample_one, Sample(), task_id=id_, process_in=timedelta(hours=hour))
        for id_, hour in zip(ids, hours, strict=True)
    ]
    results = world.client.enqueue_many(jobs)
    assert [(result.id, result.sent) for result in results if isinstance(result, Enqueued)] == [
        ("z", True),
        ("b", False),
        ("a", True),
        ("y", False),
        ("c", True),
    ]


def test_many_of_several_types_go_to_their_lanes(world: World, sends: Sends) -> None:
    world.lane(sample_batch)
    jobs = [Job((sample_one, sample_batch)[number % 2], Sample()) for number in range(40)]
    assert all(isinstance(result, Enqueued) and result.sent for result in world.client.enqueue_many(jobs))
    assert (len(sends.to(LANE)), len(sends.to("jobs-default-sample-batch"))) == (20, 20)


# --- An unavailable SQS-----------------------------------------------------------------------------------------------


def test_messages_that_sqs_refuses_are_reported_apart_from_the_others(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        world.client._producer.sqs.brief_client,
        "send_message_batch",
        lambda **_: {
            "Successful": [{"Id": "0"}, {"Id": "2"}],
            "Failed": [{"Id": "1", "Code": "InternalError", "SenderFault": True}],
        },
    )
    results = world.client.enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in "abc"])
    assert [result.sent for result in results if isinstance(result, Enqueued)] == [True, False, True]


# --- Without a record ----------------------------------------------------------------------------------------------


def test_without_a_record_a_message_is_all_there_is(
    bare: MessageClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    info = bare.enqueue(sample_one, Sample(number=3), process_in=timedelta(seconds=0), tenant="acme")
    assert info.sent
    (received,) = world.take(sample_one)
    message = decode(received["Body"])
    assert (message.id, message.rec, message.payload) == (info.id, False, {"do": "nothing", "number": 3})
    assert world.deliver(sample_one, received["Body"]) == []
    assert world.row(info.id)["state"] == "completed"


def test_without_a_record_a_task_waits_fifteen_minutes_at_most(bare: MessageClient) -> None:
    watched = Sends.of(bare._sqs)
    bare.enqueue(sample_one, Sample(), process_in=timedelta(seconds=900), retention=timedelta(days=1))
    bare.enqueue(sample_one, Sample(), process_at=datetime.now(UTC) + timedelta(seconds=899))
    assert watched.delays(LANE) == [900, 899]


def test_without_a_record_a_client_closes_its_connections_at_the_end_of_a_block(
    bare: MessageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Mock(side_effect=bare._sqs.client.close)
    monkeypatch.setattr(bare._sqs.client, "close", close)

    async def main() -> None:
        async with bare as sender:
            assert (await sender.aenqueue(sample_one, Sample())).sent

    with bare as sender:
        sender.enqueue(sample_one, Sample())
    assert close.call_count == 1
    asyncio.run(main())  # it can be used again
    assert close.call_count == 2


def test_without_a_record_an_event_loop_does_not_wait_for_sqs(bare: MessageClient, world: World) -> None:
    async def main() -> list[Enqueued | JobError]:
        first = await bare.aenqueue(sample_one, Sample(), task_id="a")
        return [first, *await bare.aenqueue_many([Job(sample_one, Sample(), task_id="b")])]

    assert [result.id for result in asyncio.run(main()) if isinstance(result, Enqueued)] == ["a", "b"]
    assert {decode(received["Body"]).id for received in world.take(sample_one)} == {"a", "b"}


def test_without_a_record_a_message_that_sqs_does_not_take_is_an_error(bare: MessageClient, world: World) -> None:
    with pytest.raises(SendError, match=r"jobs-default-sample-loose: .*does not exist"):
        bare.enqueue(sample_loose, Loose())
    results = bare.enqueue_many([Job((sample_loose, sample_one)[n % 2], (Loose(), Sample())[n % 2]) for n in range(24)])
    assert [type(result) for result in results] == [SendError, Enqueued] * 12
    assert str(results[0]).count("jobs-default-sample-loose") == 1


# --- Threads, and a database and an SQS that do not answer ---------------------------------------------------------


def test_one_fresh_client_serves_many_threads_with_one_connection(world: World, sends: Sends) -> None:
    [[before]] = world.run("select count(*) from pg_stat_activity where datname = current_database()")

    def enqueue(_: int) -> list[Enqueued]:
        return [client.enqueue(sample_one, Sample()) for _ in range(10)]

    with JobClient() as client, ThreadPoolExecutor(8) as threads:
        client._producer.sqs = world.sqs
        results = [one for made in threads.map(enqueue, range(8)) for one in made]
        [[after]] = world.run("select count(*) from pg_stat_activity where datname = current_database()")
    assert (len({result.id for result in results}), {result.sent for result in results}) == (80, {True})
    assert world.run("select count(*) from joblane.tasks") == [[80]]
    assert len(sends.messages) == 80
    assert after == before + 1, "the client has more or less than one connection"


@pytest.mark.parametrize("commits", [True, False], ids=["after the commit", "before it"])
def test_an_enqueue_whose_answer_was_lost_is_one_task_and_takes_no_other(
    world: World, sends: Sends, another: Another, commits: bool
) -> None:
    world.client.enqueue(sample_one, Sample(number=1), task_id="theirs")
    lost: list[str] = []

    def hook(sql: str, send: Send) -> Any:
        if "insert" not in sql or lost:
            return send()
        lost.append(sql)
        if commits:
            send()
        raise ConnectionResetError("the answer is lost")

    jobs = [Job(sample_one, Sample(number=2), task_id=id_) for id_ in (None, "mine", None, "theirs")]
    *made, conflict = another(hook).enqueue_many(jobs)
    assert [result.sent for result in made if isinstance(result, Enqueued)] == [True] * 3
    assert isinstance(conflict, TaskIdConflictError)
    assert (len(sends.to(LANE)), len(lost)) == (4, 1)
    assert world.run("select count(*)::int from joblane.tasks") == [[4]]


def test_a_thread_waits_a_limited_time_for_the_clients_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.enqueue.producer.LONGEST_TURN_SECONDS", 0.05)
    with (
        world.client._producer._lock,
        pytest.raises(DatabaseUnavailableError, match="other threads have used the client's conn"),
    ):
        world.client.enqueue(sample_one, Sample())


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """An SQS that accepts connections and does not answer. Yields the connections."""
    accepted: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                accepted.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{listener.getsockname()[1]}")
        with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"]}}}):
            yield accepted
        listener.shutdown(socket.SHUT_RDWR)
        for connection in accepted:
            connection.close()


def test_commits_stay_fast_while_sqs_does_not_answer(world: World, silent: list[socket.socket]) -> None:
    with JobClient() as jobs:
        started = time.monotonic()
        for _ in range(20):
            assert not jobs.enqueue(sample_one, Sample()).sent
        jobs.enqueue_many([Job(sample_one, Sample()) for _ in range(50)])
        assert time.monotonic() - started < 30, "four tries took 40 s"
        assert len(silent) == 1
        # half a minute later it tries again
        jobs._producer.sqs._paused_until -= PAUSE_SECONDS
        assert not jobs.enqueue(sample_one, Sample()).sent
        assert len(silent) == 2
        # and a wake-up of the sweep is a single try as well
        jobs._producer.sqs._paused_until -= PAUSE_SECONDS
        wake(jobs._producer.sqs, PREFIX)
        assert len(silent) == 3


# --- A fork --------------------------------------------------------------------------------------------------------


def backends(jobs: JobClient) -> list[Any]:
    """Return the servers' processes of a client's connection, and of its engine for sessions."""
    [[own]] = jobs._producer.database().get().run("select pg_backend_pid()")
    with jobs._producer.database().engine.connect() as connection:
        return [own, connection.scalar(text("select pg_backend_pid()"))]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_parent_and_child_of_a_fork_have_their_own_connections(world: World, sends: Sends) -> None:
    with JobClient() as jobs:
        jobs._producer.sqs = world.sqs
        jobs.enqueue(sample_one, Sample())
        backend = backends(jobs)
        clients = [jobs._producer.sqs.client, jobs._producer.sqs.brief_client]
        with jobs._producer._lock:  # another thread may use the client while the process forks
            child = os.fork()
            if not child:
                code = 1
                with suppress(BaseException):
                    shared = [jobs._producer.sqs.client, jobs._producer.sqs.brief_client, *backends(jobs)]
                    jobs._producer.sqs.send_many = Mock(return_value={})  # type: ignore[method-assign]
                    jobs.enqueue_many([Job(sample_one, Sample()) for _ in range(10)])
                    code = 2 if any(one in [*clients, *backend] for one in shared) else 0
                os._exit(code)
        for _ in range(10):
            jobs.enqueue(sample_one, Sample())
        assert os.waitpid(child, 0)[1] == 0
        assert backends(jobs) == backend
    assert world.run("select count(*)::int from joblane.tasks") == [[21]]
