"""The errors of the library, under one root, and the exceptions by which a handler decides its outcome."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import timedelta


class JobError(Exception):
    """Root of the library's errors, except :class:`MissingSettingError` and :class:`Interrupt`.

    To catch every refused enqueue and every failure of the database or of SQS, catch ``JobError``.
    """


class FieldError(JobError, ValueError):
    """A call has a wrong argument. Nothing was done. The subclasses say which calls raise it.

    Correct the argument that ``field`` names.
    """

    field: str
    """Name of the argument, or of the filter's field."""
    problem: str
    """The problem, without the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


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
        self.prefix = prefix
        self.found = found


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

    Name another queue, or add this queue to the task's declaration by ``also``.
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
        self.task_id = task_id
        self.state = state


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
        self.task_id = task_id
        self.state = state


class UnreadablePayloadError(JobError):
    """A received payload does not fit the task's payload class. The message names fields, never values.

    If this version of the code wrote the payload, the task is archived at once. If another version wrote it, the task
    waits for a deploy, and is archived after 1 hour.
    """


class DatabaseUnavailableError(JobError):
    """The database is unavailable, or did not answer in time. Nothing was sent.

    Enqueue again. If the connection broke before the answer, and a second try failed too, the task may exist:
    ``task_ids`` has its id, and a second enqueue with this ``task_id`` makes no second task.
    """

    def __init__(self, message: str, *, task_ids: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.task_ids = list(task_ids)
        """Ids of the tasks that may have been accepted."""


class MessageError(JobError, ValueError):
    """A message body cannot be read, or holds something that PostgreSQL or SQS cannot store.

    The message becomes a dead letter with the reason. The reason has no payload value.
    """


# --- What a handler may raise --------------------------------------------------------------------------------------


class SkipRetry(JobError):  # noqa: N818 - the field's name for it, as in asynq
    """End the task without another attempt: it is ``archived`` and has a dead letter.

    Raise it for an error that no retry can fix.
    """


class DepthError(SkipRetry):
    """A run has enqueued a task that is further from the outside than the task's ``max_depth``. Nothing was enqueued.

    The run's task is archived, because each retry would do the same. End the chain, raise ``max_depth`` of the type
    that the message names, or loop over ``ctx.resume`` in one task.
    """


class RevokeTask(JobError):  # noqa: N818
    """End the task as ``cancelled``: no retry, no dead letter, no alarm.

    Raise it if the work is no longer wanted.
    """


class _After(JobError):  # noqa: N818
    """An outcome with a delay. The subclasses define its meaning."""

    def __init__(self, delay: timedelta, reason: str = "") -> None:
        if not isinstance(delay, timedelta) or delay < timedelta(0):
            raise TypeError(f"delay: a timedelta of zero or more, not {delay!r}")
        super().__init__(reason or f"again in {delay}")
        self.delay = delay


class RetryAfter(_After):
    """Fail this attempt, and start the next one after ``delay`` instead of the declared ``retry_delay``.

    Raise it if a service says when to call again. After the last attempt the task is archived.
    """


class Snooze(_After):
    """End this run and start another after ``delay``, without counting an attempt. The work of this run is rolled back.

    Raise it if it is too early for the work. A task can snooze 20 times; after that, a snooze is a failed attempt.
    """


class RateLimited(_After):
    """End this run, and start none of the tasks that share its widest limit before ``retry_after`` has passed. No
    attempt is counted. The work of this run is rolled back.

    Raise it if another service refuses a call because there were too many. One refusal is then heeded by all tasks that
    share the ``limit`` of the type, or else the type's ``max_total`` or ``rate``, or else the key. A task without a
    limit waits alone. The other tasks wait a day at most, this task the whole time. ``joblane limits reset`` ends their
    wait.
    """

    def __init__(self, retry_after: timedelta, reason: str = "") -> None:
        super().__init__(retry_after, reason)


OUTCOMES = (SkipRetry, RevokeTask, RetryAfter, Snooze, RateLimited)
"""The exceptions by which a handler decides the outcome of its task. Every other exception is a failed attempt."""


class CursorError(JobError, ValueError):
    """``ctx.resume`` cannot use its source or cursor. The attempt has failed.

    Correct the handler.
    """


class ItemKeyError(JobError, ValueError):
    """``ctx.each`` cannot use the key of an item. The attempt has failed.

    Correct the handler's ``key``: a text of 1 to 2,000 bytes.
    """


class StepError(SkipRetry):
    """``ctx.step`` cannot use its name, its function, or the value that the function returned. Nothing was stored.

    The task is archived, because each retry would do the same, and might call the function again. Correct the handler,
    and retry the task.
    """

    step: str
    """Name of the step. Empty: the name is wrong."""

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(f"step {step!r}: {problem}" if step else problem)
        self.step = step


class PartialFailure(JobError):  # noqa: N818
    """Items of ``ctx.each`` failed inside ``ctx.isolated()``. The attempt fails; the work of the other items is kept.

    Do not catch it: the next attempt runs only the items that are not done.
    """

    failed: int
    """Number of items that failed in this run."""
    done: int
    """Number of items that are done, by this run and earlier runs."""
    first: Exception
    """Error of the first item that failed. It is also the ``__cause__``."""

    def __init__(self, failed: int, done: int, first: Exception) -> None:
        super().__init__(f"{failed} of {failed + done} items failed, the first with {type(first).__name__}")
        self.failed = failed
        self.done = done
        self.first = first


class Interrupt(BaseException):
    """Base of the exceptions that the library raises in a running handler. Do not catch it.

    It is not an ``Exception``, so ``except Exception`` in a handler does not catch it.
    """


class TaskTimeout(Interrupt):
    """The handler ran longer than the task's ``timeout``, or past its deadline. Its uncommitted work is rolled back.

    After the ``timeout`` the attempt has failed. After the deadline the task is archived.
    """


class TaskCancelled(Interrupt):
    """The task was cancelled while it ran. Its uncommitted work is rolled back, and the task is not retried."""


# --- Inside the library --------------------------------------------------------------------------------------------


class Continued(Interrupt):
    """A resumable task ends its invocation between two chunks, and continues in the next one."""


class LeaseLostError(JobError):
    """Another run holds the task. The uncommitted work of this run is rolled back, and its message stays in the queue.

    Do not catch it. It happens if a process stops responding until its lease has ended, and then continues.
    """


MAX_TEXT = 2_000


NOT_IN_DEV = "NotInJoblaneDev"
"""Code of AWS's errors with which `joblane dev` answers calls of services other than SQS."""
MISSING_MODULE = (
    "add its package to the lock file ([tool.joblane] lock), or name a folder of your own in [tool.joblane] code;"
    " joblane dev and tests need the package installed, too"
)
"""Advice for :func:`is_not_installed`. Without quotes: groups of errors show no quoted text."""
UNDEFINED_FUNCTION = "42883"
"""SQLSTATE of a function that does not exist. The library's functions have the version of their code in their names."""


