"""The report of an invocation: log lines and metrics without payload values, and the cost of each run.

The cost is an estimate from the table of prices, stored with the run. It includes the run's time and memory in Lambda,
its share of the invocation, and its share of the SQS calls. It excludes fixed costs and costs that a run cannot know: a
cold start, the finish itself, the database, the network, logs and metrics, the surcharge of fair queues, bodies above
64 KiB, and the services that the handler calls. A lost run has no estimate, because its duration is unknown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.prices import PRICES, compute, invocation_dollars
from joblane.record.row.states import State
from joblane.record.task.finish import LATER
from joblane.sqs.traceparent import log_fields

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.record.task.claim import Claim
    from joblane.record.task.finish import Finish
    from joblane.tasks.task import Task

METRICS = {
    State.COMPLETED: "Completed",
    State.RETRY: "Retried",
    State.PENDING: "Snoozed",
    State.SCHEDULED: "Stopped",
    State.HELD: "Stopped",
    State.ARCHIVED: "Archived",
    State.CANCELLED: "Cancelled",
}
MEMORY_VARIABLE = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
"""Source: Lambda, *Defined runtime environment variables*; in MB."""

Ended = tuple["Claim", "Finish", str | None]
"""A run whose end is recorded, with its tenant."""


class RunLog:
    """Reports the runs of one task type.

    Completed tasks share one log line, because a line per task would cost more than a batch of no-op jobs. Every other
    task has its own line.
    """

    def __init__(self, task: Task[Any, Any]) -> None:
        self._type = task.type
        self._completed = telemetry.frequent_line("tasks completed")
        memory = os.environ.get(MEMORY_VARIABLE, "")
        self._memory_mb = int(memory) if memory.isdecimal() else task.memory_mb
        self._usd_per_ms = compute(os.uname().machine).each * self._memory_mb / 1024 / 1000
        self._usd_per_invocation = invocation_dollars()
        self._usd_per_call = PRICES["SQS request"].each
        self._shared_ms = self._shared_usd = 0.0

    def begin(self, runs: int, milliseconds: int) -> None:
        """Start an invocation: ``runs`` share it, and the ``milliseconds`` before the first of them started."""
        parts = runs or 1
        self._shared_ms = milliseconds / parts
        self._shared_usd = self._usd_per_invocation / parts

    def price(self, claim: Claim, end: Finish) -> None:
        """Write the cost of the run into ``end``. Lambda bills each started millisecond."""
        own_calls = (claim.run == 1) + (end.state is State.ARCHIVED)  # sending the message, sending the dead letter
        end.billed_ms = math.ceil(end.duration_ms + self._shared_ms)
        end.memory_mb = self._memory_mb
        end.cost_usd = end.billed_ms * self._usd_per_ms + self._shared_usd + own_calls * self._usd_per_call

    def write(self, queue: Queue, runs: Sequence[Ended], archived: Sequence[Claim]) -> None:
        """Write the log lines and metrics of an invocation.

        ``archived``: the tasks that a claim has archived after a lost run or a passed deadline. No run reports that.
        """
        logger = telemetry.logger()
        common = {"task_type": self._type, "queue": queue.value}
        completed: list[dict[str, Any]] = []
        for claim in archived:
            fields = fields_of(claim) | {"reason": claim.reason, "outcome": "archived"}
            logger.warning(f"task {State.ARCHIVED}", extra=common | fields)
        for claim, end, tenant in runs:
            if end.state is State.COMPLETED:
                completed.append(fields_of(claim) | {"ms": end.duration_ms})
            else:
                of_tenant = {"tenant": tenant} if tenant else {}
                log = logger.info if end.stop is not None else logger.warning
                log(f"task {end.state}", extra=common | fields_of(claim) | of_tenant | _end_fields(end))
        if completed:
            self._completed.write(common | {"outcome": "completed", "tasks": completed})
        counts: dict[str, float] = {METRICS[State.ARCHIVED]: len(archived)} if archived else {}
        times: dict[str, list[int]] = {}
        if runs:
            counts["Started"] = len(runs)
            for _, end, _ in runs:
                metric = "Continued" if end.continued else METRICS[end.state]
                counts[metric] = counts.get(metric, 0) + 1
            times["WaitMs"] = [claim.waited_ms for claim, _, _ in runs]
            times["DurationMs"] = [end.duration_ms for _, end, _ in runs]
        telemetry.write_metrics(counts, times, METRICS[State.ARCHIVED], **common)


def fields_of(claim: Claim) -> dict[str, Any]:
    fields = {"task_id": claim.id, "attempt": claim.attempt}
    if claim.span is not None:
        return fields | claim.span.log_fields
    return fields | log_fields(claim.headers, claim.id, claim.run) if claim.headers else fields


def _end_fields(end: Finish) -> dict[str, Any]:
    cause = {"error_type": end.error_type, "fingerprint": end.fingerprint, "reason": end.reason}
    fields = {"outcome": end.outcome, "ms": end.duration_ms} | {name: value for name, value in cause.items() if value}
    if end.reason is None and end.error_message:  # a reason has it
        fields["error"] = end.error_message
    if end.state in LATER:
        fields["again_in_seconds"] = end.visibility_seconds
    return fields
