"""Random decisions that depend on the seed and on their subject, but not on their order."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter


class Dice:
    """The dice. ``on`` False: no fault happens any more."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.on = True
        self._thrown: Counter[str] = Counter()
        self._lock = threading.Lock()

    def roll(self, *words: object) -> float:
        """Return a number from 0 to below 1. The n-th roll for a subject is the same in every run with the seed."""
        about = "/".join(str(word) for word in words)
        with self._lock:
            self._thrown[about] += 1
            number = self._thrown[about]
        digest = hashlib.sha256(f"{self.seed}/{about}/{number}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def chance(self, probability: float, *words: object) -> bool:
        return self.on and self.roll(*words) < probability
