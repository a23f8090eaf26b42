"""Bulk actions: a dry run first, then a task of their own, which can be watched and stopped."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import UnknownTaskError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import DEFAULT_RATE, MAX_CANARY, MAX_RATE, BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.filters import described
from joblane.inspector.views import TaskRow
from joblane.page.filters import Fields, form, name_of, read, whole, write
from joblane.page.rendering import page, redirect

EXAMPLES = 5


def list_all(request: Request, inspector: Inspector) -> Response:
    return page(request, "bulks.html", bulks=inspector.bulks(limit=50))


def dry_run(request: Request, inspector: Inspector) -> Response:
    """Count the tasks of an action. ``which``: ``chosen`` (the ids of ``chosen``) or ``all`` that match."""
    given = request.query_params
    action = name_of(BulkAction, "action", given.get("action", ""))
    wanted = read(given, datetime.now(UTC))
    if given.get("which") == "chosen":
        if not given.getlist("chosen"):
            raise SelectionError("chosen", "no task is selected; select tasks in the listing, or take all matching")
        wanted = Filter(ids=tuple(given.getlist("chosen")))
    found = inspector.preview(action, wanted, canary=1 if action is BulkAction.RETRY else 0)
    examples = inspector.tasks(wanted, action=action, limit=EXAMPLES)
    return page(
        request,
        "bulk_new.html",
        action=action,
        count=found,
        examples=examples.tasks,
        payload=_payload_of(inspector, examples.tasks),
        described=described(wanted),
        fields=write(wanted),
        rate=DEFAULT_RATE,
    )


def _payload_of(inspector: Inspector, examples: Sequence[TaskRow]) -> Any:
    """The payload of the first example, with redacted values masked; None without one."""
    with suppress(UnknownTaskError):  # it was removed just now
        for row in examples[:1]:
            return inspector.task(row.id).payload
    return None


def start(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    action, rate = name_of(BulkAction, "action", given.text("action")), rate_of(given)
    canary = whole("canary", given.text("canary") or "0", 0, MAX_CANARY)
    started = inspector.bulk(action, read(given, datetime.now(UTC)), canary=canary, rate=rate, reason=given.reason)
    return redirect(request, "/bulk/show", f"Started: {action} of {started.total:,} tasks.", id=started.id)


def show(request: Request, inspector: Inspector) -> Response:
    found = inspector.bulk_view(request.query_params.get("id", ""))
    return page(request, "bulk.html", bulk=found, described=described(found.filter))


def abort(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    found = inspector.abort(given.text("id"), reason=given.reason)
    return redirect(request, "/bulk/show", "The action stops. Tasks that it has changed stay changed.", id=found.id)


def rate_of(given: Fields) -> int:
    return whole("rate", next(iter(given.getlist("rate")), str(DEFAULT_RATE)), 1, MAX_RATE)
