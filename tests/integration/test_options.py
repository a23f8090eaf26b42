"""The options of a single task: retries, timeout, delays, retention, deadline and tags, from clients and producers."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Job, JobClient, MessageClient, State, TaskContext
from joblane.names import dead_letter_name
from joblane.sqs.message import decode
from joblane.tasks.task import Task
from tests import emf
from tests.builders.events import record
from tests.builders.rows import In, active, put
from tests.samples import Sample, behaviour, sample_batch, sample_one
from tests.world import World, handle

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@pytest.fixture
def client(world: World) -> JobClient:
    world.lane(sample_one)
    world.client._producer.sqs = world.sqs
    return world.client


@behaviour
def count_and_fail(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError(f"attempt {ctx.attempt} of {ctx.max_retry + 1}")


@behaviour
def overlong(payload: Sample, ctx: TaskContext) -> None:
    time.sleep(20)


def deliver(world: World, id_: str, task: Task[Any, Any] = sample_one, **how: Any) -> list[str]:
    return world.deliver(task, {"type": task.type, "id": id_, "rec": True}, **how)


def seconds_to(world: World, id_: str, column: str, since: str) -> int:
    sql = f"select extract(epoch from {column} - {since})::int from joblane.tasks where id = $1"
    return int(world.run(sql, id_)[0][0])


def reason_of(dead_letter: dict[str, Any]) -> str:
    return str(dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"])


# --- From a caller -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_retry", [0, 1, 3])
def test_a_task_has_as_many_attempts_as_it_was_given(world: World, client: JobClient, max_retry: int) -> None:
    id_ = client.enqueue(sample_one, Sample(do="count_and_fail"), max_retry=max_retry).id

    for _ in range(max_retry):
        assert len(deliver(world, id_)) == 1
        world.later(id_)
    assert deliver(world, id_) == []

    row = world.row(id_)
    assert (row["state"], row["attempts"]) == ("archived", max_retry + 1)
    assert row["error_message"] == f"attempt {max_retry + 1} of {max_retry + 1}"
    assert len(world.dead_letters(sample_one)) == 1


def test_a_task_waits_between_attempts_for_its_own_delays(world: World, client: JobClient) -> None:
    watched = world.watch()
    delays = [timedelta(seconds=100), timedelta(seconds=200)]
    listed = client.enqueue(sample_one, Sample(do="count_and_fail"), retry_delay=delays).id
    fixed = client.enqueue(sample_one, Sample(do="count_and_fail"), retry_delay=timedelta(seconds=7)).id
    for id_ in (listed, listed, listed, fixed):
        assert len(deliver(world, id_)) == 1
        world.later(id_)
    assert watched.visibilities == [100, 200, 200, 7]


def test_an_attempt_is_interrupted_at_the_timeout_it_was_given(world: World, client: JobClient) -> None:
    id_ = client.enqueue(sample_one, Sample(do="overlong"), timeout=SECOND).id
    started = time.monotonic()

    assert len(deliver(world, id_)) == 1

    assert 0.9 < time.monotonic() - started < 30
    assert world.outcomes(id_) == ["timeout"]
    assert world.row(id_)["error_type"] == "TaskTimeout"


@pytest.mark.parametrize(("retention", "seconds"), [(timedelta(days=30), 30 * 86400), (timedelta(minutes=1), 60)])
def test_a_task_is_kept_for_the_retention_it_was_given(
    world: World, client: JobClient, retention: timedelta, seconds: int
) -> None:
    id_ = client.enqueue(sample_one, Sample(), retention=retention).id
    assert deliver(world, id_) == []
    assert seconds_to(world, id_, "expire_at", "finished_at") == seconds


def test_a_retention_of_zero_clears_the_content_at_once(world: World, client: JobClient) -> None:
    id_ = client.enqueue(sample_one, Sample(), retention=timedelta(0)).id
    assert deliver(world, id_) == []
    row = world.row(id_)
    assert (row["state"], row["cleared"], row["payload"]) == ("completed", True, None)


def test_tags_and_owner_are_kept_and_repeated_tags_are_one(world: World, client: JobClient) -> None:
    id_ = client.enqueue(sample_one, Sample(), tags=["b", "a", "b"], owner="user-1").id
    row = world.row(id_)
    assert (row["tags"], row["owner"]) == (["b", "a"], "user-1")


def test_many_tasks_have_options_of_their_own(world: World, client: JobClient) -> None:
    jobs = [
        Job(sample_one, Sample(), max_retry=1, tags=["one"]),
        Job(sample_one, Sample(), timeout=2 * SECOND, retry_delay=[SECOND], deadline=datetime.now(UTC) + HOUR),
        Job(sample_one, Sample()),
    ]
    one, two, three = (world.row(info.id) for info in client.enqueue_many(jobs))  # type: ignore[union-attr]
    assert [row["max_attempts"] for row in (one, two, three)] == [2, 4, 4]
    assert [row["options"] for row in (one, two, three)] == [{}, {"timeout": 2.0, "retry_delay": [1.0]}, {}]
    assert [row["tags"] for row in (one, two, three)] == [["one"], [], []]
    assert [row["deadline"] is None for row in (one, two, three)] == [True, False, True]


def test_options_travel_in_the_message_of_a_client_without_a_record(world: World) -> None:
    world.lane(sample_one)
    bare = MessageClient()
    deadline = datetime.now(UTC) + HOUR
    bare.enqueue(
        sample_one, Sample(do="count_and_fail"), task_id="it", max_retry=0, timeout=SECOND, retention=HOUR,
        retry_delay=SECOND, deadline=deadline, tags=["a"],
    )  # fmt: skip
    (message,) = world.take(sample_one)
    options = decode(message["Body"]).options
    assert options is not None
    assert (options.max_retry, options.timeout, options.retention) == (0, 1, 3600)
    assert (options.retry_delay, options.deadline, options.tags) == ([1.0], deadline, ["a"])
    assert world.deliver(sample_one, message["Body"]) == []
    row = world.row("it")
    assert (row["state"], row["tags"], row["retention_seconds"]) == ("archived", ["a"], 3600)


def test_a_past_time_runs_now_and_the_result_shows_it(world: World, client: JobClient) -> None:
    watched = world.watch()
    client._producer.sqs = watched
    past = client.enqueue(sample_one, Sample(), process_at=datetime.now(UTC) - HOUR)
    now = client.enqueue(sample_one, Sample(), process_at=datetime.now(UTC))
    later = client.enqueue(sample_one, Sample(), process_at=datetime.now(UTC) + timedelta(minutes=1))

    assert [info.past for info in (past, now, later)] == [True, False, False]
    assert (past.state, past.sent) == (State.PENDING, True)
    assert watched.sent[0].delay_seconds == 0
    assert deliver(world, past.id) == []
    assert world.row(past.id)["state"] == "completed"


# --- From a stranger -----------------------------------------------------------------------------------------------


def external(do: str, options: dict[str, Any], id_: str = "it") -> dict[str, Any]:
    return {"type": "sample:one", "id": id_, "payload": {"do": do, "number": 0}, "options": options}


def test_an_external_producers_options_are_lowered_to_the_declaration(world: World) -> None:
    body = external("nothing", {"max_retry": 1000, "timeout": 86400, "retention": 86400 * 365, "tags": ["a"]})

    assert world.deliver(sample_one, body) == []

    row = world.row("it")
    assert (row["max_attempts"], row["options"], row["retention_seconds"], row["tags"]) == (
        4,
        {"timeout": 20},
        86400,
        ["a"],
    )


def test_an_external_producers_options_below_the_declaration_apply(world: World) -> None:
    watched = world.watch()
    options = {"max_retry": 1, "timeout": 1, "retention": 60, "retry_delay": [5, 6]}
    body = external("overlong", options)
    assert len(world.deliver(sample_one, body)) == 1
    assert watched.visibilities == [5]
    world.later("it")
    assert world.deliver(sample_one, body) == []
    assert world.outcomes("it") == ["timeout", "archived"]
    assert world.row("it")["retention_seconds"] == 60
    assert world.deliver(sample_one, external("count_and_fail", {"retry_delay": 9}, "other")) != []
    assert watched.visibilities[1:] == [9]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_retry": -1}, "options.max_retry: must be a whole number, 0 or more"),
    ({"max_retry": 1.5}, "options.max_retry"),
    ({"max_retry": True}, "options.max_retry"),
    ({"max_retry": "3"}, "options.max_retry"),
    ({"max_retry": 10**30}, "options.max_retry"),
    ({"timeout": 0}, "options.timeout: must be a number of seconds from 1"),
    ({"timeout": -1}, "options.timeout"),
    ({"timeout": "1"}, "options.timeout"),
    ({"timeout": True}, "options.timeout"),
    ({"retention": -1}, "options.retention: must be a number of seconds from 0"),
    ({"retention": 10**30}, "options.retention"),
    ({"retry_delay": []}, "options.retry_delay: must be seconds, one number or a list of 1 to 100"),
    ({"retry_delay": [1] * 101}, "options.retry_delay"),
    ({"retry_delay": [-1]}, "options.retry_delay"),
    ({"retry_delay": ["a"]}, "options.retry_delay"),
    ({"retry_delay": {}}, "options.retry_delay"),
    ({"deadline": "tomorrow"}, "options.deadline: must be a time with its zone"),
    ({"deadline": "2030-01-31T12:00:00"}, "options.deadline"),
    ({"deadline": 1893456000}, "options.deadline"),
    ({"deadline": "0001-01-01T00:00:00+14:00"}, "options.deadline"),
    ({"deadline": "9999-12-31T23:59:59-14:00"}, "options.deadline"),
    ({"deadline": "9999-12-31T12:00:00Z"}, "options.deadline"),  # the year 10000 in the east
    ({"tags": "word"}, "options.tags: must be a list of at most 20 strings"),
    ({"tags": {}}, "options.tags"),
    ({"tags": 0}, "options.tags"),
    ({"tags": [""]}, "options.tags"),
    ({"tags": [None]}, "options.tags"),
    ({"priority": 1}, "options: must be an object of max_retry, timeout"),
]


def test_bad_options_of_an_external_producer_are_a_dead_letter_that_names_the_field(world: World) -> None:
    watched = world.watch()
    for number, (options, why) in enumerate(BAD):
        watched.sent.clear()
        assert world.deliver(sample_one, external("nothing", options, f"it-{number}")) == []
        (dead_letter,) = watched.sent
        assert dead_letter.queue == dead_letter_name(world.lane(sample_one))
        reason = dead_letter.attributes["joblane-reason"]["StringValue"]
        assert reason.startswith(f"MessageError: {why}"), options
    assert world.run("select from joblane.tasks") == []


def test_a_recorded_message_cannot_change_its_row(world: World, client: JobClient) -> None:
    id_ = client.enqueue(sample_one, Sample(do="count_and_fail"), max_retry=0).id
    body = {"type": "sample:one", "id": id_, "rec": True, "options": {"max_retry": 3}}
    assert world.deliver(sample_one, body) == []
    assert world.row(id_)["state"] == "archived"


# --- Deadlines -----------------------------------------------------------------------------------------------------


WAITING: dict[str, dict[str, Any]] = {
    "pending": {},
    "a retry": {"state": "retry", "attempts": 1, "runs": 1, "error_message": "the last one's"},
    "not even due": {"state": "scheduled", "due_at": In(600)},
    "lost": active(-1),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_task_past_its_deadline_is_archived_without_running(world: World, name: str) -> None:
    put(world, sample_one, "it", {"do": "nothing", "number": 0}, deadline=In(-1), **WAITING[name])
    runs = world.row("it")["runs"]

    assert deliver(world, "it") == []

    row = world.row("it")
    assert (row["state"], row["runs"], row["error_type"]) == ("archived", runs, "DeadlinePassed")
    assert row["error_message"] == "the deadline passed before the task ran"
    assert row["reason"].startswith("DeadlinePassed: the task had to run by ")
    assert row["dead_sent_at"] is not None
    (dead_letter,) = world.dead_letters(sample_one)
    assert reason_of(dead_letter) == row["reason"]


def test_an_external_task_past_its_deadline_is_archived_without_running(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    @behaviour
    def not_to_run(payload: Sample, ctx: TaskContext) -> None:
        ran.append(ctx.task_id)

    body = external("not_to_run", {"deadline": "2020-01-31T12:00:00Z"})
    assert world.deliver(sample_one, body) == []

    row = world.row("it")
    assert (row["state"], row["runs"], row["attempts"], row["error_type"]) == ("archived", 0, 0, "DeadlinePassed")
    assert row["reason"].startswith("DeadlinePassed: the task had to run by 2020-01-31 12:00:00")
    assert None not in (row["dead_sent_at"], row["finished_at"], row["expire_at"])
    assert (world.attempts("it"), ran) == ([], [])
    (metrics,) = emf.documents(capsys.readouterr().out)
    assert metrics["Archived"] == 1
    (dead_letter,) = world.dead_letters(sample_one)
    assert reason_of(dead_letter) == row["reason"]
    # and a copy of it is obsolete, and its dead letter runs
    assert world.deliver(sample_one, body) == []
    assert ran == []
    assert world.deliver(sample_one, dead_letter["Body"], attributes={"joblane-dead": ("Number", "0")}) == []
    assert ran == ["it"]


def test_an_external_task_whose_dead_letter_was_not_sent_is_finished_by_the_sweep(world: World) -> None:
    lane = world.lane(sample_one)
    with world.rival(sample_one) as worker:
        world.sqs.client.delete_queue(QueueUrl=world.sqs.url(dead_letter_name(lane)))
        body = external("nothing", {"deadline": "2020-01-31T12:00:00Z"})
        assert len(handle(worker, record(body, lane))) == 1
    world.sqs.client.create_queue(QueueName=dead_letter_name(lane))
    world.run("update joblane.tasks set sweep_at = sweep_at - interval '2 min'")
    assert world.sweep().dead_letters == 1
    assert world.row("it")["dead_sent_at"] is not None


def test_a_run_is_interrupted_at_its_deadline_archived_and_runs_after_a_redrive(
    world: World, client: JobClient
) -> None:
    runs: list[int] = []

    @behaviour
    def overlong_once(payload: Sample, ctx: TaskContext) -> None:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            assert ctx.remaining() < timedelta(seconds=2)
            time.sleep(20)

    id_ = client.enqueue(sample_one, Sample(do="overlong_once"), deadline=datetime.now(UTC) + timedelta(seconds=1.5)).id
    assert deliver(world, id_) == []

    row = world.row(id_)
    assert (row["state"], row["attempts"], row["error_type"]) == ("archived", 1, "TaskTimeout")
    assert row["reason"] == "DeadlinePassed: the deadline passed while the task ran"
    (dead_letter,) = world.dead_letters(sample_one)
    assert reason_of(dead_letter) == row["reason"]

    assert world.deliver(sample_one, dead_letter["Body"], attributes={"joblane-dead": ("Number", "0")}) == []
    row = world.row(id_)
    assert (row["state"], row["generation"], row["deadline"], runs) == ("completed", 1, None, [1, 1])


def test_a_timeout_long_before_the_deadline_is_tried_again(world: World, client: JobClient) -> None:
    id_ = client.enqueue(sample_one, Sample(do="overlong"), timeout=SECOND, deadline=datetime.now(UTC) + HOUR).id
    assert len(deliver(world, id_)) == 1
    assert world.outcomes(id_) == ["timeout"]
    assert world.row(id_)["state"] == "retry"


def test_a_deadline_that_passes_while_others_of_the_batch_run_ends_the_task(world: World) -> None:
    ran: list[int] = []
    numbers = itertools.count()

    @behaviour
    def slow_neighbour(payload: Sample, ctx: TaskContext) -> None:
        ran.append(payload.number)
        if next(numbers) == 0:
            time.sleep(1.2)

    for number in range(2):
        put(
            world, sample_batch, f"it-{number}", {"do": "slow_neighbour", "number": number},
            **({"deadline": In(0.8)} if number else {}),
        )  # fmt: skip
    bodies = [{"type": "sample:batch", "id": f"it-{number}", "rec": True} for number in range(2)]

    assert world.deliver(sample_batch, *bodies) == []

    assert ran == [0]
    assert [world.row(f"it-{number}")["state"] for number in range(2)] == ["completed", "archived"]
    assert world.row("it-1")["reason"].startswith("DeadlinePassed")
