"""The earlier releases in the history of this checkout."""

from __future__ import annotations

import io
import subprocess
import tarfile
from functools import cache
from pathlib import Path

from tests.pages import ROOT

BEFORE_TAGS = "54b9cbf1631693a33662da562e936572867707ab"
"""Until the first tag: a commit whose code stands for an earlier release."""
UNPACKED = ROOT / ".joblane" / "cache" / "releases"


@cache
def releases() -> list[str]:
    """Return the tags of all releases; until there is one, and without a clone, :data:`BEFORE_TAGS`."""
    try:
        return _git("tag", "--list", "v*").decode().split() or [BEFORE_TAGS]
    except (OSError, subprocess.CalledProcessError):
        return [BEFORE_TAGS]


def unpacked(release: str) -> Path:
    """Return a folder with the library of a release, as in its wheel.

    Raises :class:`FileNotFoundError` if this checkout has no such commit: it is shallow, or no clone.
    """
    try:
        commit = _git("rev-parse", "--verify", f"{release}^{{commit}}").decode().strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError(f"the history of this checkout lacks {release}: fetch it with all commits") from error
    folder = UNPACKED / commit
    if not folder.exists():
        part = folder.with_suffix(".part")
        with tarfile.open(fileobj=io.BytesIO(_git("archive", f"{commit}:shared", "joblane"))) as archive:
            archive.extractall(part, filter="data")
        part.rename(folder)
    return folder


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
