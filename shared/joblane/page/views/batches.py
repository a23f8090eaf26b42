"""Batches: their progress, their callbacks, their archived members, and the seal."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.filter import DEFAULT_RATE, MAX_CANARY
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import archived_members
from joblane.page.filters import form, whole
from joblane.page.graph import workflow
from joblane.page.rendering import page, redirect
from joblane.page.views.bulk import rate_of
from joblane.record.task.insert import BATCH_TAG

MOST = 100
"""Batches that are listed."""


def list_all(request: Request, inspector: Inspector) -> Response:
    return page(request, "batches.html", batches=inspector.batches(limit=MOST), most=MOST)


def show(request: Request, inspector: Inspector) -> Response:
    found = inspector.batch(request.query_params.get("id", ""))
    shown = workflow(inspector, f"{BATCH_TAG}{found.row.id}")
    return page(request, "batch.html", batch=found, rate=DEFAULT_RATE, workflow=shown)


def retry(request: Request, inspector: Inspector) -> Response:
    """Run the archived members again."""
    given = form(request)
    canary, rate = whole("canary", given.text("canary") or "0", 0, MAX_CANARY), rate_of(given)
    chosen = archived_members(given.text("id"))
    started = inspector.redrive(chosen, canary=canary, rate=rate, reason=given.reason)
    return redirect(request, "/bulk/show", f"Started: redrive of {started.total:,}.", id=started.id)


def seal(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    sealed = inspector.seal_batch(given.text("id"), reason=given.reason)
    notice = "Sealed. Its callbacks run once its members have ended."
    return redirect(request, "/batches/show", notice, id=sealed.row.id)
