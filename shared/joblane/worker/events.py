"""The events and listeners of the ends of an invocation's runs.

Both come after the response is decided, and change nothing. The sweep sends the events that are not sent here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import text_of
from joblane.record.driver.database import DATABASE_ERRORS
from joblane.record.row.states import ENDED
from joblane.tasks.event_kinds import LISTENERS, event_id

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus
    from joblane.record.driver.database import Database
    from joblane.record.row.states import State
    from joblane.record.task.claim import Claim
    from joblane.tasks.task import Task
    from joblane.worker.invocation import Invocation
    from joblane.worker.printed import Printed
    from joblane.worker.run import Alarm

SEND_SECONDS = 6.0
"""With less time left in the invocation the sweep sends the events: two statements and a call of the bus."""
PAUSE_SECONDS = 60.0
"""The time without sends after the bus has not accepted an event, so that no worker waits for a bus that is down."""


class Ends:
    """Sends the events and calls the listeners of one worker's ends."""

    def __init__(
        self, task: Task[Any, Any], database: Database, bus: EventBus | None, alarm: Alarm, printed: Printed | None
    ) -> None:
        """``bus`` None: the worker sends no events."""
        self._task, self._database, self._bus = task, database, bus
        self._alarm, self._printed = alarm, printed
        self._paused_until = 0.0

    def follow(self, ends: Iterable[tuple[Claim, State]], invocation: Invocation) -> None:
        """Send the events of committed ends, and call the listeners. Raises only KeyboardInterrupt."""
        to_send: list[str] = []
        to_hear: dict[str, str] = {}
        for claim, state in ends:
            if state in claim.events:
                to_send.append(event_id(claim.id, claim.generation, state))
            if LISTENERS and state in ENDED:
                to_hear[event_id(claim.id, claim.generation, state)] = claim.id
        now = time.monotonic()
        if to_send and self._bus is not None and self._paused_until <= now <= invocation.ends - SEND_SECONDS:
            self._send(to_send, self._bus)
        if to_hear:
            from joblane.worker.listening import Listening

            listening = Listening(self._task, self._database, self._alarm, self._printed)
            listening.hear(to_hear, invocation)

    def _send(self, ids: list[str], bus: EventBus) -> None:
        from joblane.record.events import events_by_id, remove_events

        try:
            events = self._database.call(events_by_id, ids)
            failed = bus.send_many(events)
            accepted = [event.id for event in events if event.id not in failed]
            self._database.call(remove_events, accepted)
        except DATABASE_ERRORS as error:
            telemetry.logger().warning(
                "events may be sent twice, or by the sweep: the database did not answer",
                extra={"error": text_of(error), "events": len(ids)},
            )
            return
        if failed:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            telemetry.logger().warning(
                "the bus did not accept events; the sweep sends them",
                extra={"bus": bus.name, "events": len(failed), "error": next(iter(failed.values()))},
            )
