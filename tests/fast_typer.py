"""Makes the command line fast. To run a command, Typer builds all commands, which takes longer than most of them."""

from __future__ import annotations

from functools import cache

import typer.main


def accelerate() -> None:
    """Build the commands of an app once. They keep nothing of a run."""
    typer.main.get_command = cache(typer.main.get_command)
