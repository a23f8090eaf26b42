"""The stage of a command: its inspector, and the options that a suggested command needs for it."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import TypeView


@dataclass(frozen=True)
class Target:
    """The options before the command. None: the environment decides."""

    stage: str | None = None
    profile: str | None = None
    region: str | None = None


def of(context: typer.Context) -> Target:
    return context.find_object(Target) or Target()


def inspector(context: typer.Context) -> Inspector:
    from joblane.cli.connect import connect

    return connect(**vars(of(context)))


def types(context: typer.Context) -> tuple[TypeView, ...]:
    """The types that a stage runs; without a stage the types in the code here, which needs no database."""
    if of(context).stage is not None:
        return inspector(context).types()
    from joblane.inspector.stage.overview import types as declared
    from joblane.tasks.discovery import discover

    return declared(discover())


def command(context: typer.Context) -> str:
    """The program with the options for this target."""
    return command_for(of(context))


def command_for(target: Target) -> str:
    """The program with the options for ``target``."""
    given = vars(target).items()
    return " ".join([program(), *(f"--{name} {shlex.quote(value)}" for name, value in given if value)])


def program() -> str:
    """The command by which a shell finds this program: ``joblane``, or its path."""
    ours = Path(sys.executable).with_name("joblane")
    if (found := shutil.which("joblane")) and Path(found).resolve() == ours.resolve():
        return "joblane"
    if not ours.exists():
        return f"{shlex.quote(sys.executable)} -m joblane.cli"
    return shlex.quote(str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours))
