"""What was given up, grouped by what went wrong, and a careful way to try again."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from shared.jobs.inspector.answers import Filter
from shared.jobs.inspector.bulk import MAX_CANARY
from shared.page.filters import Fields, read, told, whole, write
from shared.page.views.bulk import DEFAULT_RATE, rate_of
from shared.page.visit import form, go, inspector, page

CANARY = 5


def show(request: Request) -> Response:
    with inspector(request) as asked:
        found = asked.dead()
    return page(request, "dead.html", dead=found, types=sorted({group.type for group in found.groups}))


def dry_run(request: Request) -> Response:
    """What would be sent again."""
    wanted = _wanted(request.query_params)
    with inspector(request) as asked:
        found = asked.dead()
    groups = [group for group in found.groups if _within(wanted, group.type, group.fingerprint)]
    return page(
        request,
        "redrive.html",
        groups=groups,
        count=sum(group.count for group in groups),
        told=told(wanted),
        fields=write(wanted),
        rate=DEFAULT_RATE,
        canary=CANARY,
    )


def redrive(request: Request) -> Response:
    given = form(request)
    canary, rate = whole("canary", given.text("canary") or "0", 0, MAX_CANARY), rate_of(given)
    with inspector(request) as asked:
        made = asked.redrive(_wanted(given), canary=canary, rate=rate, reason=given.reason)
    return go(request, "/bulk/show", f"Started: redrive of {made.total:,}.", id=made.id)


def _wanted(given: Fields) -> Filter:
    return read(given, datetime.now(UTC))


def _within(wanted: Filter, type_: str, fingerprint: str) -> bool:
    return (not wanted.types or type_ in wanted.types) and wanted.fingerprint in (None, fingerprint)
