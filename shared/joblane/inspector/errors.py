"""Errors of the inspector: an operator's request that cannot be carried out."""

from __future__ import annotations

from collections.abc import Iterable

from joblane.errors import JobError
from joblane.record.states import State


class ActionError(JobError):
    """The state of the task does not allow the action, or the task changed in the meantime. Nothing was done.

    ``last``: the latest action of an operator on this task, as a sentence.
    """

    def __init__(
        self,
        task_id: str,
        action: str,
        state: State,
        allowed: Iterable[State],
        last: str | None,
        *,
        problem: str | None = None,
    ) -> None:
        """``problem``: the obstacle, if it is not the state."""
        names = ", ".join(state for state in State if state in set(allowed))
        why = f": {problem}" if problem else f"; {action} is for tasks that are {names}"
        super().__init__(f"task {task_id!r} is {state}{why}" + (f". {last}" if last else ""))
        self.task_id = task_id
        self.action = action
        self.state = state
        self.last = last


class SelectionError(JobError, ValueError):
    """An argument of the request is invalid: a filter, cursor, name or number. ``field`` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class BusyError(JobError):
    """Another transaction is changing the same target at this moment. Nothing was done."""

    def __init__(self, target: str) -> None:
        super().__init__(f"{target} is being changed at this moment, by its run or by another operator; try again")


class SchemaError(JobError):
    """The database lacks tables, columns or functions that this code needs."""


class AwsCallError(JobError):
    """AWS refused a call, or did not answer it. ``call``: its name, such as ``SendMessage``.

    ``denied``: True if a permission is missing.
    """

    def __init__(self, call: str, problem: str, *, denied: bool = False) -> None:
        super().__init__(f"AWS, {call}: {problem}")
        self.call = call
        self.denied = denied
