"""Background jobs on SQS and Lambda, recorded in Postgres.

Declare
    task, Payload, Redacted, Queue, Grants, cron, every, ArchivedTask
Enqueue
    JobClient, Job, Enqueued, OnConflict, Until, DuplicateTaskError, TaskIdConflictError, EnqueueError
Look
    TaskStatus, Progress, State
Inside a handler
    TaskContext, SkipRetry, RetryAfter, Snooze, RevokeTask, TaskTimeout, TaskCancelled, PartialFailure
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from joblane.client import Enqueued as Enqueued
    from joblane.client import JobClient as JobClient
    from joblane.context import TaskContext as TaskContext
    from joblane.declaration import Grants as Grants
    from joblane.declaration import Task as Task
    from joblane.decorator import task as task
    from joblane.errors import DuplicateTaskError as DuplicateTaskError
    from joblane.errors import EnqueueError as EnqueueError
    from joblane.errors import JobError as JobError
    from joblane.errors import PartialFailure as PartialFailure
    from joblane.errors import RetryAfter as RetryAfter
    from joblane.errors import RevokeTask as RevokeTask
    from joblane.errors import SkipRetry as SkipRetry
    from joblane.errors import Snooze as Snooze
    from joblane.errors import TaskCancelled as TaskCancelled
    from joblane.errors import TaskIdConflictError as TaskIdConflictError
    from joblane.errors import TaskTimeout as TaskTimeout
    from joblane.job import Job as Job
    from joblane.payload import ArchivedTask as ArchivedTask
    from joblane.payload import Payload as Payload
    from joblane.queues import Queue as Queue
    from joblane.record.states import State as State
    from joblane.redaction import Redacted as Redacted
    from joblane.schedule import cron as cron
    from joblane.schedule import every as every
    from joblane.status import Progress as Progress
    from joblane.status import TaskStatus as TaskStatus
    from joblane.unique import OnConflict as OnConflict
    from joblane.unique import Until as Until

_HOMES = {
    "joblane.client": ("Enqueued", "JobClient"),
    "joblane.context": ("TaskContext",),
    "joblane.schedule": ("cron", "every"),
    "joblane.decorator": ("task",),
    "joblane.errors": (
        "DuplicateTaskError",
        "EnqueueError",
        "JobError",
        "PartialFailure",
        "RetryAfter",
        "RevokeTask",
        "SkipRetry",
        "Snooze",
        "TaskCancelled",
        "TaskIdConflictError",
        "TaskTimeout",
    ),
    "joblane.job": ("Job",),
    "joblane.payload": ("ArchivedTask", "Payload"),
    "joblane.queues": ("Queue",),
    "joblane.record.states": ("State",),
    "joblane.redaction": ("Redacted",),
    "joblane.status": ("Progress", "TaskStatus"),
    "joblane.declaration": ("Grants", "Task"),
    "joblane.unique": ("OnConflict", "Until"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: a program that wants one of them does not pay for the others."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
