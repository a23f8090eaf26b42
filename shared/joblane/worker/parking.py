"""Messages of a type that its place does not run any more: the type has moved, and messages of it were still on their way.

The function lacks the permissions of the type, so it runs none of its tasks. They wait in their rows, those without a
row get one, and the sweep sends their messages to the type's present lane. The worker's claim makes sure that a sweep
follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.record.task.claim import park
from joblane.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joblane.names import Queue
    from joblane.sqs.message import Received
    from joblane.worker.invocation import BatchResponse, Invocation


class ParkingWorker(Worker):
    """Parks the tasks of one type, whose messages come from any lane. No attempt is spent.

    Its messages are acknowledged, but for those of a task that a run still holds: they come back after its lease.
    """

    claim = staticmethod(park)

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Park the tasks of an invocation's messages, which are in one lane."""
        self.logger.info(
            "another function runs this type now; its tasks wait in their rows, and the sweep sends their messages there",
            extra={"task_type": self.task.type, "messages": len(deliveries)},
        )
        return super().handle(deliveries, invocation)

    def queue_of(self, lane: str) -> Queue:
        """Return the queue of the lane if the type has a lane in it, else the type's home queue."""
        queue = super().queue_of(lane)
        return queue if queue in self.task.lanes else self.task.queue
