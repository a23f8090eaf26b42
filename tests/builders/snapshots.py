"""Old snapshots: real sessions, and the rows of sweeps that make their snapshots old.

A snapshot is as old as the first sweep after it. So a test opens a session, and then writes the rows of sweeps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from tests.builders.rows import In, put
from tests.patience import PATIENCE_SECONDS
from tests.world import World

MINUTE = 60
REPEATABLE = "begin isolation level repeatable read; select 'a query of a dump'"


@contextmanager
def session(url: str, script: str = REPEATABLE, *, name: str = "a dump") -> Iterator[Connection]:
    """Another session, which has run a script. Afterwards the server knows it no more."""
    database = Database(url, limits=None)
    try:
        connection = database.get()
        pid = pid_of(connection)
        connection.execute_simple(f"set application_name = '{name}'; {script}")
        yield connection
    finally:
        database.drop()
    with Database(url) as watching:
        until = time.monotonic() + PATIENCE_SECONDS
        while watching.get().run("select from pg_stat_activity where pid = $1", pid):
            assert time.monotonic() < until, "the server has not ended the session"


def pid_of(connection: Connection) -> int:
    [[pid]] = connection.run("select pg_backend_pid()")
    return int(pid)


def swept(world: World, *minutes_ago: float) -> None:
    """Write the rows of sweeps that have completed so many minutes ago, in transactions of now."""
    for minutes in minutes_ago:
        id_, ended = f"sweep-{minutes}", In(-minutes * MINUTE)
        put(world, jobs_sweep, id_, queue="low", state="completed", created_at=ended, finished_at=ended)
