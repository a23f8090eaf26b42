"""The exceptions by which a handler decides its outcome, and those that end a run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from joblane.errors.root import JobError

MOST_NAMED = 5
"""The maximum number of children in the message of :class:`ChildFailed`."""


class SkipRetry(JobError):  # noqa: N818 - the field's name for it, as in asynq
    """End the task without another attempt: it is ``archived`` and has a dead letter.

    Raise it for an error that no retry can fix.
    """


class DepthError(SkipRetry):
    """A run has tried to enqueue a task that is deeper than its ``max_depth``. Nothing was enqueued.

    The run's task is archived, because each retry would do the same. End the chain, raise ``max_depth`` of the type
    that the message names, or loop over ``ctx.resume`` in one task.
    """


class WaitExpired(SkipRetry):
    """The time of ``ctx.wait`` or ``ctx.poll`` has passed, and the call has no ``default``. Each later run raises it.

    Catch it, or give ``default=``. Otherwise the task is archived.
    """

    wait: str
    """Name of the wait."""

    def __init__(self, wait: str, problem: str) -> None:
        super().__init__(f"wait {wait!r}: {problem}")
        self.wait = wait


class ChildFailed(SkipRetry):
    """All children of ``ctx.run`` or ``ctx.gather`` have ended, and some of them did not complete.

    Uncaught, it archives the task. If it is caught, each later run raises it too, even if a child is retried. To repair
    it, retry the children that the message names, and then the task; or replay it if a child was deleted.
    """

    wait: str
    """Name of the wait."""
    ends: Mapping[str, str]
    """Id of each child that did not complete → ``archived``, ``cancelled`` or ``deleted``."""

    def __init__(self, wait: str, ends: Mapping[str, str]) -> None:
        named = ", ".join(f"{id_} was {end}" for id_, end in [*ends.items()][:MOST_NAMED])
        more = f", and {len(ends) - MOST_NAMED:,} more" if len(ends) > MOST_NAMED else ""
        then = "retry them, and then this task"
        if "deleted" in ends.values():
            then = "a deleted one cannot be retried: replay this task, which enqueues new ones"
        super().__init__(f"wait {wait!r}: not all children have completed: {named}{more}; {then}")
        self.wait, self.ends = wait, dict(ends)


class RevokeTask(JobError):  # noqa: N818
    """End the task as ``cancelled``: no retry, no dead letter, no alarm.

    Raise it if the work is no longer wanted.
    """


class _After(JobError):  # noqa: N818
    """An outcome with a delay. The subclasses define its meaning."""

    def __init__(self, delay: timedelta, reason: str = "") -> None:
        if not isinstance(delay, timedelta) or delay < timedelta(0):
            raise TypeError(f"delay: a timedelta of zero or more, not {delay!r}")
        super().__init__(reason or f"again in {delay}")
        self.delay = delay


class RetryAfter(_After):
    """Fail this attempt, and start the next one after ``delay`` instead of the declared ``retry_delay``.

    Raise it if a service says when to call again. After the last attempt the task is archived.
    """


class Snooze(_After):
    """End this run and start another after ``delay``, without counting an attempt. The work of this run is rolled back.

    Raise it if it is too early for the work. A task can snooze 20 times; after that, a snooze is a failed attempt.
    """


class RateLimited(_After):
    """End this run, and start no task that shares its widest limit until ``retry_after`` has passed. No attempt is
    counted. The work of this run is rolled back.

    Raise it if another service refuses a call because there were too many. All tasks that share the
    ``limit`` of the type, or else the type's ``max_total`` or ``rate``, or else the key, then wait. A task without a
    limit waits alone. The other tasks wait a day at most, this task the whole time. ``joblane limits reset`` ends their
    wait.
    """

    def __init__(self, retry_after: timedelta, reason: str = "") -> None:
        super().__init__(retry_after, reason)


OUTCOMES = (SkipRetry, RevokeTask, RetryAfter, Snooze, RateLimited)
"""The exceptions by which a handler decides the outcome of its task. Every other exception is a failed attempt."""


class CursorError(JobError, ValueError):
    """``ctx.resume`` cannot use its source or cursor. The attempt has failed.

    Correct the handler.
    """


class ItemKeyError(JobError, ValueError):
    """``ctx.each`` cannot use the key of an item. The attempt has failed.

    Correct the handler's ``key``: a text of 1 to 2,000 bytes.
    """


class StepError(SkipRetry):
    """``ctx.step`` cannot use its name, its function, or the value that the function returned; or a wait, such as
    ``ctx.wait``, cannot be where it is; or the results of children are too large. Nothing was stored.

    The task is archived, because each retry would do the same, and might call the function again. Correct the handler,
    and retry the task.
    """

    step: str
    """Name of the step or wait. Empty: the name is wrong."""

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(f"step {step!r}: {problem}" if step else problem)
        self.step = step


class HookError(JobError):
    """A hook of ``@around`` has failed. The message names the hook.

    Before its yield: the handler did not run, no attempt is spent, and the message stays in the queue for a growing
    time. After its yield, or without one: the attempt has failed. Correct the hook and deploy.
    """

    hook: str
    """Module and name of the hook."""
    is_early: bool
    """True if it has failed before its yield."""

    def __init__(self, hook: str, problem: str, *, is_early: bool = False) -> None:
        super().__init__(f"hook {hook} {problem}")
        self.hook, self.is_early = hook, is_early


class PartialFailure(JobError):  # noqa: N818
    """Items of ``ctx.each`` failed inside ``ctx.isolated()``. The attempt fails; the work of the other items is kept.

    Do not catch it: the next attempt runs only the items that are not done.
    """

    failed: int
    """Number of items that failed in this run."""
    done: int
    """Number of items that are done, by this run and earlier runs."""
    first: Exception
    """Error of the first item that failed. It is also the ``__cause__``."""

    def __init__(self, failed: int, done: int, first: Exception) -> None:
        super().__init__(f"{failed} of {failed + done} items failed, the first with {type(first).__name__}")
        self.failed, self.done, self.first = failed, done, first


class Interrupt(BaseException):
    """Base of the exceptions that the library raises in a running handler. Do not catch it.

    It is not an ``Exception``, so ``except Exception`` in a handler does not catch it.
    """


class TaskTimeout(Interrupt):
    """The handler ran longer than the task's ``timeout``, or past its deadline. Its uncommitted work is rolled back.

    After the ``timeout`` the attempt has failed. After the deadline the task is archived.
    """


class TaskCancelled(Interrupt):
    """The task was cancelled while it ran. Its uncommitted work is rolled back, and the task is not retried."""


# --- Inside the library --------------------------------------------------------------------------------------------


class Continued(Interrupt):
    """A resumable task ends its invocation between two chunks, and continues in the next one."""


class Stopped(Interrupt):
    """The run stops at a wait. Its work commits, and the task continues in a later run."""


class LeaseLostError(JobError):
    """Another run holds the task. The uncommitted work of this run is rolled back, and its message stays in the queue.

    Do not catch it. It happens if a process stops responding until its lease has ended, and then continues.
    """


NO_FAILURES = (Interrupt, LeaseLostError, RevokeTask, Snooze, RateLimited)
"""The exceptions that end a run and are no errors in spans and in Sentry."""
