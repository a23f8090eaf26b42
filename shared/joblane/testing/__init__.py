"""A kit for tests of jobs: the real worker, client and sweep, with a real database and with queues in memory.

The fixture ``jobs`` of the pytest plugin is a :class:`JobTester`. ``docs/how-to/test.md`` has examples.

Run tasks
    JobTester, DrainReport, TaskReport, Released
Inspect tasks
    EnqueuedTask, Captured, DeadLetter
Cause faults
    Fault
Errors
    KitError, NotRunError, CrashedError
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.lazy import importer

if TYPE_CHECKING:
    from joblane.testing.enqueued import Captured, EnqueuedTask
    from joblane.testing.errors import KitError
    from joblane.testing.faults import Fault
    from joblane.testing.queues import DeadLetter
    from joblane.testing.report import CrashedError, DrainReport, NotRunError, Released, TaskReport
    from joblane.testing.tester import JobTester

__all__ = [
    "Captured",
    "CrashedError",
    "DeadLetter",
    "DrainReport",
    "EnqueuedTask",
    "Fault",
    "JobTester",
    "KitError",
    "NotRunError",
    "Released",
    "TaskReport",
]

__getattr__ = importer(
    __name__,
    {
        "joblane.testing.enqueued": "Captured EnqueuedTask",
        "joblane.testing.errors": "KitError",
        "joblane.testing.faults": "Fault",
        "joblane.testing.queues": "DeadLetter",
        "joblane.testing.report": "CrashedError DrainReport NotRunError Released TaskReport",
        "joblane.testing.tester": "JobTester",
    },
)
