"""The run of a task: the time limit, the handler's call, the outcome, and the commit with the handler's work.

The time limit is the process's alarm, which interrupts the handler.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from joblane import telemetry
from joblane.errors import (
    OUTCOMES,
    Continued,
    Interrupt,
    LeaseLostError,
    SkipRetry,
    StepError,
    Stopped,
    TaskTimeout,
    text_of,
)
from joblane.handler.context import TaskContext, close_context, write_last_progress
from joblane.record.driver.database import DATABASE_ERRORS
from joblane.record.row.states import State
from joblane.record.task.finish import Finish
from joblane.record.task.run_session import RunSession
from joblane.settings import NO_IPV4
from joblane.sqs.client import Entry
from joblane.sqs.dead_letter import archived_dead_letter
from joblane.sqs.message import Message
from joblane.worker import outcome

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from joblane.enqueue.producer import Producer
    from joblane.handler.steps import Steps
    from joblane.names import Queue
    from joblane.record.driver.database import Database
    from joblane.record.task.claim import Claim
    from joblane.sqs.message import Received
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task
    from joblane.worker.invocation import Invocation
    from joblane.worker.printed import Printed
    from joblane.worker.run_log import RunLog

KILL_MARGIN_SECONDS = 3.0
"""The alarm fires at least this long before the host kills the process."""
RECORD_SECONDS = 2.0
"""The part of :data:`KILL_MARGIN_SECONDS` that an explanation leaves for recording the outcome."""
LOOP_SECONDS = 1.0
"""An ``async def`` handler is cancelled at its timeout, and the alarm fires this much later if it has not ended."""
REPEAT_SECONDS = 1.0
"""The alarm fires again at this interval, in case the handler swallows the first one."""
TIMED_OUT = "the handler exceeded its timeout"


@dataclass(slots=True)
class Runner:
    """Everything that the runs of one function share. ``side``: a second connection to the same database."""

    task: Task[Any, Any]
    database: Database
    side: Database
    alarm: Alarm
    producer: Producer
    log: RunLog
    printed: Printed | None
    """Logs what handlers print. None: it stays on the standard output."""
    wake: Callable[[], None]
    """Makes sure that a sweep follows a write."""
    call: Callable[..., Any]
    """Calls the handler, see :func:`joblane.worker.call.call_of`."""


@dataclass(slots=True)
class Run:
    """A claimed message, from its claim to its end."""

    received: Received
    claim: Claim
    end: Finish | None = None
    """The end of the run. None for a task that did not run, and for a run that has lost its lease."""
    recorded: bool = False
    """True if ``end`` is committed, with the handler's work. Otherwise the worker records it for the whole batch."""

    def message(self, payload: Any = None) -> Message:
        """Return the task's message. It keeps its type, which may be an older name. ``payload``: for a dead letter."""
        claim, received = self.claim, self.received.message
        assert received is not None
        return Message.of_row(received.type, claim.id, claim.schema, claim.headers, payload)

    def dead_letter(self, reason: str) -> Entry:
        """Return the dead letter of the task."""
        message, received = self.message(self.claim.payload), self.received
        return archived_dead_letter(received.queue, message, reason, self.claim.generation, received.group)

    def again(self, seconds: int) -> Entry:
        """Return a copy of the message for this many seconds later. Its receives are counted anew."""
        return Entry(self.received.queue, self.message().encode(), seconds, self.received.group)

    def execute(self, runner: Runner, queue: Queue, invocation: Invocation) -> None:
        """Call the handler and decide what its end means. Raises only KeyboardInterrupt."""
        task, claim, alarm = runner.task, self.claim, runner.alarm
        seconds_left = invocation.ends - time.monotonic() - KILL_MARGIN_SECONDS
        attempt_seconds = _attempt_seconds(task, claim)
        seconds = min(attempt_seconds, seconds_left)
        continues = task.resumable and seconds_left < attempt_seconds
        work = RunSession(runner.database, runner.side, claim.id, claim.token, uninterrupted=alarm.deferred)
        context = TaskContext(task, claim, queue, work, runner.producer, seconds=seconds, continues=continues)
        alarm.fired = False
        started = time.perf_counter()
        payload: Payload | None = None
        if runner.printed:
            runner.printed.begin(context.log_fields)
        try:
            if claim.problem is not None:
                raise SkipRetry(
                    f"its row cannot be read: {claim.problem}. Correct the row with SQL, then retry the task"
                )
            payload = task.read(claim.payload, claim.schema)
            self.end = self._handle(runner, payload, context, work, seconds)
            self.end.duration_ms = ms_since(started)
            runner.log.price(claim, self.end)
            if work.in_use:  # otherwise the worker finishes it, and wakes before that
                if work.used or work.joined:
                    runner.wake()
                self.recorded = work.commit(self.end)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # the only place that decides the outcome of a failed run
            alarm.silence()
            error = _decisive_error(raised, alarm)
            if work.in_use:
                work.undo(interrupted=alarm.fired)
            if isinstance(error, TaskTimeout) and continues and work.has_kept:
                error = Continued()
            note = _explanation(error, task, claim, payload, context=context, invocation=invocation)
            duration_ms, receives = ms_since(started), self.received.receives
            self.end = outcome.failed(task, claim, error, duration_ms, payload, note=note, receives=receives)
            runner.log.price(claim, self.end)
            self.note_error(error, payload)
            _keep_progress(context)
            if isinstance(error, LeaseLostError):
                self.end = None
                telemetry.logger().warning(
                    "lease lost: the work is rolled back, the message stays in the queue", extra=context.log_fields
                )
        finally:
            if runner.printed:
                runner.printed.end()
        close_context(context)
        if work.in_use:
            work.close()

    def note_error(self, error: BaseException, payload: Payload | None) -> None:
        """Note the exception that has ended the run, and its payload. An observed run does so."""

    def _handle(
        self, runner: Runner, payload: Payload, context: TaskContext, work: RunSession, seconds: float
    ) -> Finish:
        """Call the handler within its time. It returns, or stops at a wait."""
        task, alarm = runner.task, runner.alarm
        try:
            with alarm.set(seconds, LOOP_SECONDS if task.is_async else 0):
                result = runner.call(task, payload, context, work, alarm)
        except Stopped:
            assert work.waits is not None
            assert work.waits.stop is not None
            write_last_progress(context)
            return outcome.stopped(self.claim, work.waits.stop)
        except BaseExceptionGroup as group:
            if group.subgroup(Stopped) is None or work.waits is None or work.waits.stop is None:
                raise
            raise StepError(work.waits.stop.name, outcome.CAUGHT) from group
        if work.waits is not None:
            outcome.check_waits(work.waits)
        steps: Steps | None = context.__dict__.get("_steps") if work.in_use else None  # the first step or wait sets it
        if steps is not None and steps.unused:
            outcome.warn_unused(steps.unused, task, self.claim, payload, context.log_fields)
        return completed(self.claim, result)


