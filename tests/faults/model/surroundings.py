"""The surroundings of the library's processes: the model's own connection, Lambda's context object, and the bus."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.database import DATABASE_ERRORS, Database

if TYPE_CHECKING:
    from tests.faults.model.world import World

BUS_DOWN, EVENT_REFUSED = 0.15, 0.03
"""The shares of calls in which the bus refuses all events, and of events that it refuses."""
TERMINATE = "select pg_terminate_backend(pid) from pg_stat_activity where pid = any($1::int[])"
ENDED = "select not exists (select from pg_stat_activity where pid = any($1::int[]))"
LOCKED = "select exists (select from pg_locks where pid = any($1::int[]) and not granted)"


class Observer:
    """The model's own connection, for all threads. It connects again after a crash of the server."""

    def __init__(self, url: str) -> None:
        self._database = Database(url, limits=None)
        self._lock = threading.RLock()

    def run(self, sql: str, *parameters: Any) -> list[list[Any]]:
        with self._lock:
            for _ in range(100):
                try:
                    return self._database.get().run(sql, *parameters)
                except DATABASE_ERRORS as error:
                    if not is_unavailable(error):
                        raise
                    self._database.drop()
                    time.sleep(0.05)
        raise AssertionError("the server does not start again")

    def drop(self) -> None:
        self._database.drop()

    def is_locked(self, backends: Sequence[int]) -> bool:
        """True if one of these back ends waits for a lock."""
        return bool(self.run(LOCKED, backends)[0][0])

    def terminate(self, backends: Sequence[int]) -> None:
        """Terminate back ends, and wait until they have rolled their transactions back."""
        self.run(TERMINATE, backends)
        while not self.run(ENDED, backends)[0][0]:
            pass
        time.sleep(0.002)  # the sockets are closed a moment later


class Bus:
    """The bus, which refuses events, and at times all of them."""

    name = "bus"

    def __init__(self, world: World) -> None:
        self._world = world

    def send_many(self, events: Sequence[Any]) -> dict[str, str]:
        is_down, refused = self._world.chance(BUS_DOWN), dict[str, str]()
        for event in events:
            if is_down or self._world.chance(EVENT_REFUSED):
                refused[event.id] = "Throttling: by the dice"
            else:
                self._world.seen.events[event.id] += 1
        return refused
