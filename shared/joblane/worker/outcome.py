"""The outcome: one ``match`` decides what the end of a handler means for the task.

A failure is the stored form of an error: class, text, traceback, and a fingerprint that groups equal errors.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback as tracebacks
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from joblane import telemetry
from joblane.errors import (
    MAX_TEXT,
    Continued,
    HookError,
    RateLimited,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    Snooze,
    StepError,
    TaskCancelled,
    TaskTimeout,
    UnreadablePayloadError,
    shortened,
    storable,
    text_of,
)
from joblane.json_values import check_tree
from joblane.quotas import MAX_RESULT_BYTES, SNOOZE_CEILING
from joblane.record.causes import normalised
from joblane.record.row.states import State
from joblane.record.task.finish import Finish
from joblane.tasks.retry import LONGEST, RetryDelay, delay_after
from joblane.tasks.scrubbing import Scrub, scrubber
from joblane.worker.invocation import growing_seconds

if TYPE_CHECKING:
    from types import TracebackType

    from joblane.record.task.claim import Claim
    from joblane.record.task.stop import Stop, WaitsOfRun
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task

PAST_DEADLINE = "DeadlinePassed: the deadline passed while the task ran"
MISMATCH_DELAY, LONGEST_MISMATCH_DELAY = timedelta(minutes=1), timedelta(minutes=15)
MISMATCH_PATIENCE = timedelta(hours=1)
"""A payload waits this long for code that knows its schema. A deploy takes less time. The delay doubles from
``MISMATCH_DELAY`` to ``LONGEST_MISMATCH_DELAY``."""
MAX_TRACEBACK = 8_000
MAX_ERRORS = 50
"""The most errors of one traceback, including causes and members of exception groups."""
NOT_PROJECT_CODE = (str(Path(__file__).parents[1]), str(Path(os.__file__).parent), "/opt/python/", "<")
"""Prefixes of files outside of the project: this library, the standard library, Lambda's layers, and code without a
file."""
ROOT = f"{Path.cwd()}/"
"""The folder of the function, or of the project."""
CAUSE_LINE = "The above exception was the direct cause of the following exception:"
CONTEXT_LINE = "During handling of the above exception, another exception occurred:"
"""Python's own lines between two tracebacks."""


def failed(
    task: Task[Any, Any],
    claim: Claim,
    error: BaseException,
    duration_ms: int,
    payload: Payload | None = None,
    *,
    note: str = "",
    receives: int = 1,
) -> Finish:
    """Return the end of a run whose handler raised ``error``. ``payload``: None if it could not be read.

    ``note``: lines without redacted values, for the end of the traceback. ``receives``: of the message.
    """
    scrub = scrubber(task.payload, claim.payload, payload, headers=claim.headers)
    if isinstance(error, HookError) and error.is_early:
        end = _not_started(task, claim, error, scrub, receives)
    else:
        end = _decide(task, claim, error, scrub)
    end = replace(end, duration_ms=duration_ms)
    if note and end.traceback:
        end = replace(end, traceback=(end.traceback + storable(note))[-MAX_TRACEBACK:])
    return end


CAUGHT = (
    "the handler has caught the stop of the run. Do not catch it: it is no Exception, and comes from the wait; catch "
    "Exception instead of BaseException, and do not wait in an asyncio.TaskGroup, which raises a group instead"
)


def stopped(claim: Claim, stop: Stop) -> Finish:
    """Return the end of a run that stops at a wait."""
    end = _finish(claim, "waiting", State.SCHEDULED, counted=False)
    end.stop = stop
    return end


def check_waits(waits: WaitsOfRun) -> None:
    """Raise :class:`StepError` if a handler has returned, although one of its waits was misplaced or has stopped it."""
    if waits.misplaced is not None:
        raise waits.misplaced
    if waits.stop is not None:
        raise StepError(waits.stop.name, CAUGHT)


UNUSED = (
    "the run has completed without steps or waits of earlier runs; if they were renamed, their functions were called "
    "again under the new names"
)
MOST_UNUSED = 20
"""The most names in the log."""


def warn_unused(
    names: Sequence[str], task: Task[Any, Any], claim: Claim, payload: Payload, fields: Mapping[str, Any]
) -> None:
    """Log the names of stored steps and waits that a completed run has not used. ``fields``: of the run's log lines."""
    scrub = scrubber(task.payload, claim.payload, payload, headers=claim.headers)
    shown = [scrub(name) for name in names[:MOST_UNUSED]]
    telemetry.logger().warning(UNUSED, extra={**fields, "names": shown, "unused": len(names)})


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
        case UnreadablePayloadError() if _waits_for_code(task, claim):
            return _finish(claim, "mismatch", State.PENDING, delay=_mismatch_delay(claim), counted=False, mismatch=True)
        case SkipRetry() | UnreadablePayloadError():
            return _archived(task, claim, error, scrub)
        case Continued():
            return _finish(claim, "continued", State.PENDING, counted=False, continued=True)
        case TaskTimeout() if _past_deadline(claim):
            return _archived(task, claim, error, scrub, reason=PAST_DEADLINE)
        case RetryAfter() if has_attempts_left:
            return _retry(task, claim, error, scrub, error.delay)
        case _ if has_attempts_left:
            return _retry(task, claim, error, scrub, delay_after(_retry_delay(task, claim), claim.attempt, error))
        case _:
            attempt = f"attempt {claim.attempt} of {claim.max_attempts}"
            return _archived(task, claim, error, scrub, attempts=f"{attempt} failed: ")


