"""The EventBridge bus of a stage. boto3 is imported on first use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from joblane import settings
from joblane.forking import follow_forks
from joblane.sqs.client import NO_ANSWER, client_lock
from joblane.tasks.events import DETAIL_TYPE, source

if TYPE_CHECKING:
    from joblane.record.events import Unsent

MAX_ENTRIES = 10
"""Source: PutEvents, *Amazon EventBridge API Reference*."""
MAX_BYTES = 240_000
"""All entries of one call, which may have 1 MB, or 256 KB in some regions. Source: *Calculating PutEvents event entry
size*, Amazon EventBridge user guide, and that of China."""
CALLS = 10
"""The most calls at the same time. Further ones wait, each for up to 45 s if the bus does not answer."""
ADVICE = {
    "ResourceNotFound": "The bus does not exist: deploy the stage again, or correct JOBLANE_EVENT_BUS",
    "AccessDenied": "Allow the function's role events:PutEvents on the bus, and in the policy of another account's bus",
    "NotAuthorized": "The policy of the bus refuses this source or detail-type: allow it there",
    "Throttling": "Ask AWS for a higher quota of PutEvents",
    "ExpiredToken": "Renew the credentials of the process",
}
"""Part of an error code → what to do."""
ROUTE = "Check the route to EventBridge: a network without internet access needs an interface endpoint for `events`"


class EventBus:
    """Sends events to a bus."""

    def __init__(self, name: str, prefix: str, *, brief: bool = False) -> None:
        """``name``: name or ARN. ``brief``: a call is tried once, for at most 3 s."""
        self.name = name
        self._prefix, self._brief = prefix, brief
        follow_forks(self, EventBus._after_fork)

    def _after_fork(self) -> None:
        self.__dict__.pop("client", None)

    @cached_property
    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=1 if self._brief else 5,
            read_timeout=2 if self._brief else 10,
            max_pool_connections=CALLS,
            retries={"mode": "standard", "total_max_attempts": 1 if self._brief else 3},
            parameter_validation=False,
        )
        with client_lock:
            # boto3 itself reads AWS_DEFAULT_REGION alone
            return boto3.client("events", region_name=os.environ.get("AWS_REGION") or None, config=config)

    def send_many(self, events: Sequence[Unsent]) -> dict[str, str]:
        """Send events. Return id → reason for those that the bus has not accepted. Raises nothing."""
        batches = list(_batches([(event, self._entry(event)) for event in events]))
        if not batches:
            return {}
        if len(batches) == 1:
            return self._send(batches[0])
        try:
            _ = self.client  # not by each thread
        except Exception as error:  # boto3 raises errors of other types for some settings
            return dict.fromkeys((event.id for event in events), _why(error))
        with ThreadPoolExecutor(CALLS) as threads:
            return {id_: why for failed in threads.map(self._send, batches) for id_, why in failed.items()}

    def _send(self, batch: Sequence[tuple[Unsent, dict[str, Any]]]) -> dict[str, str]:
        ids = [event.id for event, _ in batch]
        try:
            answers = self.client.put_events(Entries=[entry for _, entry in batch])["Entries"]
        except Exception as error:  # boto3 raises errors of other types for some settings
            return dict.fromkeys(ids, _why(error))
        failed: dict[str, str] = {}
        for id_, answer in zip(ids, [*answers, *[{}] * (len(ids) - len(answers))], strict=True):
            if not answer.get("EventId"):
                code = str(answer.get("ErrorCode") or "the answer does not name the event")
                failed[id_] = _advised(f"{code}: {answer.get('ErrorMessage') or ''}".rstrip(": "), code)
        return failed

    def _entry(self, event: Unsent) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "Source": source(self._prefix),
            "DetailType": DETAIL_TYPE.format(kind=event.kind),
            "Detail": event.detail,
            "EventBusName": self.name,
        }
        with suppress(ValueError, TypeError):  # a row that was written by hand
            entry["Time"] = datetime.fromisoformat(event.finished_at)
        return entry


def bus_of_environment(*, brief: bool = False) -> EventBus | None:
    """Return the bus of this process. None: its stage has none."""
    name = settings.event_bus()
    return EventBus(name, settings.prefix(), brief=brief) if name else None


def _batches(entries: Sequence[tuple[Unsent, dict[str, Any]]]) -> Iterator[list[tuple[Unsent, dict[str, Any]]]]:
    batch: list[tuple[Unsent, dict[str, Any]]] = []
    size = 0
    for event, entry in entries:
        bytes_ = len(event.detail.encode()) + 200
        if batch and (len(batch) == MAX_ENTRIES or size + bytes_ > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((event, entry))
        size += bytes_
    if batch:
        yield batch


def _why(error: Exception) -> str:
    """Return the text of an error, with what to do. It begins with :data:`NO_ANSWER` if there was no answer."""
    response = getattr(error, "response", None) or {}
    code = str(response.get("Error", {}).get("Code", ""))
    if code:
        return _advised(str(error), code)
    return f"{NO_ANSWER}{type(error).__name__}: {error}. {ROUTE}."


def _advised(text: str, code: str) -> str:
    advice = next((advice for part, advice in ADVICE.items() if part in code), None)
    return f"{text.rstrip('. ')}. {advice}." if advice else text
