"""The queues in memory refuse, hide and dead-letter messages as SQS does."""

from __future__ import annotations

from datetime import timedelta

import pytest

from joblane.errors import SendError
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.sqs.client import Entry
from joblane.sqs.message import Message
from joblane.testing.clock import Clock
from joblane.testing.queues import KitQueues

LANE = "jobs-default-order-mail"
BODY = Message("order:mail", "one", {"number": 1}).encode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queues(clock: Clock) -> KitQueues:
    return KitQueues(clock)


def received(queues: KitQueues, *, most: int = 10, visibility: float = 30, max_receives: int = 100) -> list[str]:
    return [held.entry.body for held in queues.receive(LANE, most, visibility, max_receives)]


def test_a_message_is_hidden_by_its_delay_and_by_a_receive(queues: KitQueues, clock: Clock) -> None:
    queues.send(Entry(LANE, BODY, delay_seconds=60))
    assert received(queues) == []
    clock.travelled += timedelta(seconds=60)
    assert received(queues) == [BODY]
    assert received(queues) == []
    clock.travelled += timedelta(seconds=30)
    assert received(queues) == [BODY]


def test_visibility_is_set_by_the_last_receipt_alone(queues: KitQueues) -> None:
    queues.send(Entry(LANE, BODY))
    [held] = queues.receive(LANE, 1, 30, 100)
    queues.set_visibility(LANE, {"another": 0})
    assert received(queues) == []
    queues.set_visibility(LANE, {held.receipt: 0})
    assert received(queues) == [BODY]


def test_a_message_that_is_received_too_often_is_a_dead_letter(queues: KitQueues) -> None:
    queues.send(Entry(LANE, BODY))
    assert received(queues, visibility=0, max_receives=2) == [BODY]
    assert received(queues, visibility=0, max_receives=2) == [BODY]
    assert received(queues, visibility=0, max_receives=2) == []
    [dead_letter] = queues.dead_letters(LANE)
    assert (dead_letter.id, dead_letter.reason) == ("one", "received too often")


def test_what_sqs_does_not_take_is_refused(queues: KitQueues) -> None:
    with pytest.raises(SendError, match="too much"):
        queues.send(Entry(LANE, "x" * (MAX_MESSAGE_BYTES + 1)))
    with pytest.raises(SendError, match="901 s"):
        queues.send(Entry(LANE, BODY, delay_seconds=901))
    failed = queues.send_many([Entry(LANE, BODY), Entry(LANE, "")])
    assert list(failed) == [1]
    assert received(queues) == [BODY]


def test_retention_ends_a_message(queues: KitQueues, clock: Clock) -> None:
    queues.send(Entry(LANE, BODY))
    clock.travelled += timedelta(days=11)
    assert received(queues) == []
    assert queues.next_lane() is None
