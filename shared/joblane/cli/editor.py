"""Text that a person changes in an editor of theirs. What could not be used is kept: nobody types twice."""

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
    """The text as it was saved; None where it was left as it is. The file stays where the block raises.

    Raises :class:`LocalError` where the editor does not end well.
    """
    with tempfile.NamedTemporaryFile(
        "w", suffix=".json", prefix="payload-", encoding="utf-8", delete=False
    ) as file:  # which only its owner reads
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
        say(f"What you wrote is kept, to mend and use:  --json @{shlex.quote(str(path))}")
        raise
    path.unlink(missing_ok=True)


def _run(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(editor), str(path)], check=True)  # noqa: S603 - the person's own editor
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise LocalError(f"The editor {editor!r} did not end well ({error}); nothing was done.") from error
