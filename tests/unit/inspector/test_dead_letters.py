"""The kinds of messages in dead-letter queues, and the filters that match them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import Queue, State
from joblane.inspector.bulk.dead_letters import DeadLetter, DeadLetterKind, Row, wanted
from joblane.inspector.filter import Filter
from joblane.json_values import digest
from joblane.sqs.message import Received
from joblane.tasks.discovery import discover
from tests.builders.events import record

DLQ = "jobs-low-data-export-dlq"
AT = datetime(2026, 11, 25, 8, tzinfo=UTC)
PAYLOAD = {"number": 1}
REC = {"type": "data:export", "id": "it", "rec": True}
EXTERNAL = {"type": "data:export", "id": "it", "payload": PAYLOAD}
TICK = {"type": "jobs:sweep", "tick": {"schedule": "0", "at": "2026-11-25T08:00Z"}}
REASON = ("String", "ValueError: row 17 of 'secret' is bad")


def dead_letter(
    body: Any, row: Row | None = None, *, queue: str = DLQ, dead: str | None = None, **texts: str
) -> DeadLetter:
    attributes = {name: ("String", value) for name, value in texts.items()}
    if dead is not None:
        attributes |= {"joblane-dead": ("Number", dead), "joblane-reason": REASON}
    sqs_record = record(body, queue, message_id="m", sent_at=AT.timestamp(), group="acme", attributes=attributes)
    delivery = Received.read(sqs_record)
    return DeadLetter(delivery, delivery.message.id or "m" if delivery.message else None, row)


def row(state: State, generation: int = 1, payload: Any = PAYLOAD, type_: str = "data:export") -> Row:
    return Row(type_, state, generation, digest(payload))


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (dead_letter(REC, row(State.ARCHIVED), dead="1"), DeadLetterKind.RECORDED),
        (dead_letter(REC, row(State.ARCHIVED, 2), dead="1"), DeadLetterKind.OBSOLETE),
        (dead_letter(REC, row(State.PENDING, 2), dead="1"), DeadLetterKind.OBSOLETE),
        (dead_letter(REC, row(State.COMPLETED, 2), dead="1"), DeadLetterKind.OBSOLETE),
        (dead_letter(REC, row(State.ARCHIVED)), DeadLetterKind.OBSOLETE),
        (dead_letter(REC, row(State.CANCELLED)), DeadLetterKind.OBSOLETE),
        (dead_letter(REC, row(State.ACTIVE)), DeadLetterKind.MOVED),
        (dead_letter(REC), DeadLetterKind.MOVED),
        (dead_letter(REC, row(State.ARCHIVED, type_="data:import"), dead="1"), DeadLetterKind.REFUSED),
        (dead_letter(EXTERNAL, row(State.COMPLETED), dead="0"), DeadLetterKind.OBSOLETE),
        (dead_letter(EXTERNAL, row(State.COMPLETED, payload={"number": 2}), dead="0"), DeadLetterKind.REFUSED),
        (dead_letter(EXTERNAL, row(State.COMPLETED, payload={"number": 2})), DeadLetterKind.MOVED),
        (dead_letter(EXTERNAL, dead="0"), DeadLetterKind.REFUSED),
        (dead_letter("no json", dead="0"), DeadLetterKind.UNREADABLE),
        (dead_letter("no json"), DeadLetterKind.UNREADABLE),
        (dead_letter(TICK, queue="jobs-cron-dlq", ERROR_CODE="Throttled"), DeadLetterKind.UNSENT),
        (dead_letter(TICK), DeadLetterKind.MOVED),
        (dead_letter(TICK, row(State.COMPLETED, type_="jobs:sweep"), ERROR_CODE="Throttled"), DeadLetterKind.OBSOLETE),
    ],
)
def test_the_kind_of_a_dead_letter_follows_from_its_attributes_and_its_row(
    found: DeadLetter, kind: DeadLetterKind
) -> None:
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
        (Filter(tag="any"), False),  # a message has no tags
        (Filter(parent="any"), False),  # and no parent
        (Filter(error="valueerror: ROW"), True),
        (Filter(error="other"), False),
        (Filter(fingerprint="0123456789abcdef"), False),
        (Filter(created_after=AT), True),
        (Filter(created_after=AT + timedelta(seconds=1)), False),
        (Filter(created_before=AT + timedelta(seconds=1)), True),
        (Filter(created_before=AT), False),
    ],
)
def test_a_dead_letter_must_match_the_whole_filter(filter_: Filter, *, is_wanted: bool) -> None:
    assert wanted(dead_letter(EXTERNAL, dead="0"), filter_, "jobs", discover()) is is_wanted


def test_dead_letters_of_rows_are_never_sent_back_as_messages() -> None:
    for found in (dead_letter(REC, row(State.ARCHIVED), dead="1"), dead_letter(REC, row(State.COMPLETED, 2), dead="1")):
        assert not wanted(found, Filter(), "jobs", discover())


def test_an_unreadable_message_matches_only_its_own_fingerprint() -> None:
    found = dead_letter("no json", dead="0")
    assert not wanted(found, Filter(), "jobs", discover())
    assert not wanted(found, Filter(ids=("m",)), "jobs", discover())
    assert wanted(found, Filter(fingerprint=found.fingerprint), "jobs", discover())


def test_a_tick_belongs_to_the_queue_of_its_type() -> None:
    found = dead_letter(TICK, queue="jobs-cron-dlq", ERROR_CODE="Throttled")
    assert wanted(found, Filter(queues=(Queue.LOW,)), "jobs", discover())
    assert not wanted(found, Filter(queues=(Queue.CRITICAL,)), "jobs", discover())


def test_dead_letters_of_the_same_queue_and_reason_have_the_same_fingerprint() -> None:
    fingerprints = {dead_letter(EXTERNAL | {"id": str(n)}, dead="0").fingerprint for n in range(3)}
    assert len(fingerprints) == 1
    assert dead_letter(EXTERNAL, dead="0", queue="jobs-low-dlq").fingerprint not in fingerprints
    assert "secret" not in str(dead_letter(EXTERNAL, dead="0").error)
