"""The page of an operation that has no page of its own: a form for its arguments, and its rows."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.inspector import Inspector
from joblane.inspector.queries import Query
from joblane.page.rendering import page


def show(found: Query, request: Request, inspector: Inspector) -> Response:
    """``found`` has the names of the arguments."""
    given = request.query_params
    given_values = {one.name: given.getlist(one.name) for one in found.parameters}
    answer = None
    if found.is_complete or any(map(any, given_values.values())):
        answer = getattr(inspector, found.name)(**found.arguments(given_values))
    return page(
        request,
        "list.html",
        found=found,
        rows=None if answer is None else found.rows(answer),
        given=given,
        after=getattr(answer, "after", None),
    )
