"""Tasks by state and filter, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.actions.changes import ALLOWED
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.page.filters import SHOWN, read, whole
from joblane.page.visit import desk, page

PER_PAGE = 50
MOST = 200
"""On one page, as the ids of those that are chosen stand in an address."""


def show(request: Request, asked: Inspector) -> Response:
    """``after``: of the page before, as the listing gave it."""
    asked_for = request.query_params
    chosen = [(name, value) for name, value in asked_for.multi_items() if name in SHOWN and value]
    values = {name: asked_for.get(name, "") for name in SHOWN}
    common: dict[str, Any] = {
        "chosen": chosen,
        "values": values,
        "types": desk(request).types(asked),
        "actions": tuple(BulkAction),
        "suggested": _suggested(asked_for.getlist("state")),
    }
    after = asked_for.get("from") or None
    try:
        limit = whole("limit", asked_for.get("limit") or str(PER_PAGE), 1, MOST)
        wanted = read(asked_for, datetime.now(UTC))
        found, count = asked.tasks(wanted, after=after, limit=limit), asked.count(wanted)
    except SelectionError as error:
        wrong = {"field": error.field, "text": str(error)}
        return page(request, "tasks.html", 400, **common, found=None, count=None, wrong=wrong, first=True, all=False)
    return page(
        request,
        "tasks.html",
        **common,
        found=found,
        count=count,
        wrong=None,
        first=after is None,
        all=wanted == Filter(),
    )


def _suggested(states: Sequence[str]) -> BulkAction | None:
    """The first action that all states which are listed allow."""
    listed = {state for state in states if state}
    return next((action for action in BulkAction if listed <= ALLOWED[action]), None)
