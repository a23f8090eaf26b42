"""The open waits of tasks, a page at a time."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.inspector import Inspector
from joblane.page.filters import PER_PAGE
from joblane.page.inspectors import desk
from joblane.page.rendering import page

FIELDS = ("type", "tenant", "signal")


def show(request: Request, inspector: Inspector) -> Response:
    """``after``: the position that the previous page returned."""
    chosen = {name: request.query_params.get(name, "").strip() for name in FIELDS}
    after = request.query_params.get("after") or None
    found = inspector.waits(**{name: text or None for name, text in chosen.items()}, after=after, limit=PER_PAGE)
    types = desk(request).types(inspector)
    return page(request, "waits.html", found=found, chosen=chosen, types=types, first=after is None)
