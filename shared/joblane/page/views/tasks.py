"""The listing of tasks by state and filter, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.choices import ALLOWED
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.page.filters import PER_PAGE, SHOWN, read, whole
from joblane.page.steps import desk, page

MOST = 200
"""Tasks of one page: the ids of all selected tasks must fit into an address."""
FIELDS = {
    "id_prefix": "id",
    "states": "state",
    "types": "type",
    "queues": "queue",
    "created_after": "newer",
    "created_before": "older",
    "ended_after": "ended_newer",
    "ended_before": "ended_older",
}
"""Field of the filter → field of the form."""


def show(request: Request, inspector: Inspector) -> Response:
    """A page of tasks. ``from``: the position that the previous page returned."""
    parameters = request.query_params
    after, status = parameters.get("from") or None, 200
    try:
        limit = whole("limit", parameters.get("limit") or str(PER_PAGE), 1, MOST)
        wanted = read(parameters, datetime.now(UTC))
        found: dict[str, Any] = {
            "found": inspector.tasks(wanted, after=after, limit=limit),
            "count": inspector.count(wanted),
        }
        found |= {"wrong": None, "first": after is None, "all": wanted == Filter()}
    except SelectionError as error:
        field = FIELDS.get(error.field, error.field)
        wrong, status = {"field": field, "problem": error.problem, "text": f"{field}: {error.problem}"}, 400
        found = {"found": None, "count": None, "wrong": wrong, "first": True, "all": False}
    return page(
        request,
        "tasks.html",
        status,
        chosen=[(name, value) for name, value in parameters.multi_items() if name in SHOWN and value],
        values={name: parameters.get(name, "") for name in SHOWN},
        types=desk(request).types(inspector),
        actions=tuple(BulkAction),
        suggested=_suggested(parameters.getlist("state")),
        **found,
    )


def _suggested(states: Sequence[str]) -> BulkAction | None:
    """The first action that all listed states allow."""
    listed = {state for state in states if state}
    return next((action for action in BulkAction if listed <= ALLOWED[action]), None)
