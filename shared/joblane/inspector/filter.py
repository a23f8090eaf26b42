"""The filter that chooses tasks, the actions on many tasks, and the scopes of a pause."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from joblane.queues import Queue
from joblane.record.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A choice of tasks. A task matches if it meets all the given fields; a field that is left out matches any task.

    ``id_prefix``: the beginning of the id. ``error``: text in the error's type or message, in any case.
    ``created_after`` is inclusive, ``created_before`` is exclusive.
    """

    ids: tuple[str, ...] = ()
    id_prefix: str | None = None
    states: tuple[State, ...] = ()
    types: tuple[str, ...] = ()
    queues: tuple[Queue, ...] = ()
    tenant: str | None = None
    tag: str | None = None
    error: str | None = None
    fingerprint: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None


class BulkAction(StrEnum):
    """An action on many tasks at once; the action on each is the same as on a single task."""

    RUN = "run"
    RETRY = "retry"
    ARCHIVE = "archive"
    DELETE = "delete"
    CANCEL = "cancel"


class PauseScope(StrEnum):
    QUEUE = "queue"
    TYPE = "type"
    TENANT = "tenant"
    SCHEDULE = "schedule"
