"""A job that writes a row in its task's transaction, and may be killed."""

from __future__ import annotations

import os
from datetime import timedelta

from sqlalchemy import text

from joblane import TaskContext, task
from tests.bench.functions.peers_noop.handler import Numbered
from tests.bench.peers import kills

TIMEOUT = timedelta(seconds=int(os.environ.get("BENCH_TIMEOUT", "10")))
BATCH = int(os.environ.get("BENCH_BATCH", "1"))
EFFECT = text("insert into effects (number) values (:number)")


@task("peers:effect", timeout=TIMEOUT, batch_size=BATCH)
def peers_effect(payload: Numbered, ctx: TaskContext) -> None:
    fate = kills.Fate(payload.number)
    fate.before_write()
    ctx.session.execute(EFFECT, {"number": payload.number})
    fate.before_commit()
    fate.after_return()