def text_of(error: BaseException, scrub: Callable[[str], str] = str) -> str:
    """Return an error as one or two lines. For a database error: its message and code, without rows and values."""
    from pg8000.exceptions import Error as PostgresError

    original = getattr(error, "orig", None) or error
    try:
        if original.__cause__ is not None and original.__cause__.args == original.args:
            original = original.__cause__  # Django raises its own error from the driver's
        of_database = isinstance(original, PostgresError) or sqlstate(original) is not None
        text = _of_database(original) if of_database else str(error)
        if is_not_installed(error):
            text = f"{text}; {MISSING_MODULE}"
    except Exception:  # an error that cannot be printed is still a failed attempt
        text = ""
    return scrub(shortened(text, MAX_TEXT))[:MAX_TEXT] or type(error).__name__


def is_not_installed(error: BaseException) -> bool:
    """Return true if an import failed because its package is not installed."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return bool(name) and str(name).partition(".")[0] not in sys.modules


def _of_database(error: BaseException) -> str:
    code = sqlstate(error)
    if code is None:
        return str(error)
    fields = error.args[0] if error.args else "database error"
    message = str(fields.get("M", "database error")) if isinstance(fields, dict) else str(fields)
    message = message.partition("\nDETAIL:")[0]  # asyncpg and psycopg add it, and it contains values of rows
    if code.startswith("22"):  # data exceptions quote the value: invalid input syntax for type uuid: "…"
        message = message.partition('"')[0].rstrip(" :")
    if code == UNDEFINED_FUNCTION and " joblane." in message:
        return f"{message} ({code}); run `joblane migrate` of this code"
    return f"{message} ({code})"


def sqlstate(error: BaseException) -> str | None:
    """Return the server's five-character code of a driver's error, or of an SQLAlchemy error around it."""
    original = getattr(error, "orig", None) or error
    first = original.args[0] if original.args else None
    code = first.get("C") if isinstance(first, dict) else getattr(original, "sqlstate", None)
    return code if isinstance(code, str) else None


_CONTROLS = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


def storable(text: str) -> str:
    """Return ``text`` without control characters, except for line ends and tabs, and without lone surrogates.

    PostgreSQL's text cannot hold a NUL or a surrogate. Remove them before values are searched in the text: they may
    stand between the characters of a value.
    """
    return text.translate(_CONTROLS).encode(errors="replace").decode()


def shortened(text: str, longest: int) -> str:
    """Return the first ``longest`` storable characters of ``text``. An ellipsis is in place of the others."""
    kept = storable(text[: 4 * longest])
    return kept if len(kept) <= longest and len(text) <= 4 * longest else kept[: longest - 1] + "…"


MAX_SHOWN = 90


def shown(value: object) -> str:
    """Return a wrong value for an error message, a string of more than 90 characters cut.

    Another object than a string, a number or a timedelta is shown as its type, because it can hold a secret.
    """
    if isinstance(value, timedelta):
        return str(value)
    if type(value) is str:
        return repr(value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…")
    is_printable = value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 10**MAX_SHOWN)
    return repr(value) if is_printable else type(value).__name__
