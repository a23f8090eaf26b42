"""Declarations of events and of listeners, and the form of an event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from joblane import Event, Payload, TaskContext, on, task
from joblane.errors import DeclarationError
from joblane.record.row.new import declared as in_row

DETAIL = {
    "id": "t1:2:archived",
    "kind": "archived",
    "type": "data:export",
    "task_id": "t1",
    "queue": "default",
    "tenant": None,
    "owner": "u7",
    "tags": ["nightly"],
    "redrives": 2,
    "attempts": 6,
    "enqueued_at": "2030-01-31T11:00:00.000Z",
    "finished_at": "2030-01-31T12:00:00.250Z",
    "reason": "ValueError: no such table",
    "error_type": "ValueError",
    "fingerprint": "0123456789abcdef",
}


class Empty(Payload):
    pass


def declared(events: Any) -> Any:
    @task("data:export", events=events)
    def data_export(payload: Empty, ctx: TaskContext) -> None:
        pass

    return data_export


def test_a_task_declares_the_ends_that_are_sent_as_events() -> None:
    assert in_row(declared(["archived", "completed", "archived"])) == {"events": ["completed", "archived"]}
    assert in_row(declared(())) == {}


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (("dead",), "task 'data:export': events: 'dead' is not one of completed, archived, cancelled"),
        ("archived", r"events: a list is required, for example \('archived',\)"),
        (7, r"events: a list is required, for example \('archived',\)"),
        ([["archived"]], r"events: \['archived'\] is not one of completed, archived, cancelled"),
    ],
)
def test_events_that_do_not_exist_are_refused(events: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        declared(events)


def test_a_receiver_reads_the_detail_of_an_event_and_ignores_new_fields() -> None:
    event = Event.read(DETAIL | {"of_a_later_release": 1})

    assert (event.task_id, event.tags, event.reason) == ("t1", ("nightly",), "ValueError: no such table")
    assert event.finished_at == datetime(2030, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
    with pytest.raises(KeyError, match="redrives"):
        Event.read({name: value for name, value in DETAIL.items() if name != "redrives"})


def _without_event() -> None:
    pass


def _with_two(event: Event, more: int) -> None:
    pass


def _yielding(event: Event) -> Any:
    yield event


without_event: Any = _without_event
with_two: Any = _with_two
yielding: Any = _yielding


@pytest.mark.parametrize(
    ("declare", "problem"),
    [
        (on, r'on: name at least one of completed, archived, cancelled: @on\("archived"\)'),
        (lambda: on("dead"), "on: 'dead' is not one of completed, archived, cancelled"),  # type: ignore[arg-type]
        (lambda: on(without_event), "on: <function _without_event.*> is not one of"),
        (lambda: on("archived", task="export"), "task type 'export': 'category:action' is required"),
        (lambda: on("archived", task=without_event), "on: task: a function declared by @task, or its type"),
        (lambda: on("archived")(without_event), r"without_event: the function takes one parameter, the event"),
        (lambda: on("archived")(with_two), r"with_two: the function takes one parameter, the event"),
        (lambda: on("archived")(yielding), "a function with one parameter, the event, is required"),
    ],
)
def test_a_listener_that_would_hear_nothing_is_refused(declare: Callable[[], Any], problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        declare()
