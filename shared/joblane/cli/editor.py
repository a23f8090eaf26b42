"""Editing a text in the user's editor. A text that is refused is kept in a file, so it need not be typed again."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joblane.cli.terminal import say
from joblane.local.errors import LocalError


@contextmanager
def edited(before: str) -> Iterator[str | None]:
    """The saved text; None if it is unchanged. The file is kept if the block raises.

    Raises :class:`LocalError` if the editor fails.
    """
    with tempfile.NamedTemporaryFile(
        "w", suffix=".json", prefix="payload-", encoding="utf-8", delete=False
    ) as file:  # only its owner can read it
        file.write(before)
    path = Path(file.name)
    try:
        _run(path)
        after = path.read_text(encoding="utf-8")
    except (LocalError, OSError, UnicodeDecodeError):
        path.unlink(missing_ok=True)
        raise
    try:
        yield None if after == before else after
    except BaseException:
        say(f"Your text is kept. Correct the file, and give it with  --json @{shlex.quote(str(path))}")
        raise
    path.unlink(missing_ok=True)


def _run(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(editor), str(path)], check=True)  # noqa: S603 - the user's own editor
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise LocalError(f"The editor {editor!r} failed ({error}); nothing was done.") from error
