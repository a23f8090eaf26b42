"""Words of commands that are suggested, to paste."""

from __future__ import annotations

import shlex


def argument(text: str) -> str:
    """``text`` as the last argument of a command: quoted for a shell, and not taken for an option."""
    return f"{'-- ' if text.startswith('-') else ''}{shlex.quote(text)}"
