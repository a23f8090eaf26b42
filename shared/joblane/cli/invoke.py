"""Running one handler in this process, for debugging: breakpoints work, and errors are shown in full.

The row is inserted as active and never waits, so no worker can take it. A failed run ends as ``cancelled``: it is not
retried, and there is no dead letter. Work that :meth:`~joblane.handler.context.TaskContext.each` and ``resume`` have
committed stays, as in a worker.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from typing import Any

from joblane import settings, telemetry
from joblane.enqueue.check import new_id
from joblane.enqueue.producer import Producer
from joblane.enqueue.wake import wake_after_commit
from joblane.errors import LeaseLostError, TaskCancelled, UnreadablePayloadError
from joblane.handler.context import TaskContext, close_context
from joblane.local.dev.forked import INVOKED
from joblane.local.errors import LocalError
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.row.transitions import CANCEL
from joblane.record.task.claim import Claim, Verdict, arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.record.task.run_session import RunSession
from joblane.sqs.client import Sqs
from joblane.sqs.message import Message
from joblane.tasks.discovery import load_for_person
from joblane.tasks.options import Options
from joblane.tasks.payload import Payload
from joblane.tasks.scrubbing import scrubber
from joblane.tasks.task import Task
from joblane.telemetry import METRICS_DISABLED
from joblane.worker import outcome
from joblane.worker.call import call_of
from joblane.worker.outcome import Failure
from joblane.worker.run import completed, ms_since

LEASE = timedelta(hours=12)
"""Time for a person with a debugger. If this process is killed, the sweep archives the task after this time."""


@dataclass(frozen=True, slots=True)
class Invoked:
    """The result of a run. ``outcome``: the outcome of the attempt. ``sentence``: the result for people."""

    id: str
    outcome: str
    duration_ms: int
    result: Any
    error_type: str | None
    error_message: str | None
    traceback: str | None
    sentence: str


def invoke(type_: str, payload: Mapping[str, Any], *, tenant: str | None = None) -> Invoked:
    """Run the handler once. Raises :class:`LocalError` if it cannot be started."""
    task = load_for_person(type_)
    try:
        checked = task.write(task.read(payload, None))
    except UnreadablePayloadError as error:
        raise LocalError(f"{error}. Its fields:  joblane schema {type_}") from None
    with Database(settings.database_url(), prefix=settings.prefix()) as database, _result_only():
        return _run(task, _claimed(task, checked, tenant, database), database)


@contextmanager
def _result_only() -> Iterator[None]:
    """Reserve the output for the result: log lines go to the error output, and metrics are disabled."""
    disabled = os.environ.get(METRICS_DISABLED)
    os.environ[METRICS_DISABLED] = disabled or "true"
    handlers = [handler for handler in telemetry.logger().handlers if isinstance(handler, logging.StreamHandler)]
    before = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.stream = sys.stderr
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            handler.stream = stream
        if disabled is None:
            del os.environ[METRICS_DISABLED]


def _claimed(task: Task[Any, Any], payload: dict[str, Any], tenant: str | None, database: Database) -> Claim:
    """Insert and claim a row with a single attempt."""
    id_ = new_id()
    message = Message(task.type, id_, payload, schema=task.schema_digest, options=Options(max_retry=0))
    wake_after_commit(Sqs(), settings.prefix())
    arrived = arrival(task, message, id_, task.queue, tenant=tenant, unique=False)
    claimed = claim(database.get(), [arrived], LEASE, INVOKED)[id_]
    if claimed.verdict is not Verdict.RUN:
        database.get().run(CANCEL, id_)
        raise LocalError(
            f"{task.type} cannot run now: the claim returned {claimed.verdict}. `joblane pause` lists pauses."
        )
    return claimed


def _run(task: Task[Any, Any], claimed: Claim, database: Database) -> Invoked:
    work = RunSession(database, database.another(), claimed.id, claimed.token)
    producer = Producer.within(database, Sqs(), settings.prefix(), task)
    context = TaskContext(task, claimed, task.queue, work, producer, seconds=task.timeout.total_seconds())
    payload, started = task.read(claimed.payload, claimed.schema), time.perf_counter()
    try:
        result = call_of(task)(task, payload, context, work, None)
        end = completed(claimed, result)
        end.duration_ms = ms_since(started)
        wake_after_commit(Sqs(), settings.prefix())
        work.finish(end)
    except BaseException as error:  # any end of a handler, Ctrl-C too, is recorded, and leaves no waiting row
        end = _failed(task, claimed, payload, error, ms_since(started))
        work.undo(interrupted=not isinstance(error, Exception))
        wake_after_commit(Sqs(), settings.prefix())
        if not isinstance(error, LeaseLostError):
            finish(database.get(), [end])
        if isinstance(error, KeyboardInterrupt):
            raise
    finally:
        close_context(context)
        work.close()
    return _invoked(task, end)


def _failed(task: Task[Any, Any], claimed: Claim, payload: Payload, error: BaseException, duration_ms: int) -> Finish:
    """The failure as a worker records it, but cancelled, and without the values of redacted fields."""
    end = outcome.failed(task, claimed, error, duration_ms, payload)
    if isinstance(error, TaskCancelled):
        return end
    failure = Failure.of(task.type, error, scrubber(task.payload, claimed.payload, payload))
    return replace(
        end,
        outcome="failed" if end.state is State.ARCHIVED else end.outcome,
        state=State.CANCELLED,
        delay_seconds=0,
        counted=True,
        reason=f"joblane invoke: {failure.error_type}: {failure.error_message}",
        **asdict(failure),
    )


def _invoked(task: Task[Any, Any], end: Finish) -> Invoked:
    from joblane.cli.terminal import milliseconds

    took = milliseconds(end.duration_ms)
    if end.state is State.COMPLETED:
        sentence = f"{task.type} completed in {took}; its work is committed. Task {end.id}"
    else:
        named = end.error_type or end.outcome
        sentence = f"{task.type} ended with {named} after {took}; its work is rolled back. Task {end.id}"
    kept = {each.name: getattr(end, each.name) for each in fields(Invoked) if each.name != "sentence"}
    return Invoked(**kept, sentence=sentence)
