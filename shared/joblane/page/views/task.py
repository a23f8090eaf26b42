"""One task: all that is known of it, and what can be done to it."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import EnqueueError, JobError, UnreadablePayloadError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import ActionResult
from joblane.page.rendering import as_json
from joblane.page.visit import form, go, page

DID = {
    "run": "It runs as soon as its lane has room.",
    "retry": "It has a fresh allowance of attempts, and runs as soon as its lane has room.",
    "archive": "It is given up.",
    "delete": "Its content is gone; its id is kept.",
    "cancel": "It is cancelled, or will be as soon as its run looks.",
    "replay": "A new task was made of it: this one.",
    "edit": "It has the new payload.",
    "replay_with": "A new task was made with the new payload: this one.",
}
EDITS = ("edit", "replay_with")


def show(request: Request, asked: Inspector) -> Response:
    return _show(request, asked, request.query_params.get("id", ""))


def _show(request: Request, asked: Inspector, id_: str, status: int = 200, **editing: Any) -> Response:
    """``text``, ``problems``: of a payload that was not taken."""
    view = asked.task(id_)
    editing = {"text": as_json(view.payload), "problems": (), "reason": "", **editing}
    return page(request, "task.html", status, view=view, row=view.row, **editing)


def logs(request: Request, asked: Inspector) -> Response:
    id_ = request.query_params.get("id", "")
    return page(request, "logs.html", id=id_, lines=asked.logs(id_))


def act(request: Request, asked: Inspector) -> Response:
    """Do what one of the buttons says."""
    given = form(request)
    id_, action = given.text("id"), given.text("action")
    if action not in (*BulkAction, "replay"):
        raise SelectionError("action", f"one of {', '.join(BulkAction)}, replay is required")
    return _done(request, getattr(asked, action)(id_, reason=given.reason))


def edit(request: Request, asked: Inspector) -> Response:
    """Another payload, for this task or a new one; shown again with what is wrong where it is not taken."""
    given = form(request)
    id_, action, text = given.text("id"), given.text("action"), given.text("payload")
    if action not in EDITS:
        raise SelectionError("action", f"one of {', '.join(EDITS)} is required")
    try:
        payload = json.loads(text)
        if not isinstance(payload, dict):
            raise EnqueueError("payload", "an object is required, in braces")
        return _done(request, getattr(asked, action)(id_, payload, reason=given.reason))
    except json.JSONDecodeError as error:
        problems = [f"line {error.lineno}, column {error.colno}: {error.msg}"]
    except (EnqueueError, UnreadablePayloadError) as error:
        problems = _problems(error)
    except RecursionError:
        problems = ["it is nested too deeply"]
    return _show(request, asked, id_, 422, text=text, problems=problems, reason=given.text("reason"))


def _problems(error: JobError) -> list[str]:
    """One text for each field that is at fault."""
    return re.sub(r"^payload: (\w+ does not take it: )?", "", str(error)).split("; ")


def _done(request: Request, acted: ActionResult) -> Response:
    action = acted.action.replace("-", "_")
    notice = f"{action.replace('_', ' ').capitalize()}: done. {DID.get(action, '')}"
    return go(request, "/task", notice, id=acted.new_id or acted.id)
