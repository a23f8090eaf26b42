"""Messages of a type that its place does not run any more: the type has moved, and messages of it were still on their way.

The function lacks the permissions of the type, so it runs none of its tasks. They wait in their rows, those without a
row get one, and the sweep sends their messages to the type's present lane. The worker's claim makes sure that a sweep
follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from joblane.names import Queue, queue_of
from joblane.record.task.claim import park
from joblane.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs
    from joblane.sqs.message import Received
    from joblane.tasks.task import Task
    from joblane.worker.invocation import BatchResponse, Invocation
    from joblane.worker.worker import WorkerOptions


class ParkingWorker(Worker):
    """Parks the tasks of one type, whose messages come from any lane. No attempt is spent.

    Its messages are acknowledged, but for those of a task that a run still holds: they come back after its lease.
    """

    claim = staticmethod(park)

    def __init__(
        self, task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str, **options: Unpack[WorkerOptions]
    ) -> None:
        super().__init__(task, database, sqs, prefix, **options)
        self.lanes = _Lanes(task, prefix)

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Park the tasks of an invocation's messages, which are in one lane."""
        self.logger.info(
            "another function runs this type now; its tasks wait in their rows, and the sweep sends their messages there",
            extra={"task_type": self.task.type, "messages": len(deliveries)},
        )
        return super().handle(deliveries, invocation)


class _Lanes(dict[str, Queue]):
    """Lane → the queue of a task that is new there: the lane's, if the type has a lane in it."""

    def __init__(self, task: Task[Any, Any], prefix: str) -> None:
        self._task, self._prefix = task, prefix

    def __missing__(self, lane: str) -> Queue:
        queue = queue_of(self._prefix, lane)
        return queue if queue in self._task.lanes else self._task.queue
