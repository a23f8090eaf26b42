"""A job that does nothing, in batches of ten, and a bare Lambda that does nothing and writes no row."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from joblane import Payload, TaskContext, task


class BenchNoop(Payload):
    number: int


@task("bench:noop", timeout=timedelta(seconds=10), batch_size=10)
def bench_noop(payload: BenchNoop, ctx: TaskContext) -> None:
    pass


def bare(event: dict[str, Any], _context: Any) -> dict[str, list[Any]]:
    """Read each body and write one log line, as a handler does."""
    numbers = [json.loads(record["body"])["payload"]["number"] for record in event["Records"]]
    print(json.dumps({"level": "INFO", "message": "done", "count": len(numbers)}))
    return {"batchItemFailures": []}
