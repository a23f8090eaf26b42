"""`dev`: the project's tasks on this machine without a deploy, and a reload when a file is saved."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joblane.cli import extras
from joblane.cli.commands import options as o
from joblane.cli.commands.local import StackOptions
from joblane.cli.target import program
from joblane.local.errors import PortBusyError
from joblane.project import Project

if TYPE_CHECKING:
    from joblane.local.dev.channel import Channel
    from joblane.local.dev.page import DevPage


@o.expanded
def dev(
    options: StackOptions,
    *,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the operator's page.")] = True,
    page_port: Annotated[
        int,
        typer.Option(
            envvar="JOBLANE_PAGE_PORT", metavar="PORT", min=1, max=65535, help="Port of the page on 127.0.0.1."
        ),
    ] = 8700,
    as_json: Annotated[
        bool, typer.Option("--json", help="Write the logs as JSON lines, as the tasks write them.")
    ] = False,
) -> None:
    """Run the tasks here without a deploy, and reload on save.

    Starts PostgreSQL and queues on 127.0.0.1, and runs tasks and schedules in processes of this machine. It has the
    database of `joblane up`, and SQS, but no other service of AWS. Ctrl-C stops it; the data stays.
    """
    extras.need("local", "cli")
    from joblane import settings
    from joblane.local.dev import lock
    from joblane.local.dev.server import Dev
    from joblane.local.locked import check_lock
    from joblane.names import check_prefix

    project = Project.here()
    check_lock(project.lock)  # which only a deploy installs
    folder = options.folder_of(project)
    lock.make_folder(folder, project)
    Dev(
        project,
        folder,
        aws_port=options.aws_port,
        postgres_port=options.postgres_port,
        prefix=check_prefix(settings.prefix()),
        open_page=partial(_page, page_port) if page else None,
        raw=as_json,
    ).run()


def _page(port: int) -> DevPage:
    """Listen for the page, whose process the first request starts."""
    import secrets

    from joblane.local.dev.page import DevPage

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise PortBusyError("The page", port, "JOBLANE_PAGE_PORT") from error
    keys = {name: secrets.token_urlsafe(32) for name in ("token", "session", "form")}
    keys["base"] = f"/~{secrets.token_urlsafe(16)}"
    return DevPage(
        "joblane.cli.commands.dev:serve_page",
        {"port": port, "keys": keys, "command": program()},
        listening,
        f"http://127.0.0.1:{port}/?token={keys['token']}",
    )


def serve_page(_channel: Channel, files: list[int], *, port: int, keys: dict[str, str], command: str) -> None:
    """Serve the page in a process of `joblane dev`, which starts it again after a save, with the same keys."""
    from joblane.cli.connect import connect
    from joblane.local.errors import LocalError
    from joblane.page.app import build
    from joblane.page.inspectors import Desk
    from joblane.page.security import Keys
    from joblane.page.server import serve
    from joblane.tasks import discovery

    Project.here().activate()
    discovery.leave_out_broken()
    desk = Desk(lambda: connect(stage=None, profile=None, region=None))
    app: Any = build(desk, port=port, keys=Keys(**keys), command=command, readable=(LocalError,), say=print)
    serve(app, socket.socket(fileno=files[0]), say=print)
