"""One run of one task: its time limit, the handler's call, the outcome, and the commit with the handler's work."""

from __future__ import annotations

import signal
import threading
import time
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
    from joblane.worker.run_log import RunLog

KILL_MARGIN_SECONDS = 3.0
"""The alarm fires this long before Lambda's own kill at the latest."""
AGAIN_SECONDS = 1.0
"""How often it fires again: a handler that swallows it once meets it once more."""
OUTLIVED = "the handler outlived its timeout"


@dataclass(slots=True)
class Runner:
    """What the runs of one function share. ``side``: a second connection to the same database."""

    task: Task[Any, Any]
    database: Database
    side: Database
    alarm: Alarm
    client: JobClient
    log: RunLog


@dataclass(slots=True)
class Run:
    """One claimed message, from its claim to its end."""

    received: Received
    claim: Claim
    end: Finish | None = None
    """How it ended. None for a task that did not run, and for a run that has lost its lease."""
    recorded: bool = False
    """The record has ``end``, committed with the handler's work; else the batch records it."""

    def execute(self, runner: Runner, queue: Queue, lambda_context: Any) -> None:
        """Call the handler and decide what its end means. Raises KeyboardInterrupt alone."""
        task, claim, alarm = runner.task, self.claim, runner.alarm
        left = lambda_context.get_remaining_time_in_millis() / 1000 - KILL_MARGIN_SECONDS
        own = _own_seconds(task, claim)
        seconds = min(own, left)
        continues = task.resumable and left < own
        work = RunSession(runner.database, runner.side, claim.id, claim.token, held=alarm.held)
        context = TaskContext(task, claim, queue, work, runner.client, seconds=seconds, continues=continues)
        alarm.fired = False
        started = time.perf_counter()
        payload: Payload | None = None
        try:
            payload = task.read(claim.payload, claim.schema)
            with alarm.set(seconds):
                result = task.function(payload, context)
                work.flush()  # may wait for a lock, as any statement of the handler's
            self.end = completed(claim, result, ms_since(started))
            runner.log.price(claim, self.end)
            self.recorded = work.commit(self.end)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # the one place where every end of a handler is decided
            alarm.silence()
            error = _what_ended_it(raised, alarm)
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
    """The handler returned. Raises where its result cannot be stored: the attempt then fails."""
    result = None if result is None else outcome.storable_result(result)
    return Finish(
        claim.id, claim.token, claim.run, "completed", State.COMPLETED, result=result, duration_ms=duration_ms
    )


def _own_seconds(task: Task[Any, Any], claim: Claim) -> float:
    """What the attempt may still take: the sooner of timeout and deadline."""
    timeout = float(claim.options.get("timeout") or task.timeout.total_seconds())
    own = timeout - claim.used_ms / 1000
    return own if claim.deadline is None else min(own, claim.deadline - time.monotonic())


def _what_ended_it(raised: BaseException, alarm: Alarm) -> BaseException:
    """The timeout, for an error that it has left behind: a clean-up that failed, or a library that the alarm met in
    the middle of a change of its state. What a handler raises *from* it is the handler's word."""
    chosen = isinstance(raised, (*OUTCOMES, LeaseLostError, Interrupt)) or isinstance(raised.__cause__, TaskTimeout)
    if chosen or not alarm.fired:
        return raised
    timeout = TaskTimeout(OUTLIVED).with_traceback(raised.__traceback__)
    timeout.__cause__ = raised
    return timeout


def ms_since(started: float) -> int:
    """Milliseconds since a value of ``time.perf_counter()``."""
    return round((time.perf_counter() - started) * 1000)


class Alarm:
    """One alarm per process, armed inside ``with alarm.set(seconds):``, silent inside ``with alarm.held:``.

    Signals reach the main thread only, which is where Lambda runs handlers; in another thread nothing is set.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._armed = False
        self.fired = False
        """It was raised into the body since it was set."""
        self.held = _Held(self)
        """The library's own talk with the database. An alarm that comes meanwhile is raised at its end."""

    def set(self, seconds: float) -> Alarm:
        """Raise :class:`TaskTimeout` into the body ``seconds`` from its start; before it where none are left."""
        self._seconds = seconds
        self.fired = False
        return self

    def __enter__(self) -> None:
        if self._seconds <= 0:
            raise TaskTimeout(OUTLIVED)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGALRM, self._fire)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, max(self._seconds, 0.001), AGAIN_SECONDS)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.silence()

    def silence(self) -> None:
        """Stop it for good. Call it first wherever :class:`TaskTimeout` is caught: it may have fired on the way out."""
        if self._armed:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.held.missed = False

    def _fire(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed and self.held.now:
            self.held.missed = True
        elif self._armed:
            self.raise_it()

    def raise_it(self) -> NoReturn:
        """Into whatever calls this."""
        self.fired = True
        raise TaskTimeout(OUTLIVED)


class _Held:
    """A stretch of code that the alarm leaves alone. Stretches do not nest."""

    now = False
    missed = False
    """The alarm has come meanwhile. Waiting for it to fire again would let a loop of such stretches go on for ever."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.now = False
        if self.missed and error is None:
            self.missed = False
            self._alarm.raise_it()
