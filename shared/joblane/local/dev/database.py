"""Noticing that PostgreSQL was killed or stopped while the command runs."""

from __future__ import annotations

import asyncio

from joblane.local.dev.log import GREEN, RED, Log
from joblane.local.postgres import Postgres

CHECK_SECONDS = 0.5


async def await_end(postgres: Postgres, log: Log) -> None:
    """Return when the running server has ended by itself, and say so, as of a server that a signal has stopped."""
    was_stopped = False
    while postgres.running:
        if (stopped := postgres.stopped) != was_stopped:
            was_stopped = stopped
            if stopped:
                log.say(f"PostgreSQL is stopped by a signal: tasks wait until `kill -CONT {postgres.pid}`.", RED)
            else:
                log.say("PostgreSQL runs again.", GREEN)
        await asyncio.sleep(CHECK_SECONDS)
    log.say(
        f"PostgreSQL was killed, and starts again. Its log is {postgres.log}. A run that it has interrupted counts as "
        "an attempt.",
        RED,
    )
