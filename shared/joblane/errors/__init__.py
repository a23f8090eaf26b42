"""The errors of the library, under one root.

A caller gets the errors of this module. A handler raises the exceptions of :mod:`joblane.errors.outcomes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from joblane.errors.outcomes import (
    NO_FAILURES,
    OUTCOMES,
    ChildFailed,
    Continued,
    CursorError,
    DepthError,
    HookError,
    Interrupt,
    ItemKeyError,
    LeaseLostError,
    PartialFailure,
    RateLimited,
    RetryAfter,
    RevokeTask,
    SkipRetry,
    Snooze,
    StepError,
    Stopped,
    TaskCancelled,
    TaskTimeout,
    WaitExpired,
)
from joblane.errors.root import FieldError, JobError
from joblane.errors.text import (
    MAX_TEXT,
    MISSING_MODULE,
    NOT_IN_DEV,
    UNDEFINED_FUNCTION,
    is_not_installed,
    shortened,
    shown,
    sqlstate,
    storable,
    text_of,
)

__all__ = [
    "MAX_TEXT",
    "MISSING_MODULE",
    "NOT_IN_DEV",
    "NO_FAILURES",
    "OUTCOMES",
    "UNDEFINED_FUNCTION",
    "ChangedSchemaError",
    "ChildFailed",
    "Continued",
    "CursorError",
    "DatabaseUnavailableError",
    "DeclarationError",
    "DeclaredScheduleError",
    "DepthError",
    "DuplicateTaskError",
    "EnqueueError",
    "FieldError",
    "ForeignSchemaError",
    "HookError",
    "Interrupt",
    "ItemKeyError",
    "JobError",
    "LaneError",
    "LeaseLostError",
    "LimitError",
    "MessageError",
    "PartialFailure",
    "PayloadError",
    "RateLimited",
    "RetryAfter",
    "RevokeTask",
    "ScheduleError",
    "SendError",
    "SignalError",
    "SkipRetry",
    "Snooze",
    "StepError",
    "Stopped",
    "TaskCancelled",
    "TaskIdConflictError",
    "TaskTimeout",
    "UnknownScheduleError",
    "UnknownTaskError",
    "UnknownTypeError",
    "UnreadablePayloadError",
    "WaitExpired",
    "WaitTimeoutError",
    "WrongStageError",
    "is_not_installed",
    "shortened",
    "shown",
    "sqlstate",
    "storable",
    "text_of",
]


# --- Declaring and configuring -------------------------------------------------------------------------------------


class DeclarationError(JobError, ValueError):
    """A task is declared in a way that cannot work. Raised when the handler module is imported, and at synth.

    Change the declaration: the message names the task and the option.
    """


class UnknownTypeError(DeclarationError):
    """No task of that type is declared. Raised when a function or a command looks a type up.

    Check the spelling, or declare the task in ``functions/``.
    """


class WrongStageError(JobError):
    """The schema ``joblane`` of the database serves another stage. Raised when a client or a worker connects.

    Correct ``JOBLANE_PREFIX`` or ``DATABASE_URL``. A worker keeps its messages in the queue and spends no attempt.
    """

    prefix: str
    """The prefix of this process."""
    found: str
    """The prefix of the schema."""

    def __init__(self, prefix: str, found: str) -> None:
        super().__init__(
            f"the schema joblane of this database serves the stage with prefix {found!r}, and this process is of the"
            f" stage with prefix {prefix!r}; set JOBLANE_PREFIX={found}, or give this stage a database of its own"
        )
        self.prefix, self.found = prefix, found


class ForeignSchemaError(JobError):
    """The schema ``joblane`` of the database belongs to another project, or to another program. Raised by a migration.

    Nothing was changed in it. Rename the schema, or use another database.
    """

    found: str
    """The problem."""
    do: str
    """Sentences that say what to do."""

    def __init__(self, found: str, do: str) -> None:
        super().__init__(f"{found}. {do}")
        self.found, self.do = found, do


class ChangedSchemaError(JobError):
    """A part of the schema ``joblane`` that the library needs was dropped or changed by hand. Raised by a migration.

    Nothing was changed in the schema: run the statements of the message, then migrate again.
    """

    differences: tuple[str, ...]
    """Each part, with the difference and the statement that restores it."""

    def __init__(self, differences: tuple[str, ...]) -> None:
        super().__init__(
            "\n".join(("the schema joblane was changed by hand. Nothing was migrated; fix this first:", *differences))
        )
        self.differences = differences


# --- Enqueueing ----------------------------------------------------------------------------------------------------


class EnqueueError(FieldError):
    """An enqueue has a wrong argument. Nothing was written or sent.

    Correct the call: an enqueue with the same arguments is refused again.
    """


class LaneError(EnqueueError):
    """The task has no lane in the queue that the enqueue names.

    Name another queue, or add this queue to ``also`` in the task's declaration.
    """

    def __init__(self, type_: str, queue: str, lanes: Iterable[str]) -> None:
        known = ", ".join(lanes)
        super().__init__(
            "queue", f"{type_!r} has no lane in {str(queue)!r}; it has one in: {known}. Add it by also=… on the task"
        )


class ScheduleError(EnqueueError):
    """A schedule has a wrong argument, or another transaction is changing it. Nothing was changed.

    Correct the argument that ``field`` names. If another transaction is changing the schedule, try again.
    """


class DeclaredScheduleError(ScheduleError):
    """The code declares the schedule, so no program can put or delete it. Nothing was changed.

    Change the declaration and deploy, or choose another name. A pause stops it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            "name", f"the code declares the schedule {name!r}: change it there, or pause it; or choose another name"
        )


