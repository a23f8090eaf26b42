"""Schedules of the code, and those made at run time."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.actions import soon
from joblane.inspector.sentences.pauses import deleted_schedule_line, paused_schedule_line, resumed_schedule_line
from joblane.inspector.sentences.schedules import ORIGINS
from joblane.inspector.views import ScheduleRow
from joblane.page.filters import PER_PAGE, checked, form
from joblane.page.inspectors import desk
from joblane.page.rendering import page, redirect
from joblane.page.sorting import sorting

FIELDS = ("text", "tenant", "type", "origin", "problem", "paused", "sort")


def list_all(request: Request, inspector: Inspector) -> Response:
    """``from``: the position that the previous page returned."""
    given = request.query_params
    chosen = {name: given.get(name, "").strip() for name in FIELDS}
    after, status, found, wrong = given.get("from") or None, 200, None, None
    order = sorting(request, ScheduleRow, default="name")
    try:
        found = inspector.schedules(
            text=chosen["text"] or None,
            tenant=chosen["tenant"] or None,
            type=chosen["type"] or None,
            origin=chosen["origin"] or None,
            problem=checked("problem", chosen["problem"] or None),
            paused=checked("paused", chosen["paused"] or None),
            sort=order.name or "name",
            after=after,
            limit=PER_PAGE,
        )
    except SelectionError as error:
        wrong, status = f"{error.field}: {error.problem}", 400
    return page(
        request,
        "schedules.html",
        status,
        chosen=chosen,
        is_filtered=any(text for name, text in chosen.items() if name != "sort"),
        types=sorted(one.type for one in desk(request).types(inspector)),
        origins=ORIGINS,
        sorting=order,
        found=found,
        first=after is None,
        wrong=wrong,
    )


def show(request: Request, inspector: Inspector) -> Response:
    """``name``: the name of the schedule."""
    view = inspector.schedule(request.query_params.get("name", ""))
    return page(request, "schedule.html", view=view, origins=ORIGINS)


def act(request: Request, inspector: Inspector) -> Response:
    """``action``: pause (``for``: a duration; empty: until it is resumed), resume, run or delete."""
    given = form(request)
    name, reason = given.text("name"), given.reason
    match given.text("action"):
        case "pause":
            notice = paused_schedule_line(inspector.pause_schedule(name, reason=reason, until=given.end).row)
        case "resume":
            notice = resumed_schedule_line(inspector.resume_schedule(name, reason=reason).row)
        case "run":
            sent = inspector.run_schedule(name, reason=reason)
            notice = f"Enqueued: {sent.new_id}. It {soon(sent.after)}."
        case "delete":
            deleted = inspector.delete_schedule(name, reason=reason)
            return redirect(request, "/schedules", deleted_schedule_line(deleted))
        case _:
            raise SelectionError("action", "pause, resume, run, delete are valid")
    return redirect(request, "/schedules/show", notice, name=name)
