"""The run of a task: the time limit, the handler's call, the outcome, and the commit with the handler's work."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from joblane import telemetry
from joblane.context import TaskContext
from joblane.errors import OUTCOMES, Continued, Interrupt, LeaseLostError, TaskTimeout
from joblane.record.finish import Finish
from joblane.record.run_session import RunSession
from joblane.record.states import State
from joblane.worker import outcome

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from joblane.client import JobClient
    from joblane.declaration import Task
    from joblane.payload import Payload
    from joblane.queues import Queue
    from joblane.record.claim import Claim
    from joblane.record.database import Database
    from joblane.sqs.received import Received
    from joblane.worker.printed import Printed
    from joblane.worker.run_log import RunLog

KILL_MARGIN_SECONDS = 3.0
"""The alarm fires at least this long before Lambda kills the function."""
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
    client: JobClient
    log: RunLog
    printed: Printed | None
    """Logs what handlers print. None: it stays on the standard output."""


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
        context = TaskContext(task, claim, queue, work, runner.client, seconds=seconds, continues=continues)
        alarm.fired = False
        started = time.perf_counter()
        payload: Payload | None = None
        try:
            payload = task.read(claim.payload, claim.schema)
            with runner.printed.during(context.log_fields) if runner.printed else nullcontext(), alarm.set(seconds):
                result = task.function(payload, context)
                work.flush()  # inside the time limit, because it may wait for a lock
            self.end = completed(claim, result, ms_since(started))
            runner.log.price(claim, self.end)
            self.recorded = work.commit(self.end)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # the only place that decides the outcome of a failed run
            alarm.silence()
            error = _decisive_error(raised, alarm)
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
        context.close()
        work.close()


def completed(claim: Claim, result: Any, duration_ms: int) -> Finish:
    """Return the end of a run whose handler returned. Raises if the result cannot be stored; the attempt then fails."""
    result = None if result is None else outcome.storable_result(result)
    return Finish(
        claim.id, claim.token, claim.run, "completed", State.COMPLETED, result=result, duration_ms=duration_ms
    )


def _attempt_seconds(task: Task[Any, Any], claim: Claim) -> float:
    """Return the time that is left until the attempt's timeout or the deadline, whichever comes first."""
    timeout = float(claim.options.get("timeout") or task.timeout.total_seconds())
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


class Alarm:
    """The process's alarm, armed inside ``with alarm.set(seconds):`` and deferred inside ``with alarm.deferred:``.

    Signals reach only the main thread, where Lambda runs handlers. In another thread no alarm is set.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._armed = False
        self.fired = False
        """True if the alarm has raised the timeout since it was set."""
        self.deferred = _Deferred(self)
        """The context for the library's own statements. An alarm that fires inside is raised at its end."""

    def set(self, seconds: float) -> Alarm:
        """Raise :class:`TaskTimeout` ``seconds`` after the start of the body, or before it if no time is left."""
        self._seconds = seconds
        self.fired = False
        return self

    def __enter__(self) -> None:
        if self._seconds <= 0:
            raise TaskTimeout(TIMED_OUT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._fire)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 0.001), REPEAT_SECONDS)

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
            self.raise_it()

    def raise_it(self) -> NoReturn:
        """Raise the timeout in the calling code."""
        self.fired = True
        raise TaskTimeout(TIMED_OUT)


class _Deferred:
    """A context in which the alarm does not interrupt. Such contexts do not nest."""

    active = False
    missed = False
    """True if the alarm fired inside. To wait for the next one could let a loop of such contexts run for ever."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.active = False
        if self.missed and error is None:
            self.missed = False
            self._alarm.raise_it()
