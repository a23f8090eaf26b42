"""The events that no worker has sent: of runs that were killed, of tasks that others end, and while the bus refuses.

They are kept for three days and dropped then, because a bus that nobody repairs must not fill the database.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from joblane import telemetry
from joblane.record.events import oldest_events, remove_events
from joblane.sqs.client import NO_ANSWER

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus
    from joblane.record.driver.connection import Connection

PAGE = 100
"""The events of one step, all sent at the same time: a step has a minute, also if the bus does not answer."""
KEPT = timedelta(days=3)
"""The time in which a bus can be repaired without a lost event: a weekend."""
MOST = 1_000_000
"""The most events that are kept, about 1 GB with the indexes."""
BATCH = 5_000
COUNT = (
    "select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 from joblane.events"
)
LIMIT = f"""
select greatest(
  now() - interval '{KEPT.total_seconds():.0f} s',
  (select created_at from joblane.events order by created_at desc, id desc offset $1::bigint limit 1))::text
"""
"""The time up to which events are dropped, if ``$1`` of them are kept."""
DROP = f"""
with old as materialized (
  select id from joblane.events where created_at <= $1::timestamptz order by created_at, id limit {BATCH}
),
gone as (delete from joblane.events e using old where e.id = old.id returning e.id)
select count(*) from gone
"""


class Events:
    """Sends the waiting events in the order in which they were written. ``bus`` None: it deletes them, unsent.

    ``sent``, ``dropped``: numbers of events. ``waiting``: the events that are left, also if a worker sends them in the
    next seconds. ``oldest_seconds``: the age of the oldest one. ``refusal``: why the bus did not accept an event; None:
    it accepted all.
    """

    def __init__(self, connection: Connection, bus: EventBus | None) -> None:
        self.sent = self.dropped = self.waiting = self.oldest_seconds = 0
        self.refusal: str | None = None
        self._connection, self._bus = connection, bus

    def steps(self) -> Iterator[None]:
        """Send, then drop what is kept too long. It may be stopped after each step."""
        if self._bus is None:
            yield from self._delete_all()
            return
        position = ("-infinity", "")
        refused: set[str] = set()  # kinds: the policy of a bus may refuse one, and the others do not wait for it
        while found := oldest_events(self._connection, position, PAGE, without=refused):
            events = [event for event, _ in found]
            failed = self._bus.send_many(events)
            accepted = [event.id for event in events if event.id not in failed]
            remove_events(self._connection, accepted)
            self.sent += len(accepted)
            if failed:
                self._report(self._bus.name, failed)
            if not accepted:
                if any(why.startswith(NO_ANSWER) for why in failed.values()):
                    break  # the next sweep tries again
                refused |= {event.kind for event in events}
            position = (found[-1][1], events[-1].id)
            yield
        yield from self._drop()

    def measure(self) -> None:
        """Count the events that wait."""
        [[self.waiting, age]] = self._connection.run(COUNT)
        self.oldest_seconds = max(0, round(age))

    def _drop(self) -> Iterator[None]:
        self.measure()
        if self.oldest_seconds <= KEPT.total_seconds() and self.waiting <= MOST:
            return
        [[until]] = self._connection.run(LIMIT, str(MOST))
        for gone in self._deleted(until):
            self.dropped += gone
            yield
        telemetry.logger().error(
            f"events were dropped, which other systems now miss: they wait for a bus for {KEPT.days} days, and no more "
            f"than {MOST:,} of them",
            extra={"events": self.dropped},
        )

    def _delete_all(self) -> Iterator[None]:
        deleted = 0
        for gone in self._deleted("infinity"):
            deleted += gone
            yield
        if deleted:
            telemetry.logger().info(
                "events were deleted unsent, because this stage has no bus: JOBLANE_EVENT_BUS is not set",
                extra={"events": deleted},
            )

    def _deleted(self, until: str) -> Iterator[int]:
        """Delete the events up to a time in batches, and yield the size of each."""
        gone = BATCH
        while gone == BATCH:
            [[gone]] = self._connection.run(DROP, until)
            if gone:
                yield gone

    def _report(self, bus: str, failed: dict[str, str]) -> None:
        self.refusal = next(iter(failed.values()))
        telemetry.logger().error(
            "the bus did not accept events; they wait, and the next sweep sends them again",
            extra={"bus": bus, "events": len(failed), "error": self.refusal},
        )
