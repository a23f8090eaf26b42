"""The router: where each message goes, and which messages stay in the front door."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.sqs.message import decode
from joblane.worker.router import PATIENCE_SECONDS, WAIT_SECONDS, Router
from joblane.worker.routes import encode
from tests.builders.events import LambdaContext, event, invoke, record
from tests.logs import lines
from tests.unit.conftest import Aws

FRONT_DOOR = "jobs-default"
ROUTES = {"data:export": ["default", "critical"], "user:invitation": ["low"]}
EXPORT, EXPORT_CRITICAL, INVITATION = (
    "jobs-default-data-export",
    "jobs-critical-data-export",
    "jobs-low-user-invitation",
)


class FrontDoor:
    """The router and its queues. ``give`` delivers records and returns the message ids that stay in the front door."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        aws.make("jobs-critical", FRONT_DOOR, "jobs-low", EXPORT, EXPORT_CRITICAL, INVITATION)
        self.router = Router(ROUTES, aws.sqs, "jobs")

    def give(self, *records: dict[str, Any]) -> list[str]:
        kept = invoke(self.router.handle, *records)
        assert set(kept) <= {raw["messageId"] for raw in records}
        return kept

    def bodies(self, queue: str) -> list[Any]:
        return [decode(message["Body"]) for message in self.aws.received(queue)]

    def dead_letters(self, queue: str = FRONT_DOOR) -> list[tuple[str, str]]:
        """Body and reason of each dead letter."""
        return [
            (message["Body"], message["MessageAttributes"]["joblane-reason"]["StringValue"])
            for message in self.aws.received(queue + "-dlq")
        ]


@pytest.fixture
def front_door(aws: Aws) -> FrontDoor:
    return FrontDoor(aws)


def body(**fields: Any) -> dict[str, Any]:
    return {"type": "data:export", "payload": {"n": 1}} | fields


# --- Forwarded to a lane -------------------------------------------------------------------------------------------


def test_a_message_goes_to_the_lane_of_the_front_doors_tier(front_door: FrontDoor) -> None:
    assert front_door.give(record(body(), "jobs-critical", message_id="m-1")) == []
    (message,) = front_door.bodies(EXPORT_CRITICAL)
    assert (message.id, message.payload, message.rec) == ("m-1", {"n": 1}, False)


def test_a_type_without_a_lane_in_the_tier_goes_to_its_home_lane(front_door: FrontDoor) -> None:
    assert front_door.give(record(body(), "jobs-low"), record(body(type="user:invitation"), "jobs-critical")) == []
    assert len(front_door.bodies(EXPORT)) == len(front_door.bodies(INVITATION)) == 1


def test_a_prefix_that_ends_with_a_tier_does_not_change_the_tier(aws: Aws) -> None:
    aws.make("jobs-low-critical", "jobs-low-critical-data-export", "jobs-low-default-data-export")
    router = Router(ROUTES, aws.sqs, "jobs-low")
    invoke(router.handle, record(body(), "jobs-low-critical"))
    assert len(aws.received("jobs-low-critical-data-export")) == 1


def test_id_tenant_headers_schema_and_attributes_of_the_producer_are_kept(front_door: FrontDoor) -> None:
    sent = body(id="mine", headers={"traceparent": "t"}, schema="abc", enqueued_at=5)
    assert front_door.give(record(sent, FRONT_DOOR, group="acme", attributes={"trace": ("String", "x")})) == []
    (message,) = front_door.aws.received(EXPORT)
    read = decode(message["Body"])
    assert (read.id, read.headers, read.schema, read.enqueued_at) == ("mine", {"traceparent": "t"}, "abc", 5.0)
    assert message["MessageAttributes"]["trace"]["StringValue"] == "x"
    assert message["Attributes"]["MessageGroupId"] == "acme"


