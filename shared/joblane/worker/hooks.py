"""The calls of hooks around a run, see :func:`joblane.tasks.hooks.around`. Most workers do not import this.

A hook and the handler share a copy of the context, so that a context variable that a hook sets ends with the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane import telemetry
from joblane.errors import OUTCOMES, HookError, Interrupt, LeaseLostError, StepError, TaskTimeout, text_of
from joblane.handler.context import scrub_of
from joblane.tasks.event_kinds import OWN_TRANSACTION
from joblane.tasks.hooks import Hook, hooks_of
from joblane.worker.run import TIMED_OUT

if TYPE_CHECKING:
    from joblane.handler.context import TaskContext
    from joblane.record.task.run_session import RunSession
    from joblane.tasks.task import Task
    from joblane.worker.run import Alarm

RETURNED = (StopIteration, StopAsyncIteration)
DECISIONS = (*OUTCOMES, LeaseLostError, Interrupt, KeyboardInterrupt)
"""The exceptions that are no errors of a hook."""
FAILED_EARLY = "has failed before its yield, so the handler did not run and no attempt is spent"
FAILED = "has failed after its yield"
NO_YIELD = "has returned without a yield; it yields once, on each path"
TWO_YIELDS = "has yielded twice; it yields once, even if the handler raises an exception"


def hooked(task: Task[Any, Any], context: TaskContext, work: RunSession, alarm: Alarm | None) -> Callable[..., Any]:
    """Return the task's function with its hooks around it."""
    hooks = hooks_of(task)
    if not hooks:
        return task.function
    made = Around(hooks, context, work, alarm)
    if hasattr(task.function, OWN_TRANSACTION):
        work.hooks = made
        return task.function
    call = made.acall if task.is_async else made.call
    return lambda payload, ctx: call(partial(task.function, payload, ctx))


@dataclass(slots=True)
class Around:
    """The hooks of one run, the outermost first."""

    hooks: Sequence[Hook]
    context: TaskContext
    work: RunSession
    alarm: Alarm | None

    def call(self, handler: Callable[[], Any]) -> Any:
        """Call a plain handler inside of the hooks."""
        return copy_context().run(self._within, self.hooks, handler)

    def _within(self, hooks: Sequence[Hook], handler: Callable[[], Any]) -> Any:
        if not hooks:
            result = handler()
            if self.work.in_use:
                self.work.flush()  # a hook sees its error, as one of the handler
            return result
        generator = self._enter(hooks[0])
        result, error = None, None
        try:
            result = self._within(hooks[1:], handler)
        except BaseException as raised:
            error = raised
        try:
            self._end(hooks[0], generator, error)
        finally:
            del error  # it keeps this frame
        return result

    async def acall(self, handler: Callable[[], Awaitable[Any]]) -> Any:
        """Call an ``async def`` handler inside of the hooks. Its asyncio task has a context of its own."""
        return await self._awithin(self.hooks, handler)

    async def _awithin(self, hooks: Sequence[Hook], handler: Callable[[], Awaitable[Any]]) -> Any:
        if not hooks:
            from asyncio import CancelledError

            try:
                result = await handler()
                await self.work.awaited(self.work.flush)
            except CancelledError as cancelled:
                if self._is_over:
                    raise TaskTimeout(TIMED_OUT) from cancelled
                raise
            return result
        hook = hooks[0]
        generator = await self._aenter(hook) if hook.is_async else self._enter(hook)
        result, error = None, None
        try:
            result = await self._awithin(hooks[1:], handler)
        except BaseException as raised:
            error = raised
        try:
            if hook.is_async:
                await self._aend(hook, generator, error)
            else:
                self._end(hook, generator, error)
        finally:
            del error  # it keeps this frame
        return result

    # --- The two parts of a hook -----------------------------------------------------------------------------------

    def _enter(self, hook: Hook) -> Any:
        if hook.is_async:
            raise HookError(hook.name, "is asynchronous, and the handler is a plain `def`", is_early=True)
        generator = hook.function(self.context)
        _check_start(hook, self._part(hook, partial(next, generator)))
        return generator

    async def _aenter(self, hook: Hook) -> Any:
        generator = hook.function(self.context)
        _check_start(hook, await self._apart(hook, partial(anext, generator)))
        return generator

    def _end(self, hook: Hook, generator: Any, error: BaseException | None) -> None:
        call = partial(next, generator) if error is None else partial(generator.throw, error)
        trace = None if error is None else error.__traceback__
        raised = self._part(hook, call)
        if raised is None:
            with suppress(Exception):
                generator.close()
        _check_end(hook, error, raised, trace, self.context)

    async def _aend(self, hook: Hook, generator: Any, error: BaseException | None) -> None:
        call = partial(anext, generator) if error is None else partial(generator.athrow, error)
        trace = None if error is None else error.__traceback__
        raised = await self._apart(hook, call)
        if raised is None:
            with suppress(Exception):
                await generator.aclose()
        _check_end(hook, error, raised, trace, self.context)

    def _part(self, hook: Hook, call: Callable[[], Any]) -> BaseException | None:
        """Run a part of a hook. Return what it has raised, or None if it has yielded."""
        was_over = self._is_over
        self.work.hook = hook.name
        try:
            call()
        except BaseException as raised:
            return self._timeout(was_over, raised) or raised
        finally:
            self.work.hook = ""
        return self._timeout(was_over, None)

    async def _apart(self, hook: Hook, call: Callable[[], Awaitable[Any]]) -> BaseException | None:
        was_over = self._is_over
        self.work.hook = hook.name
        try:
            await call()
        except BaseException as raised:
            timeout = self._timeout(was_over, raised)
            if timeout is None and _is_of_loop(raised):
                raise
            return timeout or raised
        finally:
            self.work.hook = ""
        return self._timeout(was_over, None)

    @property
    def _is_over(self) -> bool:
        return self.alarm is not None and self.alarm.fired

    def _timeout(self, was_over: bool, raised: BaseException | None) -> TaskTimeout | None:
        """Return the timeout that has interrupted a part of a hook, even if the hook has caught it."""
        if was_over or not self._is_over:
            return None
        if isinstance(raised, TaskTimeout):
            return raised
        timeout = TaskTimeout(TIMED_OUT)
        timeout.__cause__ = raised
        return timeout


