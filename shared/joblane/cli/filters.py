"""What commands share: the inspector of the stage that is meant, the filter that options describe, and questions."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import typer

from joblane.cli.exits import Exit
from joblane.cli.terminal import is_terminal, say

if TYPE_CHECKING:
    from joblane.inspector import Filter, Inspector

E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True)
class Where:
    """The options before the command. None: as the environment has it."""

    stage: str | None = None
    profile: str | None = None
    region: str | None = None


def inspector(context: typer.Context) -> Inspector:
    """The one door, to the stage that was named."""
    from joblane.cli.connect import connect

    where = context.find_object(Where) or Where()
    return connect(stage=where.stage, profile=where.profile, region=where.region)


def here(context: typer.Context) -> str:
    """The program, with the options that lead to where this command went: for commands to paste."""
    where = context.find_object(Where) or Where()
    given = ((name, getattr(where, name)) for name in ("stage", "profile", "region"))
    return " ".join([program(), *(f"--{name} {shlex.quote(value)}" for name, value in given if value)])


def program() -> str:
    """What a shell understands as this program: ``joblane``, as ``jobs`` alone is a builtin of the shell."""
    ours = Path(sys.executable).with_name("joblane")
    if (found := shutil.which("joblane")) and Path(found).resolve() == ours.resolve():
        return "joblane"
    if not ours.exists():
        return f"{shlex.quote(sys.executable)} -m joblane.cli.main"
    return shlex.quote(str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours))


def stop(message: str, code: Exit) -> NoReturn:
    """End the command with a message."""
    say(f"joblane: {message}")
    raise typer.Exit(code)


def usage(message: str, option: str | None = None) -> NoReturn:
    """End the command: it was used wrongly."""
    raise typer.BadParameter(message, param_hint=option)


def filter_of(
    *,
    ids: Sequence[str] = (),
    state: Sequence[str] = (),
    type_: Sequence[str] = (),
    queue: Sequence[str] = (),
    tenant: str | None = None,
    tag: str | None = None,
    id_prefix: str | None = None,
    error: str | None = None,
    fingerprint: str | None = None,
    older: str | None = None,
    newer: str | None = None,
) -> Filter:
    """The options as the inspector wants them; a wrong one is a usage error that names what is right."""
    from joblane.inspector import Filter
    from joblane.queues import Queue
    from joblane.record.states import State

    after, before = time_of(newer, "--newer"), time_of(older, "--older")
    if after is not None and before is not None and after >= before:
        usage(f"nothing is older than {older} and newer than {newer}", "--older and --newer")
    return Filter(
        ids=tuple(dict.fromkeys(ids)),
        id_prefix=id_prefix,
        states=tuple(one_of(State, value, "--state") for value in state),
        types=tuple(type_),
        queues=tuple(one_of(Queue, value, "--queue") for value in queue),
        tenant=tenant,
        tag=tag,
        error=error,
        fingerprint=fingerprint,
        created_after=after,
        created_before=before,
    )


def one_of(kind: type[E], value: str, option: str) -> E:
    """A member by its value."""
    if value not in list(kind):
        usage(f"{value!r} is not one of {', '.join(kind)}", option)
    return kind(value)


def type_of(text: str) -> str:
    """What can be a task's type, whether or not there is one."""
    from joblane.declaration import check_type
    from joblane.errors import DeclarationError

    try:
        check_type(text)
    except DeclarationError as error:
        usage(str(error), "TYPE")
    return text


def name_of(text: str, option: str) -> str:
    """What can be the name of a tenant; no other name is wider."""
    from joblane.sqs.message import TENANT_PATTERN

    if not TENANT_PATTERN.fullmatch(text):
        usage("1 to 128 ASCII letters, digits and punctuation are required", option)
    return text


def time_of(text: str | None, option: str) -> datetime | None:
    """A time, or one so long ago."""
    from joblane.inspector.durations import ago

    try:
        return None if text is None else ago(text, datetime.now(UTC))
    except ValueError as error:
        usage(str(error), option)


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person; end the command where they would rather not, or nobody can be asked."""
    if yes:
        return
    if not is_terminal():
        stop(f"{question} There is no terminal to ask on: say --yes, or --dry-run to count only.", Exit.USAGE)
    if not typer.confirm(question, err=True):
        say("Nothing was done.")
        raise typer.Exit(Exit.FAILED)
