"""The end of a task is an event on the stage's bus, and a rule sends it to a queue."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing

import boto3
import pytest

from joblane.tasks.events import Event, source
from tests.e2e.conftest import Deployed
from tests.patience import await_true


@pytest.fixture
def heard(deployed: Deployed) -> Iterator[str]:
    """The URL of a queue with the events of archived tasks."""
    bus, rule = deployed.named("events"), "archived-tasks"
    with closing(boto3.client("events")) as events, ExitStack() as cleanup:
        url = deployed.sqs.create_queue(QueueName=f"heard-{uuid.uuid4()}")["QueueUrl"]
        cleanup.callback(deployed.sqs.delete_queue, QueueUrl=url)
        arn = deployed.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        pattern = {"source": [source(deployed.stack.prefix)], "detail": {"kind": ["archived"]}}
        events.put_rule(Name=rule, EventBusName=bus, EventPattern=json.dumps(pattern))
        cleanup.callback(events.delete_rule, Name=rule, EventBusName=bus)
        events.put_targets(Rule=rule, EventBusName=bus, Targets=[{"Id": "queue", "Arn": arn}])
        cleanup.callback(events.remove_targets, Rule=rule, EventBusName=bus, Ids=["queue"])
        yield url


def test_an_archived_task_reaches_the_queue_of_a_rule(deployed: Deployed, heard: str) -> None:
    # when a task is archived, as its tenant does not exist
    lane = deployed.named("critical-tenant-initialize")
    id_ = deployed.send(lane, {"type": "tenant:initialize", "payload": {"tenant_id": str(uuid.uuid4())}})
    deployed.await_state(id_, "archived")
    # then its event is in the queue of the rule
    found: list[dict[str, object]] = []

    def received() -> bool:
        found.extend(
            json.loads(message["Body"]) for message in deployed.sqs.receive_message(QueueUrl=heard).get("Messages", [])
        )
        return bool(found)

    await_true(received, lambda: "no event")
    [event] = found
    assert event["detail-type"] == "Task archived"
    detail = event["detail"]
    assert isinstance(detail, dict)
    assert Event.read(detail).id == f"{id_}:0:archived"
    assert detail["reason"] == "SkipRetry: the tenant does not exist"
