"""The sentences on limits: their values, what operators have set, and the tasks that wait."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from joblane.inspector.durations import lasting, stamp
from joblane.inspector.sentences.counts import because, by, waits
from joblane.inspector.sentences.pauses import UNKNOWN_OPERATOR

if TYPE_CHECKING:
    from joblane.inspector.views import LimitStatus
    from joblane.record.flow.limit_status import LimitChange, LimitValues


def limit_name(limit: LimitStatus, kind: str | None = None) -> str:
    """``account:sync, key 7``. ``kind``: if it differs from the kind of the limit itself."""
    of_kind = {"each-key": f"{limit.name}, each key", "key": f"{limit.name}, key {limit.key}"}
    return of_kind.get(kind or limit.kind, limit.name)


def values_line(values: LimitValues) -> str:
    """``10 at a time and 500 a minute``."""
    from joblane.tasks.limit import values_text

    return values_text(values.at_a_time, values.rate)


def in_force_line(limits: Iterable[LimitStatus]) -> str:
    """The values that hold after a change."""
    values = (f"{limit_name(limit)}: {values_line(limit.in_force)}" for limit in limits)
    return f"In force now: {'; '.join(values)}."


def change_lines(limits: Iterable[LimitStatus]) -> list[str]:
    """The values that are set, who set them, until when and why, and the declared values. Each change once."""
    lines = []
    for limit in limits:
        if limit.change is None:
            continue
        change, declared = limit.change, "No task declares this limit any more"
        if limit.is_declared:
            declared = f"Declared: {values_line(limit.declared)}"
        until = f"until {stamp(change.until)}" if change.until else "until it is reset"
        values = values_line(change.values)
        which = limit_name(limit, change.kind)
        lines.append(f"{which}: {values} set{by(change.by)} {until}{because(change.reason)}. {declared}.")
    return list(dict.fromkeys(lines))


def set_line(
    change: LimitChange | None,
    declared: LimitValues | None,
    now: datetime,
    *,
    waiting: int,
    oldest: float | None,
    target: timedelta | None,
) -> str:
    """A value that an operator has set, or a declared 0, with the tasks that wait because of it.

    ``change`` None: only the declared value holds. ``declared`` None: no task declares the limit any more.
    ``oldest``: seconds since the first of the tasks was due. ``target``: the missed target; None: no target is missed.
    """
    if change is None:
        line = "the declared value is 0 at a time, so no task starts"
    else:
        until = f", until {stamp(change.until)}" if change.until else ""
        by = f"by {change.by or UNKNOWN_OPERATOR}{until}{because(change.reason)}"
        line = f"{values_line(change.values)} was set {lasting(now - change.since)} ago {by}".rstrip(".")
        line += ". No task declares this limit any more" if declared is None else f". Declared: {values_line(declared)}"
    if not waiting or oldest is None:
        return line
    missed = f"; the target is {lasting(target)}" if target is not None else ""
    return f"{line}. {waits(waiting)}, the oldest for {lasting(timedelta(seconds=oldest))}{missed}"


def allowed_line(limit: LimitStatus) -> str:
    """A limit with the tasks that run and wait."""
    name = limit.name if limit.key is None else f"{limit.name}, key {limit.key}"
    each = " for each key" if limit.kind == "each-key" else ""
    allowed = values_line(limit.in_force)
    return f"Limit {name}: {allowed}{each}. {limit.running:,} run, and {limit.held:,} wait."
