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

from shared.jobs.client import Enqueued, JobClient
from shared.jobs.context import TaskContext
from shared.jobs.cron import cron, every
from shared.jobs.errors import (
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
from shared.jobs.job import Job
from shared.jobs.payload import ArchivedTask, Payload
from shared.jobs.queues import Queue
from shared.jobs.redaction import Redacted
from shared.jobs.status import Progress, TaskStatus
from shared.jobs.store import State
from shared.jobs.task import Grants, Task, task
from shared.jobs.unique import OnConflict, Until

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
