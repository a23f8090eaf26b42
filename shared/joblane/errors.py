"""Every error of the library, under one root, and the exceptions by which a handler chooses its outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pg8000.exceptions import Error as PostgresError


class JobError(Exception):
    """Root of everything the library raises on purpose."""


# --- Declaring and configuring -------------------------------------------------------------------------------------


class DeclarationError(JobError, ValueError):
    """A task is declared in a way that cannot work. Raised when the handler module is imported, or at synth."""


class UnknownTypeError(DeclarationError):
    """No task of that type is declared."""


class WrongStageError(JobError):
    """The schema ``joblane`` of the database serves another stage. ``prefix``: ours; ``found``: that of the schema.

    A worker leaves its messages in their queue and spends no attempt.
    """

    def __init__(self, prefix: str, found: str) -> None:
        super().__init__(
            f"the schema joblane of this database serves the stage with prefix {found!r}, and this process is of the"
            f" stage with prefix {prefix!r}; set JOBLANE_PREFIX={found}, or give this stage a database of its own"
        )
        self.prefix = prefix
        self.found = found


class ForeignSchemaError(JobError):
    """The schema ``joblane`` of the database is not this project's: nothing was changed in it."""


# --- Enqueueing ----------------------------------------------------------------------------------------------------


class EnqueueError(JobError, ValueError):
    """An enqueue is refused before anything was written or sent. ``field`` names the argument at fault."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class LaneError(EnqueueError):
    """The type has no lane in that queue."""

    def __init__(self, type_: str, queue: str, lanes: Iterable[str]) -> None:
        known = ", ".join(lanes)
        super().__init__(
            "queue", f"{type_!r} has no lane in {str(queue)!r}; it has one in: {known}. Add it by also=… on the task"
        )


class PayloadError(EnqueueError):
    """The payload does not fit the task's model. The message names fields, never values."""


class TaskIdConflictError(EnqueueError):
    """A task with this id is known already."""

    def __init__(self, task_id: str) -> None:
        super().__init__("task_id", f"{task_id!r} is the id of a task that exists already; nothing was enqueued")
        self.task_id = task_id


class DuplicateTaskError(EnqueueError):
    """A live task holds the unique key. ``task_id``: its id."""

    def __init__(self, task_id: str, state: str, problem: str = "nothing was enqueued") -> None:
        super().__init__("unique_key", f"held by task {task_id!r}, which is {state}; {problem}")
        self.task_id = task_id
        self.state = state


class SendError(JobError):
    """SQS did not take a message that has no row to fall back on. The task was not enqueued."""


class UnknownTaskError(JobError, LookupError):
    """No task has this id, or its retention has passed."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"there is no task {task_id!r}")
        self.task_id = task_id


class WaitTimeoutError(JobError, TimeoutError):
    """The task has not ended in time; it goes on. ``state``: as it was last seen."""

    def __init__(self, task_id: str, state: str, timeout: timedelta) -> None:
        super().__init__(f"task {task_id!r} has not ended within {timeout}: it is {state}")
        self.task_id = task_id
        self.state = state


class UnreadablePayloadError(JobError):
    """A received payload does not fit the task's model. The message names fields, never values."""


class RecordAwayError(JobError):
    """The database that keeps the record cannot be reached. Nothing was sent, and as a rule nothing written.

    Where the connection broke just as the row was committed, the task exists and will run: enqueue again under a
    ``task_id`` of your own, and twice is once.
    """


class MessageError(JobError, ValueError):
    """A message body cannot be read, or carries what Postgres or SQS cannot take. The text holds no payload value."""


# --- What a handler may raise --------------------------------------------------------------------------------------


class SkipRetry(JobError):  # noqa: N818 - the field's name for it, as in asynq
    """Give the task up now: ``archived`` and a dead letter, whatever attempts are left."""


class RevokeTask(JobError):  # noqa: N818
    """Drop the task quietly: ``cancelled``, no retry, no dead letter."""


class _After(JobError):  # noqa: N818
    """An outcome that names its own delay; subclasses say what it means."""

    def __init__(self, delay: timedelta, reason: str = "") -> None:
        if not isinstance(delay, timedelta) or delay < timedelta(0):
            raise TypeError(f"delay: a timedelta of zero or more, not {delay!r}")
        super().__init__(reason or f"again in {delay}")
        self.delay = delay


class RetryAfter(_After):
    """Fail this attempt and try again after ``delay``, in place of the declared back-off."""


class Snooze(_After):
    """Wait ``delay`` and run again. The attempt is not counted; there is a ceiling of its own."""


OUTCOMES = (SkipRetry, RevokeTask, RetryAfter, Snooze)
"""What a handler says of the whole task; everything else that it raises is a failed attempt."""


class CursorError(JobError, ValueError):
    """``ctx.resume`` cannot go by the source or cursor it was given."""


class ItemKeyError(JobError, ValueError):
    """``ctx.each`` cannot tell an item by the key it was given."""


class PartialFailure(JobError):  # noqa: N818
    """Some items of ``ctx.each`` failed inside ``ctx.isolated()``; those that did not are kept. A failed attempt.

    ``failed``, ``done``: how many. ``first``: the first item's error, also the cause.
    """

    def __init__(self, failed: int, done: int, first: Exception) -> None:
        super().__init__(f"{failed} of {failed + done} items failed, the first with {type(first).__name__}")
        self.failed = failed
        self.done = done
        self.first = first


class Interrupt(BaseException):
    """Base of what is raised into a running handler. Not an ``Exception``: ``except Exception`` must not swallow it."""


class TaskTimeout(Interrupt):
    """The handler outlived its timeout. Counts as a failed attempt."""


class TaskCancelled(Interrupt):
    """The task was cancelled while it ran. Its database work is rolled back; it is not retried."""


# --- Inside the library --------------------------------------------------------------------------------------------


class Continued(Interrupt):
    """A resumable task ends its invocation between two chunks, to go on in the next."""


class LeaseLostError(JobError):
    """Another run holds the task now: this run's work is rolled back and its message left alone."""


MAX_TEXT = 2_000


def text_of(error: BaseException, scrub: Callable[[str], str] = str) -> str:
    """One error as a line or two; of a database error its message and code, without the row or the value it names."""
    from pg8000.exceptions import Error as PostgresError

    original = getattr(error, "orig", None) or error
    try:
        text = _of_database(original) if isinstance(original, PostgresError) else str(error)
    except Exception:  # an error that cannot even be printed is still a failed attempt
        text = ""
    return storable(scrub(text)[:MAX_TEXT]) or type(error).__name__


def _of_database(error: PostgresError) -> str:
    code = sqlstate(error)
    if code is None:
        return str(error)
    message = str(error.args[0].get("M", "database error"))
    if code.startswith("22"):  # data exceptions quote the value: invalid input syntax for type uuid: "…"
        message = message.partition('"')[0].rstrip(" :")
    return f"{message} ({code})"


def sqlstate(error: BaseException) -> str | None:
    """The server's five-character code in a pg8000 error, or in an SQLAlchemy error around one."""
    original = getattr(error, "orig", None) or error
    first = original.args[0] if original.args else None
    return first.get("C") if isinstance(first, dict) else None


def storable(text: str) -> str:
    """``text`` without what Postgres's text cannot hold."""
    return text.replace("\0", "").encode(errors="replace").decode()
