"""The worker of ``jobs:sweep``. It looks at wake-ups and planned sweeps before it claims anything.

- A planned sweep whose time has not come is sent again, with the next delay. Nothing connects to the database.
- At most one sweep starts for all wake-ups and planned sweeps that arrive within 15 seconds. It serves all of them: a
  wake-up arrives at least 15 seconds after the writes that it is for, and a planned sweep not before its time. Its id
  has the time of the arrival, by the clock of SQS or of the functions. The clocks of producers do not matter.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Unpack

from joblane import telemetry
from joblane.enqueue.wake import (
    AFTER_COMMIT,
    AT_ONCE_SECONDS,
    LONGEST_SECONDS,
    PLANNED,
    planned_entry,
)
from joblane.names import SWEEP
from joblane.sqs.message import Message
from joblane.worker.invocation import BatchResponse, Invocation, growing_seconds
from joblane.worker.worker import Worker

if TYPE_CHECKING:
    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs
    from joblane.sqs.message import Received
    from joblane.tasks.task import Task
    from joblane.worker.worker import WorkerOptions

AT = f"{SWEEP}:at:"
"""The beginning of the id of a sweep that was woken after a commit, or planned. The rest is the start of the 15 seconds
in which its message has arrived, in seconds since 1970."""
ARRIVAL = re.compile(rf"(?P<kind>{PLANNED}|{AFTER_COMMIT})(?P<time>\d{{1,12}})")


class SweepWorker:
    """Serves ``jobs:sweep``, as :class:`Worker` serves a task."""

    def __init__(
        self, task: Task[Any, Any], database: Database, sqs: Sqs, prefix: str, **options: Unpack[WorkerOptions]
    ) -> None:
        self._sqs, self._prefix = sqs, prefix
        self._worker = Worker(self._noted(task), database, sqs, prefix, **options)
        self._returned: tuple[float, float] | None = None
        """The start of the sweep that has returned in this invocation: :meth:`Sqs.now` and ``time.monotonic``."""
        self._served: tuple[float, float] | None = None
        """The start of the last sweep of this process that is completed."""

    def handle(self, deliveries: Sequence[Received], invocation: Invocation) -> BatchResponse:
        """Handle the messages of an invocation, see :meth:`Worker.handle`."""
        response = BatchResponse()
        due = [found for delivery in deliveries if (found := self._due(delivery, response)) is not None]
        if response.visibility:
            self._sqs.set_visibility(deliveries[0].queue, response.visibility)
        if not due:
            return response
        self._returned = None
        kept = self._worker.handle(due, invocation).kept
        if kept:
            _count_failures(len(kept))
        elif self._returned is not None:
            self._served = self._returned
        response.kept += kept
        return response

    def _noted(self, task: Task[Any, Any]) -> Task[Any, Any]:
        """Return the task with a function that notes the start of each sweep that returns."""

        @wraps(task.function)
        def function(payload: Any, ctx: Any) -> Any:
            started = self._sqs.now(), time.monotonic()
            result = task.function(payload, ctx)
            self._returned = started
            return result

        return replace(task, function=function)

    def _due(self, received: Received, response: BatchResponse) -> Received | None:
        """Return the message for the worker. None: it is served already, or was sent again, or is kept."""
        message = received.message
        found = ARRIVAL.fullmatch(message.id or "") if message is not None and not message.rec else None
        if found is None:  # a tick, an immediate wake-up, or the message of a row
            return received
        now, at = self._sqs.now(), 0
        if found["kind"] == PLANNED:
            at = int(found["time"])
            if now < at <= now + LONGEST_SECONDS:
                self._send_on(received, at, now, response)
                return None
        if self._is_served(received, at, now):
            return None
        arrived = max(received.first_received_at or now, at)
        sweep = Message(SWEEP, f"{AT}{int(arrived // AT_ONCE_SECONDS * AT_ONCE_SECONDS)}", payload={})
        return replace(received, message=sweep, body=sweep.encode())

    def _send_on(self, received: Received, at: int, now: float, response: BatchResponse) -> None:
        """Send a planned sweep again, before its message is deleted."""
        if self._sqs.send_many([planned_entry(self._prefix, at, now)]):
            response.keep(received, min(growing_seconds(received.receives), math.ceil(at - now)))

    def _is_served(self, received: Received, at: int, now: float) -> bool:
        """True if the last sweep of this process has begun after what this message is for.

        ``at``: the time of a planned sweep; 0 for a wake-up.
        """
        if self._served is None or received.receives > 1:
            return False
        started, monotonic = self._served
        is_recent = 0 <= now - started < AT_ONCE_SECONDS and time.monotonic() - monotonic < AT_ONCE_SECONDS
        return is_recent and started >= at


def _count_failures(number: int) -> None:
    """Write the metric for the alarm. A sweep that cannot claim its task, as without the database, writes no other."""
    tally = telemetry.Tally()
    tally.count("SweepFailures", number)
    tally.flush(task_type=SWEEP)
