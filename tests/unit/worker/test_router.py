"""The router: each decision, by what arrives in which queue and what stays in the front door."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from joblane.limits import MAX_MESSAGE_BYTES
from joblane.sqs.message import decode
from joblane.worker.router import PATIENCE_SECONDS, WAIT_SECONDS, Router
from tests.builders.events import LambdaContext, event, record
from tests.logs import lines
from tests.unit.conftest import Aws

DOOR = "jobs-default"
ROUTES = {"data:export": ["default", "critical"], "user:invitation": ["low"]}
EXPORT, EXPORT_CRITICAL, INVITATION = (
    "jobs-default-data-export",
    "jobs-critical-data-export",
    "jobs-low-user-invitation",
)


class Door:
    """The router and its queues. ``give`` hands records over and returns what stays in the front door."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        aws.make("jobs-critical", DOOR, "jobs-low", EXPORT, EXPORT_CRITICAL, INVITATION)
        self.router = Router(ROUTES, aws.sqs, "jobs")

    def give(self, *records: dict[str, Any]) -> list[str]:
        answer = self.router.handle(event(*records), LambdaContext())
        assert list(answer) == ["batchItemFailures"]
        kept = [item["itemIdentifier"] for item in answer["batchItemFailures"]]
        assert set(kept) <= {raw["messageId"] for raw in records}
        return kept

    def bodies(self, queue: str) -> list[Any]:
        return [decode(message["Body"]) for message in self.aws.received(queue)]

    def letters(self, queue: str = DOOR) -> list[tuple[str, str]]:
        """Body and reason of each dead letter."""
        return [
            (message["Body"], message["MessageAttributes"]["joblane-reason"]["StringValue"])
            for message in self.aws.received(queue + "-dlq")
        ]


@pytest.fixture
def door(aws: Aws) -> Door:
    return Door(aws)


def body(**fields: Any) -> dict[str, Any]:
    return {"type": "data:export", "payload": {"n": 1}} | fields


# --- On to a lane --------------------------------------------------------------------------------------------------


def test_a_message_goes_to_the_lane_of_the_doors_tier_where_the_type_has_one(door: Door) -> None:
    assert door.give(record(body(), "jobs-critical", message_id="m-1")) == []
    (message,) = door.bodies(EXPORT_CRITICAL)
    assert (message.id, message.payload, message.rec) == ("m-1", {"n": 1}, False)


def test_else_it_goes_to_the_home_lane(door: Door) -> None:
    assert door.give(record(body(), "jobs-low"), record(body(type="user:invitation"), "jobs-critical")) == []
    assert len(door.bodies(EXPORT)) == len(door.bodies(INVITATION)) == 1


def test_a_prefix_of_several_words_does_not_confuse_the_tier(aws: Aws) -> None:
    aws.make("jobs-low-critical", "jobs-low-critical-data-export", "jobs-low-default-data-export")
    router = Router(ROUTES, aws.sqs, "jobs-low")
    router.handle(event(record(body(), "jobs-low-critical")), LambdaContext())
    assert len(aws.received("jobs-low-critical-data-export")) == 1


def test_the_senders_id_tenant_headers_schema_and_attributes_go_along(door: Door) -> None:
    sent = body(id="mine", headers={"traceparent": "t"}, schema="abc", enqueued_at=5)
    assert door.give(record(sent, DOOR, group="acme", attributes={"trace": ("String", "x")})) == []
    (message,) = door.aws.received(EXPORT)
    read = decode(message["Body"])
    assert (read.id, read.headers, read.schema, read.enqueued_at) == ("mine", {"traceparent": "t"}, "abc", 5.0)
    assert message["MessageAttributes"]["trace"]["StringValue"] == "x"
    assert message["Attributes"]["MessageGroupId"] == "acme"


def test_a_foreign_message_cannot_say_that_a_row_was_written_for_it(door: Door) -> None:
    door.give(record(body(id="1", rec=True, payload=None), DOOR), record(body(id="2", rec=True), DOOR))
    assert [(message.rec, message.payload) for message in door.bodies(EXPORT)] == [(False, {}), (False, {"n": 1})]


def test_marks_of_a_dead_letter_do_not_pass_a_front_door(door: Door) -> None:
    door.give(record(body(id="1"), DOOR, attributes={"joblane-dead": ("Number", "0")}))
    (message,) = door.aws.received(EXPORT)
    assert "MessageAttributes" not in message


def test_ten_messages_of_two_types_are_two_requests(door: Door) -> None:
    records = [record(body(type=("data:export", "user:invitation")[n % 2], id=str(n)), DOOR) for n in range(10)]
    assert door.give(*records) == []
    assert door.aws.sends.requests == 2


# --- Refused -------------------------------------------------------------------------------------------------------


def test_a_body_that_cannot_be_read_goes_to_the_doors_dead_letters_with_the_reason(door: Door) -> None:
    assert door.give(record("nonsense", "jobs-low"), record(body(), "jobs-low")) == []
    reason = "MessageError: body: not JSON (expected ident at line 1 column 2)"
    assert door.letters("jobs-low") == [("nonsense", reason)]
    assert len(door.bodies(EXPORT)) == 1


