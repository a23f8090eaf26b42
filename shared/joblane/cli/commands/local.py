"""This machine: `up`, `down`, `status`, and `dev`, which needs no deploy."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joblane.cli import extras, lists, options, terminal
from joblane.cli.exits import Exit
from joblane.cli.target import program
from joblane.errors import JobError
from joblane.local.errors import LocalError, PortBusyError
from joblane.project import Project, refuse_others

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from joblane.local.dev.channel import Channel
    from joblane.local.dev.control import DevPage
    from joblane.local.stack import LocalStack

FIRST_JOB = timedelta(minutes=2)
"""Time for the first start of a function, which unpacks the layer, on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """The options of a local stack. ``folder`` None: ``.joblane`` of the project."""

    folder: Annotated[
        Path | None,
        typer.Option(
            envvar="JOBLANE_LOCAL",
            metavar="FOLDER",
            help="Folder of the local stack; without it, .joblane.",
            show_default=False,
        ),
    ] = None
    aws_port: Annotated[
        int,
        typer.Option(
            envvar="JOBLANE_AWS_PORT", metavar="PORT", min=1, max=65535, help="Port of the AWS emulator on 127.0.0.1."
        ),
    ] = 4566
    postgres_port: Annotated[
        int,
        typer.Option(
            envvar="JOBLANE_POSTGRES_PORT", metavar="PORT", min=1, max=65535, help="Port of PostgreSQL on 127.0.0.1."
        ),
    ] = 15432

    def folder_of(self, project: Project) -> Path:
        """The folder of the stack. Raises :class:`ProjectError` if it belongs to another user."""
        if self.folder is None:
            return project.folder
        folder = self.folder.resolve()
        refuse_others(folder, "")
        return folder

    def stack(self, variables: Mapping[str, str] | None = None) -> LocalStack:
        """The stack of these options and the environment. It shows its progress on the error output.

        ``variables``: settings for its tasks.
        """
        from rich.console import Console

        from joblane import settings
        from joblane.local.stack import LocalStack

        project = Project.here()
        return LocalStack(
            self.folder_of(project),
            project=project,
            aws_port=self.aws_port,
            postgres_port=self.postgres_port,
            prefix=settings.prefix(),
            settings=variables,
            external_endpoint=os.environ.get("JOBLANE_EXTERNAL_ENDPOINT") or None,
            console=Console(stderr=True),
        )


@options.expanded
def up(given: StackOptions) -> None:
    """Start the local stack, or deploy the changed code to it.

    The stack keeps running. The first time, this fetches its tools; .joblane/ then takes about 700 MB.
    """
    extras.need("local", "cdk")
    from joblane.local.env_file import shown
    from joblane.local.zipped import check_zipped
    from joblane.tasks.discovery import discover

    stack = given.stack()
    stack.check()
    if line := check_zipped(stack.project, discover(times={}).values()):
        terminal.say(line)
    try:
        stack.up()
    except JobError as error:
        raise LocalError("\n".join([str(error), *_left(stack)])) from error
    except KeyboardInterrupt:
        terminal.say("\n".join(["Interrupted.", *_left(stack)]))
        raise typer.Exit(Exit.INTERRUPTED) from None
    _run_first_job(stack)
    typer.echo(
        f"Up: AWS at {stack.endpoint}, PostgreSQL at 127.0.0.1:{stack.postgres.port}\n"
        f"Set your shell up: set -a; . {shown(stack.env_file)}; set +a\n"
        f"Watch:             {program()} watch, or {program()} page\n"
        f"After a change:    {program()} up\n"
        f"Stop:              {program()} down"
    )


@options.expanded
def down(given: StackOptions) -> None:
    """Stop the local stack; its data stays."""
    given.stack().down()
    typer.echo("Down.")


@options.expanded
def status(given: StackOptions) -> None:
    """Show which parts of the local stack run.

    Exit status 3 if a part is stopped.
    """
    parts = given.stack().status()
    for name, (runs, where) in parts.items():
        typer.echo(f"{name:<14}{'running' if runs else 'stopped':<9}{where}")
    if not all(runs for runs, _ in parts.values()):
        rest = "; `joblane down` stops the rest" if any(runs for runs, _ in parts.values()) else ""
        terminal.say(f"`joblane up` starts what is stopped{rest}.")
        raise typer.Exit(Exit.NOTHING)


def _left(stack: LocalStack) -> list[str]:
    """Return what to do about the parts that run after a failed start."""
    if not any(runs for runs, _ in stack.status().values()):
        return []
    return ["The parts that started still run; `joblane down` stops them."]


def _run_first_job(stack: LocalStack) -> None:
    """Run the job that `joblane init` wrote, and show its row. Do nothing if there is no such job, or if it has run."""
    from joblane.cli.commands.tasks import await_end
    from joblane.cli.connect import connect
    from joblane.cli.scaffold import FIRST_TYPE
    from joblane.inspector.filter import Filter
    from joblane.local.tools import environment_of
    from joblane.tasks.discovery import discover

    if FIRST_TYPE not in discover(times={}):
        return
    with environment_of(stack.environment):
        inspector = connect(stage=None, profile=None, region=None)
        which = Filter(types=(FIRST_TYPE,))
        if inspector.tasks(which).tasks:
            terminal.say(f"The job {FIRST_TYPE} has run here: `{program()} enqueue {FIRST_TYPE} --wait` runs it again.")
            return
        id_ = inspector.enqueue(FIRST_TYPE, {}).id
        await_end(inspector, program(), id_, FIRST_JOB, as_json=False)
        lists.show(inspector.tasks(which).tasks)


@options.expanded
def dev(
    given: StackOptions,
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
    folder = given.folder_of(project)
    lock.make_folder(folder, project)
    Dev(
        project,
        folder,
        aws_port=given.aws_port,
        postgres_port=given.postgres_port,
        prefix=check_prefix(settings.prefix()),
        open_page=partial(_page, page_port) if page else None,
        raw=as_json,
    ).run()


def _page(port: int) -> DevPage:
    """Listen for the page, whose process the first request starts."""
    import secrets

    from joblane.local.dev.control import DevPage

    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise PortBusyError("The page", port, "JOBLANE_PAGE_PORT") from error
    keys = {name: secrets.token_urlsafe(32) for name in ("token", "session", "form")}
    keys["base"] = f"/~{secrets.token_urlsafe(16)}"
    return DevPage(
        "joblane.cli.commands.local:serve_page",
        {"port": port, "keys": keys, "command": program()},
        listening,
        f"http://127.0.0.1:{port}/?token={keys['token']}",
    )


def serve_page(_channel: Channel, files: Sequence[int], *, port: int, keys: dict[str, str], command: str) -> None:
    """Serve the page in a process of `joblane dev`, which starts it again after a save, with the same keys."""
    from joblane.cli.connect import connect
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
