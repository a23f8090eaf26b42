"""The verdict: one ``match`` decides what happens to the message of a task that does not run now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.quotas import EARLY_RECEIVES, MAX_DELAY_SECONDS
from joblane.record.task.claim import Verdict
from joblane.sqs.dead_letter import refused_dead_letter
from joblane.worker.invocation import growing_seconds

if TYPE_CHECKING:
    from joblane.sqs.client import Entry
    from joblane.worker.run import Run

LOCKED_SECONDS = 5
"""The first visibility timeout of a message whose row is locked. Another run's finish or an operator's edit holds a
lock for a short time, but a transaction that enqueues may hold it for minutes."""


def decide(run: Run, log_fields: dict[str, Any]) -> Entry | int | None:  # noqa: PLR0911 - a row each
    """Return the entry to send instead of the message, or its visibility timeout in seconds.

    None: the message is acknowledged, or claimed alone.
    """
    claim, received = run.claim, run.received
    match claim.verdict:
        case Verdict.WAIT if claim.wait_seconds <= MAX_DELAY_SECONDS:
            return run.again(claim.wait_seconds) if received.receives > EARLY_RECEIVES else claim.wait_seconds
        case Verdict.LEASED:
            return claim.wait_seconds + 1
        case Verdict.LOCKED:
            if received.receives > 1:  # the first time it may be another run's claim or finish
                telemetry.logger().warning(
                    "the task's row is locked by another transaction; SQS will deliver the message again",
                    extra=log_fields,
                )
            return growing_seconds(received.receives, LOCKED_SECONDS)
        case Verdict.TAKEN:  # another task holds the unique key: the message stays a dead letter of this task
            return run.dead_letter(claim.reason or "DuplicateTask: its unique key is held by another task")
        case Verdict.CONFLICT:
            reason = f"IdConflict: {claim.id!r} is the id of another task, or of another payload"
            return refused_dead_letter(received, reason)
        case Verdict.REFUSED:
            return refused_dead_letter(received, f"the database cannot store this message: {claim.reason}")
        case Verdict.WAIT | Verdict.HELD | Verdict.PAUSED | Verdict.ENDED | Verdict.OBSOLETE | Verdict.GONE:
            telemetry.logger().info("message acknowledged", extra=log_fields | {"verdict": claim.verdict})
    return None
