"""What an inspector works with: the record, the queues, the declarations, and who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.db import Connection, Database
    from shared.jobs.sqs import Sqs
    from shared.jobs.task import Task


@dataclass(frozen=True, slots=True)
class Reach:
    """``tasks``: by type, with the times of the stage. ``who``: the operator, for the audit; verified where remote.

    ``region``: for links into the AWS console; empty where there is none. ``lock``: of the operation under way.
    """

    database: Database
    sqs: Sqs
    prefix: str
    tasks: Mapping[str, Task[Any, Any]]
    who: str
    region: str = ""
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def connection(self) -> Connection:
        """Idle; each statement is a transaction of its own unless one is opened."""
        return self.database.get()
