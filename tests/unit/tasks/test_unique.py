"""Unique keys of tasks: those of callers, external messages and ticks."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from joblane import Payload, TaskContext, Until, task
from joblane.tasks.unique import LONGEST_UNIQUE, Unique, key_of


class Export(Payload):
    tenant_id: UUID | None = None
    limit: int = 10


@task("data:export", unique_for=timedelta(minutes=5), unique_until="start")
def data_export(payload: Export, ctx: TaskContext) -> None:
    pass


@task("data:load", schedule="@hourly")
def data_load(payload: Export, ctx: TaskContext) -> None:
    pass


@task("data:drop", schedule="@hourly", overlap="allow")
def data_drop(payload: Export, ctx: TaskContext) -> None:
    pass


PAYLOAD = {"tenant_id": None, "limit": 10}


def test_the_default_key_is_made_from_type_queue_and_payload() -> None:
    key = key_of(data_export.type, "default", PAYLOAD, None)
    assert key == key_of(data_export.type, "default", {"limit": 10, "tenant_id": None}, None)
    others = [
        key_of(data_load.type, "default", PAYLOAD, None),
        key_of(data_export.type, "low", PAYLOAD, None),
        key_of(data_export.type, "default", {"tenant_id": None, "limit": 11}, None),
        key_of(data_export.type, "default", PAYLOAD, "mine"),
    ]
    assert len({key, *others}) == 5


def test_a_key_of_the_caller_applies_to_all_queues_and_payloads_of_the_type() -> None:
    assert (
        key_of(data_export.type, "default", PAYLOAD, "k") == key_of(data_export.type, "low", {}, "k") == "data:export k"
    )
    assert key_of(data_load.type, "default", PAYLOAD, "k") == "data:load k"


def test_an_external_message_gets_the_key_of_the_declaration() -> None:
    key = key_of(data_export.type, "default", PAYLOAD, None)
    assert data_export.key_of_message("default", PAYLOAD, None) == Unique(key, 300, Until.START)
    assert data_export.key_of_message("default", PAYLOAD, "0") == Unique(key, 300, Until.START)
    assert data_load.key_of_message("default", PAYLOAD, None) is None


def test_omitted_defaults_in_an_external_message_do_not_change_the_key() -> None:
    whole = data_export.key_of_message("default", PAYLOAD, None)
    assert data_export.key_of_message("default", {}, None) == whole
    assert data_export.key_of_message("default", {"limit": "10"}, None) == whole
    assert data_export.key_of_message("default", {"limit": 11}, None) != whole


def test_an_unreadable_payload_has_a_key_of_its_own() -> None:
    unreadable = data_export.key_of_message("default", {"limit": "many"}, None)
    assert unreadable == Unique(key_of(data_export.type, "default", {"limit": "many"}, None), 300, Until.START)


def test_a_tick_has_the_key_of_its_schedule_unless_ticks_may_overlap() -> None:
    expected = Unique("data:load tick 0", LONGEST_UNIQUE.total_seconds(), Until.FINISH)
    assert data_load.key_of_message("default", {}, "0") == expected
    assert data_load.key_of_message("default", {}, "1") != expected
    assert data_drop.key_of_message("default", {}, "0") is None
