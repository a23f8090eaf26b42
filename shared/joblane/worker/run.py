"""The run of a task: the time limit, the handler's call, the outcome, and the commit with the handler's work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import OUTCOMES, Continued, Interrupt, LeaseLostError, SkipRetry, TaskTimeout
from joblane.handler.context import TaskContext, close_context
from joblane.record.row.states import State
from joblane.record.task.finish import Finish
from joblane.record.task.run_session import RunSession
from joblane.worker import outcome
from joblane.worker.alarm import TIMED_OUT, Alarm

if TYPE_CHECKING:
    from joblane.enqueue.producer import Producer
    from joblane.names import Queue
    from joblane.record.driver.database import Database
    from joblane.record.task.claim import Claim
    from joblane.sqs.received import Received
    from joblane.tasks.payload import Payload
    from joblane.tasks.task import Task
    from joblane.worker.printed import Printed
    from joblane.worker.run_log import RunLog

KILL_MARGIN_SECONDS = 3.0
"""The alarm fires at least this long before Lambda kills the function."""
LOOP_SECONDS = 1.0
"""An ``async def`` handler is cancelled at its timeout, and the alarm fires this much later if it has not ended."""


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


@dataclass(slots=True)
class Run:
    """A claimed message, from its claim to its end."""

    received: Received
    claim: Claim
    end: Finish | None = None
    """The end of the run. None for a task that did not run, and for a run that has lost its lease."""
    recorded: bool = False
    """True if ``end`` is committed, with the handler's work. Otherwise the worker records it for the whole batch."""

    def execute(self, runner: Runner, queue: Queue, lambda_context: Any) -> None:
        """Call the handler and decide what its end means. Raises only KeyboardInterrupt."""
        task, claim, alarm = runner.task, self.claim, runner.alarm
        lambda_seconds = lambda_context.get_remaining_time_in_millis() / 1000 - KILL_MARGIN_SECONDS
        attempt_seconds = _attempt_seconds(task, claim)
        seconds = min(attempt_seconds, lambda_seconds)
        continues = task.resumable and lambda_seconds < attempt_seconds
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
            with alarm.set(seconds, LOOP_SECONDS if task.is_async else 0):
                result = call(task, payload, context, work, alarm)
            self.end = completed(claim, result, ms_since(started))
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
            self.end = outcome.failed(task, claim, error, ms_since(started), payload)
            runner.log.price(claim, self.end)
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


def call(task: Task[Any, Any], payload: Any, context: TaskContext, work: RunSession, alarm: Alarm | None = None) -> Any:
    """Call the handler, and flush its session, which may wait for a lock. ``alarm`` None: without a time limit."""
    if task.is_async:
        from joblane.worker.async_call import call_async

        return call_async(task, payload, context, work, alarm)
    result = task.function(payload, context)
    if work.in_use:
        work.flush()
    return result


def completed(claim: Claim, result: Any, duration_ms: int) -> Finish:
    """Return the end of a run whose handler returned. Raises if the result cannot be stored; the attempt then fails."""
    result = None if result is None else outcome.storable_result(result)
    return Finish(
        claim.id, claim.token, claim.run, "completed", State.COMPLETED, result=result, duration_ms=duration_ms
    )


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


def ms_since(started: float) -> int:
    """Return the milliseconds since ``started``, a value of ``time.perf_counter()``."""
    return round((time.perf_counter() - started) * 1000)
