"""The filter of a bulk action in words, for the command line and the page."""

from __future__ import annotations

from joblane.inspector.durations import stamp, written
from joblane.inspector.filter import Filter


def described(chosen: Filter) -> list[tuple[str, str]]:
    """The filter for a reader: pairs of a name and a value."""
    if chosen.ids:
        return [("selected tasks", f"{len(chosen.ids):,}")]
    pairs = [
        ("id begins with", chosen.id_prefix),
        *(("state", state) for state in chosen.states),
        *(("type", type_) for type_ in chosen.types),
        *(("queue", queue) for queue in chosen.queues),
        ("tenant", chosen.tenant),
        ("tag", chosen.tag),
        ("error contains", chosen.error),
        ("fingerprint", chosen.fingerprint),
        ("child of", chosen.parent),
        ("lease is over", "yes" if chosen.lease_over else None),
        ("last run took longer than", chosen.longer and written(chosen.longer)),
    ]
    times = (
        ("created from", chosen.created_after),
        ("created before", chosen.created_before),
        ("ended from", chosen.ended_after),
        ("ended before", chosen.ended_before),
    )
    return [(name, str(value)) for name, value in pairs if value] + [(name, stamp(at)) for name, at in times if at]
