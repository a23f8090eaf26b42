"""The events of a test's tasks: its bus keeps them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from joblane.enqueue.event_bus import EventBus
from joblane.record.driver.connection import Connection
from joblane.record.events import Unsent, oldest_events, remove_events
from joblane.tasks.events import Event

PAGE = 100


class CapturingBus(EventBus):
    """A bus that accepts every event. ``events``: in the order in which they came."""

    def __init__(self, prefix: str) -> None:
        super().__init__("test", prefix)
        self.events: list[Event] = []

    def send_many(self, events: Sequence[Unsent]) -> dict[str, str]:
        self.events += [Event.read(json.loads(event.detail)) for event in events]
        return {}

    def take_all(self, connection: Connection) -> None:
        """Send the events that no worker has sent, also those that a sweep would leave to its worker for a while."""
        while found := oldest_events(connection, ("-infinity", ""), PAGE, older_than_seconds=0):
            self.send_many([event for event, _ in found])
            remove_events(connection, [event.id for event, _ in found])
