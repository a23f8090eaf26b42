"""The lock of `joblane dev` on a folder: the local stack and a second `joblane dev` would use the same database."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from joblane.local.daemon import Daemon
from joblane.local.errors import LocalError

FILE = "dev.pid"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock. Raises :class:`LocalError` if a local stack or another `joblane dev` runs in the folder."""
    starting = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    own = os.open(folder / FILE, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(starting, fcntl.LOCK_EX)  # waits for a `joblane up` or `down` that has not ended
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(f"`joblane dev` runs here already{_by(folder)}: stop it with Ctrl-C first.") from None
        if any(Daemon(name, folder).pid is not None for name in ("ministack", "ticker")):
            raise LocalError("The local stack of `joblane up` runs here, with the same database: `joblane down` first.")
        os.ftruncate(own, 0)
        os.write(own, str(os.getpid()).encode())
        os.close(starting)
        starting = -1
        yield
    finally:
        if starting >= 0:
            os.close(starting)
        os.close(own)


def refuse_if_held(folder: Path) -> None:
    """Raise :class:`LocalError` if `joblane dev` runs in the folder."""
    if is_held(folder):
        raise LocalError(f"`joblane dev` runs here{_by(folder)}, with the same database: stop it with Ctrl-C first.")


def is_held(folder: Path) -> bool:
    """Return true if `joblane dev` runs in the folder."""
    try:
        own = os.open(folder / FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(own)
    return False


def _by(folder: Path) -> str:
    with suppress(OSError):
        if pid := (folder / FILE).read_text(encoding="ascii").strip():
            return f" (process {pid})"
    return ""
