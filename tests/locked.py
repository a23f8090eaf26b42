"""Environments of programs that the project's own environment does not have, each installed from a lock file."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from joblane.local.uv import find_uv, installing_environment
from joblane.project import Project
from tests.pages import ROOT


def environment(name: str) -> Path:
    """Return the folder of the environment of ``requirements/NAME.txt``, installed if it is missing or older.

    Raises :class:`subprocess.CalledProcessError` if it cannot be installed.
    """
    lock = ROOT / "requirements" / f"{name}.txt"
    project = Project.here()
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    target = project.folder / "cache" / f"{name}-{digest}"
    if not (target / "complete").exists():
        shutil.rmtree(target, ignore_errors=True)
        for command in (
            ["venv", "--no-project", "--python", sys.executable, str(target)],
            ["pip", "sync", "--python", str(target), "--require-hashes", str(lock)],
        ):
            subprocess.run(
                [find_uv(project), *command, "--quiet", "--no-config"], env=installing_environment(project), check=True
            )
        (target / "complete").touch()
    return target
