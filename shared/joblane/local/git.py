"""The version of a project's code and the person who deploys it, as Git and CI systems know them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

DIRTY = "-dirty"
"""End of a version with changes that are not committed."""
SECONDS = 5.0
MOST = 100
"""Characters of a name."""
CI_NAMES = ("GITHUB_ACTOR", "GITLAB_USER_LOGIN", "BUILDKITE_BUILD_CREATOR", "CIRCLE_USERNAME")
"""Variables in which a CI system names the person who started it."""


def version_of(folder: Path) -> str | None:
    """Return the commit of a folder, with ``-dirty`` if there are changes to it. None: it has none, or no Git."""
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*")


def deployer(folder: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of the person who deploys from a folder. None: it is not known."""
    given = (_line(environment.get(name, "")) for name in CI_NAMES)
    return next(filter(None, given), None) or _git(folder, "config", "user.name")


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, encoding="utf-8", errors="replace", timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _line(done.stdout) if done.returncode == 0 else None


def _line(text: str) -> str | None:
    """CloudFormation would replace ``{{…}}`` in a template by the value of a parameter."""
    line = " ".join(text.split())[:MOST]
    return line if line.isprintable() and line and "{{" not in line else None
