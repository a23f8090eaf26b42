"""The shares of things that fail, which a seed draws."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class Faults:
    """The shares of actors that are killed and lose an answer, of points with a switch, and of refused sends.

    ``on`` False: nothing fails any more. ``is_calm``: nothing fails in this seed, so that no work is left to the sweep.
    """

    kill: float
    lose: float
    switch: float
    refuse: float
    on: bool = True

    @classmethod
    def drawn(cls, dice: random.Random, *, is_calm: bool) -> Faults:
        switch = dice.choice((0.1, 0.35, 0.6))
        if is_calm:
            return cls(0, 0, switch, 0)
        return cls(dice.choice((0.05, 0.15, 0.3)), dice.choice((0, 0.05, 0.1)), switch, dice.choice((0, 0.02, 0.1)))

    @property
    def is_calm(self) -> bool:
        return not (self.kill or self.lose or self.refuse)
