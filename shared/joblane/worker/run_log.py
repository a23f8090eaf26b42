"""What an invocation reports of its runs: log lines and metrics without payload values, and what each run cost.

The cost is an estimate from the table of prices, kept with the run. Counted are its time and memory in Lambda, its
share of the invocation, and of the calls to SQS. Left out is what a run cannot know, or what is there without it: a
cold start, the finish itself (which is written before it is over), the database, the network, logs and metrics, the
surcharge of fair queues, bodies above 64 KiB, and what the handler calls. A run that was lost has no estimate: nobody
knows how long it took.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.prices import PRICES, compute
from joblane.record.states import State
from joblane.sqs.traceparent import log_fields

if TYPE_CHECKING:
    from joblane.declaration import Task
    from joblane.queues import Queue
    from joblane.record.claim import Claim
    from joblane.record.finish import Finish

METRICS = {
    State.COMPLETED: "Succeeded",
    State.RETRY: "Retried",
    State.PENDING: "Snoozed",
    State.ARCHIVED: "Archived",
    State.CANCELLED: "Cancelled",
}
MEMORY_VARIABLE = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
"""Source: Lambda, *Defined runtime environment variables*; in MB."""
CALLS_FOR_ALL = 2
"""One request receives the messages of an invocation, and one deletes them or has them wait."""


class RunLog:
    """Gathers the runs of one task type; :meth:`write` ends an invocation.

    What completed is one line for all: written one by one, a batch's lines cost more than its no-op jobs. What did not
    complete has a line of its own.
    """

    def __init__(self, task: Task[Any, Any]) -> None:
        self._type = task.type
        self._runs: list[tuple[Claim, Finish]] = []
        self._archived: list[Claim] = []
        given = os.environ.get(MEMORY_VARIABLE, "")
        self._memory_mb = int(given) if given.isdecimal() else task.memory_mb
        self._millisecond = compute(os.uname().machine).each * self._memory_mb / 1024 / 1000
        self._request = PRICES["Lambda request"].each
        self._call = PRICES["SQS request"].each
        self._shared_ms = self._shared_usd = 0.0

    def begin(self, runs: int, milliseconds: int) -> None:
        """``runs`` share an invocation, and in it ``milliseconds`` up to the start of the first."""
        parts = runs or 1
        self._shared_ms = milliseconds / parts
        self._shared_usd = (self._request + CALLS_FOR_ALL * self._call) / parts

    def price(self, claim: Claim, end: Finish) -> None:
        """Write into ``end`` what the run has cost. Lambda bills each millisecond begun."""
        own_calls = (claim.run == 1) + (end.state is State.ARCHIVED)  # the message was sent; its dead letter is
        end.billed_ms = math.ceil(end.duration_ms + self._shared_ms)
        end.memory_mb = self._memory_mb
        end.cost_usd = end.billed_ms * self._millisecond + self._shared_usd + own_calls * self._call

    def add(self, claim: Claim, end: Finish) -> None:
        """A run whose end is recorded."""
        self._runs.append((claim, end))

    def add_archived(self, claim: Claim) -> None:
        """A task that the claim has archived, after a run that was lost or past its deadline: no run ends by that."""
        self._archived.append(claim)

    def write(self, queue: Queue) -> None:
        """Write what was gathered, and begin anew."""
        logger = telemetry.logger()
        common = {"task_type": self._type, "queue": queue.value}
        completed: list[dict[str, Any]] = []
        for claim in self._archived:
            fields = fields_of(claim) | {"reason": claim.reason, "outcome": "archived"}
            logger.warning(f"task {State.ARCHIVED}", extra=common | fields)
        for claim, end in self._runs:
            if end.state is State.COMPLETED:
                completed.append(fields_of(claim) | {"ms": end.duration_ms})
            else:
                logger.warning(f"task {end.state}", extra=common | fields_of(claim) | _end_fields(end))
        if completed:
            logger.info("tasks completed", extra=common | {"outcome": "completed", "tasks": completed})
        tally = telemetry.Tally()
        for _ in self._archived:
            tally.count(METRICS[State.ARCHIVED])
        for claim, end in self._runs:
            tally.count("Started")
            tally.count("Continued" if end.continued else METRICS[end.state])
            tally.time("WaitMs", claim.waited_ms)
            tally.time("DurationMs", end.duration_ms)
        tally.flush(**common)
        self._runs, self._archived = [], []


def fields_of(claim: Claim) -> dict[str, Any]:
    fields = {"task_id": claim.id, "attempt": claim.attempt}
    return fields | log_fields(claim.headers, claim.id, claim.run) if claim.headers else fields


def _end_fields(end: Finish) -> dict[str, Any]:
    why = {"error_type": end.error_type, "fingerprint": end.fingerprint, "reason": end.reason}
    fields = {"outcome": end.outcome, "ms": end.duration_ms} | {name: value for name, value in why.items() if value}
    if end.state in (State.RETRY, State.PENDING):
        fields["again_in_seconds"] = end.visibility_seconds
    return fields
