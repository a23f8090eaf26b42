"""A PostgreSQL server for a test session. It keeps its data in memory if the system has a folder for that."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from joblane.local.postgres import Postgres

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of an unguessable name is made in it
MEMORY_NEEDED = 2 * 1024**3
"""The free bytes that are required. Data and write-ahead log of a long test session take less than 1 GiB."""
SETTINGS = {"autovacuum": "off"}
"""Statistics that appear at any time during a test would change plans, and what statements read."""
PREFIX, LOCK = "joblane-postgres-", "lock"
LEFTOVER_AFTER_SECONDS = 60.0
"""The owner of a younger folder may not have locked it yet."""


@contextmanager
def server_for_tests() -> Iterator[Postgres]:
    """Yield a running server, and remove it with its data at the end.

    A clone of a database has about 300 files. Creating them on a disk takes nine times as long as in memory.
    """
    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=_memory()) as name:
        folder = Path(name)
        with (folder / LOCK).open("w") as lock, Postgres(folder / "postgres", settings=SETTINGS) as server:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield server


def _memory() -> Path | None:
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED else None
    except OSError:
        return None


def _remove_leftovers() -> None:
    """Stop and remove the servers of killed sessions, whose locks are free."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        with suppress(OSError):  # already removed, or in use
            found = folder.lstat()
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < LEFTOVER_AFTER_SECONDS:
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Postgres(folder / "postgres").stop()
                shutil.rmtree(folder)
