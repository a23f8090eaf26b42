"""Errors: failed runs, tasks in retry and archived tasks by their cause, with the marks of operators."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import CAUSE_SORTS
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.failures import left_out_lines, marked_line
from joblane.inspector.views import CauseState
from joblane.page.filters import age, form, name_of
from joblane.page.inspectors import desk
from joblane.page.rendering import page, query, redirect
from joblane.page.views.stage import WITHIN, last_entry

FIELDS = ("within", "type", "tenant", "version", "state", "sort")
MOST = 50
"""Errors that are listed."""
MARKS = {CauseState.KNOWN: "Known", CauseState.RESOLVED: "Resolve", CauseState.IGNORED: "Ignore"}
"""State that an operator sets → its button."""


def show(request: Request, inspector: Inspector) -> Response:
    """``within``: a duration. ``type``, ``tenant``, ``version``, ``state``: only these.

    ``sort``: ``now``, ``runs`` or ``last``.
    """
    given = {name: (request.query_params.get(name) or "").strip() for name in FIELDS}
    chosen = given | {"within": given["within"] or "1d", "sort": given["sort"] or "now"}
    if chosen["sort"] not in CAUSE_SORTS:
        raise SelectionError("sort", f"{', '.join(CAUSE_SORTS)} are valid")
    found = inspector.errors(
        within=age("within", chosen["within"]),
        types=(chosen["type"],) if chosen["type"] else (),
        tenant=chosen["tenant"] or None,
        version=chosen["version"] or None,
        state=name_of(CauseState, "state", chosen["state"]) if chosen["state"] else None,
        sort=chosen["sort"],
        limit=MOST,
    )
    return page(
        request,
        "errors.html",
        found=found,
        chosen=chosen,
        others=given,
        withins=WITHIN,
        states=tuple(CauseState),
        marks=MARKS,
        types=desk(request).types(inspector),
        left_out=left_out_lines(found),
    )


def messages(request: Request, inspector: Inspector) -> Response:
    """The dead-letter queues, and their messages without a row."""
    return page(request, "dead.html", dead=inspector.dead(messages_only=True))


def of_before(request: Request, inspector: Inspector) -> Response:
    """Lead from the former address."""
    return RedirectResponse(f"/errors?{query(_only(request.query_params))}", status_code=308)


def mark(request: Request, inspector: Inspector) -> Response:
    """``fingerprint``: one or several. ``state``: known, resolved, ignored or open. The others: the list to return to.

    A note is required, except for ``open``.
    """
    given = form(request)
    state = name_of(CauseState, "state", given.text("state"))
    if not (fingerprints := tuple(filter(None, given.getlist("fingerprint")))):
        raise SelectionError("fingerprint", "select the errors first")
    reason = given.reason if state is CauseState.OPEN else given.required_reason
    marked = inspector.mark_errors(fingerprints, state, reason=reason)
    undo = last_entry(inspector, f"cause:{fingerprints[0]}") if len(set(fingerprints)) == 1 else None
    back: dict[str, Any] = {name: text for name in FIELDS if (text := given.text(f"to_{name}"))}
    return redirect(request, "/errors", marked_line(marked), undo=undo, **back)


def _only(given: QueryParams) -> dict[str, Any]:
    """The fields of a list of errors that an address has."""
    return {name: given[name] for name in ("type", "tenant", "within") if name in given}
