"""The local stack: `up`, `down`, `status`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import extras
from joblane.cli.exits import Exit
from joblane.cli.target import program
from joblane.local.errors import LocalError
from joblane.project import Project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from joblane.local.stack import LocalStack

AwsPort = Annotated[
    int, typer.Option(envvar="JOBLANE_AWS_PORT", min=1, max=65535, help="Port of the AWS emulator on 127.0.0.1.")
]
PostgresPort = Annotated[
    int, typer.Option(envvar="JOBLANE_POSTGRES_PORT", min=1, max=65535, help="Port of PostgreSQL on 127.0.0.1.")
]
Folder = Annotated[
    Path | None,
    typer.Option(envvar="JOBLANE_LOCAL", help="Folder of the local stack; without it, .joblane.", show_default=False),
]
DEFAULT_AWS_PORT = 4566
DEFAULT_POSTGRES_PORT = 15432


def local_stack(
    folder: Path | None, aws_port: int, postgres_port: int, variables: Mapping[str, str] | None = None
) -> LocalStack:
    """Return the stack that the settings of the environment describe. Its progress goes to the error output.

    ``folder``: None is ``.joblane`` of the project. ``variables``: settings for its tasks.
    """
    from rich.console import Console

    from joblane import settings
    from joblane.local.stack import LocalStack

    project = Project.here()
    return LocalStack(
        folder or project.folder,
        project=project,
        aws_port=aws_port,
        postgres_port=postgres_port,
        prefix=settings.prefix(),
        settings=variables,
        external_endpoint=os.environ.get("JOBLANE_EXTERNAL_ENDPOINT") or None,
        console=Console(stderr=True),
    )


def up(
    folder: Folder = None,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
) -> None:
    """Start the local stack, with the code as it is now.

    It is deployed, and left running. The first time, this fetches its tools: about 350 MB on disk.
    """
    extras.need("local", "cdk")
    from joblane.cli.first_job import run_first_job

    stack = local_stack(folder, aws_port, postgres_port)
    try:
        stack.up()
    except LocalError as error:
        raise LocalError(f"{error}\nWhat did start still runs; `joblane down` stops it.") from error
    run_first_job(stack)
    typer.echo(f"Up: AWS at {stack.endpoint}, PostgreSQL at 127.0.0.1:{stack.postgres.port}")
    typer.echo(f"Join in:        set -a; . {_shown(stack.env_file)}; set +a")
    typer.echo(f"Watch it:       {program()} watch, or {program()} page")
    typer.echo(f"After a change: {program()} up")
    typer.echo(f"Stop it:        {program()} down")


def down(
    folder: Folder = None,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
) -> None:
    """Stop the local stack; its data stays."""
    local_stack(folder, aws_port, postgres_port).down()
    typer.echo("Down.")


def status(
    folder: Folder = None,
    aws_port: AwsPort = DEFAULT_AWS_PORT,
    postgres_port: PostgresPort = DEFAULT_POSTGRES_PORT,
) -> None:
    """Show what of the local stack runs.

    Exit status 3 where a part does not.
    """
    parts = local_stack(folder, aws_port, postgres_port).status()
    for name, (runs, where) in parts.items():
        typer.echo(f"{name:<14}{'runs' if runs else 'stopped':<9}{where}")
    if not all(runs for runs, _ in parts.values()):
        raise typer.Exit(Exit.NOTHING)


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
