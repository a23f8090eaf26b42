"""`python -m saas.demo`: start the local stack, run each of the platform's jobs, show the results."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from joblane.cli.commands.local import (
    DEFAULT_AWS_PORT,
    DEFAULT_POSTGRES_PORT,
    AwsPort,
    Folder,
    PostgresPort,
    local_stack,
)
from joblane.local.errors import LocalError
from joblane.project import Project
from saas.demo.demo import run
from saas.demo.services import Services

DemoPort = Annotated[
    int, typer.Option(envvar="JOBLANE_DEMO_PORT", min=1, max=65535, help="Port of the demo's services on 127.0.0.1.")
]


def demo(
    folder: Folder = None,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
    port: DemoPort = 4567,
) -> None:
    """Run the platform's jobs on the local stack. Exit status 1 where a job did not end as announced."""
    services = Services(port)
    folder = (folder or Project.here().folder).resolve()
    mail = folder / "mail"
    stack = local_stack(folder, aws_port, postgres_port, services.settings | {"EMAIL_CONSOLE_DIR": str(mail)})
    ran_before = all(runs for runs, _ in stack.status().values())
    with services:
        stack.up()
        try:
            fine = run(stack, mail, Console(highlight=False))
        finally:
            if not ran_before:
                stack.down()
    if not fine:
        raise typer.Exit(1)


if __name__ == "__main__":
    Project.here().activate()
    try:
        typer.run(demo)
    except LocalError as error:
        sys.exit(f"demo: {error}")
