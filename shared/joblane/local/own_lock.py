"""The project's own lock: Joblane's packages for functions, and those that the project adds."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from joblane.local.errors import LocalError, MisuseError
from joblane.local.locked import PYTHON
from joblane.local.uv import failure, find_uv, installing_environment
from joblane.project import LOCKS, Project

RUNTIME = LOCKS / "runtime.txt"
DEFAULT = "functions.txt"


def write_lock(project: Project, packages: Sequence[str]) -> tuple[Path, bool]:
    """Add packages to the project's list, and write its lock with versions and hashes.

    The list is next to the lock, with the suffix ``.in``, and has no path of this machine. Returns the lock, and True
    if `pyproject.toml` has no key `lock` yet. Raises :class:`LocalError`.
    """
    is_new = project.lock == RUNTIME
    lock = project.root / DEFAULT if is_new else project.lock
    names = lock.with_suffix(".in")
    wanted = {_name(line): line for line in [*_read(names), *packages]}
    text = "\n".join(wanted.values()) + "\n"
    command = [find_uv(project), "pip", "compile", "--quiet", "--no-config", "--generate-hashes", "--universal"]
    command += ["--no-annotate", "--python-version", PYTHON, "--custom-compile-command", "joblane lock"]
    command += ["--output-file", str(lock), str(RUNTIME), "-"]
    environment = installing_environment(project)
    done = subprocess.run(  # noqa: S603 - uv, with its options
        command,
        check=False,
        cwd=project.root,
        env=environment,
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise LocalError(failure("uv cannot write the lock", done.stderr + done.stdout))
    names.write_text(text, encoding="utf-8")
    return lock, is_new


def _read(names: Path) -> list[str]:
    """Return the lines of the list, without one that includes Joblane's own by a path."""
    lines = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
    return [line for line in map(str.strip, lines) if line and not re.fullmatch(r"-r .*runtime\.txt|#.*", line)]


def _name(line: str) -> str:
    """Return the package that a line names, or the line if it is an option of uv. Raises :class:`MisuseError`."""
    if line.startswith("-"):
        return line
    try:
        return Requirement(line).name.lower()
    except InvalidRequirement:
        raise MisuseError(
            f"{line!r} is not a package: write a name, or a name with versions, such as 'httpx>=0.28'"
        ) from None
