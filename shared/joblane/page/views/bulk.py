"""Actions on many tasks: counted first, then done by a task of their own, which can be watched and stopped."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.bulk.start import MAX_RATE
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.page.filters import Fields, described, name_of, read, whole, write
from joblane.page.visit import form, go, page

EXAMPLES = 5
DEFAULT_RATE = 50
"""Tasks a second."""


def listed(request: Request, asked: Inspector) -> Response:
    return page(request, "bulks.html", bulks=asked.bulks(limit=50))


def dry_run(request: Request, asked: Inspector) -> Response:
    """What would be done, to how many. ``which``: ``chosen`` (``chosen`` ids) or ``all`` that match."""
    given = request.query_params
    action = name_of(BulkAction, "action", given.get("action", ""))
    wanted = read(given, datetime.now(UTC))
    if given.get("which") == "chosen":
        if not given.getlist("chosen"):
            raise SelectionError("chosen", "no task is ticked; tick some in the listing, or take all that match")
        wanted = Filter(ids=tuple(given.getlist("chosen")))
    count, examples = asked.count(wanted, action=action), asked.tasks(wanted, action=action, limit=EXAMPLES)
    return page(
        request,
        "bulk_new.html",
        action=action,
        count=count,
        examples=examples.tasks,
        described=described(wanted),
        fields=write(wanted),
        rate=DEFAULT_RATE,
    )


def start(request: Request, asked: Inspector) -> Response:
    given = form(request)
    action, rate = name_of(BulkAction, "action", given.text("action")), rate_of(given)
    made = asked.bulk(action, read(given, datetime.now(UTC)), rate=rate, reason=given.reason)
    return go(request, "/bulk/show", f"Started: {action} of {made.total:,} tasks.", id=made.id)


def show(request: Request, asked: Inspector) -> Response:
    found = asked.bulk_view(request.query_params.get("id", ""))
    return page(request, "bulk.html", bulk=found, described=described(found.filter))


def abort(request: Request, asked: Inspector) -> Response:
    given = form(request)
    found = asked.abort(given.text("id"), reason=given.reason)
    return go(request, "/bulk/show", "It stops; what is done stays done.", id=found.id)


def rate_of(given: Fields) -> int:
    return whole("rate", next(iter(given.getlist("rate")), str(DEFAULT_RATE)), 1, MAX_RATE)
