"""A kit for tests of jobs: the real worker, client and sweep, over a real database and queues in memory.

The fixture ``jobs`` of the pytest plugin is a :class:`JobTester`. ``docs/testing.md`` shows all of it by example.

Run
    JobTester, DrainReport, TaskReport
Look
    EnqueuedTask, Captured, DeadLetter
Break
    Fault
Raised
    KitError, NotRunError, CrashedError
"""

from shared.jobs.testing.enqueued import Captured, EnqueuedTask
from shared.jobs.testing.errors import CrashedError, KitError, NotRunError
from shared.jobs.testing.faults import Fault
from shared.jobs.testing.queues import DeadLetter
from shared.jobs.testing.report import DrainReport, TaskReport
from shared.jobs.testing.tester import JobTester

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
    "TaskReport",
]
