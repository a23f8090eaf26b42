"""Machines and time: deliveries, crashes of the server, and time that passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.model.world import World

OTHERS = "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
CRASHES = 0.15
"""The share of restarts in which the server is killed. In the other restarts the model terminates all back ends."""
DAY = 86_400
SECONDS = (0.5, 2, 5, 20, 60, 240, 900, 3600)
JUMPS = (DAY, 10 * DAY, 25 * DAY)


class Machines:
    """The acts of machines. ``jumps``: whether days pass at once in this seed."""

    def __init__(self, world: World, *, jumps: bool) -> None:
        self._world, self._dice, self._jumps = world, world.dice, jumps

    def restart(self) -> None:
        """Terminate all back ends, or kill the server."""
        if self._world.faults.is_calm:
            return
        if self._dice.random() >= CRASHES:
            self._world.observer.terminate([pid for (pid,) in self._world.observer.run(OTHERS)])
            self._world.counts["times that all back ends were terminated"] += 1
        else:
            self._world.crash()

    def time(self) -> None:
        jumps = JUMPS if self._jumps and self._dice.random() < 0.15 else ()
        self._world.forward(self._dice.choice(SECONDS + jumps))

    def stall(self) -> None:
        """Let the leases of all handlers end while they run."""
        if seconds := self._world.starts.leased_for():
            self._world.forward(seconds + 1)
            self._world.counts["times that all leases ended"] += 1

    def deliver(self) -> None:
        """Deliver messages. Without visible ones, time passes until the next one, or a hidden one comes."""
        world = self._world
        ready = [each for each in world.lanes if (at := world.queues.next_visible_at(each[1])) and at <= world.now]
        if ready:
            world.deliver(*self._dice.choice(ready))
        elif (at := world.next_visible()) and self._dice.random() < 0.5:
            world.forward(max(0.0, at - world.now))
        else:
            world.deliver(*self._dice.choice(world.lanes))
