"""The page as one ASGI application, and its answer to each kind of error."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from joblane.errors import (
    DatabaseUnavailableError,
    FieldError,
    JobError,
    UnknownScheduleError,
    UnknownTaskError,
    UnreadablePayloadError,
)
from joblane.inspector import queries
from joblane.inspector.errors import (
    ActionError,
    AwsCallError,
    BusyError,
    DatabaseAsleepError,
    RoleError,
    UnknownBatchError,
    UnknownBulkError,
)
from joblane.inspector.inspector import Inspector
from joblane.page import navigation
from joblane.page.inspectors import Desk, desk
from joblane.page.rendering import FOLDER, Notices, problem, query
from joblane.page.security import Keys, LocalGuard, address_of
from joblane.page.views import (
    batches,
    bulk,
    chart,
    dead,
    enqueue,
    errors,
    find,
    limits,
    lists,
    logs,
    now,
    runs,
    schedules,
    stage,
    tasks,
    waits,
)

PRODUCTION = re.compile(r"(prod|production|live)(-.*)?", re.IGNORECASE)
"""Names of stages that are marked on all pages, so that no operator takes them for another stage."""
PAGES: dict[str, View] = {
    "/": now.show,
    "/tasks": tasks.listing,
    "/find": find.show,
    "/task": tasks.show,
    "/task/logs": logs.of_task,
    "/bulk": bulk.list_all,
    "/bulk/new": bulk.dry_run,
    "/bulk/show": bulk.show,
    "/errors": errors.show,
    "/errors/messages": errors.messages,
    "/dead/redrive": dead.dry_run,
    "/schedules": schedules.list_all,
    "/schedules/show": schedules.show,
    "/limits": limits.list_all,
    "/limits/show": limits.show,
    "/waits": waits.show,
    "/batches": batches.list_all,
    "/batches/show": batches.show,
    "/statistics": stage.statistics,
    "/runs": runs.show,
    "/runs/why": runs.why,
    "/runs/logs": logs.of_type,
    "/chart": chart.show,
    "/tenants": stage.tenants,
    "/pauses": stage.pauses,
    "/types": enqueue.types,
    "/enqueue": enqueue.show,
    "/audit": stage.audit,
}
MOVED: dict[str, View] = {"/dead": errors.of_before}
"""Former addresses, which lead to the present ones."""
SEARCHES: dict[str, View] = {"/find": find.begin}
"""Forms that change nothing: a read-only page accepts them."""
ACTIONS: dict[str, View] = {
    "/pause": stage.pause,
    "/resume": stage.resume,
    "/undo": stage.undo,
    "/task/act": tasks.act,
    "/task/edit": tasks.edit,
    "/task/signal": tasks.signal,
    "/bulk/start": bulk.start,
    "/bulk/abort": bulk.abort,
    "/dead/redrive/start": dead.redrive,
    "/errors/mark": errors.mark,
    "/schedules/act": schedules.act,
    "/enqueue/start": enqueue.start,
    "/limits/set": limits.set_values,
    "/limits/reset": limits.reset,
    "/limits/pass": limits.let_pass,
    "/batches/retry": batches.retry,
    "/batches/seal": batches.seal,
}


COMMON: Mapping[str, Any] = {
    "csrf": "",
    "read_only": True,
    "can_edit": False,
    "person": None,
    "stage": "",
    "command": "joblane",
}
"""Values that every template may show. ``csrf``: the token of forms. ``read_only``: no form is shown. ``can_edit``:
payloads can be changed, tasks enqueued and signals sent. ``person``: the person who is signed in; None on this
machine."""


def build(
    desk: Desk,
    *,
    port: int,
    keys: Keys,
    read_only: bool = False,
    stage: str = "local",
    command: str = "joblane",
    readable: tuple[type[Exception], ...] = (),
    say: Callable[[str], object] = lambda _: None,
) -> Starlette:
    """Build the page of this machine. ``stage``: the stage's name on the page. ``command``: the command line for the
    same stage.

    ``readable``: classes of errors whose text is shown, in addition to the library's own errors. ``say``: called with a
    line for the operator, which has the address for the next browser.
    """

    def renewed(token: str) -> None:
        say(f"A browser has signed in. Address for another one: {address_of(port, token)}")

    common = {**COMMON, "csrf": keys.form, "read_only": read_only, "can_edit": not read_only}
    return assemble(
        Middleware(LocalGuard, port=port, keys=keys, read_only=read_only, renewed=renewed),
        desk=desk,
        notices=Notices(),
        readable=readable,
        common={**common, "stage": stage, "command": command},
    )


def assemble(
    guard: Middleware,
    *,
    desk: Desk | None,
    notices: Notices,
    readable: tuple[type[Exception], ...],
    common: Mapping[str, Any],
    more: Sequence[Route] = (),
) -> Starlette:
    """Build the page behind a guard. ``desk`` None: the guard puts one into the state of each request.

    ``common``: values of all pages, see :data:`COMMON`; the guard replaces them by ``common`` of the request's state.
    ``more``: further routes.
    """
    routes = [Route(path, endpoint(view), methods=["GET"]) for path, view in (PAGES | MOVED).items()]
    found = queries.new()
    routes += [Route(f"/lists/{one.title}", endpoint(partial(lists.show, one)), methods=["GET"]) for one in found]
    routes += [Route(path, endpoint(view), methods=["POST"]) for path, view in (SEARCHES | ACTIONS).items()]
    app = Starlette(
        routes=[*routes, *more, Mount("/static", StaticFiles(directory=FOLDER / "static"))],
        middleware=[guard],
        exception_handlers={HTTPException: http_error_page},
    )
    app.state.desk = desk
    app.state.notices = notices
    app.state.latest = now.Latest()
    app.state.readable = readable
    links = [(f"/lists/{one.title}", one.listing.title) for one in found]
    areas = navigation.areas(links)
    app.state.common = {
        "areas": areas,
        "go": navigation.keys(areas),
        **common,
        "is_production": bool(PRODUCTION.fullmatch(common["stage"])),
    }
    return app


# --- The page for each kind of error ----------------------------------------------------------------------------------


View = Callable[[Request, Inspector], Response]

log = logging.getLogger(__name__)

UNAVAILABLE = (
    "On this machine, `joblane status` shows which parts run, and `joblane up` starts them; for a stage on AWS, "
    "`joblane doctor` says what to check. Then load this page again. A database that is asleep starts within a minute."
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
    DatabaseAsleepError: (503, "The database is asleep", "Go back, and send the form again in half a minute."),
    DatabaseUnavailableError: (503, "The database cannot be reached", UNAVAILABLE),
    AwsCallError: (502, "A call to AWS failed", "`joblane doctor` says what to check."),
    JobError: (502, "That did not work", ""),
}
"""Class of an error → status, title, and words that follow the error's own. The first entry that fits applies."""


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
    found = (answer for kind, answer in KINDS.items() if isinstance(error, kind))
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
