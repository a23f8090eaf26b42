"""Faults that a test can cause: duplicates, kills around a commit, a process that stands still for too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Any

from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import OPERATOR, TimeLimits
from joblane.record.task.checkpoints import MARK_ITEM, MARK_STEP, MOVE_CURSOR
from joblane.record.task.finish import FINISHES, SUSPEND
from joblane.record.task.waits import EXPIRE
from joblane.tasks.task import Task
from joblane.testing.errors import Killed

if TYPE_CHECKING:
    from joblane.record.driver.async_connection import AsyncConnection
    from joblane.record.driver.async_database import AsyncDatabase

Send = Callable[[], Any]
JOINED_COMMIT = "commit of another driver"
Hook = Callable[[str, Send], Any]
"""Called for every statement with its SQL and a function that sends it. Returns the result of that function."""


class HookedDatabase(Database):
    """A process's connection with a hook around every statement, also SQLAlchemy's."""

    def __init__(self, url: str, hook: Hook, *, limits: TimeLimits | None = OPERATOR) -> None:
        super().__init__(url, limits=limits)
        self._hook = hook
        self._hooked: Connection | None = None

    @property
    def is_busy(self) -> bool:
        """True if a transaction of either session is open."""
        is_async = "asynchronous" in self.__dict__
        return self.in_transaction or (is_async and self.asynchronous.in_transaction)

    def get(self) -> Connection:
        connection = super().get()
        if connection is not self._hooked:
            self._hooked = connection
            prepared, simple, both = connection.execute_unnamed, connection.execute_simple, connection.commit_after
            connection.__dict__.update(
                commit_after=lambda sql, given: self._hook(sql, lambda: self._hook("commit", lambda: both(sql, given))),
                execute_unnamed=lambda sql, *rest, **named: self._hook(sql, lambda: prepared(sql, *rest, **named)),
                execute_simple=lambda sql: self._hook(sql, lambda: simple(sql)),
            )
        return connection

    @cached_property
    def asynchronous(self) -> AsyncDatabase:
        made = super().asynchronous
        connect, dialect = made.connect, made.engine.sync_engine.dialect
        commit = dialect.do_commit

        def connected() -> AsyncConnection:
            connection = connect()
            run = connection.run
            connection.__dict__["run"] = lambda sql, *rest: self._hook(sql, lambda: run(sql, *rest))
            return connection

        made.__dict__["connect"] = connected
        dialect.__dict__["do_commit"] = lambda used: self._hook("commit", lambda: commit(used))
        return made

    def commit_joined(self, commit: Callable[[], object]) -> None:
        self._hook(JOINED_COMMIT, commit)


class FaultKind(Enum):
    DUPLICATE = auto()
    DUPLICATE_WHILE_RUNNING = auto()
    CRASH_BEFORE_COMMIT = auto()
    CRASH_AFTER_COMMIT = auto()
    LATE_ACKNOWLEDGEMENT = auto()
    CANCEL_AT_CHECK = auto()


CRASHES = (FaultKind.CRASH_BEFORE_COMMIT, FaultKind.CRASH_AFTER_COMMIT)


@dataclass
class Fault:
    """A fault that a test has armed."""

    kind: FaultKind
    """Kind of the fault."""
    type: str | None
    """Type of the tasks that it concerns. None: all."""
    left: int
    """Number of times that it will still happen."""
    number: int | None = None
    """Number of the commit, or of the check, within a run, from 1. None: the last commit."""
    happened: int = 0
    """Number of times that it has happened."""

    def strikes(self) -> None:
        """Count one time."""
        self.left -= 1
        self.happened += 1


class Faults:
    """The faults that are armed now."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    @contextmanager
    def armed(
        self, kind: FaultKind, task: Task[Any, Any] | None, times: int, number: int | None = None
    ) -> Iterator[Fault]:
        """Arm a fault for the block.

        Raises AssertionError if it happened less often than ``times``, because the test would then prove nothing.
        """
        if times < 1 or (number is not None and number < 1):
            raise ValueError("times, commit, check: numbers from 1 are required")
        fault = Fault(kind, task.type if task else None, times, number)
        self._armed.append(fault)
        try:
            yield fault
        finally:
            self._armed.remove(fault)
        if fault.left:
            name, type_ = kind.name.lower().replace("_", " "), fault.type or "any task"
            raise AssertionError(
                f"{name}: it happened {fault.happened} of {times} times inside the block, to a run of {type_}"
            )

    def find(self, type_: str, *kinds: FaultKind) -> Fault | None:
        """Return the first armed fault of these kinds for a run of this type."""
        for fault in self._armed:
            if fault.kind in kinds and fault.left > 0 and fault.type in (None, type_):
                return fault
        return None


class Killer:
    """Kills the process that serves a task at the commit that a fault names, by closing its connection.

    :meth:`start` begins an invocation, :meth:`end` ends it. In between, every statement after the kill raises, too.
    """

    def __init__(self, url: str, faults: Faults) -> None:
        self.database = HookedDatabase(url, self._hook)
        self._faults = faults
        self._type: str | None = None
        self._killed = False
        self._commits = 0
        self._finishing = False

    def start(self, type_: str) -> None:
        self._type, self._commits, self._finishing = type_, 0, False

    def end(self) -> None:
        self._type, self._killed = None, False

    def _hook(self, sql: str, send: Send) -> Any:
        if self._killed:
            raise Killed
        fault = self._faults.find(self._type, *CRASHES) if self._type else None
        if fault is None or not self._is_commit(sql, fault):
            return send()
        if fault.kind is FaultKind.CRASH_AFTER_COMMIT:
            send()
        fault.strikes()
        self._killed = True
        self.database.drop()
        raise Killed

    def _is_commit(self, sql: str, fault: Fault) -> bool:
        """True if this statement is the commit that the fault names."""
        self._finishing = self._finishing or sql in (*FINISHES, SUSPEND, JOINED_COMMIT)
        commits_itself = (
            sql in (*FINISHES, SUSPEND, EXPIRE, MARK_ITEM, MARK_STEP, MOVE_CURSOR) and not self.database.is_busy
        )
        if not commits_itself and sql not in ("commit", JOINED_COMMIT):
            return False
        self._commits += 1
        return self._finishing if fault.number is None else self._commits == fault.number
