"""Enqueueing: bad input is refused before any write or send, delays are exact, results are in order."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import pytest
from moto import mock_aws
from pg8000.exceptions import DatabaseError
from sqlalchemy import text

from joblane import Enqueued, JobClient, MessageClient, Payload, Queue, TaskContext, task
from joblane.client.client import client_within
from joblane.enqueue.check import new_id
from joblane.enqueue.wake import wake
from joblane.errors import (
    DatabaseUnavailableError,
    EnqueueError,
    JobError,
    LaneError,
    PayloadError,
    SendError,
    TaskIdConflictError,
)
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.record.driver.connection import Connection
from joblane.record.task.insert import INSERT
from joblane.settings import MissingSettingError
from joblane.sqs.client import PAUSE_SECONDS
from joblane.sqs.message import decode
from joblane.sweep.sweep import sweep
from joblane.tasks.job import Job
from joblane.testing.faults import HookedDatabase
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_batch, sample_one
from tests.sends import Sends
from tests.world import PREFIX, World

LANE = "jobs-default-sample-one"
SECRET = "hunter2"
END_OTHERS = """
select pg_terminate_backend(pid) from pg_stat_activity
 where pid <> pg_backend_pid() and datname = current_database()
"""


class Loose(Payload):
    """Accepts any value, so that the checks after it must refuse it."""

    value: Any = None
    number: float = 0


@task("sample:loose")
def sample_loose(payload: Loose, ctx: TaskContext) -> None:
    pass


@pytest.fixture
def sends(world: World) -> Sends:
    world.lane(sample_one)
    world.client._producer.sqs = world.sqs
    return Sends.of(world.sqs)


@pytest.fixture
def bare(world: World) -> MessageClient:
    world.lane(sample_one)
    return MessageClient()


@contextmanager
def nothing_happens(world: World, sends: Sends) -> Iterator[None]:
    """Assert that nothing is written or sent inside the block."""
    before = world.run("select count(*) from joblane.tasks")
    sends.clear()
    yield
    assert world.run("select count(*) from joblane.tasks") == before
    assert sends.messages == []


def seconds_until(world: World, id_: str, column: str) -> float:
    """Return the seconds from the row's creation to a time in it."""
    sql = f"select extract(epoch from {column} - created_at)::float8 from joblane.tasks where id = $1"
    return float(world.run(sql, id_)[0][0])


# --- Bad input -----------------------------------------------------------------------------------------------------


