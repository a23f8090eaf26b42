"""The successor of an archived task: exactly one task that gets its data, also if a process is killed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from joblane import ArchivedTask, JobClient, SkipRetry, TaskContext
from joblane.errors import JobError
from joblane.record.task.dead_letters import MARK_DEAD_SENT
from joblane.testing.faults import Send
from tests.builders.events import record
from tests.builders.rows import In, active, archived, put
from tests.samples import Sample, behaviour, behaviours, sample_alert, sample_one, sample_watched
from tests.stories import SOME, Between, Story, cancel, deliver, enqueue, lane, play, row, sql, step, stories
from tests.world import World, handle

WATCHED: dict[str, Any] = {
    "on_archived": {"type": "sample:alert", "queue": "default", "max_attempts": 6, "retention_seconds": 86400},
}
ALERTS: list[ArchivedTask] = []
SUCCESSOR = "it:archived:0"


class ProcessDiedError(BaseException):
    """Ends the process: none of its later code runs."""


@pytest.fixture
def client(world: World) -> JobClient:
    world.lane(sample_watched)
    world.lane(sample_alert)
    world.client._producer.sqs = world.sqs
    return world.client


@pytest.fixture
def alerts(client: JobClient) -> list[ArchivedTask]:
    """The payloads of the alert task, in order."""
    ALERTS.clear()
    behaviours["alert"] = lambda payload, _: ALERTS.append(payload)
    return ALERTS


@behaviour
def hopeless(payload: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no such tenant")


@behaviour
def fail_as_said(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError("no")


def body(id_: str = "it") -> dict[str, Any]:
    return {"type": "sample:watched", "id": id_, "rec": True}


def run_alerts(world: World) -> int:
    """Deliver the messages in the alert's lane. Return their number."""
    messages = world.take(sample_alert)
    for message in messages:
        assert world.deliver(sample_alert, message["Body"]) == []
    return len(messages)


def successors(world: World) -> list[str]:
    return [row[0] for row in world.run("select id from joblane.tasks where type = 'sample:alert' order by id")]


def test_an_archived_task_has_the_successor_that_its_type_names(
    world: World, client: JobClient, alerts: list[ArchivedTask]
) -> None:
    client.enqueue(sample_watched, Sample(do="fail_as_said"), task_id="it", tenant="acme", headers={"traceparent": "t"})
    world.deliver(sample_watched, body())
    assert successors(world) == []  # an attempt is left
    world.deliver(sample_watched, body())

    row = world.row(SUCCESSOR)
    assert (row["state"], row["queue"], row["tenant"], row["max_attempts"]) == ("pending", "default", "acme", 6)
    assert (row["headers"], row["retention_seconds"], row["options"]) == ({"traceparent": "t"}, 86400, {})
    assert run_alerts(world) == 1
    assert alerts == [
        ArchivedTask(
            task_id="it",
            task_type="sample:watched",
            queue="default",
            tenant="acme",
            reason="attempt 2 of 2 failed: ValueError: no",
            error_type="ValueError",
            runs=2,
        )
    ]
    assert world.row(SUCCESSOR)["state"] == "completed"
    # and a repeated delivery changes nothing
    world.deliver(sample_watched, body())
    assert world.sweep().dead_letters == 0
    assert (successors(world), run_alerts(world), len(alerts)) == ([SUCCESSOR], 0, 1)


@step
def alerted(world: World) -> list[tuple[Any, ...]]:
    """Deliver the messages in the alert's lane, and return the facts that they have."""
    number = run_alerts(world)
    return [(alert.task_id, alert.error_type, alert.reason, alert.runs) for alert in ALERTS[len(ALERTS) - number :]]


@step
def alerted_ids(world: World) -> list[str]:
    run_alerts(world)
    return sorted(alert.task_id for alert in ALERTS)


