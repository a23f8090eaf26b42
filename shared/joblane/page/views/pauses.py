"""Pausing and resuming queues, types, tenants and schedules."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.durations import stamp
from joblane.inspector.filter import PauseScope
from joblane.inspector.views import Pause
from joblane.page.filters import Form, age, name_of
from joblane.page.visit import form, go, inspector


def pause(request: Request) -> Response:
    """``for``: an age such as ``2h``; empty until it is resumed."""
    given = form(request)
    scope, name = _what(given)
    length = given.text("for")
    until = datetime.now(UTC) + age("for", length) if length else None
    with inspector(request) as asked:
        made = asked.pause(scope, name, reason=given.reason, until=until)
    ends = f"until {stamp(made.until)}" if made.until else "until it is resumed"
    return go(request, _page(scope), f"Paused the {scope} {made.name} {ends}.{_before(made)}")


def resume(request: Request) -> Response:
    given = form(request)
    scope, name = _what(given)
    with inspector(request) as asked:
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
