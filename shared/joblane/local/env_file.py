"""`.joblane/env`: the variables with which programs use the local stack, read by shells and by `joblane`."""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joblane.errors import DeclarationError
from joblane.local.errors import LocalError
from joblane.names import PLACES
from joblane.project import FUNCTIONS, Project
from joblane.settings import DEFAULT_SWEEP_MINUTES, SCHEDULES, SWEEP_MINUTES
from joblane.tasks.schedule_overrides import minutes_of

VARIABLES = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "DATABASE_URL",
    "JOBLANE_FUNCTIONS",
    "JOBLANE_PREFIX",
    PLACES,
    SCHEDULES,
    SWEEP_MINUTES,
)
"""Addresses and names of the stack. The file has the settings of its tasks, too."""


def addresses(
    endpoint: str, *, region: str, database_url: str, project: Project, prefix: str, stage: Mapping[str, Any]
) -> dict[str, str]:
    """Return the variables with which a program uses a stack of this machine. ``stage``: the one of ``cdk.json``.

    Raises :class:`LocalError` for a wrong ``sweep``.
    """
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": region,
        "AWS_REGION": region,  # SDKs other than Python's read this name
        "DATABASE_URL": database_url,
        **({} if project.functions == FUNCTIONS else {"JOBLANE_FUNCTIONS": project.functions}),
        "JOBLANE_PREFIX": prefix,
        SCHEDULES: json.dumps(stage.get("schedules", {})),
        SWEEP_MINUTES: str(sweep_minutes(stage)),
    }


def sweep_minutes(stage: Mapping[str, Any]) -> int:
    """Return the minutes of the setting ``sweep`` of a stage of ``cdk.json``. Raises :class:`LocalError`."""
    if "sweep" not in stage:
        return DEFAULT_SWEEP_MINUTES
    try:
        return minutes_of(str(stage["sweep"]))
    except DeclarationError as error:
        raise LocalError(f"cdk.json: stage 'local': sweep: {error}") from None


def write(path: Path, variables: Mapping[str, str]) -> None:
    """Write the file, readable only by this user, because it contains the database's password."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    text = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
    path.write_text(text, encoding="utf-8", newline="")


def shown(path: Path) -> Path:
    """Return the shortest path to the file from the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def read(path: Path) -> dict[str, str]:
    """Return :data:`VARIABLES` of the file, and the settings that tasks of the project declare.

    Other names are ignored, because a variable such as ``AWS_CONFIG_FILE`` can start a program. Raises
    :class:`LocalError` for a file of another user, a file that others may read or write, and a file that a shell could
    not read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise LocalError(
                f"{path} is not read: it belongs to another user, or others may read or write it (its mode is "
                f"{stat.S_IMODE(found.st_mode):04o}). Remove it; `joblane up` writes it again."
            )
        try:
            words = shlex.split(file.read(), comments=True)
        except ValueError as error:  # an open quote, or no UTF-8
            raise LocalError(
                f"{path} is not read: it has been changed and is not valid ({error}). Remove it; `joblane up` writes "
                "it again."
            ) from None
    variables = dict(word.split("=", 1) for word in words if "=" in word)
    known = set(VARIABLES)
    if not variables.keys() <= known:
        known |= task_settings()
    return {name: value for name, value in variables.items() if name in known}


def task_settings() -> set[str]:
    """Return the names of the settings that the project's tasks declare."""
    from joblane.tasks.discovery import discover

    return {name for task in discover(times={}).values() for name in task.environment}


def other_endpoints() -> dict[str, str]:
    """Return the endpoints of other services that this process's environment has, such as the endpoint of S3."""
    given = {name: value for name, value in os.environ.items() if name.startswith("AWS_ENDPOINT_URL")}
    return {name: value for name, value in given.items() if not name.endswith("_SQS")}
