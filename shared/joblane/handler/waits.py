"""Waits of a run: ``ctx.sleep``, ``ctx.wait``, ``ctx.poll``, and their asynchronous forms. Those for children are in
:mod:`joblane.handler.children`.

A wait whose end has not come stops the run: its work commits together with the wait, and the message is acknowledged. A
later run calls the handler again from its beginning, and steps and waits that are done return what they returned.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

from joblane.errors import StepError, Stopped, WaitExpired
from joblane.handler.steps import Steps
from joblane.record.task.stop import Stop, WaitsOfRun
from joblane.record.task.waits import SIGNAL_PATTERN, expire, read_signal

if TYPE_CHECKING:
    from joblane.record.task.run_session import RunSession

LONGEST = timedelta(days=3650)
SHORTEST_POLL = timedelta(seconds=1)
_EXPIRED = object()


@dataclass
class Waits:
    """The waits of one run. :class:`~joblane.handler.context.TaskContext` documents them."""

    steps: Steps

    def sleep(self, name: str, duration: timedelta | datetime) -> None:
        self.check(name, "ctx.sleep")
        self._sleep(name, duration)

    async def asleep(self, name: str, duration: timedelta | datetime) -> None:
        self.check(name, "ctx.asleep")
        await self.steps.loops.work.awaited(self._sleep, name, duration)

    def wait(self, signal: str, timeout: timedelta, name: str | None, default: Any) -> Any:
        self.check(name if name is not None else signal, "ctx.wait")
        return self._wait(signal, timeout, name, default)

    async def await_signal(self, signal: str, timeout: timedelta, name: str | None, default: Any) -> Any:
        self.check(name if name is not None else signal, "ctx.await_signal")
        return await self.steps.loops.work.awaited(self._wait, signal, timeout, name, default)

    def poll(self, name: str, function: Callable[[], Any], every: timedelta, timeout: timedelta, default: Any) -> Any:
        self.check(name, "ctx.poll")
        if inspect.iscoroutinefunction(function):
            raise StepError(name, "ctx.poll cannot await its function; use await ctx.apoll(…)")
        done = self._polled(name, function, every, timeout)
        if done is None:
            with self.steps.opened(is_plain=True):
                value = function()
            return self._looked(name, value, every, timeout, default)
        return self._result(name, done, default)

    async def apoll(
        self,
        name: str,
        function: Callable[[], Any] | Callable[[], Awaitable[Any]],
        every: timedelta,
        timeout: timedelta,
        default: Any,
    ) -> Any:
        self.check(name, "ctx.apoll")
        awaited = self.steps.loops.work.awaited
        done = await awaited(self._polled, name, function, every, timeout)
        if done is None:
            with self.steps.opened(is_plain=False):
                value = function()
                value = await value if inspect.isawaitable(value) else value
            return await awaited(self._looked, name, value, every, timeout, default)
        return self._result(name, done, default)

    def check(self, name: str, call: str) -> None:
        """Refuse a wrong name, and a wait where the run cannot stop."""
        work = self.steps.loops.work
        self.steps.check_name(name, call)
        state = work.waits = work.waits or WaitsOfRun()
        if state.refusal is not None:
            raise StepError(name, f"{call}: {state.refusal}")
        if not _is_own(work):
            state.misplaced = StepError(
                name,
                f"{call} is in another asyncio task or thread than the handler, which its stop would not end; wait in "
                "the handler itself, one wait after the other",
            )
            raise state.misplaced
        if work.in_savepoint:
            raise StepError(
                name, f"{call} cannot be inside of begin_nested(), because its work could not commit at the stop"
            )
        work.check_keeps()

    def _sleep(self, name: str, duration: timedelta | datetime) -> None:
        at, seconds = None, None
        if isinstance(duration, datetime):
            if duration.tzinfo is None:
                raise StepError(
                    name, "duration: a time with a time zone is required, for example datetime.now(UTC) + …"
                )
            at, seconds_left = duration, (duration - datetime.now(UTC)).total_seconds()
        elif isinstance(duration, timedelta):
            seconds_left = seconds = duration.total_seconds()
        else:
            raise StepError(name, f"duration: a timedelta or a datetime is required, not {type(duration).__name__}")
        if seconds_left > LONGEST.total_seconds():
            raise StepError(name, f"duration: at most {LONGEST.days:,} days are required; sleep again after that")
        history = self.steps.history
        self.refuse_kind(name)
        if history.is_over(name) or (name not in history.waits and seconds_left <= 0):
            return
        raise self.stopped(Stop(name, seconds=seconds, at=at))

    def _wait(self, signal: str, timeout: timedelta, name: str | None, default: Any) -> Any:
        name = signal if name is None else name
        if not isinstance(signal, str) or not SIGNAL_PATTERN.fullmatch(signal):
            raise StepError(name, "signal: 1 to 100 printable ASCII characters are required")
        seconds = _timeout(name, timeout)
        steps, was_read = self.steps, self.steps.is_read
        history = steps.history
        self.refuse_kind(name)
        if name in history.waits and history.waits[name].expired:
            return self._result(name, _EXPIRED, default)
        if signal not in history.signals and (was_read or steps.is_first_run):
            value = steps.loops.read(partial(read_signal, name=signal))
            if value is not None:
                history.signals[signal] = value
        if signal in history.signals:
            return json.loads(history.signals[signal])
        if history.is_over(name):
            came = self._expire(name, signal)
            return self._result(name, came[0] if came else _EXPIRED, default)
        raise self.stopped(Stop(name, signal, seconds))

    def _polled(self, name: str, function: object, every: timedelta, timeout: timedelta) -> Any:
        """Return the value of a poll as JSON text, or that it has expired. None: its function has to be called."""
        if not isinstance(every, timedelta) or not SHORTEST_POLL <= every <= LONGEST:
            raise StepError(name, f"every: a timedelta of 1 second to {LONGEST.days:,} days is required, not {every!r}")
        _timeout(name, timeout)
        if not callable(function):
            raise StepError(name, f"a function without arguments is required, not {type(function).__name__}")
        steps = self.steps
        self.refuse_kind(name, is_poll=True)
        stored, wait = steps.history.steps.get(name), steps.history.waits.get(name)
        if stored is not None:
            return stored
        if wait is not None and wait.expired:
            return _EXPIRED
        if wait is None:
            steps.check_number(name)
        steps.loops.check()
        return None

    def _looked(self, name: str, value: Any, every: timedelta, timeout: timedelta, default: Any) -> Any:
        if value is not None:
            return self.steps.keep(name, value)
        if self.steps.history.is_over(name):
            self._expire(name, None)
            return self._result(name, _EXPIRED, default)
        raise self.stopped(Stop(name, seconds=timeout.total_seconds(), again=every.total_seconds()))

    def refuse_kind(self, name: str, *, is_poll: bool = False, of_children: bool = False) -> None:
        """Refuse a name that an earlier run has used for a step, or for a wait of another kind. The value of a poll and
        the results of children are steps too."""
        history = self.steps.history
        wait = history.waits.get(name)
        if wait is not None and (wait.children is not None) != of_children:
            raise StepError(name, "an earlier run has stopped at another kind of wait; give this wait another name")
        if name in history.steps and not is_poll and (wait is None or not of_children):
            raise StepError(name, "an earlier run has stored a step of this name; give the wait another name")

    def _expire(self, name: str, signal: str | None) -> list[str]:
        """Commit that a wait has expired, with the work so far. Return the value of the signal if it came before."""
        came: list[str] = []
        self.steps.loops.work.keep(partial(expire, name=name, signal=signal, came=came))
        return came

    def _result(self, name: str, done: Any, default: Any) -> Any:
        if done is not _EXPIRED:
            return json.loads(done)
        if default is ...:
            raise WaitExpired(name, "its time has passed; to continue then, give default=…")
        return default

    def stopped(self, stop: Stop) -> Stopped:
        """Note the stop of the run, which commits together with its work, and return what ends the handler."""
        work = self.steps.loops.work
        if stop.name not in self.steps.history.waits:
            self.steps.check_number(stop.name)
        work.flush()
        assert work.waits is not None
        work.waits.stop = stop
        return Stopped(f"the run stops at the wait {stop.name!r}; do not catch this")


def _timeout(name: str, timeout: timedelta) -> float:
    if not isinstance(timeout, timedelta) or not timedelta(0) < timeout <= LONGEST:
        raise StepError(
            name,
            f"timeout: a timedelta of more than zero and at most {LONGEST.days:,} days is required, not {timeout!r}; "
            "a wait always has an end",
        )
    return timeout.total_seconds()


def _is_own(work: RunSession) -> bool:
    """True if the caller is in the thread of the handler, and in its asyncio task if it has one."""
    thread, own = work.handler_at
    return get_ident() == thread and (own is None or sys.modules["asyncio"].current_task() is own)
