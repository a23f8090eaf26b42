"""Unique keys: equal tasks of clients, external producers and ticks have the same key."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from joblane import Payload, TaskContext, Until, task
from joblane.unique import LONGEST_UNIQUE, Unique, key_of


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


def test_by_default_type_queue_and_payload_make_the_key() -> None:
    key = key_of(data_export.type, "default", PAYLOAD, None)
    assert key == key_of(data_export.type, "default", {"limit": 10, "tenant_id": None}, None)
    others = [
        key_of(data_load.type, "default", PAYLOAD, None),
        key_of(data_export.type, "low", PAYLOAD, None),
        key_of(data_export.type, "default", {"tenant_id": None, "limit": 11}, None),
        key_of(data_export.type, "default", PAYLOAD, "mine"),
    ]
    assert len({key, *others}) == 5


def test_a_callers_key_counts_per_type_for_any_queue_and_payload() -> None:
    assert (
        key_of(data_export.type, "default", PAYLOAD, "k") == key_of(data_export.type, "low", {}, "k") == "data:export k"
    )
    assert key_of(data_load.type, "default", PAYLOAD, "k") == "data:load k"


def test_an_external_message_follows_the_declaration() -> None:
    key = key_of(data_export.type, "default", PAYLOAD, None)
    assert data_export.key_of_message("default", PAYLOAD, None) == Unique(key, 300, Until.START)
    assert data_export.key_of_message("default", PAYLOAD, "0") == Unique(key, 300, Until.START)
    assert data_load.key_of_message("default", PAYLOAD, None) is None


def test_defaults_that_a_producer_leaves_out_make_no_other_task() -> None:
    whole = data_export.key_of_message("default", PAYLOAD, None)
    assert data_export.key_of_message("default", {}, None) == whole
    assert data_export.key_of_message("default", {"limit": "10"}, None) == whole
    assert data_export.key_of_message("default", {"limit": 11}, None) != whole


def test_a_payload_that_cannot_be_read_is_a_task_of_its_own() -> None:
    unreadable = data_export.key_of_message("default", {"limit": "many"}, None)
    assert unreadable == Unique(key_of(data_export.type, "default", {"limit": "many"}, None), 300, Until.START)


def test_a_tick_is_held_to_its_schedule_where_ticks_are_not_to_overlap() -> None:
    held = Unique("data:load tick 0", LONGEST_UNIQUE.total_seconds(), Until.FINISH)
    assert data_load.key_of_message("default", {}, "0") == held
    assert data_load.key_of_message("default", {}, "1") != held
    assert data_drop.key_of_message("default", {}, "0") is None
