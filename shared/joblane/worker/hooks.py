"""The calls of hooks around a run, see :func:`joblane.tasks.hooks.around`. Most workers do not import this.

A hook and the handler share a copy of the context, so that a context variable that a hook sets ends with the run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

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

HandlerEnd = tuple[Any, BaseException | None]
"""The result of a handler, or the exception with which a run ends."""
E = TypeVar("E", bound=BaseException)
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
    work.hooks = made = Around(hooks, context, work, alarm)
    if hasattr(task.function, OWN_TRANSACTION):
        return task.function
    call = made.acall if task.is_async else made.call
    return lambda payload, ctx: call(partial(task.function, payload, ctx))


@dataclass(slots=True)
class Around:
    """The hooks of one run, the outermost first.

    An exception is a value here until all hooks have ended: each hook gets it, and none of its frames is in the way.
    """

    hooks: Sequence[Hook]
    context: TaskContext
    work: RunSession
    alarm: Alarm | None
    running: str = ""
    """The hook that runs now, which may not lose the work of the handler. Empty: none."""

    def call(self, handler: Callable[[], Any]) -> Any:
        """Call a plain handler inside of the hooks."""
        return _returned(*copy_context().run(_completed, self._run(handler, is_async=False)))

    async def acall(self, handler: Callable[[], Awaitable[Any]]) -> Any:
        """Call an ``async def`` handler inside of the hooks. Its asyncio task has a context of its own."""
        return _returned(*await self._run(handler, is_async=True))

    async def _run(self, handler: Callable[[], Any], *, is_async: bool) -> HandlerEnd:
        """Call the handler and the parts of the hooks. Nothing waits if ``is_async`` is False."""
        started: list[tuple[Hook, Any]] = []
        result: Any = None
        error: BaseException | None = None
        try:
            for hook in self.hooks:
                if hook.is_async and not is_async:
                    error = HookError(hook.name, "is asynchronous, and the handler is a plain `def`", is_early=True)
                    break
                generator = hook.function(self.context)
                raised = await self._part(hook, generator, None)
                if raised is not None:
                    error = raised if _is_of_loop(hook, raised) else _start_error(hook, raised)
                    break
                started.append((hook, generator))
            else:
                result, error = await self._handled(handler, is_async=is_async)
            for hook, generator in reversed(started):
                trace = None if error is None else error.__traceback__
                raised = await self._part(hook, generator, error)
                if raised is None:
                    await _close(hook, generator)
                if error is not None:
                    error.__traceback__ = trace
                error = raised if _is_of_loop(hook, raised) else _end_error(hook, error, raised, self.context)
            return result, error
        finally:
            error = raised = None  # they keep this frame

    async def _handled(self, handler: Callable[[], Any], *, is_async: bool) -> HandlerEnd:
        """Call the handler, and flush its session: a hook sees its error, as one of the handler."""
        try:
            result = handler()
            if is_async:
                result = await result
                await self.work.awaited(self.work.flush)
            elif self.work.in_use:
                self.work.flush()
        except BaseException as error:
            if is_async and self._is_over and _is_cancelled(error):
                return None, _caused(TaskTimeout(TIMED_OUT), error)
            return None, error
        return result, None

    async def _part(self, hook: Hook, generator: Any, error: BaseException | None) -> BaseException | None:
        """Run a hook up to its yield, or raise ``error`` there, and run it to its end.

        Return what it has raised, or None if it has yielded.
        """
        was_over = self._is_over
        self.running = hook.name
        try:
            if hook.is_async:
                await (anext(generator) if error is None else generator.athrow(error))
            else:
                next(generator) if error is None else generator.throw(error)
        except BaseException as raised:
            timeout = self._timeout(was_over, raised)
            return timeout or raised
        finally:
            self.running = ""
        return self._timeout(was_over, None)

    @property
    def _is_over(self) -> bool:
        return self.alarm is not None and self.alarm.fired

    def _timeout(self, was_over: bool, raised: BaseException | None) -> TaskTimeout | None:
        """Return the timeout that has interrupted a part of a hook, even if the hook has caught it."""
        if was_over or not self._is_over:
            return None
        return raised if isinstance(raised, TaskTimeout) else _caused(TaskTimeout(TIMED_OUT), raised)


def _completed(coroutine: Coroutine[Any, Any, HandlerEnd]) -> HandlerEnd:
    """Return the value of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    raise AssertionError("a plain run has waited")


def _returned(result: Any, error: BaseException | None) -> Any:
    """Return a result, or raise an error."""
    try:
        if error is not None:
            raise error
        return result
    finally:
        error = None  # it keeps this frame


async def _close(hook: Hook, generator: Any) -> None:
    """Close the generator of a hook that has yielded twice."""
    with suppress(Exception):
        await generator.aclose() if hook.is_async else generator.close()


def _start_error(hook: Hook, raised: BaseException) -> BaseException:
    """Return what an exception of the first part of a hook means for the run."""
    if isinstance(raised, RETURNED):
        return HookError(hook.name, NO_YIELD)
    if isinstance(raised, (TaskTimeout, StepError)) or not isinstance(raised, DECISIONS):
        return _caused(HookError(hook.name, _failed(FAILED_EARLY, raised), is_early=True), raised)
    return raised


def _end_error(
    hook: Hook, error: BaseException | None, raised: BaseException | None, context: TaskContext
) -> BaseException | None:
    """Return what the second part of a hook means for the run.

    ``error``: the exception of the handler or an inner hook. ``raised``: the exception of the hook; None: it has
    yielded again.
    """
    if raised is None:
        raised = _caused(HookError(hook.name, TWO_YIELDS), error)
    elif raised is error or isinstance(raised, RETURNED) or _is_wrapped(raised, error):
        raised = None
    elif not _decides(raised, error):
        raised = _caused(HookError(hook.name, _failed(FAILED, raised)), raised)
    if error is None or (raised is not None and not _is_final(error)):
        return raised
    if raised is not None:
        telemetry.logger().error(scrub_of(context)(str(raised)), extra=context.log_fields)
    return error


def _caused(error: E, cause: BaseException | None) -> E:
    error.__cause__ = cause
    return error


def _decides(raised: BaseException, error: BaseException | None) -> bool:
    """True for an exception of a hook that is no error of the hook: an outcome, an interrupt, or a translation."""
    is_translation = error is not None and raised.__cause__ is error
    return is_translation or isinstance(raised, DECISIONS)


def _is_of_loop(hook: Hook, raised: BaseException | None) -> bool:
    """True if the handler's asyncio task is cancelled, for example by Ctrl-C. A hook may raise a cancellation too."""
    if not hook.is_async or not _is_cancelled(raised):
        return False
    from asyncio import current_task

    own = current_task()
    return own is not None and own.cancelling() > 0


def _is_cancelled(raised: BaseException | None) -> bool:
    from asyncio import CancelledError

    return isinstance(raised, CancelledError)


def _is_wrapped(raised: BaseException, error: BaseException | None) -> bool:
    """True if the hook has raised the handler's StopIteration, which Python turns into a RuntimeError."""
    return isinstance(error, RETURNED) and isinstance(raised, RuntimeError) and raised.__cause__ is error


def _is_final(error: BaseException) -> bool:
    """True for an exception that no hook replaces."""
    is_early = isinstance(error, HookError) and error.is_early
    return is_early or isinstance(error, LeaseLostError) or not isinstance(error, Exception)


def _failed(how: str, raised: BaseException) -> str:
    return f"{how}: {type(raised).__name__}: {text_of(raised)}"
