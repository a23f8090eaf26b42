"""What the kit itself raises. What a handler raises comes out of :meth:`JobTester.run` as it is."""

from __future__ import annotations

from joblane.errors import JobError


class KitError(JobError):
    """A call of the testing kit is wrong or impossible. The message says what to do."""


class Killed(KeyboardInterrupt):
    """Ends an invocation as SIGKILL ends a process: nothing after it decides, writes or sends anything.

    The runtime lets interrupts of the keyboard through and takes every other exception for the end of a handler.
    """
