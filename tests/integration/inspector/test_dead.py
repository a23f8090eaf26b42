"""Archived tasks and dead letters by error: rows, and messages without a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane import ArchivedTask, Lambda, Queue, TaskContext, task
from joblane.inspector.bulk.dead_letters import FINGERPRINT, queues_of
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.views import Cause
from joblane.names import dead_letter_name
from tests.builders.rows import archived, put
from tests.bulks import TASKS, Bulks
from tests.integration.inspector.memory import with_little_memory
from tests.integration.inspector.scene import of
from tests.samples import sample_one, sample_tick
from tests.world import PREFIX, World

DLQ = "jobs-default-sample-one-dlq"
CRON = "jobs-cron-dlq"
FRONT_DOOR = "jobs-default-dlq"


def put_dead(world: World, id_: str, **columns: Any) -> None:
    """An archived row, and its dead letter."""
    put(world, sample_one, id_, **archived(generation=1, **columns))
    put_dead_letter(world, of(id_), generation=1, reason="it failed")


def put_dead_letter(
    world: World,
    body: str | Mapping[str, Any],
    queue: str = DLQ,
    *,
    generation: int | None = None,
    reason: str | None = None,
    tenant: str | None = None,
    **others: str,
) -> str:
    """Put a message into a dead-letter queue. Returns its SQS message id."""
    attributes = {"joblane-dead": None if generation is None else str(generation), "joblane-reason": reason, **others}
    answer = world.sqs.client.send_message(
        QueueUrl=world.sqs.url(queue),
        MessageBody=body if isinstance(body, str) else json.dumps(body),
        MessageAttributes={
            name: {"DataType": "Number" if name == "joblane-dead" else "String", "StringValue": value}
            for name, value in attributes.items()
            if value is not None
        },
        **({"MessageGroupId": tenant} if tenant else {}),  # type: ignore[arg-type]
    )
    return answer["MessageId"]


def external(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {"type": "sample:one", "payload": {"do": "nothing", "number": number}, **fields}


def only_group(inspector: Inspector) -> Cause:
    [group] = inspector.dead().groups
    return group


# --- Rows ----------------------------------------------------------------------------------------------------------


def test_archived_tasks_are_grouped_by_fingerprint(inspector: Inspector, bulks: Bulks) -> None:
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
    assert (first.fingerprint, first.type, first.error_type, first.archived) == ("aaaa", "sample:one", "KeyError", 3)
    assert first.message == "'…' of order #"
    assert first.recorded
    assert first.queue == DLQ
    assert first.example.startswith("key")
    assert first.first_at <= first.last_at
    assert (second.fingerprint, second.archived, second.message) == ("bbbb", 1, "bad")
    assert (found.depths, found.unread) == ({DLQ: 4}, 0)


def test_dead_letters_of_archived_rows_are_not_read(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        put_dead(bulks.world, f"it{number}", fingerprint=f"cause{number % 3}")
    monkeypatch.setattr(bulks.sqs, "receive_many", None)
    assert [group.archived for group in inspector.dead().groups] == [10, 10, 10]


def test_groups_are_chosen_by_type_and_time_and_sorted_by_the_latest(inspector: Inspector, bulks: Bulks) -> None:
    # given a large cause of two days ago, a small one of today, and a message without a row
    world = bulks.world
    for number in range(3):
        put_dead(world, f"old{number}", fingerprint="aaaa")
    put_dead(world, "young", fingerprint="bbbb")
    put_dead_letter(world, external(type="gone:type"))
    world.run(
        "update joblane.tasks set finished_at = finished_at - interval '2 d', created_at = created_at - interval '2 d'"
        " where fingerprint = 'aaaa'"
    )
    # then
    assert inspector.dead().groups[0].fingerprint == "aaaa"
    by_time = inspector.dead(sort="last").groups
    assert by_time[-1].fingerprint == "aaaa"
    assert {group.fingerprint: group.state for group in by_time if group.recorded} == {"aaaa": "open", "bbbb": "new"}
    since = datetime.now(UTC) - timedelta(hours=1)
    assert {group.type for group in inspector.dead(since=since).groups} == {"sample:one", "gone:type"}
    assert [group.fingerprint for group in inspector.dead(since=since, types=("sample:one",)).groups] == ["bbbb"]
    wrong: list[dict[str, Any]] = [{"sort": "age"}, {"types": ("no:such",)}, {"since": since.replace(tzinfo=None)}]
    for given in wrong:
        with pytest.raises(SelectionError):
            inspector.dead(**given)


def test_groups_of_a_tenant_count_its_tasks_and_its_messages_alone(inspector: Inspector, bulks: Bulks) -> None:
    put(bulks.world, sample_one, "gone", tenant="other", state="completed", generation=2)
    put_dead_letter(bulks.world, of("gone"), generation=1, reason="it failed", tenant="other")
    for number, tenant in enumerate(["acme", "acme", "other"]):
        put_dead(bulks.world, f"it{number}", fingerprint="aaaa", tenant=tenant)
        put_dead_letter(bulks.world, external(number), generation=0, reason="IdConflict: taken", tenant=tenant)
    assert [(group.recorded, group.archived) for group in inspector.dead().groups] == [(True, 3), (False, 3)]
    assert [(group.recorded, group.archived) for group in inspector.dead(tenant="acme").groups] == [
        (True, 2),
        (False, 2),
    ]
    assert inspector.dead(tenant="third").groups == ()
    # and obsolete messages are counted in the same way
    chosen = {"all": inspector.dead(), "other": inspector.dead(tenant="other"), "acme": inspector.dead(tenant="acme")}
    assert {name: len(found.obsolete) for name, found in chosen.items()} == {"all": 1, "other": 1, "acme": 0}
    assert inspector.dead(types=(sample_tick.type,)).obsolete == {}


def test_a_cleared_row_is_in_no_group(inspector: Inspector, bulks: Bulks) -> None:
    put(bulks.world, sample_one, "it", **archived(cleared=True))
    assert inspector.dead().groups == ()


def test_a_link_leads_to_the_log_of_the_function(bulks: Bulks, scope: Scope) -> None:
    put_dead(bulks.world, "it", fingerprint="aaaa")
    assert only_group(Inspector(replace(scope, region="eu-west-1"))).log_link == (
        "https://eu-west-1.console.aws.amazon.com/cloudwatch/home?region=eu-west-1"
        "#logsV2:log-groups/log-group/$252Faws$252Flambda$252Fjobs-sample-one"
    )


# --- Messages without a row ----------------------------------------------------------------------------------------


CONFLICT = "IdConflict: 'it' is the id of another task, or of another payload"
MOVED = "SQS moved it here after its last receive"
REFUSED = [
    (f"no json {number}", {"generation": 0, "reason": f"MessageError: body: bad {number}"}) for number in range(3)
]
Messages = list[tuple[str | Mapping[str, Any], dict[str, Any]]]
MESSAGES: dict[str, tuple[dict[str, Any] | None, Messages, list[tuple[Any, ...]]]] = {
    "obsolete": ({"state": "completed", "generation": 2}, [(of("it"), {"generation": 1, "reason": "it failed"})], []),
    "refused, without their values": (None, [*REFUSED], [("", "MessageError", "body: bad #", 3, False)]),
    "with the id of another task": (
        archived(generation=0),
        [
            (external(7, id="it"), {"generation": 0, "reason": CONFLICT}),
            (of("it"), {"generation": 0, "reason": "it failed"}),
        ],
        [
            ("sample:one", "IdConflict", "'…' is the id of another task, or of another payload", 1, False),
            ("sample:one", "ValueError", "attempt # of # failed", 1, True),
        ],
    ),
    "moved by SQS": (
        {},
        [(of("it"), {}), (external(), {})],
        [
            ("sample:one", "MovedBySqs", MOVED, 1, False),
            ("sample:one", "MovedBySqs", f"{MOVED}; its task is pending", 1, False),
        ],
    ),
}
"""Columns of the row ``it``, and dead letters with their attributes → the groups."""


@pytest.mark.parametrize("case", MESSAGES.values(), ids=MESSAGES.keys())
def test_messages_are_grouped_by_their_reason_and_their_row(inspector: Inspector, bulks: Bulks, case: Any) -> None:
    columns, messages, groups = case
    if columns is not None:
        put(bulks.world, sample_one, "it", **columns)
    for body, attributes in messages:
        put_dead_letter(bulks.world, body, **attributes)
    found = inspector.dead()
    shown = [(one.type, one.error_type, one.message, one.archived, one.recorded) for one in found.groups]
    assert (sorted(shown), found.depths) == (groups, {DLQ: len(messages)})
    assert all(one.recorded or one.fingerprint.startswith(FINGERPRINT) for one in found.groups)


def test_an_unsent_tick_is_shown_with_the_schedulers_reason(inspector: Inspector, bulks: Bulks) -> None:
    bulks.world.make("jobs-cron")
    tick = {"type": "sample:tick", "tick": {"schedule": "0", "at": "2026-11-25T08:00:00Z"}}
    put_dead_letter(bulks.world, tick, CRON, ERROR_CODE="AWS.SimpleQueueService.NonExistentQueue", ERROR_MESSAGE="gone")
    group = only_group(inspector)
    assert (group.type, group.error_type, group.message) == (
        sample_tick.type,
        "AWS.SimpleQueueService.NonExistentQueue",
        "gone",
    )
    assert group.example == "sample:tick:0:2026-11-25T08:00Z"


def test_dead_letters_are_visible_again_after_they_were_read(inspector: Inspector, bulks: Bulks) -> None:
    for _ in range(12):
        put_dead_letter(bulks.world, external(), FRONT_DOOR)
    assert only_group(inspector).archived == 12
    assert only_group(inspector).archived == 12
    assert len(bulks.world.received(FRONT_DOOR)) == 10  # the limit of a receive


def test_refused_messages_are_found_even_if_other_dead_letters_were_purged(inspector: Inspector, bulks: Bulks) -> None:
    for number in range(3):
        put_dead(bulks.world, f"it{number}", fingerprint="aaaa")
    bulks.sqs.client.purge_queue(QueueUrl=bulks.sqs.url(DLQ))
    put_dead_letter(bulks.world, external())
    assert [(group.recorded, group.archived) for group in inspector.dead().groups] == [(True, 3), (False, 1)]


def test_receives_that_return_few_messages_do_not_end_the_reading(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS returns fewer than ten messages of a queue with fewer than a thousand. Source: ReceiveMessage."""
    receive = bulks.sqs.client.receive_message
    monkeypatch.setattr(bulks.sqs.client, "receive_message", lambda **how: receive(**how | {"MaxNumberOfMessages": 3}))
    for _ in range(10):
        put_dead_letter(bulks.world, external(), FRONT_DOOR)
    found = inspector.dead()
    assert ([group.archived for group in found.groups], found.unread) == ([10], 0)


