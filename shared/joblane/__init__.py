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

from joblane.client import Enqueued, JobClient
from joblane.context import TaskContext
from joblane.cron import cron, every
from joblane.decorator import task
from joblane.errors import (
    DuplicateTaskError,
    EnqueueError,
    JobError,
    PartialFailure,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    Snooze,
    TaskCancelled,
    TaskIdConflictError,
    TaskTimeout,
)
from joblane.job import Job
from joblane.payload import ArchivedTask, Payload
from joblane.queues import Queue
from joblane.record.states import State
from joblane.redaction import Redacted
from joblane.status import Progress, TaskStatus
from joblane.task import Grants, Task
from joblane.unique import OnConflict, Until

__all__ = [
    "ArchivedTask",
    "DuplicateTaskError",
    "EnqueueError",
    "Enqueued",
    "Grants",
    "Job",
    "JobClient",
    "JobError",
    "OnConflict",
    "PartialFailure",
    "Payload",
    "Progress",
    "Queue",
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
    "every",
    "task",
]
