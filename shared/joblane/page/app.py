"""The page as one ASGI application."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from joblane.page.failures import View, endpoint, http_error_page
from joblane.page.inspectors import Desk
from joblane.page.rendering import FOLDER
from joblane.page.security import Keys, LocalGuard, address_of
from joblane.page.steps import Notices
from joblane.page.views import batches, bulk, dead, enqueue, find, limits, runs, schedules, stage, task, tasks

PRODUCTION = re.compile(r"(prod|production|live)(-.*)?", re.IGNORECASE)
"""Names of stages that are marked on all pages, so that no operator takes them for another stage."""
PAGES: dict[str, View] = {
    "/": stage.overview,
    "/tasks": tasks.show,
    "/find": find.show,
    "/task": task.show,
    "/task/logs": task.logs,
    "/bulk": bulk.list_all,
    "/bulk/new": bulk.dry_run,
    "/bulk/show": bulk.show,
    "/dead": dead.show,
    "/dead/redrive": dead.dry_run,
    "/schedules": schedules.list_all,
    "/schedules/show": schedules.show,
    "/limits": limits.list_all,
    "/limits/show": limits.show,
    "/batches": batches.list_all,
    "/batches/show": batches.show,
    "/statistics": stage.statistics,
    "/runs": runs.show,
    "/runs/why": runs.why,
    "/tenants": stage.tenants,
    "/types": enqueue.types,
    "/enqueue": enqueue.show,
    "/audit": stage.audit,
}
SEARCHES: dict[str, View] = {"/find": find.begin}
"""Forms that change nothing: a read-only page accepts them."""
ACTIONS: dict[str, View] = {
    "/pause": stage.pause,
    "/resume": stage.resume,
    "/task/act": task.act,
    "/task/edit": task.edit,
    "/bulk/start": bulk.start,
    "/bulk/abort": bulk.abort,
    "/dead/redrive/start": dead.redrive,
    "/dead/acknowledge": dead.acknowledge,
    "/schedules/tick": schedules.tick,
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
payloads can be changed and tasks enqueued. ``person``: the person who is signed in; None on this machine."""


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
    routes = [Route(path, endpoint(view), methods=["GET"]) for path, view in PAGES.items()]
    routes += [Route(path, endpoint(view), methods=["POST"]) for path, view in (SEARCHES | ACTIONS).items()]
    app = Starlette(
        routes=[*routes, *more, Mount("/static", StaticFiles(directory=FOLDER / "static"))],
        middleware=[guard],
        exception_handlers={HTTPException: http_error_page},
    )
    app.state.desk = desk
    app.state.notices = notices
    app.state.readable = readable
    app.state.common = {**common, "is_production": bool(PRODUCTION.fullmatch(common["stage"]))}
    return app
