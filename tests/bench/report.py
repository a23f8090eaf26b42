"""The report of a benchmark: Joblane against the bare service, measured in turns in one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """A comparison. ``ratio`` is Joblane / bare.

    ``bound`` is its limit: an upper one if ``at_most``, or else a lower one. None: any ratio is accepted.
    """

    name: str
    setting: str
    ours: str
    bare: str
    ratio: float
    bound: float | None
    at_most: bool

    @property
    def is_measured(self) -> bool:
        return math.isfinite(self.ratio)

    @property
    def holds(self) -> bool:
        if self.bound is None:
            return True
        return self.ratio <= self.bound if self.at_most else self.ratio >= self.bound

    @property
    def required(self) -> str:
        return "none" if self.bound is None else f"{'≤' if self.at_most else '≥'} {self.bound:g}"


def within(name: str, setting: str, ours: float, target: float, unit: str) -> Ratio:
    """A measurement with a limit of its own, without a bare service to compare with."""
    return Ratio(name, setting, f"{ours:.1f} {unit}", f"{target:g} {unit}", ours / target, 1, at_most=True)


def failed(name: str, reason: str) -> Ratio:
    """A measurement that could not be made."""
    return Ratio(name, reason, "failed", "-", math.inf, 0, at_most=True)


def in_turns(rounds: int, ours: Callable[[], float], bare: Callable[[], float]) -> tuple[float, float]:
    """Measure both in turns, so that noise affects both, and return the median of each."""
    pairs = [(ours(), bare()) for _ in range(rounds)]
    return median([pair[0] for pair in pairs]), median([pair[1] for pair in pairs])


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
