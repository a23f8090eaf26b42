"""What an invocation tells of its runs: log lines and metrics, without a payload value in either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.record.finish import Finish
from joblane.record.states import State
from joblane.sqs.traceparent import log_fields

if TYPE_CHECKING:
    from joblane.queues import Queue
    from joblane.record.claim import Claim

METRICS = {
    State.COMPLETED: "Succeeded",
    State.RETRY: "Retried",
    State.PENDING: "Snoozed",
    State.ARCHIVED: "Archived",
    State.CANCELLED: "Cancelled",
}


class Report:
    """Gathers the runs of one task type; :meth:`write` ends an invocation.

    What completed is one line for all: written one by one, a batch's lines cost more than its no-op jobs. What did not
    complete has a line of its own.
    """

    def __init__(self, type_: str) -> None:
        self._type = type_
        self._tally = telemetry.Tally()
        self._completed: list[dict[str, Any]] = []
        self._others: list[tuple[State, dict[str, Any]]] = []

    def add(self, claimed: Claim, end: Finish) -> None:
        """One run that has ended."""
        fields = {"task_id": claimed.id, "attempt": claimed.attempt, "ms": end.duration_ms} | _trace(claimed)
        if end.state is State.COMPLETED:
            self._completed.append(fields)
        else:
            if end.state in (State.RETRY, State.PENDING):
                fields["again_in_seconds"] = end.visibility_seconds
            told = {"error_type": end.error_type, "fingerprint": end.fingerprint, "reason": end.reason}
            fields |= {"outcome": end.outcome} | {name: value for name, value in told.items() if value}
            self._others.append((end.state, fields))
        self._tally.count("Started")
        self._tally.count("Continued" if end.continued else METRICS[end.state])
        self._tally.time("WaitMs", claimed.waited_ms)
        self._tally.time("DurationMs", end.duration_ms)

    def given_up(self, claimed: Claim) -> None:
        """One that the claim has archived, after a run that was lost or past its deadline: no run ends by that."""
        fields = {"task_id": claimed.id, "attempt": claimed.attempt, "reason": claimed.reason} | _trace(claimed)
        self._others.append((State.ARCHIVED, fields | {"outcome": "archived"}))
        self._tally.count(METRICS[State.ARCHIVED])

    def write(self, queue: Queue) -> None:
        """Write what was gathered, and begin anew."""
        logger, words = telemetry.logger(), {"task_type": self._type, "queue": queue.value}
        for state, fields in self._others:
            logger.warning(f"task {state}", extra=words | fields)
        if self._completed:
            logger.info("tasks completed", extra=words | {"outcome": "completed", "tasks": self._completed})
        self._completed, self._others = [], []
        self._tally.flush(task_type=self._type, queue=queue.value)


def _trace(claimed: Claim) -> dict[str, str]:
    return log_fields(claimed.headers, claimed.id, claimed.run)
