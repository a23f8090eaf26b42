"""The tasks: a listing by state and filter, a page at a time, and one task with its actions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import EnqueueError, JobError, UnreadablePayloadError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import ALLOWED, BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.listing import LISTINGS
from joblane.inspector.sentences.actions import effect_of, result_of
from joblane.inspector.short_id import task_of
from joblane.inspector.views import ActionResult, TaskRow, TaskView
from joblane.page.filters import LABELS, PER_PAGE, RARE, SHOWN, YES, form, read, whole
from joblane.page.graph import workflow
from joblane.page.inspectors import desk
from joblane.page.rendering import as_json, page, query, redirect
from joblane.page.sorting import sorting

OLDEST = LISTINGS[TaskRow].orders["Age"].sort
MOST = 200
"""Tasks of one page: the ids of all selected tasks must fit into an address."""
FIELDS = {
    "id_prefix": "id",
    "states": "state",
    "types": "type",
    "queues": "queue",
    "created_after": "newer",
    "created_before": "older",
    "ended_after": "ended_newer",
    "ended_before": "ended_older",
}
"""Field of the filter → field of the form."""


def listing(request: Request, inspector: Inspector) -> Response:
    """A page of tasks. ``from``: the position that the previous page returned.

    By another column than their age, only the tasks of the page are sorted: a page then has as many as it can have.
    """
    parameters = request.query_params
    after, status, order = parameters.get("from") or None, 200, sorting(request, TaskRow)
    is_oldest = order.name == OLDEST
    by_age = is_oldest or order.name is None
    try:
        limit = whole("limit", parameters.get("limit") or str(PER_PAGE if by_age else MOST), 1, MOST)
        wanted = read(parameters, datetime.now(UTC))
        tasks = inspector.tasks(wanted, after=after, limit=limit, oldest_first=is_oldest)
        tasks = tasks if by_age else replace(tasks, tasks=order.of(tasks.tasks))
        found: dict[str, Any] = {"found": tasks, "count": inspector.count(wanted)}
        found |= {"wrong": None, "first": after is None, "all": wanted == Filter()}
    except SelectionError as error:
        field = FIELDS.get(error.field, error.field)
        wrong, status = {"field": field, "problem": error.problem, "text": f"{field}: {error.problem}"}, 400
        found = {"found": None, "count": None, "wrong": wrong, "first": True, "all": False}
    chosen = [(name, value) for name, value in parameters.multi_items() if name in SHOWN and value]
    return page(
        request,
        "tasks.html",
        status,
        chosen=chosen,
        ordered=[(name, parameters[name]) for name in ("sort", "desc") if parameters.get(name)],
        is_oldest=is_oldest,
        by_age=by_age,
        sorting=order,
        chips=[
            (LABELS[name], value, [pair for pair in chosen if pair != (name, value)])
            for name, value in dict.fromkeys(chosen)
            if name != "state"
        ],
        labels=LABELS,
        is_rare=any(name in RARE for name, _ in chosen),
        values={name: parameters.get(name, "") for name in SHOWN},
        types=desk(request).types(inspector),
        actions=tuple(BulkAction),
        suggested=_suggested(parameters.getlist("state")),
        **found,
    )


def _suggested(states: Sequence[str]) -> BulkAction | None:
    """The first action that all listed states allow."""
    listed = {state for state in states if state}
    return next((action for action in BulkAction if listed <= ALLOWED[action]), None)


# --- A task -----------------------------------------------------------------------------------------------------------


EDITS = ("edit", "replay_with")


def show(request: Request, inspector: Inspector) -> Response:
    view = task_of(inspector, request.query_params.get("id", ""))
    related = view.parents.tasks or view.children.tasks or view.batch or view.enqueued_by
    return _show(request, view, workflow=workflow(inspector, view.row.id) if related else None)


def _show(request: Request, view: TaskView, status: int = 200, **editing: Any) -> Response:
    """The page of a task. ``text``, ``problems``: of a payload that was refused."""
    id_ = view.row.id
    editing = {"text": as_json(view.payload), "problems": (), "reason": "", "workflow": None} | editing
    editing.setdefault("here", f"/task?{query(id=id_)}")
    return page(request, "task.html", status, view=view, row=view.row, **editing)


def act(request: Request, inspector: Inspector) -> Response:
    """Carry out the action of a button."""
    given = form(request)
    id_, action = given.text("id"), given.text("action")
    if action not in (*BulkAction, "skip", "replay"):
        raise SelectionError("action", f"{', '.join(BulkAction)}, skip and replay are valid")
    return _done(request, getattr(inspector, action)(id_, reason=given.reason))


def signal(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    try:
        value = json.loads(given.text("value") or "null")
    except (ValueError, RecursionError) as error:
        raise SelectionError("value", f"JSON is required: {error}") from error
    replace = given.text("replace") == YES
    acted = inspector.signal(given.text("id"), given.text("signal"), value, replace=replace, reason=given.reason)
    return _done(request, acted)


def edit(request: Request, inspector: Inspector) -> Response:
    """Change the payload, of this task or for a new task; if it is refused, show it again with its problems."""
    given = form(request)
    id_, action, text = given.text("id"), given.text("action"), given.text("payload")
    if action not in EDITS:
        raise SelectionError("action", f"{' and '.join(EDITS)} are valid")
    try:
        payload = json.loads(text)
        if not isinstance(payload, dict):
            raise EnqueueError("payload", "a JSON object is required: {…}")
        return _done(request, getattr(inspector, action)(id_, payload, reason=given.reason))
    except json.JSONDecodeError as error:
        problems = [f"line {error.lineno}, column {error.colno}: {error.msg}"]
    except (EnqueueError, UnreadablePayloadError) as error:
        problems = _problems(error)
    except RecursionError:
        problems = ["it is nested too deeply"]
    return _show(request, inspector.task(id_), 422, text=text, problems=problems, reason=given.text("reason"))


def _problems(error: JobError) -> list[str]:
    """A text for each invalid field."""
    return re.sub(r"^payload: (not a valid \w+: )?", "", str(error)).split("; ")


def _done(request: Request, acted: ActionResult) -> Response:
    action = acted.action.replace("-", " ").replace("_", " ").capitalize()
    result = "This is the new task" if acted.new_id else f"It {result_of(acted)}"
    notice = f"{action}: done. {result}. {effect_of(acted)}".rstrip()
    return redirect(request, "/task", notice, id=acted.new_id or acted.id)
