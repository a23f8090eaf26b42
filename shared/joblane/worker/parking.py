"""Parking: what a place does with the messages of a type that it does not run any more.

The type has moved, and some of its messages were on their way. The place's function lacks the permissions of the type,
so it runs none of its tasks. They wait in their rows, and new ones are inserted. The sweep, which each claim wakes,
sends their messages to the type's present lane.
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

    The message of a task that a run still holds comes back after its lease, and the one of a locked row in seconds.
    All others are acknowledged.
    """

    decides = staticmethod(park)

    def __init__(
        self, task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str, **options: Unpack[WorkerOptions]
    ) -> None:
        super().__init__(task, database, sqs, prefix, **options)
        self.lanes = _Lanes(task, prefix)

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Park the tasks of an invocation's messages, which are in one lane."""
        self.logger.info(
            "another function runs this type now; its tasks wait in their rows until the sweep sends their messages",
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