BAD_OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"queue": "fast"}, "queue", "'fast' is not one of critical, default, low"),
    ({"queue": 3}, "queue", "3 is not one of critical, default, low"),
    ({"queue": Queue.LOW}, "queue", "'sample:one' has no lane in 'low'; it has one in: default. Add it by also="),
    ({"process_in": 60}, "process_in", "a timedelta from 0 seconds to 3650 days is required, not 60"),
    ({"process_in": "soon"}, "process_in", "a timedelta from 0 seconds to 3650 days is required, not 'soon'"),
    ({"process_in": timedelta(seconds=-1)}, "process_in", "0 seconds to 3650 days is required"),
    ({"process_in": timedelta(days=3651)}, "process_in", "0 seconds to 3650 days is required, not 3651 days"),
    ({"process_in": True}, "process_in", "from 0 seconds to 3650 days is required, not True"),
    ({"process_in": float("nan")}, "process_in", "from 0 seconds to 3650 days is required, not nan"),
    ({"process_in": 10**5000}, "process_in", "from 0 seconds to 3650 days is required, not int"),
    ({"process_in": Sample(do=SECRET)}, "process_in", "from 0 seconds to 3650 days is required, not Sample"),
    ({"queue": Sample(do=SECRET)}, "queue", "Sample is not one of critical, default, low"),
    ({"retry_delay": Sample(do=SECRET)}, "retry_delay", "(attempt, error) -> timedelta, not Sample"),
    ({"timeout": "x" * 100_000}, "timeout", f"declares, is required, not '{'x' * 90}…'"),
    ({"process_in": timedelta.max}, "process_in", "0 seconds to 3650 days is required"),
    ({"process_at": datetime(2030, 1, 1)}, "process_at", "an aware datetime is required"),  # noqa: DTZ001
    ({"process_at": 1893456000}, "process_at", "an aware datetime is required, not int"),
    ({"process_at": "2030-01-01T00:00:00Z"}, "process_at", "an aware datetime is required, not str"),
    ({"process_at": datetime(2099, 1, 1, tzinfo=UTC)}, "process_at", "at most 3650 days ahead"),
    ({"process_at": datetime.max.replace(tzinfo=UTC)}, "process_at", "at most 3650 days ahead"),
    ({"process_in": timedelta(1), "process_at": datetime.now(UTC)}, "process_at", "not both"),
    ({"task_id": ""}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": 7}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": "x" * 201}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": "a b"}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": "é"}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": "a\n"}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": "a\0"}, "task_id", "1 to 200 printable ASCII characters"),
    ({"task_id": "sample:one:0:2026-01-31T02:00Z"}, "task_id", "has the form of a tick's id"),
    ({"tenant": ""}, "tenant", "1 to 128 ASCII letters, digits and punctuation"),
    ({"tenant": "a b"}, "tenant", "1 to 128 ASCII letters, digits and punctuation"),
    ({"tenant": "é"}, "tenant", "1 to 128 ASCII letters, digits and punctuation"),
    ({"tenant": "x" * 129}, "tenant", "1 to 128 ASCII letters, digits and punctuation"),
    ({"tenant": 5}, "tenant", "1 to 128 ASCII letters, digits and punctuation"),
    ({"headers": {"a": 1}}, "headers", "strings of at most 1,000 characters are required, under names of at most 100"),
    ({"headers": {"a": SECRET * 200}}, "headers", "strings of at most 1,000 characters"),
    ({"headers": {"a" * 101: ""}}, "headers", "strings of at most 1,000 characters"),
    ({"headers": {1: ""}}, "headers", "strings of at most 1,000 characters"),
    ({"headers": {"a": SECRET + "\0"}}, "headers", "contains a NUL character"),
    ({"headers": {"a": "\ud800"}}, "headers", "contains a lone surrogate"),
    ({"headers": {"a\0": ""}}, "headers", "contains a NUL character"),
    ({"headers": {"\ud800": ""}}, "headers", "contains a lone surrogate"),
    ({"headers": {str(number): "" for number in range(33)}}, "headers", "at most 32 are allowed, not 33"),
    ({"headers": [("a", "b")]}, "headers", "a mapping is required, not list"),
    ({"process_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=23)))}, "process_at", "within the calendar"),
]


def test_bad_options_are_refused_by_name_before_anything_is_written(world: World, sends: Sends) -> None:
    with nothing_happens(world, sends):
        for options, field, why in BAD_OPTIONS:
            with pytest.raises(EnqueueError) as caught:
                world.client.enqueue(sample_one, Sample(), **options)
            assert (caught.value.field, options) == (field, options)
            assert str(caught.value).startswith(f"{field}: ")
            assert why in str(caught.value)
            assert SECRET not in str(caught.value)
            assert ("timedelta(seconds=" in str(caught.value)) == (options == {"process_in": 60})


def test_bad_options_of_one_among_many_are_refused_with_its_position(world: World, sends: Sends) -> None:
    good = Job(sample_one, Sample())
    with nothing_happens(world, sends):
        for options, field, why in BAD_OPTIONS:
            bad = Job(sample_one, Sample(), **options)
            for jobs, position in (([bad, good], 0), ([good, bad], 1)):
                with pytest.raises(EnqueueError) as caught:
                    world.client.enqueue_many(jobs)
                assert str(caught.value).startswith(f"job {position}: {field}: ")
                assert why in str(caught.value)


def test_a_missing_lane_is_refused_with_the_existing_lanes(world: World) -> None:
    with pytest.raises(LaneError, match="'sample:batch' has no lane in 'low'; it has one in: default, critical"):
        world.client.enqueue(sample_batch, Sample(), queue=Queue.LOW)


@pytest.mark.parametrize("odd", ["sample:one", print, None])
def test_what_is_no_task_is_refused(world: World, odd: Any) -> None:
    with pytest.raises(EnqueueError, match="task: a function declared by @task is required, not"):
        world.client.enqueue(odd, Sample())


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("countdown", "did you mean process_in?"),
        ("eta", "did you mean process_at?"),
        ("max_retries", "did you mean max_retry?"),
        ("time_out", "did you mean timeout?"),
        ("colour", "there are queue, process_in, "),
    ],
)
def test_an_unknown_option_is_refused_with_the_similar_ones(world: World, sends: Sends, option: str, hint: str) -> None:
    odd: dict[str, Any] = {option: 5}
    with nothing_happens(world, sends), pytest.raises(EnqueueError) as caught:
        world.client.enqueue(sample_one, Sample(), **odd)
    assert caught.value.field == option
    assert str(caught.value).startswith(f"{option}: there is no such option; {hint}")


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


