"""Background jobs on SQS and Lambda, recorded in PostgreSQL. The reference lists the public names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from joblane.lazy import importer

if TYPE_CHECKING:  # the names of the map below, for type checkers
    from joblane.client.async_batch import AsyncBatch as AsyncBatch
    from joblane.client.batch import Batch as Batch
    from joblane.client.client import JobClient as JobClient
    from joblane.client.message_client import MessageClient as MessageClient
    from joblane.enqueue.result import Enqueued as Enqueued
    from joblane.errors import BatchIdConflictError as BatchIdConflictError
    from joblane.errors import DuplicateTaskError as DuplicateTaskError
    from joblane.errors import EnqueueError as EnqueueError
    from joblane.errors import JobError as JobError
    from joblane.errors import PartialFailure as PartialFailure
    from joblane.errors import RateLimited as RateLimited
    from joblane.errors import RetryAfter as RetryAfter
    from joblane.errors import RevokeTask as RevokeTask
    from joblane.errors import SkipRetry as SkipRetry
    from joblane.errors import Snooze as Snooze
    from joblane.errors import TaskCancelled as TaskCancelled
    from joblane.errors import TaskIdConflictError as TaskIdConflictError
    from joblane.errors import TaskTimeout as TaskTimeout
    from joblane.handler.context import TaskContext as TaskContext
    from joblane.handler.resources import resource as resource
    from joblane.names import Queue as Queue
    from joblane.record.row.states import State as State
    from joblane.record.task.status import Progress as Progress
    from joblane.record.task.status import TaskStatus as TaskStatus
    from joblane.record.task.status import TaskWait as TaskWait
    from joblane.tasks.declare import declare as declare
    from joblane.tasks.declare import handles as handles
    from joblane.tasks.decorator import task as task
    from joblane.tasks.events import Event as Event
    from joblane.tasks.hooks import around as around
    from joblane.tasks.hooks import enqueueing as enqueueing
    from joblane.tasks.job import Job as Job
    from joblane.tasks.job import OnParentDead as OnParentDead
    from joblane.tasks.limit import Limit as Limit
    from joblane.tasks.limit import Rate as Rate
    from joblane.tasks.listeners import on as on
    from joblane.tasks.payload import ArchivedTask as ArchivedTask
    from joblane.tasks.payload import Payload as Payload
    from joblane.tasks.place import Lambda as Lambda
    from joblane.tasks.redaction import Redacted as Redacted
    from joblane.tasks.schedule import cron as cron
    from joblane.tasks.schedule import every as every
    from joblane.tasks.task import Grants as Grants
    from joblane.tasks.task import Task as Task
    from joblane.tasks.unique import Keep as Keep
    from joblane.tasks.unique import OnConflict as OnConflict
    from joblane.tasks.unique import Until as Until

if sys.version_info < (3, 11):  # noqa: UP036 - pip refuses it, but a copy of the code on the path gets here
    raise ImportError(f"Joblane needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}")

__version__ = "0.1.0"

_HOMES = {
    "joblane.client.async_batch": "AsyncBatch",
    "joblane.client.batch": "Batch",
    "joblane.client.client": "JobClient",
    "joblane.client.message_client": "MessageClient",
    "joblane.enqueue.result": "Enqueued",
    "joblane.handler.context": "TaskContext",
    "joblane.handler.resources": "resource",
    "joblane.tasks.task": "Grants Task",
    "joblane.tasks.declare": "declare handles",
    "joblane.tasks.decorator": "task",
    "joblane.errors": "BatchIdConflictError DuplicateTaskError EnqueueError JobError PartialFailure RateLimited "
    "RetryAfter RevokeTask SkipRetry Snooze TaskCancelled TaskIdConflictError TaskTimeout",
    "joblane.tasks.events": "Event",
    "joblane.tasks.limit": "Limit Rate",
    "joblane.tasks.job": "Job OnParentDead",
    "joblane.tasks.hooks": "around enqueueing",
    "joblane.tasks.listeners": "on",
    "joblane.tasks.payload": "ArchivedTask Payload",
    "joblane.names": "Queue",
    "joblane.record.row.states": "State",
    "joblane.tasks.place": "Lambda",
    "joblane.tasks.redaction": "Redacted",
    "joblane.tasks.schedule": "cron every",
    "joblane.record.task.status": "Progress TaskStatus TaskWait",
    "joblane.tasks.unique": "Keep OnConflict Until",
}
"""Module → its public names."""
__all__ = tuple(sorted(" ".join(_HOMES.values()).split()))
__getattr__ = importer(__name__, _HOMES)
