"""All acts of a seed, with their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.faults.model.further_producers import FurtherProducers
from tests.faults.model.machines import Machines
from tests.faults.model.operators import Operators
from tests.faults.model.producers import Producers

if TYPE_CHECKING:
    from tests.faults.model.world import World


def acts_of(world: World) -> Sequence[tuple[Callable[[], None], float]]:
    """Return the acts. Limits change in every third seed, and days pass at once in every fourth."""
    producers = Producers(world)
    further = FurtherProducers(world, producers)
    operators = Operators(world, producers, changes_limits=world.seed % 3 == 1)
    machines = Machines(world, jumps=world.seed % 4 == 3)
    return (
        (producers.enqueue, 16),
        (producers.sql, 3),
        (further.ask, 4),
        (further.batch, 3),
        (further.external, 4),
        (further.schedule, 3),
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
