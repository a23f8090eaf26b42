"""The model's own view from outside: the answers that callers got, and the notes of handlers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

RATE_STEP_SECONDS, RATE_BURST = 1.0, 2
LIMITS = {"m:keyed/": 1, "m:keyed": 2, "model-pool": 2, "m:order/": 1, "m:async/": 1}
"""Limit → its declared value. With a slash: of each key."""
LIMITS_OF = {
    "m:keyed": ("m:keyed/", "m:keyed", "model-pool"),
    "m:share": ("model-pool",),
    "m:order": ("m:order/",),
    "m:async": ("m:async/",),
}
"""Type → its limits."""


@dataclass
class SeenBatch:
    """``added``: members that members have added, maybe in a run that did not commit. ``callbacks``: ids of tasks.
    ``is_sealed``: the seal is known to be committed."""

    members: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    callbacks: set[str] = field(default_factory=set)
    is_sealed: bool = False


@dataclass
class Seen:
    """``accepted``: task id → the actors' number of the moment at which its acceptance was known.

    ``ids``: of tasks for operators and parents. ``parents``: child → its parents, and what it does if they die.
    ``made_by``: task → the task and generation in whose run it was enqueued. ``by_hand``: tasks that an operator has
    started at once. ``cancelled``: task → the generation that is known to be cancelled. ``pauses``: scope, name and
    version of the row → the number of the moment at which the pause was known. ``asks``, ``answered``: key → the
    greatest ask that was committed, and that a run has read. ``limits``: limit → the values that it has had.
    ``is_rate_known`` False: an operator has changed the rate. ``rated``: the times of starts since there was no other
    task with the rate. ``events``: event id → how often it came.
    """

    ids: list[str] = field(default_factory=list)
    accepted: dict[str, int] = field(default_factory=dict)
    rolled_back: set[str] = field(default_factory=set)
    parents: dict[str, tuple[list[str], str]] = field(default_factory=dict)
    made_by: dict[str, tuple[str, int]] = field(default_factory=dict)
    by_hand: set[str] = field(default_factory=set)
    cancelled: dict[str, int] = field(default_factory=dict)
    pauses: dict[tuple[str, ...], int] = field(default_factory=dict)
    asks: Counter[int] = field(default_factory=Counter)
    answered: Counter[int] = field(default_factory=Counter)
    limits: dict[str, set[int]] = field(default_factory=lambda: {name: {value} for name, value in LIMITS.items()})
    is_rate_known: bool = True
    rated: list[float] = field(default_factory=list)
    batches: dict[str, SeenBatch] = field(default_factory=dict)
    events: Counter[str] = field(default_factory=Counter)

    def accept(self, id_: str, number: int) -> None:
        self.ids.append(id_)
        self.accepted.setdefault(id_, number)

    def batch_of(self, callback: str) -> SeenBatch | None:
        """Return the batch with this callback."""
        return next((batch for batch in self.batches.values() if callback in batch.callbacks), None)
