"""Bugs that a storm of graphs must find."""

from __future__ import annotations

from contextlib import AbstractContextManager

from joblane.enqueue.follow_up import FollowUp
from joblane.worker.worker import Batch
from tests.faults.planting import Methods, Texts, plant

OPEN = "(select true from joblane.task_parents e where e.child = t.id order by e.parent desc limit 1) is null"
TEXTS: Texts = {
    "a child is released by its first parent": ("release_children", OPEN, "true"),
    "a claim asks for no parent": ("claim", "if t.wait_kind = 'parents' and", "if false and"),
    "a finish lets no child go": (
        "finish",
        "if exists (select from joblane.task_parents",
        "if false and exists (select from joblane.task_parents",
    ),
    "a dead parent lets its child go": (
        "finish",
        "when x.state = 'completed' then",
        "when x.state in ('completed', 'archived') then",
    ),
}
METHODS: Methods = {
    "the end of a run releases nobody": (Batch, "_note_finish"),
    "what follows a commit is forgotten": (FollowUp, "act"),
}
"""Bug → the class, and its method that does nothing."""
PLANTS = (*TEXTS, *METHODS)


def planted(url: str, bug: str) -> AbstractContextManager[None]:
    """Plant a bug in a database, or in the code while the block runs."""
    return plant(url, bug, TEXTS, METHODS)
