"""Wrong SQL that the model must find."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from tests.faults.planting import Texts, plant

TEXTS: Texts = {
    "model-token": ("finish", "and t.lease_token = x.token", "and true"),
    "model-room": ("has_room", "return slots > case", "return slots >= case"),
    "model-parents": ("open_parents", "is_open := exists (", "is_open := false and exists ("),
    "model-order": ("pass_limits", "(level = 1 and t.ordered and", "(level = 1 and false and"),
    "model-pause": ("claim", "elsif paused then                                    -- waiting", "elsif false then  --"),
    "model-rate": ("pass_limits", "- l.burst * l.step", "- 10 * l.burst * l.step"),
    "model-lease": ("claim", "elsif t.state = 'active' and t.lease_until > clock then", "elsif false then"),
    "model-release": (
        "finish",
        "if exists (select from joblane.task_parents e where e.parent = any (finished)) then",
        "if false then",
    ),
}
PLANTS: Mapping[str, str] = {
    "model-token": "a finish does not look at the token of the lease",
    "model-room": "a limit has one slot too many",
    "model-parents": "a task does not wait for its parents",
    "model-order": "no order is kept",
    "model-pause": "a claim does not look at pauses",
    "model-rate": "a rate saves ten times as many starts",
    "model-lease": "a claim does not look at the lease of another run",
    "model-release": "a finish does not look for children",
}
"""Plant → what it breaks."""


def planted(url: str, bug: str) -> AbstractContextManager[None]:
    """Plant a bug in a database."""
    return plant(url, bug, TEXTS, {})
