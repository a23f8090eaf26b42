"""Quoting for suggested commands that operators paste."""

from __future__ import annotations

import shlex


def argument(text: str) -> str:
    """``text`` as the last argument of a command: quoted for a shell, and never read as an option."""
    return f"{'-- ' if text.startswith('-') else ''}{shlex.quote(text)}"
