"""Bugs that a storm of debounced enqueues must find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

from joblane.enqueue import insert
from joblane.record.driver.database import Database
from joblane.record.row.conditions import UNDER_WAY
from joblane.record.row.states import LIVE_SQL, WAITING_SQL
from joblane.record.row.transitions import RUN
from joblane.record.sql_functions import FUNCTIONS
from joblane.record.task.debounce import PUSH
from joblane.record.task.insert import EXISTING

KEY = RUN["unique_key"]
TEXTS: Mapping[str, tuple[str, str]] = {
    "a push is cut to the present, not to the first ask": (
        "w.created_at + pg_catalog.make_interval",
        "clock_timestamp() + pg_catalog.make_interval",
    ),
    "a push does not move the time": ("due_at = case when stays then t.due_at else d.due_at end", "due_at = t.due_at"),
    "a push forgets the payload": (
        "payload = case when keeps then t.payload else x.payload end",
        "payload = t.payload",
    ),
    "a push overwrites the first payload": (
        "payload = case when keeps then t.payload else x.payload end",
        "payload = x.payload",
    ),
    "a push is not counted": ("asks = w.asks + x.asks", "asks = w.asks"),
    "each push sends a message": ("w.has_message and w.due_at", "false and w.due_at"),
}
"""Bug → the text of the statement of a push, and another in its place."""
KEPT = "the key is kept until the task ends"
TOUCHED = "a push touches a task that has begun"
PLANTS = (*TEXTS, KEPT, TOUCHED)


@contextmanager
def planted(url: str, bug: str) -> Iterator[None]:
    """Plant a bug in the code while the block runs, and some also in a database."""
    push, existing = PUSH, EXISTING
    if bug in TEXTS:
        assert TEXTS[bug][0] in push, "the statement has changed: the bug can no longer be planted by this text"
        push = push.replace(*TEXTS[bug])
    else:
        assert KEY in FUNCTIONS["claim"]
        with Database(url) as database:
            database.get().execute_simple(FUNCTIONS["claim"].replace(KEY, "t.unique_key"))
    if bug == TOUCHED:
        assert WAITING_SQL in push
        push = push.replace(WAITING_SQL, LIVE_SQL).replace(f"runs = 0 and not {UNDER_WAY}", "true")
        existing = existing.replace(f"{UNDER_WAY}, t.runs > 0", "false, false")
    with patch.object(insert, "PUSH", push), patch.object(insert, "EXISTING", existing):
        yield
