"""A PostgreSQL for a session of tests, with its data in memory where the system has a folder for that."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from joblane.local.postgres import Postgres

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of an unguessable name is made in it
MEMORY_NEEDED = 2 * 1024**3
"""Bytes free: data and write-ahead log of a long session of tests take under 1 GiB."""
PREFIX, LOCK = "joblane-postgres-", "lock"
LEFT_AFTER_SECONDS = 60.0
"""A younger folder may be one whose owner has not yet come to lock it."""


@contextmanager
def server_for_tests() -> Iterator[Postgres]:
    """Yield a server that runs, and remove it with its data at the end.

    A clone of a database is some 300 files, and to create them on a disk takes nine times as long as in memory.
    """
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=_memory()) as name:
        folder = Path(name)
        with (folder / LOCK).open("w") as lock, Postgres(folder / "postgres") as server:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield server


def _memory() -> Path | None:
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED else None
    except OSError:
        return None


def _remove_left() -> None:
    """Stop and remove the servers of sessions that were killed: nobody holds their locks any more."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        with suppress(OSError):  # removed meanwhile, in use, or another user's
            if time.time() - folder.stat().st_mtime < LEFT_AFTER_SECONDS:
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Postgres(folder / "postgres").stop()
                shutil.rmtree(folder)
