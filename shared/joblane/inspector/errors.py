"""What stands in an operator's way."""

from __future__ import annotations

from collections.abc import Iterable

from joblane.errors import JobError
from joblane.record.states import State


class ActionError(JobError):
    """The task is in a state that does not allow the action, or changed meanwhile. Nothing was done.

    ``last``: what another operator has done to it shortly before, as a sentence.
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
        """``problem``: what is in the way where it is not the state."""
        names = ", ".join(state for state in State if state in set(allowed))
        said = f": {problem}" if problem else f"; {action} is for tasks that are {names}"
        super().__init__(f"task {task_id!r} is {state}{said}" + (f". {last}" if last else ""))
        self.task_id = task_id
        self.action = action
        self.state = state
        self.last = last


class SelectionError(JobError, ValueError):
    """A filter, cursor, name or number that cannot be asked for. ``field`` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class BusyError(JobError):
    """Somebody else is changing the same thing at this moment. Nothing was done."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is being changed at this moment, by its run or by another operator; try again")


class SchemaError(JobError):
    """The database has not the tables that this code works with."""


class AwsCallError(JobError):
    """AWS refused a call, or did not answer it. ``call``: its name, as ``SendMessage``.

    ``denied``: for want of a permission.
    """

    def __init__(self, call: str, problem: str, *, denied: bool = False) -> None:
        super().__init__(f"AWS, {call}: {problem}")
        self.call = call
        self.denied = denied
