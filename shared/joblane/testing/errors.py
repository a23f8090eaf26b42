"""The kit's own exceptions. :meth:`JobTester.run` raises the exceptions of a handler unchanged."""

from __future__ import annotations

from joblane.errors import JobError


class KitError(JobError):
    """A call of the testing kit is wrong or impossible. The message says what to do."""


class Killed(KeyboardInterrupt):
    """Ends an invocation as SIGKILL ends a process: no code after it decides, writes or sends anything.

    A worker does not catch KeyboardInterrupt. Every other exception would count as the end of the handler.
    """