def test_a_large_queue_is_read_only_in_part(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.inspector.bulk.dead.MAX_READ", 20)
    for _ in range(50):
        put_dead_letter(bulks.world, external(), FRONT_DOOR)
    found = inspector.dead()
    assert (found.groups[0].archived, found.unread, found.depths) == (20, 30, {FRONT_DOOR: 50})


def test_dead_letters_that_the_task_table_counts_are_not_missing(
    inspector: Inspector, bulks: Bulks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While tasks fail, the counts of a queue lag behind the table."""
    monkeypatch.setattr("joblane.inspector.bulk.dead.MAX_READ", 2)
    for number in range(8):
        put(bulks.world, sample_one, f"it{number}", **archived(fingerprint="aaaa"))
    for number in range(5):
        put_dead_letter(bulks.world, of(f"it{number}"), reason="it failed")
    assert (inspector.dead().depths, inspector.dead().unread) == ({DLQ: 5}, 0)
    # and of more than it counts, only these
    for _ in range(6):
        put_dead_letter(bulks.world, external())
    assert (inspector.dead().depths, inspector.dead().unread) == ({DLQ: 11}, 1)  # ten are read


def test_groups_hold_no_value_of_a_payload(inspector: Inspector, bulks: Bulks) -> None:
    put_dead_letter(bulks.world, external(id="x", payload={"do": "PLANTED"}))
    put_dead_letter(
        bulks.world, '{"type": "sample:one", "payload": "PLANTED"}', reason="MessageError: payload: no object"
    )
    put_dead(bulks.world, "it", payload={"do": "PLANTED"}, error_message="no behaviour 'PLANTED'", fingerprint="a")
    assert "PLANTED" not in repr(inspector.dead())


def test_every_dead_letter_queue_of_a_stage_is_known() -> None:
    names = queues_of(PREFIX, TASKS)
    lanes = sum(len(task.lanes) * len(task.types) for task in TASKS.values())
    assert len(names) == len(set(names)) == lanes + len(Queue) + 1
    assert {DLQ, FRONT_DOOR, CRON, dead_letter_name("jobs-critical-sample-batch")} <= set(names)
    assert queues_of(PREFIX, TASKS, ["sample:one"]) == [DLQ, "jobs-critical-dlq", FRONT_DOOR, "jobs-low-dlq", CRON]


WEB = Lambda("web", drains=("web:dead",))


@task("web:dead", runs_on=WEB)
def web_dead(payload: ArchivedTask, ctx: TaskContext) -> None:
    """On a place, which still receives from its former lane."""


@task("web:alive", runs_on=WEB, aliases=["web:born"])
def web_alive(payload: ArchivedTask, ctx: TaskContext) -> None:
    """On the same place."""


def test_the_dead_letter_queues_of_a_place_are_known_once_and_those_it_drains() -> None:
    web, former, front_doors = "jobs-default-web-dlq", "jobs-default-web-dead-dlq", queues_of(PREFIX, {})
    tasks = {each.type: each for each in (web_dead, web_alive)}
    assert queues_of(PREFIX, tasks) == [web, former, *front_doors]
    assert queues_of(PREFIX, tasks, ["web:born"]) == [web, *front_doors]


def test_hundreds_of_large_dead_letters_are_read_within_the_functions_memory() -> None:
    assert with_little_memory("read") == ""
