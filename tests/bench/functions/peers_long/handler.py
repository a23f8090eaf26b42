"""A job that takes longer than its timeout, and would then write a row."""

from __future__ import annotations

import time
from datetime import timedelta

from sqlalchemy import text

from joblane import TaskContext, task
from tests.bench.functions.peers_noop.handler import Numbered
from tests.bench.peers import kills

EFFECT = text("insert into effects (number) values (:number)")


@task("peers:long", timeout=timedelta(seconds=10), max_retry=1)
def peers_long(payload: Numbered, ctx: TaskContext) -> None:
    kills.Fate(payload.number)
    time.sleep(kills.long_seconds())
    ctx.session.execute(EFFECT, {"number": payload.number})
