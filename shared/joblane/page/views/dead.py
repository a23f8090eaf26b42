"""The redrive of archived tasks and dead letters, with a dry run and a canary."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import DEFAULT_CANARY, DEFAULT_RATE, MAX_CANARY, Filter
from joblane.inspector.inspector import Inspector
from joblane.page.filters import Fields, form, read, whole, write
from joblane.page.rendering import page, redirect
from joblane.page.views.bulk import rate_of

UNREADABLE = ""
"""The type of a group of dead letters that cannot be read."""


def dry_run(request: Request, inspector: Inspector) -> Response:
    """Count the dead letters that a redrive would send back or remove."""
    wanted = _wanted(request.query_params)
    found = inspector.preview("redrive", wanted, canary=DEFAULT_CANARY)
    is_readable = all(cause.type for cause in found.causes)  # an unreadable message creates no task to wait for
    return page(
        request,
        "redrive.html",
        found=found,
        everything=wanted == Filter(),
        types=len({cause.type for cause in found.causes}),
        count=found.number,
        obsolete=found.removed,
        fields=write(wanted),
        tenant=wanted.tenant or "",
        rate=DEFAULT_RATE,
        canary=DEFAULT_CANARY if is_readable else 0,
    )


def redrive(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    canary, rate = whole("canary", given.text("canary") or "0", 0, MAX_CANARY), rate_of(given)
    started = inspector.redrive(_wanted(given), canary=canary, rate=rate, reason=given.reason)
    what = f"redrive of {started.total:,}" if started.total else "removal of obsolete dead letters"
    return redirect(request, "/bulk/show", f"Started: {what}.", id=started.id)


def _wanted(given: Fields) -> Filter:
    """Read the filter. A type that is given and empty would select everything, so it is refused."""
    if UNREADABLE in given.getlist("type"):
        raise SelectionError("type", "choose a type; `Redrive all` redrives all types")
    return read(given, datetime.now(UTC))
