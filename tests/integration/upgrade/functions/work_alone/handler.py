"""A task that runs one at a time, until the test lets it end."""

from __future__ import annotations

from datetime import timedelta

from joblane import TaskContext, task
from tests.integration.upgrade.work import Work, finish, stay


@task("work:alone", max_total=1, retry_delay=timedelta(hours=1))
def work_alone(payload: Work, ctx: TaskContext) -> str:
    stay()
    return finish(payload, ctx)
