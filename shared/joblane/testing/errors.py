"""What the kit itself raises. What a handler raises comes out of :meth:`JobTester.run` as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.errors import JobError

if TYPE_CHECKING:
    from joblane.testing.report import TaskReport


class KitError(JobError):
    """The kit was asked for what it cannot do; the message says what to do instead."""


class NotRunError(KitError):
    """A task that was to be run has not completed, and its handler raised nothing. ``task``: how it stands."""

    def __init__(self, task: TaskReport) -> None:
        super().__init__(f"{task}")
        self.task = task


class CrashedError(KitError):
    """The process that ran the task was killed, as a fault of the test wanted it. ``task``: how it stands."""

    def __init__(self, task: TaskReport) -> None:
        super().__init__(f"the process was killed: {task}")
        self.task = task


class Killed(KeyboardInterrupt):
    """Ends an invocation as SIGKILL ends a process: nothing after it decides, writes or sends anything.

    The runtime lets interrupts of the keyboard through and takes every other exception for the end of a handler.
    """
