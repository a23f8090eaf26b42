"""Words that the shell completes. Nothing is sent, and no handler is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def states() -> list[str]:
    """Of tasks."""
    return ["scheduled", "pending", "active", "retry", "completed", "archived", "cancelled"]


def queues() -> list[str]:
    """By their names."""
    return ["critical", "default", "low"]


def task_types() -> list[str]:
    """The declared ones: what is written in ``@task("…")`` of each handler."""
    import re

    found = (re.search(r"^@task\(\s*[\"']([^\"']+)", path.read_text(), re.M) for path in _handlers())
    return sorted(match[1] for match in found if match)


def scopes() -> list[str]:
    """What can be paused."""
    return ["queue", "type", "tenant", "schedule"]


def _handlers() -> list[Path]:
    from joblane.project import Project

    return list(Project.here().handlers.glob("*/handler.py"))
