"""The start page: the trouble that needs an operator now, and the types with their runs, worst first."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.trouble import trouble_line
from joblane.inspector.views import Grade, Mark, Minute, Now, TypeNow
from joblane.names import Queue
from joblane.page import marks
from joblane.page.filters import whole
from joblane.page.rendering import page

KEPT_SECONDS = 2.0
"""An answer serves all requests of a person for so long: several tabs, and a screen on the wall."""
MOST_KEPT = 50
MOST_MARKS = 10
"""Marks of a queue: the latest."""
ICONS = {Grade.BAD: "icon-bad.svg", Grade.WARNING: "icon-warning.svg", Grade.UNKNOWN: "icon-warning.svg"}
"""Worst grade → the icon of the tab."""


@dataclass(slots=True)
class _Kept:
    """An answer. ``lock``: held by the request that asks for it."""

    lock: Lock = field(default_factory=Lock)
    at: float = 0.0
    found: Now | None = None


class Latest:
    """The latest answers, by person and period. Of concurrent requests one asks, and the others wait for its answer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, Lock()
        self._found: dict[tuple[str | None, int], _Kept] = {}

    def get(self, key: tuple[str | None, int], ask: Callable[[], Now], *, fresh: bool) -> Now:
        with self._lock:
            kept = self._found[key] = self._found.pop(key, _Kept())
            while len(self._found) > MOST_KEPT:
                del self._found[next(iter(self._found))]
        with kept.lock:  # a slow answer for one person keeps no other person waiting
            if fresh or kept.found is None or self._clock() - kept.at > KEPT_SECONDS:
                kept.found, kept.at = ask(), self._clock()
            return kept.found


def show(request: Request, inspector: Inspector) -> Response:
    """``queue``: only its types, with its charts. ``wall``: for a screen without an operator."""
    given = request.query_params
    minutes = whole("minutes", given.get("minutes") or "60", 1, 240)
    queue = given.get("queue") or None
    if queue is not None and queue not in list(Queue):
        raise SelectionError("queue", f"{', '.join(Queue)} are the queues")
    person = getattr(request.state, "common", {}).get("person")
    latest: Latest = request.app.state.latest
    after_action = "note" in given  # the page has to show what the action has changed
    found = latest.get((person, minutes), lambda: inspector.now(minutes=minutes), fresh=after_action)
    rows = [row for row in found.types if queue is None or queue in row.queues]
    chosen = next((view for view in found.overview.queues if view.queue == queue), None)
    events = _marks(inspector, queue, minutes)
    return page(
        request,
        "wall.html" if given.get("wall") else "now.html",
        found=found,
        trouble=found.trouble,
        line=trouble_line(found.trouble),
        icon=ICONS.get(found.trouble.grade, "icon.svg"),
        overview=found.overview,
        minutes=minutes,
        queue=queue,
        rows=[row for row in rows if not row.is_empty],
        empty=[row for row in rows if row.is_empty],
        total=_total(found.types),
        pauses=[one.pause for one in found.overview.paused],
        waiting={(one.pause.scope, one.pause.name): one.waiting for one in found.overview.paused},
        chosen=chosen,
        flow=_flow(chosen.minutes) if chosen else None,
        marks=[(mark, marks.address(mark, {"queue": queue or ""})) for mark in events],
        drawn=marks.shares(events, found.overview.at, minutes),
    )


def _flow(minutes: tuple[Minute, ...]) -> dict[str, float | None]:
    """Sums over the minutes, and the mean wait of all runs that started."""
    started = sum(minute.started for minute in minutes)
    waits = [(minute.wait_ms, minute.started) for minute in minutes if minute.wait_ms is not None]
    waited = sum(count for _, count in waits)
    return {
        "started": started,
        "failed": sum(minute.failed for minute in minutes),
        "peak": max((minute.started for minute in minutes), default=0),
        "wait_ms": sum(wait * count for wait, count in waits) / waited if waited else None,
    }


def _total(rows: tuple[TypeNow, ...]) -> dict[str, float]:
    started, failed = sum(row.started for row in rows), sum(row.failed for row in rows)
    return {
        "a_minute": sum(row.a_minute for row in rows),
        "started": started,
        "failed": failed,
        "share": failed / started if started else 0.0,
        "due": sum(row.due for row in rows),
        "held": sum(row.held for row in rows),
        "dead": sum(row.dead for row in rows),
    }


def _marks(inspector: Inspector, queue: str | None, minutes: int) -> list[Mark]:
    """The marks on the charts of a queue: deploys, pauses, limits of its types, bulk actions."""
    if queue is None:
        return []
    return list(inspector.marks(PauseScope.QUEUE, (queue,), within=timedelta(minutes=minutes))[:MOST_MARKS])
