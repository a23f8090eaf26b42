"""The lock of `joblane dev` on a folder: the local stack and a second `joblane dev` would use the same database."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from joblane.local.daemon import Daemon
from joblane.local.errors import LocalError
from joblane.project import Project

FILE = "dev.pid"


def make_folder(folder: Path, project: Project) -> None:
    """Create the folder of a stack or of `joblane dev`. Raises :class:`LocalError`."""
    try:
        if folder == project.folder:
            project.make_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(_open(folder / "lock"))
    except OSError as error:
        raise LocalError(
            f"{error.filename or folder} cannot be created: {error.strerror}. The local stack and `joblane dev` "
            "keep their data and logs there. Let this user write there, or name another folder with JOBLANE_LOCAL."
        ) from None


@contextmanager
def turn(folder: Path) -> Iterator[None]:
    """Wait for a `joblane up` or `down` in the folder, and for a `joblane dev` that starts or ends. Others wait."""
    file = _open(folder / "lock")
    try:
        if not _take(file):
            print("Another `joblane up`, `down` or `dev` is at work here: waiting for it.", file=sys.stderr)  # noqa: T201
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock. Raises :class:`LocalError` if a local stack or another `joblane dev` runs in the folder."""
    own = _open(folder / FILE)
    try:
        with turn(folder):
            if not _take(own):
                raise LocalError(f"`joblane dev` runs here already{_by(folder)}: stop it with Ctrl-C first.")
            refuse_if_up(folder)
            os.ftruncate(own, 0)
            os.write(own, str(os.getpid()).encode())
        yield
    finally:
        os.close(own)


def refuse_if_held(folder: Path) -> None:
    """Raise :class:`LocalError` if `joblane dev` runs in the folder."""
    if is_held(folder):
        raise LocalError(f"`joblane dev` runs here{_by(folder)}, with the same database: stop it with Ctrl-C first.")


def refuse_if_up(folder: Path) -> None:
    """Raise :class:`LocalError` if a local stack runs in the folder."""
    if any(Daemon(name, folder).pid is not None for name in ("ministack", "ticker")):
        raise LocalError("The local stack of `joblane up` runs here, with the same database: `joblane down` first.")


def is_held(folder: Path) -> bool:
    """Return true if `joblane dev` runs in the folder."""
    with suppress(OSError):
        own = os.open(folder / FILE, os.O_RDWR)
        try:
            return not _take(own)
        finally:
            os.close(own)
    return False


def _take(file: int) -> bool:
    """Take the lock of an open file. Return false if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(file: Path) -> int:
    return os.open(file, os.O_CREAT | os.O_RDWR, 0o600)


def _by(folder: Path) -> str:
    with suppress(OSError):
        if pid := (folder / FILE).read_text(encoding="ascii").strip():
            return f" (process {pid})"
    return ""
