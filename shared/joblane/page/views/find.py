"""The search for tasks by any text.

The text may be personal data, so it is in no address: the form is posted, the browser keeps the search in a cookie for
this page only, and the results are an address of their own, to which *Back* leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Found, FoundKind
from joblane.page.filters import Form, form, read, write
from joblane.page.rendering import base_of, page, query

PATH = "/find"
COOKIE = "joblane-find"
KEPT_SECONDS = 900
LONGEST = 210
"""Characters of a field that are kept, more than is valid: a cookie has 4 KB."""
FIELDS = ("text", "newer", "older")
WRONG = {"created_after": "newer", "created_before": "older"}
TITLES = {
    FoundKind.ID: "Id begins with it",
    FoundKind.KEY: "Unique key",
    FoundKind.TYPE: "Type",
    FoundKind.TENANT: "Tenant",
    FoundKind.TAG: "Tag",
    FoundKind.FINGERPRINT: "Fingerprint of the error",
    FoundKind.ERROR: "Error contains it",
    FoundKind.PAYLOAD: "Payload contains it",
}


def begin(request: Request, inspector: Inspector) -> Response:
    """Keep the search in a cookie, and show the results."""
    given = form(request)
    answer = RedirectResponse(PATH, status_code=303)
    answer.set_cookie(
        COOKIE,
        urlencode({name: given.text(name)[:LONGEST] for name in FIELDS}),
        max_age=KEPT_SECONDS,
        path=f"{base_of(request)}{PATH}",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


def show(request: Request, inspector: Inspector) -> Response:
    """The results, or a form without a search. ``from``: the position from which payloads are searched further."""
    given = Form(parse_qs(request.cookies.get(COOKIE, "")))
    shown: dict[str, Any] = {"found": None, "groups": (), "wrong": None, "values": {n: given.text(n) for n in FIELDS}}
    if not given.text("text"):
        return page(request, "find.html", **shown)
    try:
        times = read(Form({name: [given.text(name)] for name in ("newer", "older")}), datetime.now(UTC))
        found = inspector.find(
            given.text("text"),
            created_after=times.created_after,
            created_before=times.created_before,
            after=request.query_params.get("from") or None,
        )
    except SelectionError as error:
        wrong = {"field": WRONG.get(error.field, error.field), "problem": error.problem}
        return page(request, "find.html", 400, **shown | {"wrong": wrong})
    if found.id is not None:
        return RedirectResponse(f"/task?{query(id=found.id)}", status_code=303)
    return page(request, "find.html", **shown | {"found": found, "groups": _groups(found)})


def _groups(found: Found) -> Sequence[dict[str, Any]]:
    """Each group with its title, and the query of the listing with all its tasks."""
    return [
        {
            "kind": group.kind,
            "title": TITLES[group.kind],
            "name": next(iter(group.filter.types), "") if group.filter else "",
            "listing": query(write(group.filter)) if group.filter else "",
            "page": group.page,
        }
        for group in found.groups
    ]
