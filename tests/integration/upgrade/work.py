"""The payload and the effects of the tasks. The next release of the application has one more field."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy import text

from joblane import Payload, TaskContext

RELEASE, GO = "UPGRADE_RELEASE", "UPGRADE_GO"
"""Variables: ``old`` or ``new``, and a file that lets running tasks end."""
OLD = os.environ.get(RELEASE) == "old"
EFFECT = text("insert into effects values (:id, :what, :by)")


class Work(Payload):
    do: str = "write"
    if not OLD:
        unit: str = "euro"


def write(ctx: TaskContext, what: str) -> None:
    """Write an effect in the run's transaction."""
    ctx.session.execute(EFFECT, {"id": ctx.task_id, "what": what, "by": "old" if OLD else "new"})


def finish(payload: Work, ctx: TaskContext) -> str:
    write(ctx, "done" if OLD else f"done in {payload.unit}")
    return payload.do


def stay() -> None:
    while not Path(os.environ[GO]).exists():
        time.sleep(0.01)