def test_an_external_message_cannot_claim_that_it_has_a_row(front_door: FrontDoor) -> None:
    front_door.give(
        record(body(id="1", rec=True, payload=None), FRONT_DOOR), record(body(id="2", rec=True), FRONT_DOOR)
    )
    assert [(message.rec, message.payload) for message in front_door.bodies(EXPORT)] == [(False, {}), (False, {"n": 1})]


def test_attributes_of_a_dead_letter_do_not_pass_a_front_door(front_door: FrontDoor) -> None:
    front_door.give(record(body(id="1"), FRONT_DOOR, attributes={"joblane-dead": ("Number", "0")}))
    (message,) = front_door.aws.received(EXPORT)
    assert "MessageAttributes" not in message


def test_ten_messages_of_two_types_make_two_requests(front_door: FrontDoor) -> None:
    records = [record(body(type=("data:export", "user:invitation")[n % 2], id=str(n)), FRONT_DOOR) for n in range(10)]
    assert front_door.give(*records) == []
    assert front_door.aws.sends.requests == 2


# --- Refused -------------------------------------------------------------------------------------------------------


def test_an_unreadable_body_goes_to_the_front_doors_dead_letters_with_the_reason(front_door: FrontDoor) -> None:
    assert front_door.give(record("nonsense", "jobs-low"), record(body(), "jobs-low")) == []
    reason = "MessageError: body: not JSON (expected ident at line 1 column 2)"
    assert front_door.dead_letters("jobs-low") == [("nonsense", reason)]
    assert len(front_door.bodies(EXPORT)) == 1


@pytest.mark.parametrize(
    "change", [{"id": "data:export:nightly:2026-01-01T02:00Z"}, {"tick": {"schedule": "nightly", "at": "now"}}]
)
def test_no_producer_can_make_a_tick_through_a_front_door(front_door: FrontDoor, change: dict[str, Any]) -> None:
    assert front_door.give(record(body(**change), FRONT_DOOR)) == []
    assert "has the form of a tick's id, which only the scheduler gives" in front_door.dead_letters()[0][1]
    assert front_door.bodies(EXPORT) == []


def test_a_message_without_room_for_an_id_is_refused_and_the_reason_is_logged(front_door: FrontDoor) -> None:
    full = json.dumps({"type": "data:export", "payload": {"x": ""}})
    full = full.replace('""', '"' + "x" * (MAX_MESSAGE_BYTES - len(full)) + '"')
    with lines() as logged:
        assert front_door.give(record(full, FRONT_DOOR, message_id="m-1")) == []
    (message,) = front_door.aws.received(FRONT_DOOR + "-dlq")
    assert message["Body"] == full
    assert "MessageAttributes" not in message
    (line,) = logged.fields
    assert line["message_id"] == "m-1"
    assert "needs room for one; stay 1 KiB below SQS's limit" in line["reason"]


def test_no_log_line_of_a_refusal_shows_the_body(front_door: FrontDoor) -> None:
    with lines() as logged:
        front_door.give(
            record('{"type":"data:export","payload":"hunter2"}', FRONT_DOOR),
            record("hunter2", FRONT_DOOR),
            record('{"type":"data:export","id":"hunter2 x"}', FRONT_DOOR),
            record({"type": "data:" + "x" * 500}, FRONT_DOOR),
        )
    assert len(logged.texts) == 4
    assert "hunter2" not in "".join(logged.texts)
    assert max(map(len, logged.texts)) < 1000


# --- Unknown types -------------------------------------------------------------------------------------------------


