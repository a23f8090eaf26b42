"""Periodic tasks: when they run, and whether they did."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.page.visit import form, go, inspector, page


def show(request: Request) -> Response:
    with inspector(request) as asked:
        found = asked.schedules()
    return page(request, "schedules.html", schedules=found)


def tick(request: Request) -> Response:
    given = form(request)
    with inspector(request) as asked:
        sent = asked.tick(given.text("type"), schedule=given.text("schedule") or None, reason=given.reason)
    return go(request, "/schedules", f"Sent: {sent.new_id or sent.id}. It runs as soon as its lane has room.")
