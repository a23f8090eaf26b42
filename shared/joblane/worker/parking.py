"""Parking: what a place does with the messages of a type that it does not run any more.

The type has moved, and some of its messages were on their way. The place's function lacks the permissions of the type,
so it runs none of its tasks. They wait in their rows, and new ones are inserted. The sweep, which each claim wakes,
sends their messages to the type's present lane.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from joblane.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joblane.sqs.message import Received
    from joblane.worker.invocation import BatchResponse, Invocation


class ParkingWorker(Worker):
    """Parks the tasks of one type, whose messages come from any lane. No attempt is spent.

    The message of a task that a run still holds comes back after its lease, and the one of a locked row in seconds.
    All others are acknowledged.
    """

    parks = True

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Park the tasks of an invocation's messages, which are in one lane."""
        self.logger.info(
            "another function runs this type now; its tasks wait in their rows until the sweep sends their messages",
            extra={"task_type": self.task.type, "messages": len(deliveries)},
        )
        return super().handle([self._checked(delivery) for delivery in deliveries], invocation)

    def _checked(self, delivery: Received) -> Received:
        """Refuse an external message or a tick of a type that is closed to front doors.

        Who may send to the lane of the place could start the type by it. The dead letter has the reason, so that an
        operator can redrive it. The sweep makes a tick again.
        """
        message = delivery.message
        if self.task.front_door or message is None or message.rec or delivery.dead_generation is not None:
            return delivery
        return replace(delivery, message=None, refusal=f"type: {message.type!r} does not run here any more")
