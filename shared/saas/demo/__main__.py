"""`python -m saas.demo`: start the local stack, run each of the platform's jobs, and show the results."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console

from joblane.cli.commands.local import StackOptions
from joblane.cli.options import expanded
from joblane.local.errors import LocalError
from joblane.project import Project, ProjectError
from saas.demo.demo import run
from saas.demo.services import Services

DemoPort = Annotated[
    int, typer.Option(envvar="JOBLANE_DEMO_PORT", min=1, max=65535, help="Port of the demo's services on 127.0.0.1.")
]


@expanded
def demo(options: StackOptions, port: DemoPort = 4567) -> None:
    """Run the platform's jobs on the local stack. Exit status 1 if a job does not have the expected outcome."""
    services = Services(port)
    folder = (options.folder or Project.here().folder).resolve()
    mail = folder / "mail"
    stack = replace(options, folder=folder).stack(services.settings | {"EMAIL_CONSOLE_DIR": str(mail)})
    was_running = all(runs for runs, _ in stack.status().values())
    with services:
        stack.up()
        try:
            as_expected = run(stack, mail, Console(highlight=False))
        finally:
            if not was_running:
                stack.down()
    if not as_expected:
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        Project.here().activate()
        typer.run(demo)
    except (LocalError, ProjectError) as error:
        sys.exit(f"demo: {error}")
