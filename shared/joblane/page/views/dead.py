"""What was given up, grouped by what went wrong, and a careful way to try again."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.bulk.dead import left_over, within
from joblane.inspector.bulk.start import MAX_CANARY
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.page.filters import Fields, read, whole, write
from joblane.page.views.bulk import DEFAULT_RATE, rate_of
from joblane.page.visit import form, go, page

CANARY = 5


def show(request: Request, asked: Inspector) -> Response:
    found = asked.dead()
    return page(request, "dead.html", dead=found, types=sorted({group.type for group in found.groups}))


def dry_run(request: Request, asked: Inspector) -> Response:
    """What would be sent again, and removed."""
    wanted = _wanted(request.query_params)
    found = asked.dead()
    groups = within(found.groups, wanted)
    return page(
        request,
        "redrive.html",
        groups=groups,
        count=sum(group.count for group in groups),
        leftovers=left_over(found, wanted),
        fields=write(wanted),
        rate=DEFAULT_RATE,
        canary=CANARY if all(group.type for group in groups) else 0,  # what cannot be read becomes no task to wait for
    )


def redrive(request: Request, asked: Inspector) -> Response:
    given = form(request)
    canary, rate = whole("canary", given.text("canary") or "0", 0, MAX_CANARY), rate_of(given)
    made = asked.redrive(_wanted(given), canary=canary, rate=rate, reason=given.reason)
    what = f"redrive of {made.total:,}" if made.total else "what is left over is removed"
    return go(request, "/bulk/show", f"Started: {what}.", id=made.id)


def _wanted(given: Fields) -> Filter:
    return read(given, datetime.now(UTC))
