"""Background jobs on SQS and Lambda, recorded in PostgreSQL.

Declare
    task, declare, handles, Payload, Redacted, Queue, Grants, Limit, Rate, cron, every, ArchivedTask
Listen
    on, Event
Enqueue
    JobClient, MessageClient, Job, Enqueued, Keep, OnConflict, Until, DuplicateTaskError, TaskIdConflictError,
    EnqueueError
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
    from joblane.client.batch import Batch
    from joblane.client.client import JobClient
    from joblane.client.message_client import MessageClient
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
    from joblane.handler.context import TaskContext
    from joblane.names import Queue
    from joblane.record.row.states import State
    from joblane.record.task.status import Progress, TaskStatus
    from joblane.tasks.declare import declare, handles
    from joblane.tasks.decorator import task
    from joblane.tasks.events import Event
    from joblane.tasks.job import Job, OnParentDead
    from joblane.tasks.limit import Limit, Rate
    from joblane.tasks.listeners import on
    from joblane.tasks.payload import ArchivedTask, Payload
    from joblane.tasks.redaction import Redacted
    from joblane.tasks.schedule import cron, every
    from joblane.tasks.task import Grants, Task
    from joblane.tasks.unique import Keep, OnConflict, Until

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
    "MessageClient",
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
        "joblane.client.batch": "Batch",
        "joblane.client.client": "JobClient",
        "joblane.client.message_client": "MessageClient",
        "joblane.enqueue.result": "Enqueued",
        "joblane.handler.context": "TaskContext",
        "joblane.tasks.task": "Grants Task",
        "joblane.tasks.declare": "declare handles",
        "joblane.tasks.decorator": "task",
        "joblane.errors": "DuplicateTaskError EnqueueError JobError PartialFailure RateLimited RetryAfter RevokeTask "
        "SkipRetry Snooze TaskCancelled TaskIdConflictError TaskTimeout",
        "joblane.tasks.events": "Event",
        "joblane.tasks.limit": "Limit Rate",
        "joblane.tasks.job": "Job OnParentDead",
        "joblane.tasks.listeners": "on",
        "joblane.tasks.payload": "ArchivedTask Payload",
        "joblane.names": "Queue",
        "joblane.record.row.states": "State",
        "joblane.tasks.redaction": "Redacted",
        "joblane.tasks.schedule": "cron every",
        "joblane.record.task.status": "Progress TaskStatus",
        "joblane.tasks.unique": "Keep OnConflict Until",
    },
)
