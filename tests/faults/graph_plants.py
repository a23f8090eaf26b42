"""Bugs that a storm of graphs must find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from joblane.record.database import Database
from joblane.record.functions import FUNCTIONS
from joblane.worker.worker import Worker

OPEN = "(select true from joblane.task_parents e where e.child = t.id order by e.parent desc limit 1) is null"
TEXTS: Mapping[str, tuple[str, str, str]] = {
    "a child is released by its first parent": ("release_children", OPEN, "true"),
    "a claim asks for no parent": ("claim", "if t.waits_for = '*parents' and", "if false and"),
    "a finish lets no child go": ("finish", "where e.parent = x.id and", "where false and"),
    "a dead parent lets its child go": (
        "finish",
        "(x.state = 'completed' or",
        "(x.state in ('completed', 'archived') or",
    ),
}
METHODS: Mapping[str, tuple[Any, str]] = {
    "the end of a run releases nobody": (Worker, "_release_finished"),
}
"""Bug → the class, and its method that does nothing."""
PLANTS = (*TEXTS, *METHODS)


@contextmanager
def planted(url: str, bug: str) -> Iterator[None]:
    """Plant a bug in a database, or in the code while the block runs."""
    if bug in METHODS:
        with patch.object(*METHODS[bug], lambda *_, **__: None):
            yield
        return
    function, old, new = TEXTS[bug]
    assert old in FUNCTIONS[function], f"{function} has changed: the bug can no longer be planted by this text"
    with Database(url) as database:
        database.get().execute_simple(FUNCTIONS[function].replace(old, new))
    yield
