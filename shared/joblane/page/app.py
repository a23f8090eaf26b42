"""The page as one ASGI application."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from joblane.page.desk import Desk
from joblane.page.failures import View, answered, of_http
from joblane.page.notices import Notices
from joblane.page.rendering import FOLDER
from joblane.page.security import Guard, Keys
from joblane.page.views import bulk, dead, stage, task, tasks

LOOK: dict[str, View] = {
    "/": stage.overview,
    "/tasks": tasks.show,
    "/task": task.show,
    "/task/logs": task.logs,
    "/bulk": bulk.listed,
    "/bulk/new": bulk.dry_run,
    "/bulk/show": bulk.show,
    "/dead": dead.show,
    "/dead/redrive": dead.dry_run,
    "/schedules": stage.schedules,
    "/statistics": stage.statistics,
    "/audit": stage.audit,
}
ACT: dict[str, View] = {
    "/pause": stage.pause,
    "/resume": stage.resume,
    "/task/act": task.act,
    "/task/edit": task.edit,
    "/bulk/start": bulk.start,
    "/bulk/abort": bulk.abort,
    "/dead/redrive/start": dead.redrive,
    "/schedules/tick": stage.tick,
}


def build(
    desk: Desk,
    *,
    port: int,
    keys: Keys,
    read_only: bool = False,
    stage: str = "local",
    command: str = "joblane",
    readable: tuple[type[Exception], ...] = (),
) -> Starlette:
    """``stage``: what the page calls that which it shows. ``command``: the command line that shows the same.
    ``readable``: errors, beside the library's own, whose text is for the reader."""
    routes = [Route(path, answered(view), methods=["GET"]) for path, view in LOOK.items()]
    routes += [Route(path, answered(view), methods=["POST"]) for path, view in ACT.items()]
    app = Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=FOLDER / "static"))],
        middleware=[Middleware(Guard, port=port, keys=keys, read_only=read_only)],
        exception_handlers={HTTPException: of_http},
    )
    app.state.desk = desk
    app.state.notices = Notices()
    app.state.readable = readable
    app.state.look = {"csrf": keys.form, "read_only": read_only, "stage": stage, "command": command}
    return app