@pytest.mark.parametrize(
    "change", [{"id": "data:export:nightly:2026-01-01T02:00Z"}, {"tick": {"schedule": "nightly", "at": "now"}}]
)
def test_nobody_makes_a_tick_through_a_front_door(door: Door, change: dict[str, Any]) -> None:
    assert door.give(record(body(**change), DOOR)) == []
    assert "has the form of a tick's id, which only the scheduler gives" in door.letters()[0][1]
    assert door.bodies(EXPORT) == []


def test_a_message_without_room_for_an_id_is_refused_and_the_reason_is_in_the_log(door: Door) -> None:
    full = json.dumps({"type": "data:export", "payload": {"x": ""}})
    full = full.replace('""', '"' + "x" * (MAX_MESSAGE_BYTES - len(full)) + '"')
    with lines() as logged:
        assert door.give(record(full, DOOR, message_id="m-1")) == []
    (message,) = door.aws.received(DOOR + "-dlq")
    assert message["Body"] == full
    assert "MessageAttributes" not in message
    (line,) = logged.fields
    assert line["message_id"] == "m-1"
    assert "needs room for one; stay 1 KiB below SQS's limit" in line["reason"]


def test_no_log_line_of_a_refusal_shows_the_body(door: Door) -> None:
    with lines() as logged:
        door.give(
            record('{"type":"data:export","payload":"hunter2"}', DOOR),
            record("hunter2", DOOR),
            record('{"type":"data:export","id":"hunter2 x"}', DOOR),
            record({"type": "data:" + "x" * 500}, DOOR),
        )
    assert len(logged.texts) == 4
    assert "hunter2" not in "".join(logged.texts)
    assert max(map(len, logged.texts)) < 1000


# --- Not known yet -------------------------------------------------------------------------------------------------


def test_an_unknown_type_waits_as_a_deploy_may_be_under_way(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    times: dict[str, int] = {}
    monkeypatch.setattr(door.aws.sqs, "set_visibility", lambda queue, receipts: times.update(receipts))
    early = record(body(type="data:new"), DOOR, sent_at=time.time() - PATIENCE_SECONDS + 60)
    assert door.give(early, record(body(), DOOR)) == [early["messageId"]]
    assert times == {early["receiptHandle"]: WAIT_SECONDS}
    assert len(door.bodies(EXPORT)) == 1
    assert door.letters() == []


def test_after_an_hour_an_unknown_type_goes_to_the_dead_letters(door: Door) -> None:
    late = record(body(type="data:new"), DOOR, sent_at=time.time() - PATIENCE_SECONDS - 1)
    assert door.give(late) == []
    assert door.letters()[0][1] == "UnknownType: no task 'data:new' takes messages from a front door"


def test_a_closed_type_is_like_an_unknown_one(door: Door) -> None:
    fresh, late = (record(body(type="jobs:sweep"), DOOR, sent_at=time.time() - age) for age in (0, 4000))
    assert door.give(fresh, late) == [fresh["messageId"]]
    assert len(door.letters()) == 1


# --- SQS away ------------------------------------------------------------------------------------------------------


def test_what_could_not_be_sent_stays_in_the_front_door(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.aws.sqs.client.delete_queue(QueueUrl=door.aws.sqs.url(INVITATION))
    lost = record(body(type="user:invitation"), DOOR)
    assert door.give(record(body(), DOOR), lost) == [lost["messageId"]]
    assert len(door.bodies(EXPORT)) == 1


def test_a_door_without_its_dead_letters_keeps_what_it_cannot_read(door: Door) -> None:
    door.aws.sqs.client.delete_queue(QueueUrl=door.aws.sqs.url(DOOR + "-dlq"))
    bad = record("nonsense", DOOR)
    assert door.give(bad) == [bad["messageId"]]


def test_a_message_that_sqs_finds_at_fault_stays_beside_one_that_is_sent_again(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    records = [record(body(id=str(number)), DOOR) for number in range(3)]
    answers = [
        {
            "Failed": [
                {"Id": "0", "Code": "InvalidMessageContents", "SenderFault": True},
                {"Id": "1", "Code": "InternalError", "SenderFault": False},
            ]
        },
        {"Failed": []},
    ]
    monkeypatch.setattr(door.aws.sqs.client, "send_message_batch", lambda **_: answers.pop(0))
    assert door.give(*records) == [records[0]["messageId"]]


def test_a_refused_batch_stays_whole(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SendMessageBatch")

    monkeypatch.setattr(door.aws.sqs.client, "send_message_batch", refuse)
    records = [record(body(id=str(number)), DOOR) for number in range(3)]
    assert sorted(door.give(*records)) == sorted(raw["messageId"] for raw in records)


def test_the_routers_lambda_reads_its_routes_from_the_environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    from joblane.functions.router import handler as module

    module._router.cache_clear()
    aws.make(EXPORT)
    monkeypatch.setenv("JOBLANE_ROUTES", json.dumps(ROUTES))
    monkeypatch.delenv("JOBLANE_PREFIX", raising=False)
    answer = module.handler(event(record(body(), DOOR)), LambdaContext())
    module._router.cache_clear()
    assert answer == {"batchItemFailures": []}
    assert len(aws.received(EXPORT)) == 1
