"""The stage: its tenants, pauses, statistics and audit."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import STATISTICS_BY, TROUBLE, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.pauses import paused_line, resumed_line
from joblane.inspector.views import Statistic, TenantRow
from joblane.page.filters import Form, age, form, name_of, whole
from joblane.page.inspectors import desk
from joblane.page.rendering import page, redirect
from joblane.page.sorting import sorting

WITHIN = {"1h": "1 hour", "1d": "1 day", "7d": "7 days", "30d": "30 days"}
AUDIT_PER_PAGE = 50
MOST_ENTRIES = 2**53
AUDIT_FIELDS = ("target", "who", "action", "bulk")


def tenants(request: Request, inspector: Inspector) -> Response:
    order = sorting(request, TenantRow)
    return page(request, "tenants.html", tenants=inspector.tenants(sort=order.name or TROUBLE), sorting=order)


def statistics(request: Request, inspector: Inspector) -> Response:
    within, by = request.query_params.get("within") or "1d", request.query_params.get("by") or "type"
    if by not in STATISTICS_BY:
        raise SelectionError("by", f"{' or '.join(STATISTICS_BY)} is required")
    found = inspector.statistics(within=age("within", within), by=by)
    order = sorting(request, Statistic)
    return page(
        request,
        "statistics.html",
        statistics=order.of(found),
        sorting=order,
        within=within,
        by=by,
        withins=WITHIN,
        bys=STATISTICS_BY,
    )


def audit(request: Request, inspector: Inspector) -> Response:
    """A page of the audit. ``before``: the number of the last entry on the previous page."""
    given = {name: request.query_params.get(name, "").strip() for name in (*AUDIT_FIELDS, "newer", "before")}
    newer, before = given.pop("newer"), given.pop("before")
    number = whole("before", before, 0, 999_999_999) if before else None
    found = inspector.audit(
        target=given["target"] or None,
        who=given["who"] or None,
        action=given["action"] or None,
        bulk=given["bulk"] or None,
        since=datetime.now(UTC) - age("newer", newer) if newer else None,
        before=number,
        limit=AUDIT_PER_PAGE,
    )
    more = found[-1].number if len(found) == AUDIT_PER_PAGE else None
    chosen = {**given, "newer": newer}
    return page(request, "audit.html", entries=found, chosen=chosen, more=more, first=number is None)


def pauses(request: Request, inspector: Inspector) -> Response:
    types = [one.type for one in desk(request).types(inspector)]
    return page(request, "pauses.html", pauses=inspector.pauses(), scopes=tuple(PauseScope), types=types)


def pause(request: Request, inspector: Inspector) -> Response:
    """Pause. ``for``: a duration such as ``2h``; empty means until it is resumed."""
    given = form(request)
    scope, name = _target(given)
    paused = inspector.pause(scope, name, reason=given.reason, until=given.end)
    return redirect(request, "/", paused_line(paused), undo=last_entry(inspector, f"{scope}:{name}"))


def resume(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    scope, name = _target(given)
    ended = inspector.resume(scope, name, reason=given.reason)
    return redirect(request, "/", resumed_line(ended), undo=last_entry(inspector, f"{scope}:{name}"))


def undo(request: Request, inspector: Inspector) -> Response:
    undone = inspector.undo(whole("number", form(request).text("number"), 1, MOST_ENTRIES))
    home = {"limit": "/limits", "cause": "/errors"}.get(undone.target.partition(":")[0], "/")
    return redirect(request, home, f"Undone: {undone.action.replace('_', ' ')} of {undone.target}.")


def last_entry(inspector: Inspector, target: str) -> int | None:
    """The number of the latest audit entry about a target, which is the action just now."""
    return next((entry.number for entry in inspector.audit(target=target, limit=1)), None)


def _target(given: Form) -> tuple[PauseScope, str]:
    return name_of(PauseScope, "scope", given.text("scope")), given.text("name")
