"""The calls of EventBridge: entries, batches, and the answers that refuse some or all of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from joblane.enqueue.event_bus import MAX_ENTRIES, EventBus, bus_of_environment
from joblane.record.events import Unsent
from joblane.sweep.events import PAGE
from tests.patience import PATIENCE_SECONDS

Answer = Callable[[list[Mapping[str, Any]]], Mapping[str, Any]]


class Client:
    def __init__(self, answer: Answer) -> None:
        self.calls: list[list[Mapping[str, Any]]] = []
        self._answer = answer

    def put_events(self, *, Entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: N803
        self.calls.append(Entries)
        return self._answer(Entries)


def accept(entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return {"FailedEntryCount": 0, "Entries": [{"EventId": "x"} for _ in entries]}


def bus_with(answer: Answer) -> tuple[EventBus, Client]:
    bus, client = EventBus("jobs-prod-events", "jobs-prod"), Client(answer)
    bus.__dict__["client"] = client
    return bus, client


def unsent(number: int, text: str = "") -> Unsent:
    id_ = f"task-{number}:0:archived"
    return Unsent(id_, "archived", "2030-01-31T12:00:00.250Z", json.dumps({"id": id_, "reason": text}))


def raising(error: Exception) -> Answer:
    def answer(_: Any) -> Mapping[str, Any]:
        raise error

    return answer


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutEvents")


def test_an_entry_names_stage_kind_and_bus_and_has_the_time_of_the_end() -> None:
    bus, client = bus_with(accept)

    assert bus.send_many([unsent(1)]) == {}
    assert client.calls == [
        [
            {
                "Source": "joblane.jobs-prod",
                "DetailType": "Task archived",
                "Detail": unsent(1).detail,
                "EventBusName": "jobs-prod-events",
                "Time": datetime(2030, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC),
            }
        ]
    ]


def test_ten_entries_go_with_a_call_and_fewer_if_they_are_large() -> None:
    bus, client = bus_with(accept)

    assert bus.send_many([]) == {}
    assert bus.send_many([unsent(n) for n in range(25)]) == {}
    assert sorted(len(call) for call in client.calls) == [5, 10, 10]
    client.calls.clear()
    assert bus.send_many([unsent(n, "x" * 40_000) for n in range(10)]) == {}
    assert sorted(len(call) for call in client.calls) == [5, 5]


def test_a_page_of_the_sweep_is_sent_by_calls_at_the_same_time() -> None:
    """Calls after each other, each of 45 s, would take longer than a step of the sweep."""
    calls = -(-PAGE // MAX_ENTRIES)
    together = Barrier(calls, timeout=PATIENCE_SECONDS)

    def answer(entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        together.wait()
        return accept(entries)

    bus, client = bus_with(answer)

    assert bus.send_many([unsent(n) for n in range(PAGE)]) == {}
    assert len(client.calls) == calls


def test_entries_that_are_refused_alone_are_named_with_their_reason() -> None:
    def answer(entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        refusal = {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"}
        return {"FailedEntryCount": 1, "Entries": [refusal, *[{"EventId": "x"}] * (len(entries) - 1)]}

    bus, _ = bus_with(answer)

    assert bus.send_many([unsent(1), unsent(2)]) == {
        "task-1:0:archived": "ThrottlingException: slow down. Ask AWS for a higher quota of PutEvents."
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (client_error("ResourceNotFoundException"), "The bus does not exist: deploy the stage again"),
        (client_error("AccessDeniedException"), "Allow the function's role events:PutEvents on the bus"),
        (client_error("InternalFailure"), "InternalFailure"),
        (ReadTimeoutError(endpoint_url="https://events"), "no answer: .*interface endpoint for `events`"),
        (ValueError("Invalid endpoint: x"), "no answer: ValueError: Invalid endpoint"),
    ],
)
@pytest.mark.parametrize("count", [1, 25])
def test_a_call_that_fails_refuses_all_its_events_and_says_what_to_do(
    error: Exception, reason: str, count: int
) -> None:
    bus, _ = bus_with(raising(error))
    failed = bus.send_many([unsent(n) for n in range(count)])

    assert len(failed) == count
    assert all(re.search(reason, why) for why in failed.values()), failed


def test_an_answer_that_names_too_few_events_refuses_the_others() -> None:
    bus, _ = bus_with(lambda entries: {"Entries": [{"EventId": "x"}]})

    assert bus.send_many([unsent(1), unsent(2)]) == {"task-2:0:archived": "the answer does not name the event"}


def test_a_row_without_the_fields_of_an_event_is_sent_as_it_is() -> None:
    bus, client = bus_with(accept)
    bus.send_many([Unsent("hand", None, None, "{}")])  # type: ignore[arg-type]

    assert "Time" not in client.calls[0][0]


def test_the_environment_names_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOBLANE_EVENT_BUS", raising=False)
    assert bus_of_environment() is None
    monkeypatch.setenv("JOBLANE_EVENT_BUS", " arn:aws:events:eu-central-1:1:event-bus/b ")
    bus = bus_of_environment()
    assert bus is not None
    assert bus.name == "arn:aws:events:eu-central-1:1:event-bus/b"


def test_the_client_of_a_worker_tries_a_call_once_for_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    config = EventBus("b", "jobs", brief=True).client.meta.config

    assert (config.connect_timeout, config.read_timeout) == (1, 2)
    assert config.retries["total_max_attempts"] == 1
