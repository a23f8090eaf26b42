"""Schedules: those that the code declares, and those that were made at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import ScheduleView
from joblane.page.filters import YES
from joblane.page.visit import desk, form, page, redirect

PER_PAGE = 50
FIELDS = ("text", "tenant", "type", "problem")


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
    """A schedule that was made at run time. ``name``: its name."""
    return page(request, "schedule.html", view=inspector.run_time_schedule(request.query_params.get("name", "")))


def tick(request: Request, inspector: Inspector) -> Response:
    """Send a tick of a declared schedule."""
    given = form(request)
    sent = inspector.tick(given.text("type"), schedule=given.text("schedule") or None, reason=given.reason)
    return redirect(request, "/schedules", f"Sent: {sent.new_id or sent.id}. It runs as soon as its lane has capacity.")


def pause(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    paused = inspector.pause_schedule(given.text("name"), reason=given.reason)
    return redirect(request, "/schedules/show", "Paused. It has no ticks until it is resumed.", name=paused.row.name)


def resume(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    resumed = inspector.resume_schedule(given.text("name"), reason=given.reason)
    return redirect(request, "/schedules/show", "Resumed.", name=resumed.row.name)


def run(request: Request, inspector: Inspector) -> Response:
    """Enqueue the task of a schedule now, in addition to its ticks."""
    given = form(request)
    enqueued = inspector.run_schedule(given.text("name"), reason=given.reason)
    notice = f"Enqueued: {enqueued.new_id or enqueued.id}."
    return redirect(request, "/schedules/show", notice, name=given.text("name"))


def delete(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    deleted = inspector.delete_schedule(given.text("name"), reason=given.reason)
    return redirect(request, "/schedules", f"Deleted: {deleted.name}.")