given, succeeding = step(put), step(successors)
EXTERNAL = {"type": "sample:watched", "id": "it", "payload": {"do": "hopeless"}}
HOPELESS = ("it", "SkipRetry", "SkipRetry: no such tenant")
LONG_IDS = ["x" * 199 + end for end in "ab"] + ["y" * 180, "y" * 181]
STORIES: dict[str, Story] = {
    "an external task has a successor too": [
        deliver(sample_watched, EXTERNAL).gives([]),
        alerted().gives([(*HOPELESS, 1)]),
    ],
    **{
        f"a task that the claim archives has a successor too: {error}": [
            given(sample_watched, "it", max_attempts=2, **columns, **WATCHED),
            deliver(sample_watched, body()).gives([]),
            alerted().gives([("it", error, SOME, Between(0, 2))]),
        ]
        for error, columns in {"Lost": active(-1, attempts=2, runs=2), "DeadlinePassed": {"deadline": In(-1)}}.items()
    },
    "a task that is not archived or names no successor has none": [
        *(enqueue(sample_watched, Sample(), task_id=id_) for id_ in ("done", "cancelled")),
        cancel("cancelled"),
        *(deliver(sample_watched, body(id_)) for id_ in ("done", "cancelled")),
        lane(sample_one),
        enqueue(sample_one, Sample(do="hopeless"), task_id="alone"),
        deliver(sample_one, {"type": "sample:one", "id": "alone", "rec": True}),
        row("alone", state="archived"),
        succeeding().gives([]),
        alerted().gives([]),
    ],
    "a redriven task that is archived again has a second successor": [
        enqueue(sample_watched, Sample(do="hopeless"), task_id="it"),
        deliver(sample_watched, body()),
        deliver(sample_watched, body(), attributes={"joblane-dead": ("Number", "0")}),
        succeeding().gives([SUCCESSOR, "it:archived:1"]),
        alerted().gives([(*HOPELESS, 1), (*HOPELESS, 2)]),
    ],
    "long ids that begin alike have successors of their own": [
        *(given(sample_watched, id_, **archived(dead_sent_at=None), **WATCHED) for id_ in LONG_IDS),
        *(deliver(sample_watched, body(id_)).gives([]) for id_ in LONG_IDS),
        alerted_ids().gives(sorted(LONG_IDS)),
        sql("select max(length(id)) <= 200 from joblane.tasks where type = 'sample:alert'").gives([[True]]),
    ],
}


@pytest.mark.usefixtures("alerts")
@stories(STORIES)
def test_story(world: World, story: Story) -> None:
    play(world, story)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_sweep_completes_the_work_of_a_process_killed_around_the_mark(
    world: World, client: JobClient, alerts: list[ArchivedTask], when: str
) -> None:
    # given a worker that is killed between the dead letter and its mark, or between the mark and the successor's
    # message
    client.enqueue(sample_watched, Sample(do="hopeless"), task_id="it")

    def hook(sql: str, send: Send) -> Any:
        if sql == MARK_DEAD_SENT:
            if when == "after":
                send()
            raise ProcessDiedError
        return send()

    with world.rival(sample_watched, hook) as worker, pytest.raises(ProcessDiedError):
        handle(worker, record(body(), world.lane(sample_watched)))
    assert len(world.dead_letters(sample_watched)) == 1
    assert successors(world) == ([SUCCESSOR] if when == "after" else [])
    assert run_alerts(world) == 0

    # when the sweep finds it, twice
    world.run("update joblane.tasks set sweep_at = clock_timestamp() where sweep_at is not null")
    world.sweep()
    world.sweep()

    # then there is one successor, also after further deliveries
    assert run_alerts(world) == 1
    world.deliver(sample_watched, body())
    assert (successors(world), run_alerts(world), len(alerts)) == ([SUCCESSOR], 0, 1)


def test_a_successor_whose_message_cannot_be_sent_is_sent_by_the_sweep(
    world: World, client: JobClient, alerts: list[ArchivedTask]
) -> None:
    lane = world.lane(sample_alert)
    world.sqs.client.delete_queue(QueueUrl=world.sqs.url(lane))
    client.enqueue(sample_watched, Sample(do="hopeless"), task_id="it")
    assert world.deliver(sample_watched, body()) == []
    world.sqs.client.create_queue(QueueName=lane)
    world.run("update joblane.tasks set sweep_at = clock_timestamp() where sweep_at is not null")
    assert world.sweep().sent == 1
    assert run_alerts(world) == 1
    assert len(alerts) == 1


def test_an_archived_successor_has_no_successor(world: World, client: JobClient) -> None:
    attempts = itertools.count()

    def alert(payload: Any, ctx: TaskContext) -> None:
        next(attempts)
        raise SkipRetry("no mail today")

    behaviours["alert"] = alert
    client.enqueue(sample_watched, Sample(do="hopeless"), task_id="it")
    world.deliver(sample_watched, body())
    (message,) = world.take(sample_alert)
    assert json.loads(message["Body"]) == {"v": 1, "type": "sample:alert", "id": SUCCESSOR, "rec": True}
    assert world.deliver(sample_alert, message["Body"]) == []
    assert next(attempts) == 1
    assert world.row(SUCCESSOR)["state"] == "archived"
    assert successors(world) == [SUCCESSOR]
    assert issubclass(SkipRetry, JobError)
