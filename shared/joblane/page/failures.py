"""What becomes of each kind of error: a page that says what is wrong and what to do."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from functools import wraps

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import DatabaseUnavailableError, EnqueueError, JobError, UnknownTaskError, UnreadablePayloadError
from joblane.inspector.errors import ActionError, AwsCallError, BusyError, SelectionError
from joblane.inspector.inspector import Inspector
from joblane.page.rendering import problem, query
from joblane.page.visit import desk

View = Callable[[Request, Inspector], Response]

log = logging.getLogger(__name__)

AWAY = (
    "Locally `make status` shows what runs, and `make up` starts the rest; for a stage on AWS, `joblane doctor` says "
    "what to check. Then load this page again."
)
KINDS: Mapping[type[JobError], tuple[int, str, str]] = {
    UnknownTaskError: (404, "There is no such task", "Its id may be mistyped, or it was never recorded."),
    ActionError: (409, "Not in this state", "Nothing was done."),
    BusyError: (409, "Not at this moment", ""),
    SelectionError: (400, "This cannot be asked for", "Go back and change it; nothing was done."),
    EnqueueError: (400, "This cannot be asked for", "Go back and change it; nothing was done."),
    UnreadablePayloadError: (422, "The payload does not fit", "Nothing was done."),
    DatabaseUnavailableError: (503, "The record cannot be reached", AWAY),
    AwsCallError: (502, "AWS did not do it", "`joblane doctor` says what to check."),
    JobError: (502, "That did not work", ""),
}
"""Status, title, and what is added to the error's own text, which is written for the reader. The first that fits."""


def answered(view: View) -> Callable[[Request], Response]:
    """``view`` with an inspector that is lent to it, and a page for whatever it raises."""

    @wraps(view)
    def answer(request: Request) -> Response:
        try:
            with desk(request).inspector() as asked:
                return view(request, asked)
        except Exception as error:  # the one place where the page decides what an error becomes
            return answer_to(request, error)

    return answer


def answer_to(request: Request, error: Exception) -> Response:
    """What was raised on purpose is shown with its text; of all else only the kind is told."""
    if not isinstance(error, (JobError, *request.app.state.readable)):
        return _unexpected(request, error)
    found = (told for kind, told in KINDS.items() if isinstance(error, kind))
    status, title, more = next(found, KINDS[JobError])
    back = (f"/task?{query(id=error.task_id)}", "The task as it is now") if isinstance(error, ActionError) else None
    return problem(request, status, title, f"{sentence(str(error))} {more}".strip(), back=back)


def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of the page. Told by where it was raised, as its text may hold what nobody is to see."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s in %s, line %s", type(error).__name__, frame.filename, frame.lineno)
    text = f"{type(error).__name__}; the terminal that runs the page says where. The command line does the same things."
    return problem(request, 500, "The page has a fault", text)


def of_http(request: Request, error: Exception) -> Response:
    """What no route takes."""
    if isinstance(error, HTTPException) and error.status_code == 404:
        return problem(request, 404, "There is no such page", "Go by the links above.")
    status = error.status_code if isinstance(error, HTTPException) else 500
    return problem(request, status, "Not this way", "Go back, and use the links and forms of the page.")


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."
