"""Dead letters by what went wrong: rows that were given up, and the messages that no row explains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from joblane import Queue
from joblane.inspector.bulk.dead_letters import FINGERPRINT, queues_of
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import DeadGroup
from joblane.queues import dead_letter_name
from tests.builders.rows import archived, put
from tests.bulks import TASKS, Bulks
from tests.samples import sample_one, sample_tick
from tests.world import PREFIX, World

DLQ = "jobs-default-sample-one-dlq"
CRON = "jobs-cron-dlq"
DOOR = "jobs-default-dlq"


def put_dead(world: World, id_: str, **columns: Any) -> None:
    """A row that was given up, and its dead letter."""
    put(world, sample_one, id_, **archived(generation=1, **columns))
    send_letter(world, {"type": "sample:one", "id": id_, "rec": True}, generation=1, reason="it failed")


def send_letter(
    world: World,
    body: str | Mapping[str, Any],
    queue: str = DLQ,
    *,
    generation: int | None = None,
    reason: str | None = None,
    **others: str,
) -> str:
    """Put a message into a dead-letter queue. Returns its SQS message id."""
    marks = {"joblane-dead": None if generation is None else str(generation), "joblane-reason": reason, **others}
    answer = world.sqs.client.send_message(
        QueueUrl=world.sqs.url(queue),
        MessageBody=body if isinstance(body, str) else json.dumps(body),
        MessageAttributes={
            name: {"DataType": "Number" if name == "joblane-dead" else "String", "StringValue": value}
            for name, value in marks.items()
            if value is not None
        },
    )
    return answer["MessageId"]


def external(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "sample:one", "payload": {"do": "nothing", "number": number}, **fields}


def one(inspector: Inspector) -> DeadGroup:
    [group] = inspector.dead().groups
    return group


# --- Rows ----------------------------------------------------------------------------------------------------------


def test_what_was_given_up_is_grouped_by_its_fingerprint(inspector: Inspector, bulks: Bulks) -> None:
    # given
    world = bulks.world
    for number in range(3):
        error = {"error_type": "KeyError", "error_message": f"'field-{number}' of order {number}"}
        put_dead(world, f"key{number}", fingerprint="aaaa", **error)
    put_dead(world, "value", fingerprint="bbbb", error_message="bad\nsecond line")
    put(world, sample_one, "runs")
    # when
    found = inspector.dead()
    # then
    first, second = found.groups
    assert (first.fingerprint, first.type, first.error_type, first.count) == ("aaaa", "sample:one", "KeyError", 3)
    assert first.message == "'…' of order #"
    assert first.recorded
    assert first.queue == DLQ
    assert first.example.startswith("key")
    assert first.first_at <= first.last_at
    assert (second.fingerprint, second.count, second.message) == ("bbbb", 1, "bad")
    assert (found.depths, found.unread) == ({DLQ: 4}, 0)


def test_letters_that_the_record_explains_are_not_looked_at(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        put_dead(bulks.world, f"it{number}", fingerprint=f"cause{number % 3}")
    monkeypatch.setattr(bulks.sqs, "receive_many", None)
    assert [group.count for group in inspector.dead().groups] == [10, 10, 10]


def test_a_row_without_content_is_in_no_group(inspector: Inspector, bulks: Bulks) -> None:
    put(bulks.world, sample_one, "it", **archived(cleared=True))
    assert inspector.dead().groups == ()


def test_a_link_leads_to_the_log_of_the_function(bulks: Bulks, scope: Any) -> None:
    from dataclasses import replace

    put_dead(bulks.world, "it", fingerprint="aaaa")
    assert one(Inspector(replace(scope, region="eu-west-1"))).log_link == (
        "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1"
        "#logsV2:log-groups/log-group/$252Faws$252Flambda$252Fjobs-sample-one"
    )


# --- Messages without a row ----------------------------------------------------------------------------------------


def test_a_letter_whose_row_has_moved_on_is_in_no_group(inspector: Inspector, bulks: Bulks) -> None:
    put(bulks.world, sample_one, "it", state="completed", generation=2)
    send_letter(bulks.world, {"type": "sample:one", "id": "it", "rec": True}, generation=1, reason="it failed")
    found = inspector.dead()
    assert (found.groups, found.depths) == ((), {DLQ: 1})


def test_what_was_refused_is_grouped_by_its_reason_without_the_values(inspector: Inspector, bulks: Bulks) -> None:
    for number in range(3):
        send_letter(bulks.world, f"no json {number}", generation=0, reason=f"MessageError: body: bad {number}")
    group = one(inspector)
    assert (group.error_type, group.message, group.count) == ("MessageError", "body: bad #", 3)
    assert not group.recorded
    assert group.fingerprint.startswith(FINGERPRINT)
    assert (group.type, group.queue) == ("", DLQ)


def test_a_letter_under_the_id_of_another_task_is_not_taken_for_that_ones(inspector: Inspector, bulks: Bulks) -> None:
    reason = "IdConflict: 'it' is the id of another task, or of another payload"
    put(bulks.world, sample_one, "it", **archived(generation=0))
    send_letter(bulks.world, external(7, id="it"), generation=0, reason=reason)
    send_letter(bulks.world, {"type": "sample:one", "id": "it", "rec": True}, generation=0, reason="it failed")
    groups = {group.error_type: group.recorded for group in inspector.dead().groups}
    assert groups == {"ValueError": True, "IdConflict": False}


def test_what_sqs_moved_itself_is_told_from_what_we_gave_up(inspector: Inspector, bulks: Bulks) -> None:
    put(bulks.world, sample_one, "live")
    send_letter(bulks.world, {"type": "sample:one", "id": "live", "rec": True})
    send_letter(bulks.world, external())
    found = inspector.dead().groups
    assert {group.message for group in found} == {
        "SQS moved it here, its receives were used up; its task is pending",
        "SQS moved it here, its receives were used up",
    }
    assert {group.error_type for group in found} == {"MovedBySqs"}


def test_a_tick_that_could_not_be_sent_is_told_with_the_schedulers_reason(inspector: Inspector, bulks: Bulks) -> None:
    bulks.world.make("jobs-cron")
    tick = {"type": "sample:tick", "tick": {"schedule": "0", "at": "2026-11-25T08:00:00Z"}}
    send_letter(bulks.world, tick, CRON, ERROR_CODE="AWS.SimpleQueueService.NonExistentQueue", ERROR_MESSAGE="gone")
    group = one(inspector)
    assert (group.type, group.error_type, group.message) == (
        sample_tick.type,
        "AWS.SimpleQueueService.NonExistentQueue",
        "gone",
    )
    assert group.example == "sample:tick:0:2026-11-25T08:00Z"


def test_letters_are_there_for_others_after_they_were_looked_at(inspector: Inspector, bulks: Bulks) -> None:
    for _ in range(12):
        send_letter(bulks.world, external(), DOOR)
    assert one(inspector).count == 12
    assert one(inspector).count == 12
    assert len(bulks.world.received(DOOR)) == 10  # the most that one receive gives


def test_what_was_refused_is_found_also_where_letters_of_rows_were_purged(inspector: Inspector, bulks: Bulks) -> None:
    for number in range(3):
        put_dead(bulks.world, f"it{number}", fingerprint="aaaa")
    bulks.sqs.client.purge_queue(QueueUrl=bulks.sqs.url(DLQ))
    send_letter(bulks.world, external())
    assert [(group.recorded, group.count) for group in inspector.dead().groups] == [(True, 3), (False, 1)]


def test_a_queue_with_very_many_is_not_read_to_its_end(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.inspector.bulk.dead.LOOKED_AT", 20)
    for _ in range(50):
        send_letter(bulks.world, external(), DOOR)
    found = inspector.dead()
    assert (found.groups[0].count, found.unread, found.depths) == (20, 30, {DOOR: 50})


def test_no_value_of_a_payload_is_in_a_group(inspector: Inspector, bulks: Bulks) -> None:
    send_letter(bulks.world, external(id="x", payload={"do": "PLANTED"}))
    send_letter(bulks.world, '{"type": "sample:one", "payload": "PLANTED"}', reason="MessageError: payload: no object")
    put_dead(bulks.world, "it", payload={"do": "PLANTED"}, error_message="no behaviour 'PLANTED'", fingerprint="a")
    assert "PLANTED" not in repr(inspector.dead())


def test_every_dead_letter_queue_of_a_stage_is_known() -> None:
    names = queues_of(PREFIX, TASKS)
    lanes = sum(len(task.lanes) * len(task.types) for task in TASKS.values())
    assert len(names) == len(set(names)) == lanes + len(Queue) + 1
    assert {DLQ, DOOR, CRON, dead_letter_name("jobs-critical-sample-batch")} <= set(names)
    assert queues_of(PREFIX, TASKS, ["sample:one"]) == [DLQ, "jobs-critical-dlq", DOOR, "jobs-low-dlq", CRON]
