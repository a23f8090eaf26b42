"""Decisions that depend on the seed and on their subject, and not on the order in which they are made."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter


class Dice:
    """``on`` False: no more faults happen."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.on = True
        self._rolls: Counter[str] = Counter()
        self._lock = threading.Lock()

    def roll(self, *words: object) -> float:
        """Return a number from 0 to below 1. The n-th roll for the same words is the same in every run of the seed."""
        subject = "/".join(str(word) for word in words)
        with self._lock:
            self._rolls[subject] += 1
            number = self._rolls[subject]
        digest = hashlib.sha256(f"{self.seed}/{subject}/{number}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def chance(self, probability: float, *words: object) -> bool:
        return self.on and self.roll(*words) < probability
