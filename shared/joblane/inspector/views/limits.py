"""The list of limits. :mod:`joblane.record.flow.limit_status` has the class of its rows."""

from __future__ import annotations

from joblane.inspector.listing import LISTINGS, Column, Kind, Listing
from joblane.record.flow.limit_status import MOST_COUNTED, LimitKind, LimitStatus
from joblane.tasks.limit import rate_text

__all__ = ["LimitStatus", "counted"]


def counted(number: int) -> str:
    """A number of tasks, which are counted up to a bound."""
    return f"{'at least ' if number >= MOST_COUNTED else ''}{number:,}"


def _at_a_time(limit: LimitStatus) -> int | str:
    number = limit.in_force.at_a_time
    return "any" if number is None else number


def _key(limit: LimitStatus) -> str | None:
    return {LimitKind.EACH_KEY: "each", LimitKind.KEY: limit.key}.get(limit.kind, "all")


LISTINGS[LimitStatus] = Listing(
    "Limits",
    "No task declares a limit.",
    (
        Column("Limit", "name", Kind.NAME, fold=20),
        Column("Key", _key, fold=20),
        Column("At a time", _at_a_time, Kind.NUMBER, order="in_force.at_a_time"),
        Column("Rate", lambda one: rate_text(one.in_force.rate), fold=20),
        Column("Running", lambda one: counted(one.running), Kind.NUMBER, order="running"),
        Column("Slots taken", lambda one: counted(one.taken), Kind.NUMBER, order="taken"),
        Column("Held", lambda one: counted(one.held), Kind.NUMBER, warns=lambda one: one.held, order="held"),
        Column("Oldest", "oldest_held_at", Kind.MOMENT),
        Column("Next start", "next_start_at", Kind.MOMENT),
        Column("Set by operators", "change", Kind.PROSE, page_only=True),
    ),
    left_out=("Next start", "Oldest", "Slots taken", "Rate"),
    whole=True,
)
