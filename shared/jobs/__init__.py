"""Background jobs on SQS and Lambda, recorded in Postgres.

Declare
    task, Payload, Queue, Grants, cron, every
Enqueue
    JobClient, Job, Enqueued
Inside a handler
    TaskContext, SkipRetry, RetryAfter, Snooze, RevokeTask, TaskTimeout, TaskCancelled
"""

from shared.jobs.client import Enqueued, JobClient
from shared.jobs.context import TaskContext
from shared.jobs.cron import cron, every
from shared.jobs.errors import JobError, RetryAfter, RevokeTask, SkipRetry, Snooze, TaskCancelled, TaskTimeout
from shared.jobs.job import Job
from shared.jobs.queues import Queue
from shared.jobs.task import Grants, Payload, Task, task

__all__ = [
    "Enqueued",
    "Grants",
    "Job",
    "JobClient",
    "JobError",
    "Payload",
    "Queue",
    "RetryAfter",
    "RevokeTask",
    "SkipRetry",
    "Snooze",
    "Task",
    "TaskCancelled",
    "TaskContext",
    "TaskTimeout",
    "cron",
    "every",
    "task",
]
