"""Which tasks a question or an action is for, and the things that can be done or paused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from joblane.queues import Queue
from joblane.record.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which tasks; what is left out lets all through, and what is given must all hold.

    ``id_prefix``: what ids begin with. ``error``: text in the error's type or message, whatever its case.
    ``created_after`` is included, ``created_before`` is not.
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
    """What can be done to many tasks at once; each as for one."""

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
