"""Bugs that a storm of limits must find."""

from __future__ import annotations

from contextlib import AbstractContextManager

from joblane.enqueue.producer import Producer
from joblane.record.flow import limit_changes
from joblane.record.row.conditions import BEFORE_IT
from joblane.record.row.transitions import RUN_WITH_SLOTS
from joblane.record.sql_functions import VERSION, assigned
from joblane.worker.worker import Batch
from tests.faults.limit_storm import Storm
from tests.faults.planting import Methods, Texts, plant

LOCK = f"perform joblane.lock_limits_{VERSION}("
TEXTS: Texts = {
    "the claim takes no lock": ("claim", f"{LOCK}locked_limits);", "null;"),
    "serving takes no lock": ("serve_limits", LOCK, "perform cardinality("),
    "only one task is served": (
        "serve_limits",
        f"while joblane.has_room_{VERSION}(limit_name, level, l.slots) loop",
        f"for once in 1 .. 1 loop exit when not joblane.has_room_{VERSION}(limit_name, level, l.slots);",
    ),
    "a run takes no slot": ("claim", assigned(RUN_WITH_SLOTS), assigned(RUN_WITH_SLOTS | {"passed": "t.passed"})),
    "nobody looks who is first": ("pass_limits", BEFORE_IT, "false"),
    "a claim that ends a task frees nothing": (
        "claim",
        "verdict in ('held', 'ended', 'archived', 'paused', 'send_dead_letter')",
        "verdict in ('held', 'paused')",
    ),
    "a claim that parks a task frees nothing": (
        "claim",
        "verdict in ('held', 'ended', 'archived', 'paused', 'send_dead_letter')",
        "verdict in ('held', 'ended', 'archived', 'send_dead_letter')",
    ),
    "a retry keeps its slots": (
        "finish",
        "when t.ordered and not f.is_end and t.passed is not null then 'key_slot'",
        "when not f.is_end then t.passed",
    ),
    "a rate gives each time twice": (
        "pass_limits",
        "greatest(r.next_at, clock_timestamp()) + l.step",
        "greatest(r.next_at, clock_timestamp()) + l.step / 2",
    ),
}
METHODS: Methods = {
    "the end of a run serves nobody": (Batch, "_free"),
    "a cancel serves nobody": (Producer, "follow"),
    "a raised limit serves nobody": (Storm, "serve_pool"),
    "a changed rate plans nobody anew": (limit_changes, "_give_times"),
}
"""Bug → the class or module, and its method that does nothing."""
RATE_PLANTS = ("a rate gives each time twice", "a changed rate plans nobody anew")
"""The bugs that a run of a rate must find."""
PLANTS = tuple(bug for bug in (*TEXTS, *METHODS) if bug not in RATE_PLANTS)


def planted(url: str, bug: str) -> AbstractContextManager[None]:
    """Plant a bug in a database, or in the code while the block runs."""
    return plant(url, bug, TEXTS, METHODS)
