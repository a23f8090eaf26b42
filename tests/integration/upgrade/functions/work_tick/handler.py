"""A task with a schedule."""

from __future__ import annotations

from joblane import TaskContext, task
from tests.integration.upgrade.work import Work, finish


@task("work:tick", schedule="0 2 * * *")
def work_tick(payload: Work, ctx: TaskContext) -> str:
    return finish(payload, ctx)
