"""The process's asyncio loop, on which ``async def`` handlers run. It is made for the first of them.

One loop serves all runs, so that a module's own asynchronous clients can be used by later runs too.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from joblane.errors import JobError
from joblane.forking import follow_forks

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Runner

T = TypeVar("T")
UNWIND_SECONDS = 0.5
"""The time in which tasks of a discarded loop can clean up."""


class EventLoop:
    """An ``asyncio.Runner`` that can be replaced. asyncio is imported on first use."""

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._on_discard: WeakSet[Any] = WeakSet()
        follow_forks(self, EventLoop._after_fork)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine that ``work`` returns to its end. ``work`` itself is called outside of the loop.

        If another task of the loop ends it, by ``sys.exit()`` or ``loop.stop()``, the loop is discarded.

        Raises :class:`JobError` if a loop runs in this thread already.
        """
        import asyncio
        import contextvars
        import inspect

        if asyncio._get_running_loop() is not None:
            raise JobError(
                "an asyncio loop runs in this thread already, and an async handler has a loop of its own; call this in "
                "another thread: await asyncio.to_thread(…)"
            )
        coroutine = work()
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.get_loop().set_exception_handler(_handle_error)
        try:
            return self._runner.run(coroutine, context=contextvars.copy_context())
        finally:
            if inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED:  # it would continue in the next run
                self.discard()

    def closes(self, connection: Any) -> None:
        """Call ``connection.terminate()`` when the loop is discarded, and ``connection.abandon()`` after a fork."""
        self._on_discard.add(connection)

    def discard(self) -> None:
        """Give the loop up in any state, with its connections. Its tasks are cancelled. The next run makes another."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        loop = runner.get_loop()
        _leave(loop)
        for step in (self._terminate, partial(_cancel_tasks, loop), partial(_close_tasks, loop), loop.close):
            with suppress(BaseException):  # also the alarm, which fires again if a handler's clean-up blocks
                step()

    def _terminate(self) -> None:
        while self._on_discard:
            with suppress(Exception):
                self._on_discard.pop().terminate()

    def _after_fork(self) -> None:
        """Leave the loop to the process that has made it: the two would share its selector."""
        left, self._on_discard = list(self._on_discard), WeakSet()
        for connection in left:
            connection.abandon()
        _LEFT.append((self._runner, left))
        self._runner = None


_LEFT: list[Any] = []
"""Objects without a clean-up: loops and connections of parent processes, which would talk to the parent's servers, and
coroutines that ignore their end, which would run for ever."""
process_loop = EventLoop()
"""The loop of this process."""


def _handle_error(loop: AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle an error that asyncio cannot raise. If the alarm has interrupted a callback, end the run."""
    error = context.get("exception")
    if error is None or isinstance(error, Exception):
        loop.default_exception_handler(context)
    elif "handle" in context:
        loop.stop()


def _leave(loop: AbstractEventLoop) -> None:
    """Note that the loop does not run. The alarm may have interrupted it before it has done so."""
    import asyncio

    if asyncio._get_running_loop() is loop:
        asyncio._set_running_loop(None)


def _cancel_tasks(loop: AbstractEventLoop) -> None:
    import asyncio

    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=UNWIND_SECONDS))


def _close_tasks(loop: AbstractEventLoop) -> None:
    """Close the coroutines of tasks that have not ended, and run the callbacks of closed connections."""
    import asyncio

    async def close() -> None:
        """Close on the loop, because a coroutine that ignores its end would otherwise not get to its next await."""
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            _LEFT.append(coroutine)
            with suppress(BaseException):
                coroutine.close()  # type: ignore[union-attr]
                _LEFT.remove(coroutine)

    loop.run_until_complete(close())
