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
    after, status = asked_for.get("from") or None, 200
    try:
        limit = whole("limit", asked_for.get("limit") or str(PER_PAGE), 1, MOST)
        wanted = read(asked_for, datetime.now(UTC))
        found: dict[str, Any] = {"found": asked.tasks(wanted, after=after, limit=limit), "count": asked.count(wanted)}
        found |= {"wrong": None, "first": after is None, "all": wanted == Filter()}
    except SelectionError as error:
        wrong, status = {"field": error.field, "text": str(error)}, 400
        found = {"found": None, "count": None, "wrong": wrong, "first": True, "all": False}
    return page(
        request,
        "tasks.html",
        status,
        chosen=[(name, value) for name, value in asked_for.multi_items() if name in SHOWN and value],
        values={name: asked_for.get(name, "") for name in SHOWN},
        types=desk(request).types(asked),
        actions=tuple(BulkAction),
        suggested=_suggested(asked_for.getlist("state")),
        **found,
    )


def _suggested(states: Sequence[str]) -> BulkAction | None:
    """The first action that all states which are listed allow."""
    listed = {state for state in states if state}
    return next((action for action in BulkAction if listed <= ALLOWED[action]), None)
