"""The log lines of a task and of a type, followed if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.filter import LOG_LEVELS
from joblane.inspector.inspector import Inspector
from joblane.inspector.short_id import task_of
from joblane.inspector.views import LogLine
from joblane.page.filters import YES, time_of
from joblane.page.rendering import page, query
from joblane.record.row.states import ENDED

LIVE_RUNS = 2
"""Attempts of a task whose lines are read each time, while they are followed."""
LIVE = timedelta(minutes=10)
"""A page that is left open asks CloudWatch no longer than this."""


def of_task(request: Request, inspector: Inspector) -> Response:
    """The lines of a task. ``id``: its id, or the beginning of it. Others: see :class:`Shown`."""
    shown = Shown.of(request)
    row = task_of(inspector, request.query_params.get("id", "")).row
    runs = {"runs": LIVE_RUNS} if shown.is_live else {}
    lines = inspector.logs(row.id, level=shown.level, text=shown.text, **runs)
    return shown.answer(request, lines, is_over=row.state in ENDED, id=row.id)


def of_type(request: Request, inspector: Inspector) -> Response:
    """The newest lines of a type. ``type``: its name. Others: see :class:`Shown`."""
    shown, name = Shown.of(request), request.query_params.get("type", "")
    lines = inspector.type_logs(name, level=shown.level, text=shown.text)
    return shown.answer(request, lines, is_over=False, type=name)


@dataclass(frozen=True, slots=True)
class Shown:
    """The lines that are shown: their lowest ``level``, their ``text``, and the time since which they are followed.

    Parameters of the address: ``level``, ``text``, and ``live``, the time, or ``yes`` to begin.
    """

    level: str | None
    text: str | None
    since: datetime | None
    is_live: bool

    @classmethod
    def of(cls, request: Request) -> Shown:
        """Raises :class:`SelectionError`."""
        given, now = request.query_params, datetime.now(UTC)
        live = given.get("live")
        since = now if live == YES else time_of("live", live or None, now)
        is_live = since is not None and timedelta() <= now - since < LIVE
        return cls(given.get("level") or None, given.get("text") or None, since, is_live)

    def answer(self, request: Request, lines: Sequence[LogLine], *, is_over: bool, **of: str) -> Response:
        """Newest first if they are followed. ``is_over``: no more lines can come. ``of``: the id or the type."""
        chosen = {**of, "level": self.level, "text": self.text}
        address = request.url.path
        return page(
            request,
            "logs.html",
            id=of.get("id"),
            type=of.get("type"),
            lines=lines if self.since is None else lines[::-1],
            chosen=chosen,
            levels=LOG_LEVELS,
            is_live=self.is_live and not is_over,
            was_live=self.since is not None,
            address=address,
            here=f"{address}?{query(chosen, live=self.since and self.since.isoformat())}",
        )
