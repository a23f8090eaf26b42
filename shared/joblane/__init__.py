"""Background jobs on SQS and Lambda, recorded in PostgreSQL.

Declare
    task, declare, handles, Payload, Redacted, Queue, Grants, Limit, Rate, cron, every, ArchivedTask
Listen
    on, Event
Enqueue
    JobClient, Job, Enqueued, Keep, OnConflict, Until, DuplicateTaskError, TaskIdConflictError, EnqueueError
Show
    TaskStatus, Progress, State
Inside a handler
    TaskContext, SkipRetry, RetryAfter, Snooze, RateLimited, RevokeTask, TaskTimeout, TaskCancelled, PartialFailure
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from joblane.lazy import importer

if TYPE_CHECKING:
    from joblane.batch import Batch
    from joblane.client import JobClient
    from joblane.context import TaskContext
    from joblane.declaration import Grants, Task
    from joblane.declared import declare, handles
    from joblane.decorator import task
    from joblane.enqueue.result import Enqueued
    from joblane.errors import (
        DuplicateTaskError,
        EnqueueError,
        JobError,
        PartialFailure,
        RateLimited,
        RetryAfter,
        RevokeTask,
        SkipRetry,
        Snooze,
        TaskCancelled,
        TaskIdConflictError,
        TaskTimeout,
    )
    from joblane.events import Event
    from joblane.flow import Limit, Rate
    from joblane.job import Job, OnParentDead
    from joblane.listeners import on
    from joblane.payload import ArchivedTask, Payload
    from joblane.queues import Queue
    from joblane.record.states import State
    from joblane.record.status import Progress, TaskStatus
    from joblane.redaction import Redacted
    from joblane.schedule import cron, every
    from joblane.unique import Keep, OnConflict, Until

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, but a copy of the code on the path gets here
    raise ImportError(f"Joblane needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}")

__version__ = "0.1.0"

__all__ = [
    "ArchivedTask",
    "Batch",
    "DuplicateTaskError",
    "EnqueueError",
    "Enqueued",
    "Event",
    "Grants",
    "Job",
    "JobClient",
    "JobError",
    "Keep",
    "Limit",
    "OnConflict",
    "OnParentDead",
    "PartialFailure",
    "Payload",
    "Progress",
    "Queue",
    "Rate",
    "RateLimited",
    "Redacted",
    "RetryAfter",
    "RevokeTask",
    "SkipRetry",
    "Snooze",
    "State",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskIdConflictError",
    "TaskStatus",
    "TaskTimeout",
    "Until",
    "cron",
    "declare",
    "every",
    "handles",
    "on",
    "task",
]

__getattr__ = importer(
    __name__,
    {
        "joblane.batch": "Batch",
        "joblane.client": "JobClient",
        "joblane.enqueue.result": "Enqueued",
        "joblane.context": "TaskContext",
        "joblane.declaration": "Grants Task",
        "joblane.declared": "declare handles",
        "joblane.decorator": "task",
        "joblane.errors": "DuplicateTaskError EnqueueError JobError PartialFailure RateLimited RetryAfter RevokeTask "
        "SkipRetry Snooze TaskCancelled TaskIdConflictError TaskTimeout",
        "joblane.events": "Event",
        "joblane.flow": "Limit Rate",
        "joblane.job": "Job OnParentDead",
        "joblane.listeners": "on",
        "joblane.payload": "ArchivedTask Payload",
        "joblane.queues": "Queue",
        "joblane.record.states": "State",
        "joblane.redaction": "Redacted",
        "joblane.schedule": "cron every",
        "joblane.record.status": "Progress TaskStatus",
        "joblane.unique": "Keep OnConflict Until",
    },
)
