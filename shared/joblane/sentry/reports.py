"""Reports of runs to Sentry: an event for each error, a transaction for a share of the runs, a check-in for each tick.

The strings of an error are as in its row, without the values of redacted fields. A frame has no variables.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from traceback import FrameSummary, walk_tb
from typing import TYPE_CHECKING, Any

import sentry_sdk

from joblane import settings
from joblane.background import FLUSH_SECONDS, Background
from joblane.errors import NO_FAILURES, TaskTimeout, storable, text_of
from joblane.forking import at_end
from joblane.names import OWN_TYPES
from joblane.record.row.states import State
from joblane.sqs.message import TICK_ID_PATTERN
from joblane.tasks.redaction import masked
from joblane.tasks.scrubbing import Scrub, scrubber

if TYPE_CHECKING:
    from joblane.names import Queue
    from joblane.record.task.claim import Claim
    from joblane.record.task.finish import Finish
    from joblane.sqs.message import Received
    from joblane.tasks.task import Task

NO_ERRORS = (TaskTimeout.__name__,)
"""The failures that are not reported: interrupts by the library."""
MOST_LINKS = 20
"""The errors of an event, including causes."""
MAX_SLUG = 50
"""Source: Sentry, *Crons*, monitor slug."""
TICK_TIME = re.compile(r":[0-9-]{10}T[0-9:]{5}Z(:\d+)?$")
"""The end of a tick's id, after the name of its schedule."""
ENDED = {State.COMPLETED: "ok", State.CANCELLED: "ok", State.ARCHIVED: "error"}
"""State in which a tick's task ends → status of the check-in."""


@dataclass(slots=True)
class Report:
    """A run, from its start to its report."""

    task: Task[Any, Any]
    tags: Mapping[str, str]
    stack: ExitStack
    transaction: Any


class Reports:
    """Observes the runs of this process."""

    def __init__(self) -> None:
        self._background = Background("Sentry events", _flush, None)
        at_end(lambda: self._background.flush(FLUSH_SECONDS))
        self._sends_payload = settings.is_on(settings.SENTRY_PAYLOAD)

    def begin(
        self, task: Task[Any, Any], claim: Claim, received: Received, *, queue: Queue, request_id: str, claim_ms: int
    ) -> Report | None:
        """Start the transaction of a run, and the check-in of a tick."""
        if task.type.startswith(OWN_TYPES):
            return None
        stack = ExitStack()
        stack.enter_context(sentry_sdk.isolation_scope())
        tags = {
            "joblane.type": task.type,
            "joblane.task_id": claim.id,
            "joblane.attempt": str(claim.attempt),
            "joblane.queue": queue.value,
            "joblane.request_id": request_id,
        }
        transaction = sentry_sdk.start_transaction(op="queue.process", name=task.type, source="task")
        stack.enter_context(transaction)
        if claim.run == 1:
            _check_in(task, claim, "in_progress")
        return Report(task, tags, stack, transaction)

    def leave(
        self, report: Report | None, claim: Claim, end: Finish | None, error: BaseException | None, payload: Any
    ) -> None:
        """Report the end of a run. ``payload``: as the handler got it; None: it could not be read."""
        if report is None:
            return
        outcome = "lease_lost" if end is None else end.outcome
        tags = {**report.tags, "joblane.outcome": outcome}
        is_error = end is not None and end.error_type is not None and end.error_type not in NO_ERRORS
        if end is not None and is_error and error is not None:
            event = self._event(report.task, claim, error, payload)
            event |= {"fingerprint": [end.fingerprint], "tags": tags}
            sentry_sdk.capture_event(event)
        for name, value in tags.items():
            report.transaction.set_tag(name, value)
        report.transaction.set_status("internal_error" if is_error else "ok")
        report.stack.close()
        if end is not None and end.state in ENDED:
            _check_in(report.task, claim, ENDED[end.state])

    def end(self, report: Report | None, claim: Claim, end: Finish | None, finish_ms: int | None) -> None:
        """Do nothing. The end of the handler is reported."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Put a span around a step."""
        ended: BaseException | None = None
        with sentry_sdk.start_span(op="joblane.step", name=name):
            try:
                yield
            except NO_FAILURES as error:
                ended = error
        try:
            if ended is not None:
                raise ended
        finally:
            del ended  # it keeps this frame

    def flush(self, seconds: float) -> None:
        """Wait at most this long for the sends."""
        self._background.flush(seconds)

    def _event(self, task: Task[Any, Any], claim: Claim, error: BaseException, payload: Any) -> Any:
        scrub = scrubber(task.payload, claim.payload, payload, headers=claim.headers)
        event = {
            "level": "error",
            "transaction": task.type,
            "exception": {"values": [_exception(each, scrub) for each in _chain(error)][::-1]},
        }
        if self._sends_payload:
            event["extra"] = {"payload": masked(task.payload, claim.payload)}
        return event


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: list[BaseException] = []
    while error is not None and error not in seen and len(seen) < MOST_LINKS:
        yield error
        seen.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _exception(error: BaseException, scrub: Scrub) -> dict[str, Any]:
    frames = []
    for frame, line in walk_tb(error.__traceback__):
        code = frame.f_code
        summary = FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
        frames.append(
            {
                "filename": code.co_filename.rpartition("/")[2],
                "abs_path": code.co_filename,
                "module": frame.f_globals.get("__name__"),
                "function": code.co_name,
                "lineno": line,
                "context_line": summary.line,
            }
        )
    return {
        "type": scrub(storable(type(error).__name__)),
        "module": type(error).__module__,
        "value": text_of(error, scrub),
        "mechanism": {"type": "joblane", "handled": False},
        "stacktrace": {"frames": frames},
    }


def _check_in(task: Task[Any, Any], claim: Claim, status: str) -> None:
    """Send the check-in of a tick. All runs of its task, in any process, have the same one."""
    if not TICK_ID_PATTERN.fullmatch(claim.id):
        return
    name = TICK_TIME.sub("", claim.id)
    declared = {f"{task.type}:{schedule.name}": schedule for schedule in task.schedules}
    schedule = declared.get(name)
    sentry_sdk.crons.capture_checkin(
        monitor_slug=_slug(name),
        check_in_id=hashlib.sha256(claim.id.encode()).hexdigest()[:32],
        status=status,
        monitor_config=None
        if schedule is None
        else {"schedule": {"type": "crontab", "value": schedule.text}, "timezone": schedule.timezone},
    )


def _slug(name: str) -> str:
    """Return the slug of a schedule's monitor. A digest of the name stands for what does not fit."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")
    return slug if len(slug) <= MAX_SLUG else f"{slug[: MAX_SLUG - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _flush() -> bool:
    started = time.monotonic()
    sentry_sdk.flush(FLUSH_SECONDS)
    return time.monotonic() - started < FLUSH_SECONDS
