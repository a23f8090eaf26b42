"""What the kit itself raises. What a handler raises comes out of :meth:`JobTester.run` as it is."""

from __future__ import annotations

from joblane.errors import JobError


class KitError(JobError):
    """The kit was asked for what it cannot do; the message says what to do instead."""


class Killed(KeyboardInterrupt):
    """Ends an invocation as SIGKILL ends a process: nothing after it decides, writes or sends anything.

    The runtime lets interrupts of the keyboard through and takes every other exception for the end of a handler.
    """
