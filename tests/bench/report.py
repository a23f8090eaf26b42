"""The report of a benchmark: Joblane against the bare service, measured in turns in one run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


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


def rounds(number: int, calls: Mapping[K, Callable[[], T]], *, warm: int = 0) -> dict[K, list[T]]:
    """Make each call once in a round, so that noise affects all. Return the results of each, without the first rounds.

    ``warm``: the number of rounds before the others, which connect and compile.
    """
    found: dict[K, list[T]] = {name: [] for name in calls}
    for turn in range(number + warm):
        for name, call in calls.items():
            result = call()
            if turn >= warm:
                found[name].append(result)
    return found


def in_turns(number: int, ours: Callable[[], float], bare: Callable[[], float]) -> tuple[float, float]:
    """Measure both in turns, and return the median of each."""
    found = rounds(number, {"ours": ours, "bare": bare})
    return median(found["ours"]), median(found["bare"])


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
