"""The outcome: one ``match`` decides what the end of a handler means for the task."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from joblane.errors import (
    Continued,
    RateLimited,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    Snooze,
    TaskCancelled,
    TaskTimeout,
    UnreadablePayloadError,
    storable,
    text_of,
)
from joblane.json_values import check_tree
from joblane.quotas import MAX_RESULT_BYTES, SNOOZE_CEILING
from joblane.record.row.states import State
from joblane.record.task.finish import Finish
from joblane.tasks.retry import LONGEST, RetryDelay, delay_after
from joblane.tasks.scrubbing import Scrub, scrubber
from joblane.worker.failure import Failure

if TYPE_CHECKING:
    from joblane.record.task.claim import Claim
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

MISMATCH_DELAY, LONGEST_MISMATCH_DELAY = timedelta(minutes=1), timedelta(minutes=15)
MISMATCH_PATIENCE = timedelta(hours=1)
"""A payload waits this long for code that knows its schema. A deploy takes less time. The delay doubles from
``MISMATCH_DELAY`` to ``LONGEST_MISMATCH_DELAY``."""


def failed(
    task: Task[Any, Any], claim: Claim, error: BaseException, duration_ms: int, payload: Payload | None = None
) -> Finish:
    """Return the end of a run whose handler raised ``error``. ``payload``: None if it could not be read."""
    scrub = scrubber(task.payload, claim.payload, payload, headers=claim.headers)
    return replace(_decide(task, claim, error, scrub), duration_ms=duration_ms)


def _decide(  # noqa: PLR0911 - a row each
    task: Task[Any, Any], claim: Claim, error: BaseException, scrub: Scrub
) -> Finish:
    has_attempts_left = claim.attempt < claim.max_attempts
    match error:
        case TaskCancelled():
            return _finish(claim, "cancelled", State.CANCELLED, reason="cancelled while it ran")
        case RevokeTask():
            return _finish(claim, "revoked", State.CANCELLED, reason=text_of(error, scrub))
        case Snooze() if claim.snoozes < SNOOZE_CEILING:
            return _finish(claim, "snoozed", State.PENDING, delay=error.delay, counted=False, snoozed=True)
        case RateLimited():
            return _finish(claim, "rate_limited", State.PENDING, delay=error.delay, counted=False)
        case SkipRetry():
            return _archived(task, claim, error, scrub, f"{type(error).__name__}: {text_of(error, scrub)}")
        case UnreadablePayloadError() if _waits_for_code(task, claim):
            return _finish(claim, "mismatch", State.PENDING, delay=_mismatch_delay(claim), counted=False, mismatch=True)
        case UnreadablePayloadError():
            return _archived(task, claim, error, scrub, f"UnreadablePayloadError: {text_of(error, scrub)}")
        case Continued():
            return _finish(claim, "continued", State.PENDING, counted=False, continued=True)
        case TaskTimeout() if _past_deadline(claim):
            return _archived(task, claim, error, scrub, "DeadlinePassed: the deadline passed while the task ran")
        case RetryAfter() if has_attempts_left:
            return _retry(task, claim, error, scrub, error.delay)
        case _ if has_attempts_left:
            return _retry(task, claim, error, scrub, delay_after(_retry_delay(task, claim), claim.attempt, error))
        case _:
            attempt = f"attempt {claim.attempt} of {claim.max_attempts}"
            reason = f"{attempt} failed: {type(error).__name__}: {text_of(error, scrub)}"
            return _archived(task, claim, error, scrub, reason)


def _waits_for_code(task: Task[Any, Any], claim: Claim) -> bool:
    other_schema = claim.schema is not None and claim.schema != task.schema_digest
    return other_schema and (claim.mismatch_seconds or 0) < MISMATCH_PATIENCE.total_seconds()


def _mismatch_delay(claim: Claim) -> timedelta:
    """Return the time that the task has waited, so that an hour costs :data:`~joblane.quotas.SCHEMA_RECEIVES`."""
    waited = timedelta(seconds=claim.mismatch_seconds or 0)
    return min(max(waited, MISMATCH_DELAY), LONGEST_MISMATCH_DELAY)


def _past_deadline(claim: Claim) -> bool:
    return claim.deadline is not None and time.monotonic() > claim.deadline - 0.5


def _retry_delay(task: Task[Any, Any], claim: Claim) -> RetryDelay:
    """Return the delay that the task was enqueued with, or else the delay that its type declares."""
    delays = claim.options.retry_delay
    return [timedelta(seconds=seconds) for seconds in delays] if delays else task.retry_delay


def _retry(task: Task[Any, Any], claim: Claim, error: BaseException, scrub: Scrub, delay: timedelta) -> Finish:
    outcome = "timeout" if isinstance(error, TaskTimeout) else "failed"
    return _finish(claim, outcome, State.RETRY, delay=delay, failure=Failure.of(task.type, error, scrub))


def _archived(task: Task[Any, Any], claim: Claim, error: BaseException, scrub: Scrub, reason: str) -> Finish:
    return _finish(claim, "archived", State.ARCHIVED, reason=reason, failure=Failure.of(task.type, error, scrub))


def _finish(
    claim: Claim,
    outcome: str,
    state: State,
    *,
    delay: timedelta = timedelta(0),
    reason: str | None = None,
    failure: Failure | None = None,
    **flags: Any,
) -> Finish:
    """``flags``: ``counted``, ``snoozed``, ``mismatch`` and ``continued`` of :class:`Finish`."""
    return Finish(
        claim.id,
        claim.token,
        claim.run,
        outcome,
        state,
        delay_seconds=min(delay, LONGEST).total_seconds(),
        reason=storable(reason) if reason else None,
        **(asdict(failure) if failure else {}),
        **flags,
    )


def storable_result(result: Any) -> Any:
    """Return a handler's result as JSON values. NaN and infinities, which JSON lacks, become null.

    Raises TypeError; the attempt then fails.
    """
    try:
        value = to_jsonable_python(result, inf_nan_mode="null")
        check_tree(value, "result")
        # It fails for an integer of thousands of digits, unlike the others. With its escapes a text is never shorter.
        if (
            len(json.dumps(value)) > MAX_RESULT_BYTES
            and (size := len(json.dumps(value, ensure_ascii=False).encode())) > MAX_RESULT_BYTES
        ):
            raise ValueError(f"it has {size:,} bytes as JSON, and at most {MAX_RESULT_BYTES:,} are stored")
    except ValueError as error:  # MessageError is a ValueError too
        raise TypeError(
            f"the handler's result cannot be stored: {error}; return texts, numbers, lists, dicts or a pydantic model"
        ) from None
    return value
