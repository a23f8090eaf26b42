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
from tests.world import World, handle

ALERTS = {
    "on_archived": {"type": "sample:alert", "queue": "default", "max_attempts": 6, "retention_seconds": 86400},
}
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
    alerts: list[ArchivedTask] = []

    def alert(payload: Any, ctx: TaskContext) -> None:
        alerts.append(payload)

    behaviours["alert"] = alert
    return alerts


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


def test_an_external_task_has_a_successor_too(world: World, alerts: list[ArchivedTask]) -> None:
    external = {"type": "sample:watched", "id": "it", "payload": {"do": "hopeless"}}
    assert world.deliver(sample_watched, external) == []
    assert run_alerts(world) == 1
    assert [alert.reason for alert in alerts] == ["SkipRetry: no such tenant"]


GIVEN_UP_BY_THE_CLAIM: dict[str, tuple[dict[str, Any], str]] = {
    "exhaust": (active(-1, attempts=2, runs=2), "Lost"),
    "overdue": ({"deadline": In(-1)}, "DeadlinePassed"),
}


@pytest.mark.parametrize("step", GIVEN_UP_BY_THE_CLAIM)
def test_a_task_that_the_claim_archives_has_a_successor_too(
    world: World, alerts: list[ArchivedTask], step: str
) -> None:
    columns, error = GIVEN_UP_BY_THE_CLAIM[step]
    put(world, sample_watched, "it", max_attempts=2, **columns, **ALERTS)
    assert world.deliver(sample_watched, body()) == []
    assert run_alerts(world) == 1
    assert [(alert.task_id, alert.error_type) for alert in alerts] == [("it", error)]


def test_a_task_that_is_not_archived_or_names_no_successor_has_none(
    world: World, client: JobClient, alerts: list[ArchivedTask]
) -> None:
    client.enqueue(sample_watched, Sample(), task_id="done")
    client.enqueue(sample_watched, Sample(), task_id="cancelled")
    client.cancel("cancelled")
    for id_ in ("done", "cancelled"):
        world.deliver(sample_watched, body(id_))
    world.lane(sample_one)
    client.enqueue(sample_one, Sample(do="hopeless"), task_id="alone")
    world.deliver(sample_one, {"type": "sample:one", "id": "alone", "rec": True})
    assert world.row("alone")["state"] == "archived"
    assert (successors(world), run_alerts(world)) == ([], 0)


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


def test_a_redriven_task_that_is_archived_again_has_a_second_successor(
    world: World, client: JobClient, alerts: list[ArchivedTask]
) -> None:
    client.enqueue(sample_watched, Sample(do="hopeless"), task_id="it")
    world.deliver(sample_watched, body())
    world.deliver(sample_watched, body(), attributes={"joblane-dead": ("Number", "0")})
    assert successors(world) == [SUCCESSOR, "it:archived:1"]
    run_alerts(world)
    assert [alert.runs for alert in alerts] == [1, 2]


def test_long_ids_that_begin_alike_have_successors_of_their_own(world: World, alerts: list[ArchivedTask]) -> None:
    ids = ["x" * 199 + end for end in "ab"] + ["y" * 180, "y" * 181]
    for id_ in ids:
        put(world, sample_watched, id_, **archived(dead_sent_at=None), **ALERTS)
        assert world.deliver(sample_watched, body(id_)) == []
    assert run_alerts(world) == 4
    assert sorted(alert.task_id for alert in alerts) == sorted(ids)
    assert max(len(id_) for id_ in successors(world)) <= 200


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