def completed(claim: Claim, result: Any) -> Finish:
    """Return the end of a run whose handler returned. Raises if the result cannot be stored; the attempt then fails."""
    result = None if result is None else outcome.storable_result(result)
    return Finish(claim.id, claim.token, claim.run, "completed", State.COMPLETED, result=result)


def _keep_progress(context: TaskContext) -> None:
    """Record the last progress of a run that has failed. If that fails too, the outcome is recorded anyway."""
    try:
        write_last_progress(context)
    except DATABASE_ERRORS as error:
        telemetry.logger().warning("progress could not be recorded", extra={"error": text_of(error)})


def _attempt_seconds(task: Task[Any, Any], claim: Claim) -> float:
    """Return the time that is left until the attempt's timeout or the deadline, whichever comes first."""
    timeout = float(claim.options.timeout or task.timeout.total_seconds())
    seconds = timeout - claim.used_ms / 1000
    return seconds if claim.deadline is None else min(seconds, claim.deadline - time.monotonic())


def _decisive_error(raised: BaseException, alarm: Alarm) -> BaseException:
    """Return the timeout instead of an error that the timeout caused, and any other error unchanged.

    Such an error comes from a failed clean-up, or from a library that the alarm interrupted in a state change. An
    outcome, and an error that the handler raises ``from`` the timeout, are the handler's decision.
    """
    is_decision = isinstance(raised, (*OUTCOMES, LeaseLostError, Interrupt))
    if is_decision or isinstance(raised.__cause__, TaskTimeout) or not alarm.fired:
        return raised
    timeout = TaskTimeout(TIMED_OUT).with_traceback(raised.__traceback__)
    timeout.__cause__ = raised
    return timeout


