"""Unique keys: which tasks are the same, for callers, strangers and ticks."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from joblane import Payload, TaskContext, Until, task
from joblane.unique import LONGEST_UNIQUE, Unique, key_of, of_foreign


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
    key = key_of(data_export, "default", PAYLOAD, None)
    assert key == key_of(data_export, "default", {"limit": 10, "tenant_id": None}, None)
    others = [
        key_of(data_load, "default", PAYLOAD, None),
        key_of(data_export, "low", PAYLOAD, None),
        key_of(data_export, "default", {"tenant_id": None, "limit": 11}, None),
        key_of(data_export, "default", PAYLOAD, "mine"),
    ]
    assert len({key, *others}) == 5


def test_a_callers_key_stands_for_its_type_whatever_queue_and_payload() -> None:
    assert key_of(data_export, "default", PAYLOAD, "k") == key_of(data_export, "low", {}, "k") == "data:export k"
    assert key_of(data_load, "default", PAYLOAD, "k") == "data:load k"


def test_a_foreign_message_is_held_to_the_declaration() -> None:
    key = key_of(data_export, "default", PAYLOAD, None)
    assert of_foreign(data_export, "default", PAYLOAD, None) == Unique(key, 300, Until.START)
    assert of_foreign(data_export, "default", PAYLOAD, "0") == Unique(key, 300, Until.START)
    assert of_foreign(data_load, "default", PAYLOAD, None) is None


def test_defaults_that_a_stranger_leaves_out_make_no_other_task() -> None:
    whole = of_foreign(data_export, "default", PAYLOAD, None)
    assert of_foreign(data_export, "default", {}, None) == whole
    assert of_foreign(data_export, "default", {"limit": "10"}, None) == whole
    assert of_foreign(data_export, "default", {"limit": 11}, None) != whole


def test_a_payload_that_cannot_be_read_is_a_task_of_its_own() -> None:
    unreadable = of_foreign(data_export, "default", {"limit": "many"}, None)
    assert unreadable == Unique(key_of(data_export, "default", {"limit": "many"}, None), 300, Until.START)


def test_a_tick_is_held_to_its_schedule_where_ticks_are_not_to_overlap() -> None:
    held = Unique("data:load tick 0", LONGEST_UNIQUE.total_seconds(), Until.FINISH)
    assert of_foreign(data_load, "default", {}, "0") == held
    assert of_foreign(data_load, "default", {}, "1") != held
    assert of_foreign(data_drop, "default", {}, "0") is None
