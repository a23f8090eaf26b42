"""A task that does what its payload says. It runs under the code of an earlier release, and under this code."""

from __future__ import annotations

from datetime import timedelta

from joblane import Grants, Job, SkipRetry, TaskContext, task
from tests.integration.upgrade.work import OLD, Work, finish, stay, write


@task("work:do", retry_delay=timedelta(hours=1), grants=Grants(run=("work:do",), enqueue=("work:do",)))
def work_do(payload: Work, ctx: TaskContext) -> str:
    if payload.do == "fail" and ctx.attempt == 1:
        raise RuntimeError("the first attempt")
    if payload.do == "refuse" and OLD:
        raise SkipRetry("not with this release")
    if payload.do == "stay":
        stay()
    if payload.do == "wait":
        ctx.step("ask", lambda key: write(ctx, "asked"))
        ctx.wait("answer", timeout=timedelta(days=2))
    if payload.do == "sleep":
        ctx.step("pause", lambda key: write(ctx, "paused"))
        ctx.sleep("night", timedelta(hours=8))
    if payload.do == "gather":
        ctx.gather("parts", [Job(work_do, Work(do="write")), Job(work_do, Work(do="write"))])
    return finish(payload, ctx)
