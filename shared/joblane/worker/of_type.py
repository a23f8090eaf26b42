"""The worker of a task type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from joblane.names import SWEEP
from joblane.worker.worker import Worker

if TYPE_CHECKING:
    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs
    from joblane.tasks.task import Task
    from joblane.worker.sweep_worker import SweepWorker
    from joblane.worker.worker import WorkerOptions


def worker_of(
    task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str, **options: Unpack[WorkerOptions]
) -> Worker | SweepWorker:
    """Return the worker of a task type. Arguments: as of :class:`Worker`."""
    if task.type != SWEEP:
        return Worker(task, database, sqs, prefix, **options)
    from joblane.worker.sweep_worker import SweepWorker

    return SweepWorker(task, database, sqs, prefix, **options)
