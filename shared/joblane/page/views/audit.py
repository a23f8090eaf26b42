"""Who did what, and why."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.page.filters import whole
from joblane.page.visit import inspector, page

PER_PAGE = 50


def show(request: Request) -> Response:
    """``before``: the number of the last entry of the page before."""
    target, who, before = (request.query_params.get(name, "").strip() for name in ("target", "who", "before"))
    number = whole("before", before, 0, 999_999_999) if before else None
    with inspector(request) as asked:
        found = asked.audit(target=target or None, who=who or None, before=number, limit=PER_PAGE)
    more = found[-1].number if len(found) == PER_PAGE else None
    return page(request, "audit.html", entries=found, target=target, who=who, more=more, first=number is None)