def _check_start(hook: Hook, raised: BaseException | None) -> None:
    """Raise what the first part of a hook means for the run."""
    if raised is None:
        return
    if isinstance(raised, RETURNED):
        raise HookError(hook.name, NO_YIELD)
    if isinstance(raised, (TaskTimeout, StepError)) or not isinstance(raised, DECISIONS):
        raise HookError(hook.name, _failed(FAILED_EARLY, raised), is_early=True) from raised
    raise raised


def _check_end(
    hook: Hook, error: BaseException | None, raised: BaseException | None, trace: Any, context: TaskContext
) -> None:
    """Raise what the second part of a hook means for the run.

    ``error``: the exception of the handler or an inner hook. ``raised``: the exception of the hook; None: it has
    yielded again.
    """
    if raised is None:
        raised = HookError(hook.name, TWO_YIELDS)
        raised.__cause__ = error
    elif raised is error or isinstance(raised, RETURNED) or _is_wrapped(raised, error):
        raised = None
    elif not _decides(raised, error):
        cause, raised = raised, HookError(hook.name, _failed(FAILED, raised))
        raised.__cause__ = cause
    if error is not None and (raised is None or _is_final(error)):
        if raised is not None:
            telemetry.logger().error(scrub_of(context)(str(raised)), extra=context.log_fields)
        raise error.with_traceback(trace)
    if raised is not None:
        raise raised


def _decides(raised: BaseException, error: BaseException | None) -> bool:
    """True for an exception of a hook that is no error of the hook: an outcome, an interrupt, or a translation."""
    is_translation = error is not None and raised.__cause__ is error
    return is_translation or isinstance(raised, DECISIONS)


def _is_of_loop(raised: BaseException) -> bool:
    """True if the handler's asyncio task is cancelled, for example by Ctrl-C. A hook may raise a cancellation too."""
    from asyncio import CancelledError, current_task

    own = current_task()
    return isinstance(raised, CancelledError) and own is not None and own.cancelling() > 0


def _is_wrapped(raised: BaseException, error: BaseException | None) -> bool:
    """True if the hook has raised the handler's StopIteration, which Python turns into a RuntimeError."""
    return isinstance(error, RETURNED) and isinstance(raised, RuntimeError) and raised.__cause__ is error


def _is_final(error: BaseException) -> bool:
    """True for an exception that no hook replaces."""
    is_early = isinstance(error, HookError) and error.is_early
    return is_early or isinstance(error, LeaseLostError) or not isinstance(error, Exception)


def _failed(how: str, raised: BaseException) -> str:
    return f"{how}: {type(raised).__name__}: {text_of(raised)}"
