"""Enqueueing by hand, from JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.errors import DuplicateTaskError, EnqueueError, TaskIdConflictError, UnreadablePayloadError
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.record.row.states import State
from tests.samples import sample_one, sample_only
from tests.world import World


def test_a_task_is_enqueued_from_json(world: World, inspector: Inspector) -> None:
    world.lane(sample_one)
    options = {
        "task_id": "mine",
        "tenant": "acme",
        "tags": ["by-hand"],
        "timeout": 5,
        "retention": 60.5,
        "retry_delay": [1, 2.5],
        "deadline": "2126-01-31T12:00:00+02:00",
        "headers": {"traceparent": "00-a"},
        "queue": None,
    }

    acted = inspector.enqueue("sample:one", {"number": 3}, options=options, reason="to see")

    assert (acted.id, acted.new_id, acted.after, acted.note) == ("mine", "mine", State.PENDING, None)
    row = world.row("mine")
    assert (row["payload"], row["tenant"], row["tags"]) == ({"do": "nothing", "number": 3}, "acme", ["by-hand"])
    assert (row["options"]["timeout"], row["options"]["retry_delay"]) == (5, [1, 2.5])
    assert row["deadline"] == "2126-01-31T10:00:00+00:00"
    (message,) = world.take(sample_one)
    world.deliver(sample_one, message["Body"])
    assert world.row("mine")["state"] == "completed"
    entry = inspector.audit()[0]
    assert (entry.action, entry.target, entry.reason) == ("enqueue", "mine", "to see")
    assert entry.details == {"type": "sample:one", "queue": "default", "options": sorted(options)}


@pytest.mark.parametrize("name", ["process_in", "process_at"])
def test_a_task_for_later_waits_without_a_message(world: World, inspector: Inspector, name: str) -> None:
    world.lane(sample_one)
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    option = {name: 3600 if name == "process_in" else in_an_hour.isoformat()}

    acted = inspector.enqueue("sample:one", {}, options=option)

    assert acted.after is State.SCHEDULED
    assert world.received(world.lane(sample_one)) == []


def test_a_task_whose_lane_is_missing_is_left_to_the_sweep(inspector: Inspector) -> None:
    acted = inspector.enqueue("sample:one", {})

    assert acted.note is not None
    assert "the next sweep sends it" in acted.note


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"proces_in": 5}, "proces_in: there is no such option; did you mean process_in"),
        ({"process_in": "5"}, "process_in: a number of seconds"),
        ({"process_in": True}, "process_in: a number of seconds"),
        ({"process_in": 1e300}, "process_in: a number of seconds"),
        ({"process_in": float("nan")}, "process_in: a number of seconds"),
        ({"process_in": -1}, "process_in: 0 seconds to 3650 days is required, not -1 seconds"),
        ({"retry_delay": ["1"]}, "retry_delay: a number of seconds"),
        ({"process_at": "tomorrow"}, "process_at: a time with its zone"),
        ({"process_at": "2126-01-31T12:00:00"}, "process_at: a time with its zone"),
        ({"deadline": 5}, "deadline: a time with its zone"),
        ({"queue": "lowest"}, "queue: 'lowest' is not one of critical, default, low"),
        ({"tags": "one"}, "tags: a list"),
        ({"task_id": "with space"}, "task_id: "),
        ({"max_retry": "3"}, "max_retry: "),
    ],
)
def test_an_invalid_option_is_refused_by_its_name(
    world: World, inspector: Inspector, option: dict[str, Any], says: str
) -> None:
    with pytest.raises(EnqueueError, match=f"^{says}"):
        inspector.enqueue("sample:one", {}, options=option)

    assert world.run("select (select count(*) from joblane.tasks) + (select count(*) from joblane.audit)") == [[0]]


@pytest.mark.parametrize("payload", [{"number": "secret-value"}, {"secret-key": 1}, ["secret-value"], None])
def test_an_invalid_payload_is_refused_without_showing_its_values(inspector: Inspector, payload: Any) -> None:
    with pytest.raises(UnreadablePayloadError) as refused:
        inspector.enqueue("sample:one", payload)

    assert "secret" not in str(refused.value)


def test_an_unknown_type_is_refused_with_a_suggestion(inspector: Inspector) -> None:
    with pytest.raises(
        SelectionError,
        match=r"type: there is no task type 'sample:none'. Did you mean 'sample:one'.*`joblane types` lists all",
    ):
        inspector.enqueue("sample:none", {})


def test_a_conflict_is_named(world: World, inspector: Inspector) -> None:
    world.lane(sample_only)
    holder = inspector.enqueue("sample:only", {})
    inspector.enqueue("sample:one", {}, options={"task_id": "mine"})

    with pytest.raises(DuplicateTaskError, match=holder.id):
        inspector.enqueue("sample:only", {})
    with pytest.raises(TaskIdConflictError, match="mine"):
        inspector.enqueue("sample:one", {}, options={"task_id": "mine"})

    assert len(inspector.audit()) == 2


def test_a_returned_holder_leaves_no_audit_entry(world: World, inspector: Inspector) -> None:
    world.lane(sample_only)
    holder = inspector.enqueue("sample:only", {})

    again = inspector.enqueue("sample:only", {}, options={"on_conflict": "return"})

    assert (again.id, again.new_id, again.after) == (holder.id, None, State.PENDING)
    assert len(inspector.audit()) == 1


def test_a_replaced_holder_leaves_an_audit_entry(world: World, inspector: Inspector) -> None:
    world.lane(sample_only)
    holder = inspector.enqueue("sample:only", {}, options={"process_in": 60, "unique_key": "k"})

    again = inspector.enqueue("sample:only", {"number": 2}, options={"on_conflict": "replace", "unique_key": "k"})

    assert (again.id, again.new_id) == (holder.id, None)
    assert world.row(holder.id)["payload"]["number"] == 2
    assert [entry.target for entry in inspector.audit()] == [holder.id, holder.id]


def test_the_types_have_their_options_and_schemas(inspector: Inspector) -> None:
    found = {view.type: view for view in inspector.types()}

    assert list(found) == sorted(found)
    assert found["sample:batch"].queues == ("default", "critical")
    assert (found["sample:one"].max_retry, found["sample:one"].timeout_seconds) == (3, 20)
    assert found["sample:tick"].schedules == ("every hour", "every hour at :30")
    assert set(found["sample:one"].schema["properties"]) == {"do", "number"}
