"""A job that returns the time at which its handler started last, before or after a wait for a signal."""

from __future__ import annotations

import time
from datetime import timedelta

from joblane import Payload, TaskContext, task

SIGNAL = "go"


class BenchWait(Payload):
    waits: bool = True


@task("bench:wait", timeout=timedelta(seconds=10))
def bench_wait(payload: BenchWait, ctx: TaskContext) -> float:
    started = time.time()
    if payload.waits:
        ctx.wait(SIGNAL, timeout=timedelta(days=30))
    return started
