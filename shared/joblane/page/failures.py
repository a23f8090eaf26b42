"""The page for each kind of error: it says what is wrong and what to do."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from functools import wraps

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import (
    DatabaseUnavailableError,
    FieldError,
    JobError,
    UnknownScheduleError,
    UnknownTaskError,
    UnreadablePayloadError,
)
from joblane.inspector.errors import (
    ActionError,
    AwsCallError,
    BusyError,
    RoleError,
    UnknownBatchError,
    UnknownBulkError,
)
from joblane.inspector.inspector import Inspector
from joblane.page.rendering import problem, query
from joblane.page.steps import desk

View = Callable[[Request, Inspector], Response]

log = logging.getLogger(__name__)

UNAVAILABLE = (
    "On this machine, `joblane status` shows which parts run, and `joblane up` starts them; for a stage on AWS, "
    "`joblane doctor` says what to check. Then load this page again."
)
KINDS: Mapping[type[JobError], tuple[int, str, str]] = {
    UnknownTaskError: (404, "There is no such task", "Check the id; the task may never have been recorded."),
    UnknownScheduleError: (404, "There is no such schedule", "It may have been deleted."),
    UnknownBatchError: (404, "There is no such batch", "Check the id."),
    UnknownBulkError: (404, "There is no such bulk action", "Check the id."),
    ActionError: (409, "Not possible in this state", "Nothing was done."),
    BusyError: (409, "Not possible at this moment", ""),
    RoleError: (403, "Your role does not allow this", "Nothing was done."),
    FieldError: (400, "This request is not valid", "Go back and correct it; nothing was done."),
    UnreadablePayloadError: (422, "The payload is not valid", "Nothing was done."),
    DatabaseUnavailableError: (503, "The database cannot be reached", UNAVAILABLE),
    AwsCallError: (502, "A call to AWS failed", "`joblane doctor` says what to check."),
    JobError: (502, "That did not work", ""),
}
"""Class of an error → status, title, and a text that follows the error's own. The first entry that fits applies."""


def endpoint(view: View) -> Callable[[Request], Response]:
    """``view`` with an inspector from the pool, and an error page for its exceptions."""

    @wraps(view)
    def respond(request: Request) -> Response:
        try:
            with desk(request).inspector() as inspector:
                return view(request, inspector)
        except Exception as error:  # the only place where the page turns an error into a response
            return error_page(request, error)

    return respond


def error_page(request: Request, error: Exception) -> Response:
    """The text of a library error is shown; of any other error only the class is."""
    if not isinstance(error, (JobError, *request.app.state.readable)):
        return _unexpected(request, error)
    found = (texts for kind, texts in KINDS.items() if isinstance(error, kind))
    status, title, more = next(found, KINDS[JobError])
    back = (f"/task?{query(id=error.task_id)}", "The task as it is now") if isinstance(error, ActionError) else None
    return problem(request, status, title, f"{sentence(str(error))} {more}".strip(), back=back)


def _unexpected(request: Request, error: Exception) -> Response:
    """A bug in the page. Only its place is logged, as the error's text may hold confidential values."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s in %s, line %s", type(error).__name__, frame.filename, frame.lineno)
    where = "the terminal that runs the page, or the log group of the shared page, shows where"
    text = f"{type(error).__name__}: {where}. The command line can do the same."
    return problem(request, 500, "The page has a bug", text)


def http_error_page(request: Request, error: Exception) -> Response:
    """The page for an address or method without a route."""
    if isinstance(error, HTTPException) and error.status_code == 404:
        return problem(request, 404, "There is no such page", "Use the links above.")
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(request, status, "This request is not valid", "Go back, and use the links and forms of the page.")


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
