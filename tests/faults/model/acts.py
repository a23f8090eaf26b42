"""All acts of a seed, with their weights; and those of machines and time: deliveries, crashes, time that passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.faults.model.operators import Operators
from tests.faults.model.producers import Producers

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


def acts_of(world: World) -> Sequence[tuple[Callable[[], None], float]]:
    """Return the acts. Limits change in every third seed, and days pass at once in every fourth."""
    producers = Producers(world)
    operators = Operators(world, producers, changes_limits=world.seed % 3 == 1)
    machines = Machines(world, jumps=world.seed % 4 == 3)
    return (
        (producers.enqueue, 16),
        (producers.sql, 3),
        (producers.ask, 4),
        (producers.batch, 3),
        (producers.external, 4),
        (producers.schedule, 3),
        (operators.action, 6),
        (operators.cancel, 2),
        (operators.cancel_through_sql, 1),
        (operators.pause, 4),
        (operators.limits, 2),
        (operators.redrive, 2),
        (machines.deliver, 50),
        (machines.restart, 0.4),
        (machines.time, 4),
        (machines.stall, 1),
    )