def _not_started(task: Task[Any, Any], claim: Claim, error: BaseException, scrub: Scrub, receives: int) -> Finish:
    """Return the end of a run whose handler could not start: no attempt, and the wait of a message in an outage."""
    delay, failure = timedelta(seconds=growing_seconds(receives)), Failure.of(task.type, error, scrub)
    return _finish(claim, "not_started", State.PENDING, delay=delay, failure=failure, counted=False)


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


def _archived(
    task: Task[Any, Any],
    claim: Claim,
    error: BaseException,
    scrub: Scrub,
    *,
    reason: str | None = None,
    attempts: str = "",
) -> Finish:
    """``reason`` None: the error, after ``attempts``."""
    failure = Failure.of(task.type, error, scrub)
    reason = reason or f"{attempts}{failure.error_type}: {failure.error_message}"
    return _finish(claim, "archived", State.ARCHIVED, reason=reason, failure=failure)


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
        reason=reason,
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
            f"the handler's result cannot be stored: {error}; return strings, numbers, lists, dicts or a pydantic model"
        ) from None
    return value


@dataclass(frozen=True, slots=True)
class Failure:
    error_type: str
    error_message: str
    fingerprint: str
    traceback: str

    @classmethod
    def of(cls, type_: str, error: BaseException, scrub: Scrub) -> Failure:
        """``scrub``: removes redacted values from strings, see :mod:`joblane.tasks.scrubbing`."""
        name = scrub(storable(type(error).__name__))
        stack = tracebacks.extract_tb(error.__traceback__)
        frames = [frame for frame in stack if is_project_code(frame.filename)]
        where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].name}" if frames else ""
        message = text_of(error, scrub)
        key = "|".join((type_, name, normalised(message), where))
        return cls(
            error_type=name,
            error_message=message,
            fingerprint=hashlib.sha256(key.encode(errors="replace")).hexdigest()[:16],
            traceback=storable(_traceback(error, scrub, message)),
        )


def _traceback(error: BaseException, scrub: Scrub, message: str) -> str:
    """Return the last :data:`MAX_TRACEBACK` characters of the traceback. Only their texts are scrubbed."""
    kept: list[str] = []
    size = 0
    for part in reversed(list(_parts(error, scrub, set(), message))):
        text = part if isinstance(part, str) else part()
        kept.append(text)
        size += len(text)
        if size >= MAX_TRACEBACK:
            break
    return "".join(reversed(kept))[-MAX_TRACEBACK:]


def is_project_code(file: str) -> bool:
    """True for the project's own code. The fingerprint uses the innermost such frame, not one in a library."""
    return not file.startswith(NOT_PROJECT_CODE) and "/site-packages/" not in file


Part = str | Callable[[], str]
"""A part of a traceback, or a function that returns it, because only the last parts are used."""


def _parts(error: BaseException, scrub: Scrub, seen: set[int], message: str | None = None) -> Iterator[Part]:
    """Yield the traceback as Python prints it, causes first, with the errors' texts from :func:`text_of`.

    ``message``: the text of ``error``, if it is known.
    """
    for position, link in enumerate(_chain(error, seen)):
        if position:
            yield f"\n{CAUSE_LINE if link.__cause__ else CONTEXT_LINE}\n\n"
        if link.__traceback__ is not None:
            yield "Traceback (most recent call last):\n"
            yield from _frames(link.__traceback__)
        yield partial(_line, link, scrub, message if link is error else None)
        for note in getattr(link, "__notes__", ()):
            yield partial(_note, note, scrub)
        for number, member in enumerate(link.exceptions if isinstance(link, BaseExceptionGroup) else (), 1):
            if id(member) not in seen and len(seen) < MAX_ERRORS:
                yield f"\n{number} of the group:\n\n"
                yield from _parts(member, scrub, seen)


def _frames(trace: TracebackType) -> list[str]:
    """The frames as Python prints them. The paths of the project's own code are relative to the function's folder."""
    stack = tracebacks.extract_tb(trace)
    for frame in stack:
        if is_project_code(frame.filename):
            frame.filename = frame.filename.removeprefix(ROOT)
    return stack.format()


def _line(error: BaseException, scrub: Scrub, message: str | None) -> str:
    return f"{scrub(type(error).__qualname__)}: {message or text_of(error, scrub)}\n"


def _note(note: object, scrub: Scrub) -> str:
    return f"{scrub(shortened(str(note), MAX_TEXT))}\n"


def _chain(error: BaseException, seen: set[int]) -> list[BaseException]:
    """Return the error and its causes, first cause first. A loop that catches and raises makes thousands of them."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(seen) < MAX_ERRORS:
        seen.add(id(link))
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain[::-1]