def _explanation(
    error: BaseException,
    task: Task[Any, Any],
    claim: Claim,
    payload: Any,
    *,
    context: TaskContext,
    invocation: Invocation,
) -> str:
    """Return why a connection timed out, in a network whose only way out is IPv6; empty for any other error."""
    if not os.environ.get(NO_IPV4):
        return ""
    from joblane.worker.way_out import explain

    seconds = invocation.ends - time.monotonic() - RECORD_SECONDS
    values = task.payload, claim.payload, payload
    try:
        return explain(error, *values, headers=claim.headers or {}, seconds=seconds, log_fields=context.log_fields)
    except Exception as problem:  # it looks into the user's frames and errors, and the outcome must be recorded anyway
        telemetry.logger().warning("a connect timeout was not explained", extra={"error_type": type(problem).__name__})
        return ""


def ms_since(started: float) -> int:
    """Return the milliseconds since ``started``, a value of ``time.perf_counter()``."""
    return round((time.perf_counter() - started) * 1000)


class Alarm:
    """The process's alarm, armed inside ``with alarm.set(seconds):`` and deferred inside ``with alarm.deferred:``.

    Signals reach only the main thread, where Lambda runs handlers. In another thread no alarm is set.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """The time limit."""
        self._margin = 0.0
        self._armed = False
        self.cancel: Callable[[], object] | None = None
        """Cancels the handler's asyncio task. None: the timeout is raised."""
        self.fired = False
        """True if the timeout was raised, or the handler cancelled, since the alarm was set."""
        self.struck = False
        """True if the alarm has interrupted an event loop at any point."""
        self.deferred = _Deferred(self)
        """The context for the library's own statements. An alarm that fires inside is raised at its end."""

    def set(self, seconds: float, margin: float) -> Alarm:
        """Raise :class:`TaskTimeout` after the start of the body, or before it if no time is left.

        ``margin``: the seconds after the time limit at which the alarm fires. Until then the code in the body ends
        itself, see :meth:`expire`.
        """
        self.seconds = seconds
        self._margin = margin
        self.fired = self.struck = False
        return self

    def __enter__(self) -> None:
        if self.seconds <= 0:
            raise TaskTimeout(TIMED_OUT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._fire)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(self.seconds + self._margin, 0.001), REPEAT_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.silence()

    def silence(self) -> None:
        """Stop the alarm. Code that catches :class:`TaskTimeout` calls this first: it may have fired on the way out."""
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.deferred.missed = False

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed and self.deferred.active:
            self.deferred.missed = True
        elif self._armed:
            self.struck = self.cancel is not None
            self._raise()

    def expire(self) -> None:
        """End the handler: cancel its asyncio task, or raise the timeout in the calling code."""
        if self.deferred.active:
            self.deferred.missed = True
        elif self.cancel is not None:
            self.fired = True
            self.cancel()
        else:
            self._raise()

    def _raise(self) -> NoReturn:
        self.fired = True
        raise TaskTimeout(TIMED_OUT)


class _Deferred:
    """A context in which the alarm does not interrupt. Asyncio tasks may be inside at the same time."""

    active = 0
    """The number of tasks inside."""
    missed = False
    """True if the alarm fired inside. To wait for the next one could let a loop of such contexts run for ever."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm

    def __enter__(self) -> None:
        self.active += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.active -= 1
        if self.missed and error is None and not self.active:
            self.missed = False
            self._alarm.expire()
