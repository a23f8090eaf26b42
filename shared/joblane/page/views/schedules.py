"""Declared schedules, and schedules at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import ScheduleView
from joblane.page.filters import PER_PAGE, YES, form
from joblane.page.inspectors import desk
from joblane.page.rendering import page, redirect

FIELDS = ("text", "tenant", "type", "problem")
NOTICES = {
    "run": "Enqueued: {}.",
    "pause": "Paused. It has no ticks until it is resumed.",
    "resume": "Resumed.",
    "delete": "Deleted.",
}
"""Action on a schedule that was created at run time → the notice on the next page."""


def list_all(request: Request, inspector: Inspector) -> Response:
    """``from``: the position that the previous page returned. Only the first page has the declared schedules, and none
    that chooses by tenant or problem, which declared schedules do not have."""
    given = request.query_params
    chosen = {name: given.get(name, "").strip() for name in FIELDS}
    after, status, wrong = given.get("from") or None, 200, None
    declared: tuple[ScheduleView, ...] | None = None
    found = None
    try:
        if chosen["problem"] not in ("", YES):
            raise SelectionError("problem", f"{YES} is valid, or leave it out")
        found = inspector.run_time_schedules(
            **{name: text or None for name, text in chosen.items() if name != "problem"},
            problem=bool(chosen["problem"]),
            after=after,
            limit=PER_PAGE,
        )
        if after is None and not chosen["tenant"] and not chosen["problem"]:
            declared = tuple(one for one in inspector.schedules() if _matches(one, chosen))
    except SelectionError as error:
        wrong, status = f"{error.field}: {error.problem}", 400
    return page(
        request,
        "schedules.html",
        status,
        chosen=chosen,
        is_filtered=any(chosen.values()),
        types=sorted(one.type for one in desk(request).types(inspector)),
        declared=declared,
        found=found,
        first=after is None,
        wrong=wrong,
    )


def _matches(one: ScheduleView, chosen: Mapping[str, Any]) -> bool:
    return chosen["type"] in ("", one.type) and chosen["text"].lower() in f"{one.type}:{one.name}".lower()


def show(request: Request, inspector: Inspector) -> Response:
    """A schedule that was created at run time. ``name``: its name."""
    return page(request, "schedule.html", view=inspector.run_time_schedule(request.query_params.get("name", "")))


def tick(request: Request, inspector: Inspector) -> Response:
    """Send a tick of a declared schedule."""
    given = form(request)
    sent = inspector.tick(given.text("type"), schedule=given.text("schedule") or None, reason=given.reason)
    return redirect(request, "/schedules", f"Sent: {sent.new_id or sent.id}. It runs as soon as its lane has capacity.")


def act(request: Request, inspector: Inspector) -> Response:
    """``action``: on a schedule that was created at run time."""
    given = form(request)
    name, action = given.text("name"), given.text("action")
    if action not in NOTICES:
        raise SelectionError("action", f"{', '.join(NOTICES)} are valid")
    done = getattr(inspector, f"{action}_schedule")(name, reason=given.reason)
    if action == "delete":
        return redirect(request, "/schedules", f"Deleted: {name}.")
    new_id = done.new_id if action == "run" else ""
    return redirect(request, "/schedules/show", NOTICES[action].format(new_id), name=name)
