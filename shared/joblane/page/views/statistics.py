"""What ran, how it ended, how long it took, and what it cost."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.page.filters import age
from joblane.page.visit import inspector, page

WITHIN = ("1h", "1d", "7d", "30d")
BY = ("type", "tenant")


def show(request: Request) -> Response:
    within, by = request.query_params.get("within") or "1d", request.query_params.get("by") or "type"
    if by not in BY:
        raise SelectionError("by", f"one of {', '.join(BY)} is required")
    with inspector(request) as asked:
        found = asked.statistics(within=age("within", within), by=by)
    return page(request, "statistics.html", statistics=found, within=within, by=by, withins=WITHIN, bys=BY)