def test_an_unknown_type_waits_because_a_deploy_may_be_running(
    front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: dict[str, int] = {}
    monkeypatch.setattr(front_door.aws.sqs, "set_visibility", lambda queue, receipts: times.update(receipts))
    early = record(body(type="data:new"), FRONT_DOOR, sent_at=time.time() - PATIENCE_SECONDS + 60)
    assert front_door.give(early, record(body(), FRONT_DOOR)) == [early["messageId"]]
    assert times == {early["receiptHandle"]: WAIT_SECONDS}
    assert len(front_door.bodies(EXPORT)) == 1
    assert front_door.dead_letters() == []


def test_an_unknown_type_becomes_a_dead_letter_after_an_hour(front_door: FrontDoor) -> None:
    late = record(body(type="data:new"), FRONT_DOOR, sent_at=time.time() - PATIENCE_SECONDS - 1)
    assert front_door.give(late) == []
    assert front_door.dead_letters()[0][1] == "UnknownType: no task 'data:new' takes messages from a front door"


def test_a_type_closed_to_producers_is_like_an_unknown_type(front_door: FrontDoor) -> None:
    fresh, late = (record(body(type="jobs:sweep"), FRONT_DOOR, sent_at=time.time() - age) for age in (0, 4000))
    assert front_door.give(fresh, late) == [fresh["messageId"]]
    assert len(front_door.dead_letters()) == 1


# --- SQS unavailable -----------------------------------------------------------------------------------------------


def test_a_message_that_cannot_be_sent_stays_in_the_front_door(
    front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    front_door.aws.sqs.client.delete_queue(QueueUrl=front_door.aws.sqs.url(INVITATION))
    lost = record(body(type="user:invitation"), FRONT_DOOR)
    assert front_door.give(record(body(), FRONT_DOOR), lost) == [lost["messageId"]]
    assert len(front_door.bodies(EXPORT)) == 1


def test_a_message_waits_for_a_lane_that_a_deploy_has_not_created_yet(front_door: FrontDoor) -> None:
    # given the routes of a new type, which the router may have before the type has its lane
    front_door.router = Router({**ROUTES, "data:new": ["default"]}, front_door.aws.sqs, "jobs")
    early = record(body(type="data:new"), FRONT_DOOR)
    assert front_door.give(early) == [early["messageId"]]
    assert front_door.dead_letters() == []
    # when the deploy has created the lane
    front_door.aws.make("jobs-default-data-new")
    # then the next receive forwards the message
    assert front_door.give(early) == []
    assert [sent.type for sent in front_door.bodies("jobs-default-data-new")] == ["data:new"]


def test_an_unreadable_message_stays_if_the_dead_letter_queue_is_missing(front_door: FrontDoor) -> None:
    front_door.aws.sqs.client.delete_queue(QueueUrl=front_door.aws.sqs.url(FRONT_DOOR + "-dlq"))
    bad = record("nonsense", FRONT_DOOR)
    assert front_door.give(bad) == [bad["messageId"]]


def test_a_message_with_a_sender_fault_stays_while_another_is_sent_again(
    front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    records = [record(body(id=str(number)), FRONT_DOOR) for number in range(3)]
    answers = [
        {
            "Successful": [{"Id": "2"}],
            "Failed": [
                {"Id": "0", "Code": "InvalidMessageContents", "SenderFault": True},
                {"Id": "1", "Code": "InternalError", "SenderFault": False},
            ],
        },
        {"Successful": [{"Id": "1"}]},
    ]
    monkeypatch.setattr(front_door.aws.sqs.client, "send_message_batch", lambda **_: answers.pop(0))
    assert front_door.give(*records) == [records[0]["messageId"]]


def test_all_messages_of_a_refused_batch_stay(front_door: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SendMessageBatch")

    monkeypatch.setattr(front_door.aws.sqs.client, "send_message_batch", refuse)
    records = [record(body(id=str(number)), FRONT_DOOR) for number in range(3)]
    assert sorted(front_door.give(*records)) == sorted(raw["messageId"] for raw in records)


def test_the_lambda_of_the_router_reads_its_routes_from_the_environment(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joblane.functions.router import handler as module

    module._router.cache_clear()
    aws.make(EXPORT)
    monkeypatch.setenv("JOBLANE_ROUTES", encode(ROUTES))
    monkeypatch.delenv("JOBLANE_PREFIX", raising=False)
    answer = module.handler(event(record(body(), FRONT_DOOR)), LambdaContext())
    module._router.cache_clear()
    assert answer == {"batchItemFailures": []}
    assert len(aws.received(EXPORT)) == 1
