"""What a message in a dead-letter queue is, and which filter wants it sent back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Queue, State
from joblane.discovery import discover
from joblane.inspector.bulk.dead_letters import DeadLetter, Kind, Row
from joblane.inspector.bulk.redrive import wanted
from joblane.inspector.filter import Filter
from joblane.json_values import digest
from joblane.sqs.received import Received
from tests.builders.events import record

DLQ = "jobs-low-data-export-dlq"
AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
PAYLOAD = {"number": 1}
REC = {"type": "data:export", "id": "it", "rec": True}
EXTERNAL = {"type": "data:export", "id": "it", "payload": PAYLOAD}
TICK = {"type": "jobs:sweep", "tick": {"schedule": "0", "at": "2026-11-25T08:00Z"}}
REASON = ("String", "ValueError: row 17 of 'secret' is bad")


def letter(body: Any, row: Row | None = None, *, queue: str = DLQ, dead: str | None = None, **marks: str) -> DeadLetter:
    attributes = {name: ("String", value) for name, value in marks.items()}
    if dead is not None:
        attributes |= {"joblane-dead": ("Number", dead), "joblane-reason": REASON}
    one = record(body, queue, message_id="m", sent_at=AT.timestamp(), group="acme", attributes=attributes)
    delivery = Received.read(one)
    return DeadLetter(delivery, delivery.message.id or "m" if delivery.message else None, row)


def row(state: State, generation: int = 1, payload: Any = PAYLOAD, type_: str = "data:export") -> Row:
    return Row(type_, state, generation, digest(payload))


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (letter(REC, row(State.ARCHIVED), dead="1"), Kind.RECORDED),
        (letter(REC, row(State.ARCHIVED, 2), dead="1"), Kind.OBSOLETE),
        (letter(REC, row(State.PENDING, 2), dead="1"), Kind.OBSOLETE),
        (letter(REC, row(State.COMPLETED, 2), dead="1"), Kind.OBSOLETE),
        (letter(REC, row(State.ARCHIVED)), Kind.OBSOLETE),
        (letter(REC, row(State.CANCELLED)), Kind.OBSOLETE),
        (letter(REC, row(State.ACTIVE)), Kind.MOVED),
        (letter(REC), Kind.MOVED),
        (letter(REC, row(State.ARCHIVED, type_="data:import"), dead="1"), Kind.REFUSED),
        (letter(EXTERNAL, row(State.COMPLETED), dead="0"), Kind.OBSOLETE),
        (letter(EXTERNAL, row(State.COMPLETED, payload={"number": 2}), dead="0"), Kind.REFUSED),
        (letter(EXTERNAL, row(State.COMPLETED, payload={"number": 2})), Kind.MOVED),
        (letter(EXTERNAL, dead="0"), Kind.REFUSED),
        (letter("no json", dead="0"), Kind.UNREADABLE),
        (letter("no json"), Kind.UNREADABLE),
        (letter(TICK, queue="jobs-cron-dlq", ERROR_CODE="Throttled"), Kind.UNSENT),
        (letter(TICK), Kind.MOVED),
        (letter(TICK, row(State.COMPLETED, type_="jobs:sweep"), ERROR_CODE="Throttled"), Kind.OBSOLETE),
    ],
)
def test_a_letter_is_told_by_its_marks_and_its_row(found: DeadLetter, kind: Kind) -> None:
    assert found.kind is kind


@pytest.mark.parametrize(
    ("filter_", "is_wanted"),
    [
        (Filter(), True),
        (Filter(ids=("it",)), True),
        (Filter(ids=("m",)), True),
        (Filter(ids=("other",)), False),
        (Filter(id_prefix="i"), True),
        (Filter(id_prefix="x"), False),
        (Filter(states=(State.ARCHIVED,)), True),
        (Filter(states=(State.CANCELLED,)), False),
        (Filter(types=("data:export",)), True),
        (Filter(types=("data:import",)), False),
        (Filter(queues=(Queue.LOW,)), True),
        (Filter(queues=(Queue.CRITICAL, Queue.DEFAULT)), False),
        (Filter(tenant="acme"), True),
        (Filter(tenant="globex"), False),
        (Filter(tag="any"), False),  # a message does not tell its own
        (Filter(error="valueerror: ROW"), True),
        (Filter(error="other"), False),
        (Filter(fingerprint="0123456789abcdef"), False),
        (Filter(created_after=AT), True),
        (Filter(created_after=AT + timedelta(seconds=1)), False),
        (Filter(created_before=AT + timedelta(seconds=1)), True),
        (Filter(created_before=AT), False),
    ],
)
def test_a_letter_is_wanted_where_all_holds_that_is_asked_for(filter_: Filter, *, is_wanted: bool) -> None:
    assert wanted(letter(EXTERNAL, dead="0"), filter_, "jobs", discover()) is is_wanted


def test_what_the_record_has_is_never_sent_back_as_a_message() -> None:
    for found in (letter(REC, row(State.ARCHIVED), dead="1"), letter(REC, row(State.COMPLETED, 2), dead="1")):
        assert not wanted(found, Filter(), "jobs", discover())


def test_what_cannot_be_read_is_wanted_by_its_own_fingerprint_alone() -> None:
    found = letter("no json", dead="0")
    assert not wanted(found, Filter(), "jobs", discover())
    assert not wanted(found, Filter(ids=("m",)), "jobs", discover())
    assert wanted(found, Filter(fingerprint=found.fingerprint), "jobs", discover())


def test_a_tick_belongs_to_the_queue_of_its_type() -> None:
    found = letter(TICK, queue="jobs-cron-dlq", ERROR_CODE="Throttled")
    assert wanted(found, Filter(queues=(Queue.LOW,)), "jobs", discover())
    assert not wanted(found, Filter(queues=(Queue.CRITICAL,)), "jobs", discover())


def test_letters_of_one_queue_and_one_reason_have_one_fingerprint() -> None:
    prints = {letter(EXTERNAL | {"id": str(n)}, dead="0").fingerprint for n in range(3)}
    assert len(prints) == 1
    assert letter(EXTERNAL, dead="0", queue="jobs-low-dlq").fingerprint not in prints
    assert "secret" not in str(letter(EXTERNAL, dead="0").error)