class UnknownScheduleError(JobError, LookupError):
    """No schedule has this name. Nothing was changed.

    Check the name.
    """

    name: str
    """The name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no schedule {name!r}")
        self.name = name


class SignalError(FieldError):
    """A signal, or an address of ``ctx.signal_url``, has a wrong argument or a wrong setting. Nothing was sent.

    Correct the argument or the setting that ``field`` names.
    """


class LimitError(FieldError):
    """A change of a limit has a wrong argument. Nothing was changed.

    Correct the argument that ``field`` names.
    """


class PayloadError(EnqueueError):
    """The payload does not fit the task's payload class, or is too large, or cannot be written as JSON.

    Correct the payload. The message names fields, never values.
    """


class TaskIdConflictError(EnqueueError):
    """A task with the given ``task_id`` exists. Nothing was enqueued.

    If you did not receive the result of an enqueue, repeat it with the same ``task_id``: this error then shows that the
    task exists.
    """

    task_id: str
    """The id."""

    def __init__(self, task_id: str) -> None:
        super().__init__("task_id", f"{task_id!r} is the id of a task that exists already; nothing was enqueued")
        self.task_id = task_id


class BatchIdConflictError(EnqueueError):
    """A batch with the given id exists. Nothing was enqueued.

    If you did not receive the result of a block, repeat it: this error then shows that the batch exists.
    """

    batch_id: str
    """The id."""

    def __init__(self, batch_id: str) -> None:
        super().__init__("id", f"a batch {batch_id!r} exists already; nothing was enqueued")
        self.batch_id = batch_id


class DuplicateTaskError(EnqueueError):
    """A live task holds the unique key. Nothing was enqueued.

    Use the existing task, or enqueue with ``on_conflict="return"`` or ``"replace"``.
    """

    task_id: str
    """Id of the task that holds the key."""
    state: str
    """State of that task."""

    def __init__(self, task_id: str, state: str, problem: str = "nothing was enqueued") -> None:
        super().__init__("unique_key", f"held by task {task_id!r}, which is {state}; {problem}")
        self.task_id, self.state = task_id, state


class SendError(JobError):
    """SQS did not confirm a message that has no row. Only a :class:`MessageClient` raises it.

    The message of the error says what to check, for example credentials or ``AWS_REGION``; for a single task
    ``__cause__`` is the error of boto3, if there is one. Enqueue the task again, with the same ``task_id`` if it has
    one. If SQS did not answer, or its answer cannot be read, it may have accepted the first message. A task with
    another id then runs as well.
    """


class UnknownTaskError(JobError, LookupError):
    """No task has this id, or its row was removed: ids are kept for 24 days after the task has ended.

    Check the id.
    """

    task_id: str
    """The id."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"there is no task {task_id!r}")
        self.task_id = task_id


class WaitTimeoutError(JobError, TimeoutError):
    """The task has not ended within the time of ``JobClient.wait``. The task continues.

    Wait again, or call ``JobClient.get`` later.
    """

    task_id: str
    """Id of the task."""
    state: str
    """State of the task when it was last read."""

    def __init__(self, task_id: str, state: str, timeout: timedelta) -> None:
        super().__init__(f"task {task_id!r} has not ended within {timeout}: it is {state}")
        self.task_id, self.state = task_id, state


class UnreadablePayloadError(JobError):
    """A received payload does not fit the task's payload class. The message names fields, never values.

    If this version of the code wrote the payload, the task is archived at once. If another version wrote it, the task
    waits for a deploy, and is archived after 1 hour.
    """


class DatabaseUnavailableError(JobError):
    """The database is unavailable, or did not answer in time. Nothing was sent.

    Enqueue again. If the connection broke before the answer, and a second try failed too, the task may exist:
    ``task_ids`` has its id, and a second enqueue with this ``task_id`` does not create a second task.
    """

    def __init__(self, message: str, *, task_ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.task_ids = list(task_ids)
        """Ids of the tasks that may have been accepted."""


class MessageError(JobError, ValueError):
    """A message body cannot be read, or holds something that PostgreSQL or SQS cannot store.

    The message becomes a dead letter with the reason. The reason has no payload value.
    """
