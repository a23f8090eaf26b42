"""What the shell completes: no call leaves the machine, and nothing is imported that a folder's name can tell."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


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
    return list((ROOT / "functions").glob("*/handler.py"))
