"""The stage: its queues, schedules, pauses, statistics and audit."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.durations import stamp
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Minute, Pause
from joblane.page.filters import Form, age, name_of, whole
from joblane.page.visit import form, go, page

WITHIN = ("1h", "1d", "7d", "30d")
BY = ("type", "tenant")
AUDIT_PER_PAGE = 50


def overview(request: Request, asked: Inspector) -> Response:
    minutes = whole("minutes", request.query_params.get("minutes") or "60", 1, 240)
    found, paused = asked.overview(minutes=minutes), asked.pauses()
    flows = {view.queue: flow(view.minutes) for view in found.queues}
    return page(request, "overview.html", overview=found, minutes=minutes, flows=flows, pauses=paused)


def flow(minutes: tuple[Minute, ...]) -> dict[str, float | None]:
    """The minutes in figures: sums, and the mean wait of all that started."""
    started = sum(one.started for one in minutes)
    waited = [(one.wait_ms, one.started) for one in minutes if one.wait_ms is not None]
    weighed = sum(count for _, count in waited)
    return {
        "started": started,
        "failed": sum(one.failed for one in minutes),
        "peak": max((one.started for one in minutes), default=0),
        "wait_ms": sum(wait * count for wait, count in waited) / weighed if weighed else None,
    }


def schedules(request: Request, asked: Inspector) -> Response:
    return page(request, "schedules.html", schedules=asked.schedules())


def tick(request: Request, asked: Inspector) -> Response:
    given = form(request)
    sent = asked.tick(given.text("type"), schedule=given.text("schedule") or None, reason=given.reason)
    return go(request, "/schedules", f"Sent: {sent.new_id or sent.id}. It runs as soon as its lane has room.")


def statistics(request: Request, asked: Inspector) -> Response:
    within, by = request.query_params.get("within") or "1d", request.query_params.get("by") or "type"
    if by not in BY:
        raise SelectionError("by", f"one of {', '.join(BY)} is required")
    found = asked.statistics(within=age("within", within), by=by)
    return page(request, "statistics.html", statistics=found, within=within, by=by, withins=WITHIN, bys=BY)


def audit(request: Request, asked: Inspector) -> Response:
    """``before``: the number of the last entry of the page before."""
    target, who, before = (request.query_params.get(name, "").strip() for name in ("target", "who", "before"))
    number = whole("before", before, 0, 999_999_999) if before else None
    found = asked.audit(target=target or None, who=who or None, before=number, limit=AUDIT_PER_PAGE)
    more = found[-1].number if len(found) == AUDIT_PER_PAGE else None
    return page(request, "audit.html", entries=found, target=target, who=who, more=more, first=number is None)


def pause(request: Request, asked: Inspector) -> Response:
    """``for``: an age such as ``2h``; empty until it is resumed."""
    given = form(request)
    scope, name = _what(given)
    length = given.text("for")
    until = datetime.now(UTC) + age("for", length) if length else None
    made = asked.pause(scope, name, reason=given.reason, until=until)
    ends = f"until {stamp(made.until)}" if made.until else "until it is resumed"
    return go(request, _page(scope), f"Paused the {scope} {made.name} {ends}.{_before(made)}")


def resume(request: Request, asked: Inspector) -> Response:
    given = form(request)
    scope, name = _what(given)
    ended = asked.resume(scope, name, reason=given.reason)
    return go(request, _page(scope), f"Resumed the {scope} {ended.name}.")


def _before(made: Pause) -> str:
    """What somebody else did a moment ago, while the page here still showed nothing of it."""
    if not made.replaced:
        return ""
    by = f" by {made.replaced_by}" if made.replaced_by else ""
    return f" It was paused already{by}, since {stamp(made.since)}; this reason and end stand from now on."


def _what(given: Form) -> tuple[PauseScope, str]:
    return name_of(PauseScope, "scope", given.text("scope")), given.text("name")


def _page(scope: PauseScope) -> str:
    return "/schedules" if scope is PauseScope.SCHEDULE else "/"
