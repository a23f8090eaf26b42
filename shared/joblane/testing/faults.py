"""What a test may let happen to a run: duplicates, kills around a commit, a process that was away for too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from joblane.declaration import Task
from joblane.record.checkpoints import MARK_ITEM, MOVE_CURSOR
from joblane.record.connection import Connection
from joblane.record.database import Database
from joblane.record.finish import FINISH
from joblane.testing.errors import Killed

Go = Callable[[], Any]
Tap = Callable[[str, Go], Any]
"""Stands before every statement: gets its SQL and what sends it, and returns what that gives."""


class TappedDatabase(Database):
    """A process's connection with a tap before every statement, SQLAlchemy's among them."""

    def __init__(self, url: str, tap: Tap) -> None:
        super().__init__(url)
        self._tap = tap
        self._tapped: Connection | None = None

    def get(self) -> Connection:
        connection = super().get()
        if connection is not self._tapped:
            self._tapped = connection
            prepared, simple = connection.execute_unnamed, connection.execute_simple
            connection.__dict__.update(
                execute_unnamed=lambda sql, *rest, **named: self._tap(sql, lambda: prepared(sql, *rest, **named)),
                execute_simple=lambda sql: self._tap(sql, lambda: simple(sql)),
            )
        return connection


class Kind(Enum):
    DUPLICATE = auto()
    DUPLICATE_WHILE_RUNNING = auto()
    CRASH_BEFORE_COMMIT = auto()
    CRASH_AFTER_COMMIT = auto()
    LATE = auto()


CRASHES = (Kind.CRASH_BEFORE_COMMIT, Kind.CRASH_AFTER_COMMIT)


@dataclass
class Fault:
    """A fault that a test has armed."""

    kind: Kind
    """Kind of the fault."""
    type: str | None
    """Type of the tasks that it concerns. None: all."""
    left: int
    """Number of times that it will still happen."""
    commit: int | None = None
    """Number of the commit within a run, from 1. None: the last one."""
    happened: int = 0
    """Number of times that it has happened."""

    def strikes(self) -> None:
        """Count one time."""
        self.left -= 1
        self.happened += 1


class Faults:
    """Those that are armed now."""

    def __init__(self) -> None:
        self._armed: list[Fault] = []

    @contextmanager
    def armed(self, kind: Kind, task: Task[Any, Any] | None, times: int, commit: int | None = None) -> Iterator[Fault]:
        """Arm one for the block. Raises AssertionError where it had fewer occasions than ``times``, as a test that
        proves nothing would pass."""
        if times < 1 or (commit is not None and commit < 1):
            raise ValueError("times, commit: numbers from 1 are required")
        fault = Fault(kind, task.type if task else None, times, commit)
        self._armed.append(fault)
        try:
            yield fault
        finally:
            self._armed.remove(fault)
        if fault.left:
            what, of = kind.name.lower().replace("_", " "), fault.type or "any task"
            came = f"{fault.happened} of {times} times a run of {of}" if fault.happened else f"no run of {of}"
            raise AssertionError(f"{what}: {came} came to it inside of the block")

    def find(self, type_: str, *kinds: Kind) -> Fault | None:
        """The first of these kinds that has an occasion in a run of this type."""
        return next(
            (one for one in self._armed if one.kind in kinds and one.left > 0 and one.type in (None, type_)), None
        )


class Guillotine:
    """Kills the process that serves a task at the commit a fault names: its connection is cut without a word.

    ``watch(type)`` begins an invocation. From the kill to :meth:`release` every statement is met by the same end.
    """

    def __init__(self, url: str, faults: Faults) -> None:
        self.database = TappedDatabase(url, self._tap)
        self._faults = faults
        self._type: str | None = None
        self._fallen = False
        self._commits = 0
        self._ends = False

    def watch(self, type_: str) -> None:
        self._type, self._commits, self._ends = type_, 0, False

    def release(self) -> None:
        self._type, self._fallen = None, False

    def _tap(self, sql: str, go: Go) -> Any:
        if self._fallen:
            raise Killed
        fault = self._faults.find(self._type, *CRASHES) if self._type else None
        if fault is None or not self._is_commit(sql, fault):
            return go()
        if fault.kind is Kind.CRASH_AFTER_COMMIT:
            go()
        fault.strikes()
        self._fallen = True
        self.database.drop()
        raise Killed

    def _is_commit(self, sql: str, fault: Fault) -> bool:
        """Whether this statement commits, and is the commit that is meant."""
        self._ends = self._ends or sql == FINISH
        alone = sql in (FINISH, MARK_ITEM, MOVE_CURSOR) and self.database.get().idle
        if not alone and sql != "commit":
            return False
        self._commits += 1
        return self._ends if fault.commit is None else self._commits == fault.commit
