"""The stage that an inspector works on: its database, queues and declarations, and the operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from joblane.names import function_name, log_group_name
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.sqs.client import Sqs
from joblane.tasks.task import Task


@dataclass(frozen=True, slots=True)
class Scope:
    """``tasks``: by type, with the schedules of the stage. ``who``: the operator, for the audit; verified if remote.

    ``region``: the region of AWS's other services, also for links into the console; empty if none is set. ``lock``:
    held by the current operation. ``ticker_runs``: false if the ticker of the local stack is known not to run.
    """

    database: Database
    sqs: Sqs
    prefix: str
    tasks: Mapping[str, Task[Any, Any]]
    who: str
    region: str = ""
    ticker_runs: Callable[[], bool] = lambda: True
    lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def connection(self) -> Connection:
        """An idle connection: each statement is a transaction of its own, unless one is opened."""
        return self.database.get()

    def task(self, type_: str) -> Task[Any, Any] | None:
        """The declared task of a type, by its present or a former name; None if there is none."""
        return next((task for task in self.tasks.values() if type_ in task.types), None)

    def members(self, task: Task[Any, Any]) -> list[Task[Any, Any]]:
        """The tasks of the place of ``task``, which share its function and its lanes; itself alone without a place."""
        return [task] if task.place is None else [each for each in self.tasks.values() if each.place == task.place]

    def log_group(self, type_: str) -> str:
        """The log group of the function that runs, or ran, a type."""
        task = self.task(type_)
        return log_group_name(function_name(self.prefix, task.type if task else type_))
