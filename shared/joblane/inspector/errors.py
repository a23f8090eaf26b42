"""Errors of the inspector: an operator's request that cannot be carried out."""

from __future__ import annotations

from collections.abc import Iterable

from joblane.errors import DatabaseUnavailableError, FieldError, JobError
from joblane.record.row.states import State


class ActionError(JobError):
    """The task is in a state that does not allow the action, or changed during the action. Nothing was done.

    Show the task again, and decide again.
    """

    task_id: str
    """Id of the task."""
    action: str
    """Name of the action."""
    state: State
    """State of the task."""
    last: str | None
    """Sentence on a recent action of another operator. None: there was none."""

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


class SelectionError(FieldError):
    """A filter, cursor, name or number is wrong, or nothing matches. Nothing was done.

    Correct the argument that ``field`` names.
    """


class UnknownBatchError(JobError, LookupError):
    """There is no batch with this id in this stage.

    Check the id, and the stage.
    """

    batch_id: str
    """The id."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"there is no batch {batch_id!r} in this stage; `joblane batch ls` lists the latest")
        self.batch_id = batch_id


class RoleError(JobError):
    """The role of the person who is signed in does not include the operation. Nothing was done.

    Ask for a group with the other role.
    """

    operation: str
    """Name of the operation."""
    role: str
    """Role of the person."""
    needed: str
    """Role that the operation needs."""

    def __init__(self, operation: str, role: str, needed: str) -> None:
        super().__init__(f"{operation} needs the role to {needed}, and yours is to {role}")
        self.operation = operation
        self.role = role
        self.needed = needed


class UnknownBulkError(JobError, LookupError):
    """There is no bulk action or redrive with this id in this stage.

    Check the id, and the stage.
    """

    bulk_id: str
    """The id."""

    def __init__(self, bulk_id: str) -> None:
        super().__init__(f"there is no bulk action {bulk_id!r} in this stage; `joblane bulk ls` lists the latest")
        self.bulk_id = bulk_id


class BusyError(JobError):
    """A run or another operator is changing the same task at this moment. Nothing was done.

    Repeat the action.
    """

    def __init__(self, target: str) -> None:
        super().__init__(f"{target} is being changed at this moment, by its run or by another operator; try again")


class DatabaseAsleepError(DatabaseUnavailableError):
    """No connection to the database could be opened in time, for example because it is asleep. Nothing was done.

    Repeat the action. ``joblane`` with ``--stage`` has done so for a minute.
    """


class SchemaError(JobError):
    """The database does not have the tables that this code works with.

    Run ``joblane migrate``, or use the version of the code that was deployed.
    """


class AwsCallError(JobError):
    """AWS refused a call of the library, or did not answer it.

    If ``denied``: get the permission. Otherwise repeat the action.
    """

    call: str
    """Name of the call, for example ``SendMessage``."""
    denied: bool
    """True: a permission is missing."""

    def __init__(self, call: str, problem: str, *, denied: bool = False) -> None:
        super().__init__(f"AWS, {call}: {problem}")
        self.call = call
        self.denied = denied