def test_times_with_a_long_offset_are_taken(world: World) -> None:
    far = timezone(timedelta(hours=23))
    later = datetime.now(far) + timedelta(hours=2)
    made = world.client.enqueue(sample_one, Sample(), process_at=later, deadline=later + timedelta(hours=1))
    assert seconds_until(world, made.id, "due_at") == pytest.approx(7200, abs=5)
    assert seconds_until(world, made.id, "deadline") == pytest.approx(10800, abs=5)


def test_a_payload_that_was_changed_unchecked_is_refused_and_not_shown(
    world: World, sends: Sends, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = Sample().model_copy(update={"number": SECRET})
    with (
        nothing_happens(world, sends),
        pytest.raises(PayloadError, match="payload: number: the value cannot be written as JSON") as caught,
    ):
        world.client.enqueue(sample_one, odd)
    assert SECRET not in str(caught.value) + capfd.readouterr().err


def test_what_the_database_can_never_hold_is_not_to_be_enqueued_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = DatabaseError({"C": "54000", "M": "string too long to represent as jsonb string"})
    monkeypatch.setattr("joblane.enqueue.own.insert_tasks", Mock(side_effect=error))
    with pytest.raises(EnqueueError, match="payload: the database cannot store it: string too long"):
        world.client.enqueue(sample_one, Sample())


def test_questions_of_a_wrong_kind_are_refused_by_name(world: World) -> None:
    for ask in (world.client.get, world.client.cancel):
        with pytest.raises(TypeError, match="task_id: a text is required, not int"):
            ask(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout: a timedelta is required, not int"):
        world.client.wait("x", 5)  # type: ignore[arg-type]


def test_without_a_record_what_only_a_row_can_hold_is_refused(bare: MessageClient) -> None:
    with pytest.raises(EnqueueError, match="owner: it needs a row"):
        bare.enqueue(sample_one, Sample(), owner="ann")  # type: ignore[call-arg]
    with pytest.raises(EnqueueError, match="retention: 0 seconds to 1 day, which 'sample:one' declares"):
        bare.enqueue(sample_one, Sample(), retention=timedelta(days=2))
    assert bare.enqueue(sample_one, Sample(), retention=timedelta(hours=2)).sent


def test_a_payload_of_another_class_is_refused(world: World, sends: Sends) -> None:
    wrong: Any
    for wrong in (None, {"do": SECRET}, SECRET, Loose(), 5):
        with (
            nothing_happens(world, sends),
            pytest.raises(PayloadError, match="payload: sample:one takes Sam") as caught,
        ):
            world.client.enqueue(sample_one, wrong)
        assert SECRET not in str(caught.value)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD_PAYLOADS: list[tuple[dict[str, Any], str]] = [
    ({"value": SECRET + "\0"}, "contains a NUL character"),
    ({"value": [{"\0": 1}]}, "contains a NUL character"),
    ({"value": SECRET + "\ud800"}, "contains a lone surrogate"),
    ({"value": deep(70)}, "nested deeper than 64 levels"),
    ({"value": deep(5000)}, "payload: "),
    ({"value": float("nan")}, "payload: value: "),
    ({"value": [float("inf")]}, "payload: value: "),
    ({"number": float("-inf")}, "payload: number: "),
    ({"value": 10**5000}, "payload: value: "),
    ({"value": b"\xff\xfe"}, "payload: value: "),
    ({"value": object()}, "payload: value: "),
]


@pytest.mark.parametrize("record", [True, False])
def test_a_payload_that_no_message_or_row_can_hold_is_refused(world: World, sends: Sends, record: bool) -> None:
    client: JobClient | MessageClient = world.client if record else MessageClient()
    with nothing_happens(world, sends):
        for payload, why in BAD_PAYLOADS:
            with pytest.raises(PayloadError) as caught:
                client.enqueue(sample_loose, Loose(**payload))
            assert caught.value.field == "payload"
            assert why in str(caught.value)
            assert SECRET not in str(caught.value)


def test_two_jobs_of_one_call_with_the_same_id_are_refused(world: World, sends: Sends) -> None:
    jobs = [Job(sample_one, Sample(), task_id=id_) for id_ in ("a", "b", "a")]
    with nothing_happens(world, sends), pytest.raises(EnqueueError, match="task_id: 'a' is given to two jobs"):
        world.client.enqueue_many(jobs)


def test_a_missing_address_of_the_database_is_named(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    with nothing_happens(world, sends):
        for _ in range(2):
            with pytest.raises(
                MissingSettingError, match=r"DATABASE_URL is not set: .* for example DATABASE_URL=postg"
            ):
                world.client.enqueue(sample_one, Sample())


def test_an_address_of_something_else_is_refused_without_its_password(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"mysql://user:{SECRET}@host/db")
    with nothing_happens(world, sends):
        for _ in range(2):
            with pytest.raises(ValueError, match="DATABASE_URL: postgresql://user:password@") as caught:
                world.client.enqueue(sample_one, Sample())
            assert SECRET not in str(caught.value)


def test_a_bad_prefix_is_refused(world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_PREFIX", "Jobs!")
    with nothing_happens(world, sends), pytest.raises(ValueError, match="prefix: 'Jobs!' is not lower-case"):
        world.client.enqueue(sample_one, Sample())


# --- An unavailable database-----------------------------------------------------------------------------------------


def test_an_unavailable_database_is_an_error_and_nothing_is_sent(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = world.url.rpartition("/")[0]
    monkeypatch.setenv("DATABASE_URL", f"{url}/no_such_database")
    with nothing_happens(world, sends), pytest.raises(DatabaseUnavailableError, match="nothing was written or sent"):
        JobClient().enqueue(sample_one, Sample())
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@127.0.0.1:1/jobs")
    with (
        nothing_happens(world, sends),
        pytest.raises(DatabaseUnavailableError, match="nothing was written or sent") as caught,
    ):
        JobClient().enqueue(sample_one, Sample())
    assert "secret" not in str(caught.value)


def test_a_connection_that_the_server_ended_is_replaced(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample())
    world.run(END_OTHERS)
    assert world.client.enqueue(sample_one, Sample()).sent
    assert world.run("select count(*)::int from joblane.tasks") == [[2]]


def test_a_client_that_was_closed_can_be_used_again(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample())
    world.client.close()
    assert world.client.enqueue(sample_one, Sample()).sent


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


def test_without_a_record_a_payload_above_a_message_is_refused(bare: MessageClient, world: World) -> None:
    with pytest.raises(PayloadError, match=r"payload: .* bytes; at most 1048576 are possible with a MessageC"):
        bare.enqueue(sample_loose, Loose(value="x" * MAX_MESSAGE_BYTES))


# --- Distances -----------------------------------------------------------------------------------------------------


def test_a_task_within_reach_of_sqs_waits_there(world: World, sends: Sends) -> None:
    for seconds, delay in ((0, 0), (0.4, 1), (1, 1), (899, 899), (899.5, 900), (900, 900)):
        sends.clear()
        info = world.client.enqueue(sample_one, Sample(), process_in=timedelta(seconds=seconds))
        assert sends.delays(LANE) == [delay]
        assert info.sent
        assert info.state == ("scheduled" if seconds else "pending")
        assert world.row(info.id)["state"] == info.state
        assert abs(seconds_until(world, info.id, "due_at") - seconds) < 0.5
        assert abs(seconds_until(world, info.id, "sweep_at") - (seconds + 60)) < 0.5


def test_a_task_further_off_waits_in_its_row_alone(world: World, sends: Sends) -> None:
    for seconds in (901, 3 * 3600, 86400 * 20, 86400 * 3650):
        info = world.client.enqueue(sample_one, Sample(), process_in=timedelta(seconds=seconds))
        assert (info.sent, info.state) == (False, "scheduled")
        assert abs(seconds_until(world, info.id, "due_at") - seconds) < 0.5
        assert abs(seconds_until(world, info.id, "sweep_at") - (seconds - 900)) < 0.5
    assert sends.messages == []


def test_a_moment_of_any_time_zone_is_kept_exactly(world: World, sends: Sends) -> None:
    for ahead in (-(10**9), -5, 0, 30, 890, 3 * 3600):
        sends.clear()
        at = datetime.now(UTC) + timedelta(seconds=ahead)
        info = world.client.enqueue(sample_one, Sample(), process_at=at.astimezone(ZoneInfo("Asia/Kolkata")))
        assert datetime.fromisoformat(world.row(info.id)["due_at"]) == at
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


def test_an_id_that_is_known_is_a_conflict_and_leaves_the_task_as_it_was(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample(number=1), task_id="mine")
    with (
        nothing_happens(world, sends),
        pytest.raises(TaskIdConflictError, match="task_id: 'mine' is the id of") as caught,
    ):
        world.client.enqueue(sample_one, Sample(number=2), task_id="mine", process_in=timedelta(1))
    assert caught.value.task_id == "mine"
    assert world.row("mine")["payload"]["number"] == 1


def test_an_id_of_a_task_that_has_ended_is_still_known(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample(), task_id="mine")
    world.deliver(sample_one, world.take(sample_one)[0]["Body"])
    assert world.row("mine")["state"] == "completed"
    with pytest.raises(TaskIdConflictError):
        world.client.enqueue(sample_one, Sample(), task_id="mine")


def test_of_many_only_those_whose_id_is_known_fail(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample(), task_id="b")
    sends.clear()
    results = world.client.enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in "abc"])
    assert [type(result) for result in results] == [Enqueued, TaskIdConflictError, Enqueued]
    assert sorted(decode(entry["MessageBody"]).id or "" for entry in sends.to(LANE)) == ["a", "c"]


def test_of_clients_that_enqueue_one_id_at_once_one_wins(world: World, sends: Sends) -> None:
    clients = [JobClient() for _ in range(6)]
    barrier = threading.Barrier(6)
    results: list[Any] = []

    def enqueue(client: JobClient) -> None:
        barrier.wait()
        try:
            results.append(client.enqueue(sample_one, Sample(), task_id="mine"))
        except TaskIdConflictError as error:
            results.append(error)

    run_at_once([lambda client=client: enqueue(client) for client in clients])
    for client in clients:
        client.close()
    assert sorted(type(result).__name__ for result in results) == ["Enqueued"] + ["TaskIdConflictError"] * 5
    assert len(world.take(sample_one)) == 1


def test_clients_whose_many_ids_overlap_do_not_deadlock(world: World, sends: Sends) -> None:
    ids = [f"task-{number}" for number in range(300)]
    clients = [JobClient(), JobClient()]
    results: list[Any] = []
    run_at_once(
        [
            lambda client=client, order=order: results.extend(
                client.enqueue_many([Job(sample_one, Sample(), task_id=id_) for id_ in order])
            )
            for client, order in zip(clients, (ids, ids[::-1]), strict=True)
        ]
    )
    for client in clients:
        client.close()
    assert sum(isinstance(result, Enqueued) for result in results) == 300
    assert sum(isinstance(result, TaskIdConflictError) for result in results) == 300


# --- Many ----------------------------------------------------------------------------------------------------------


def test_a_thousand_tasks_are_one_insert_and_batched_sends(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.client.enqueue(sample_one, Sample())  # connected, addresses known
    sends.clear()
    statements = counted(monkeypatch)
    results = world.client.enqueue_many(Job(sample_one, Sample(number=number)) for number in range(1000))
    assert statements == [INSERT]
    assert sends.requests == 100
    assert len(sends.messages) == 1000
    numbers = dict(world.run("select id, (payload->>'number')::int from joblane.tasks"))
    assert [numbers[result.id] for result in results if isinstance(result, Enqueued)] == list(range(1000))


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


@pytest.mark.parametrize("client", [JobClient, MessageClient])
def test_no_jobs_are_no_work(world: World, sends: Sends, client: type[JobClient | MessageClient]) -> None:
    with nothing_happens(world, sends):
        assert client().enqueue_many([]) == []


def test_many_of_several_types_go_to_their_lanes(world: World, sends: Sends) -> None:
    world.lane(sample_batch)
    jobs = [Job((sample_one, sample_batch)[number % 2], Sample()) for number in range(40)]
    assert all(isinstance(result, Enqueued) and result.sent for result in world.client.enqueue_many(jobs))
    assert (len(sends.to(LANE)), len(sends.to("jobs-default-sample-batch"))) == (20, 20)


# --- An unavailable SQS-----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 25])
def test_a_lane_without_a_queue_leaves_the_rows_to_the_sweep(world: World, count: int) -> None:
    with lines() as logged:
        results = world.client.enqueue_many([Job(sample_loose, Loose(value=SECRET)) for _ in range(count)])
    assert [result.sent for result in results if isinstance(result, Enqueued)] == [False] * count
    (line,) = logged.fields
    assert (line["messages"], line["queue"]) == (count, "jobs-default-sample-loose")
    assert SECRET not in logged.texts[0]
    world.lane(sample_loose)
    world.run("update joblane.tasks set sweep_at = now()")
    assert sweep(world.database.get(), world.sqs, PREFIX).sent == count


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
    bare.enqueue(sample_one, Sample(), process_in=timedelta(seconds=900))
    bare.enqueue(sample_one, Sample(), process_at=datetime.now(UTC) + timedelta(seconds=899))
    assert watched.delays(LANE) == [900, 899]
    for options in ({"process_in": timedelta(seconds=901)}, {"process_at": datetime.now(UTC) + timedelta(hours=1)}):
        with pytest.raises(
            EnqueueError, match=f"^{next(iter(options))}: at most 15 minutes are possible with a MessageClient"
        ):
            bare.enqueue(sample_one, Sample(), **options)


def test_a_client_is_not_made_without_a_record() -> None:
    with pytest.raises(EnqueueError, match=r"^record: .* make MessageClient\(\)"):
        JobClient(record=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"session": object()}, "session: a MessageClient writes no row; make JobClient()"),
        ({"connection": object(), "after_commit": print}, "connection: a MessageClient writes no row"),
        ({"owner": "ann"}, "owner: it needs a row, and a MessageClient writes none"),
        ({"key": "acme"}, "key: it needs a row, and a MessageClient writes none"),
        ({"after": ["a"]}, "after: it needs a row, and a MessageClient writes none"),
        ({"unique_for": timedelta(hours=1)}, "unique_for: it needs a row, and a MessageClient writes none"),
        ({"priority": 1}, "priority: there is no such option; there are queue, process_in, process_at, deadline"),
        ({"countdown": 1}, "countdown: there is no such option; did you mean process_in?"),
    ],
)
def test_without_a_record_what_needs_a_row_is_refused(bare: MessageClient, options: Any, named: str) -> None:
    with pytest.raises(EnqueueError) as caught:
        bare.enqueue(sample_one, Sample(), **options)
    assert str(caught.value).startswith(named)
    assert "owner, " not in str(caught.value)


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


def test_the_declarations_bounds_hold_without_a_record_too(bare: MessageClient) -> None:
    with pytest.raises(LaneError):
        bare.enqueue(sample_one, Sample(), queue=Queue.LOW)
    with pytest.raises(PayloadError):
        bare.enqueue(sample_one, Loose())  # type: ignore[misc]


# --- Threads -------------------------------------------------------------------------------------------------------


def test_one_client_serves_many_threads(world: World, sends: Sends) -> None:
    results: list[Enqueued] = []
    [[before]] = world.run("select count(*) from pg_stat_activity where datname = current_database()")

    def enqueue() -> None:
        results.extend(world.client.enqueue(sample_one, Sample()) for _ in range(10))

    run_at_once([enqueue] * 8)
    assert len({result.id for result in results}) == 80
    assert all(result.sent for result in results)
    assert world.run("select count(*) from joblane.tasks") == [[80]]
    assert len(sends.messages) == 80
    [[after]] = world.run("select count(*) from pg_stat_activity where datname = current_database()")
    assert after == before + 1, "the client has more or less than one connection"


def test_a_fresh_client_may_be_used_first_by_many_threads(world: World, sends: Sends) -> None:
    client = JobClient()
    results: list[Enqueued] = []
    run_at_once([lambda: results.append(client.enqueue(sample_one, Sample()))] * 8)
    client.close()
    assert [result.sent for result in results] == [True] * 8


# --- Small things --------------------------------------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every statement that is sent to the server from now on."""
    statements: list[str] = []
    real = Connection.execute_unnamed

    def execute(self: Connection, statement: str, *rest: Any, **named: Any) -> Any:
        statements.append(statement)
        return real(self, statement, *rest, **named)

    monkeypatch.setattr(Connection, "execute_unnamed", execute)
    return statements


def run_at_once(works: list[Any]) -> None:
    """Run each function in its own thread, and raise the first error."""
    failures: list[BaseException] = []

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:  # reported by the main thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


# --- A database and an SQS that do not answer ----------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False], ids=["after the commit", "before it"])
def test_an_enqueue_whose_answer_was_lost_is_one_task(world: World, sends: Sends, commits: bool) -> None:
    lost: list[str] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        if "insert" not in sql or lost:
            return send()
        lost.append(sql)
        if commits:
            send()
        raise ConnectionResetError("the answer is lost")

    jobs = [
        Job(sample_one, Sample(number=1)),
        Job(sample_one, Sample(number=2), task_id="mine"),
        Job(sample_one, Sample()),
    ]
    with HookedDatabase(world.url, hook) as database:
        made = client_within(database, world.sqs, PREFIX).enqueue_many(jobs)
    assert [result.sent for result in made if isinstance(result, Enqueued)] == [True] * 3
    assert len(sends.to(LANE)) == 3
    assert world.run("select count(*)::int from joblane.tasks") == [[3]]
    assert lost


def test_a_repeated_insert_does_not_take_the_task_of_somebody_else(world: World, sends: Sends) -> None:
    world.client.enqueue(sample_one, Sample(number=1), task_id="mine")
    lost: list[str] = []

    def hook(sql: str, send: Callable[[], Any]) -> Any:
        if "insert" in sql and not lost:
            lost.append(sql)
            raise ConnectionResetError
        return send()

    with HookedDatabase(world.url, hook) as database, pytest.raises(TaskIdConflictError):
        client_within(database, world.sqs, PREFIX).enqueue(sample_one, Sample(number=2), task_id="mine")
    assert lost


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
