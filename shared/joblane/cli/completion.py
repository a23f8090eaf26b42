"""Completions for the shell. They send nothing, and import no handler."""

from __future__ import annotations

import re

from joblane.inspector.filter import STATISTICS_BY, PauseScope
from joblane.names import Queue
from joblane.project import Project, ProjectError
from joblane.record.row.states import State


def states() -> list[str]:
    return [*State]


def queues() -> list[str]:
    return [*Queue]


def scopes() -> list[str]:
    """The scopes of a pause."""
    return [*PauseScope]


def groups() -> list[str]:
    """The groups of the statistics."""
    return [*STATISTICS_BY]


def task_types() -> list[str]:
    """The declared types, as written in ``@task("…")`` of each handler; none in a folder of another user."""
    try:
        handlers = Project.here().handlers.glob("*/handler.py")
    except ProjectError:
        return []
    found = (re.search(r"^@task\(\s*[\"']([^\"']+)", path.read_text(), re.M) for path in handlers)
    return sorted(match[1] for match in found if match)
