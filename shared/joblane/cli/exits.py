"""The exit statuses of `joblane`, in a table for the help, the documentation and the code, and its error messages."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses. 2 is the parser's own status for a usage error; commands that wait for a task use `TIMED_OUT`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING = 3
    STATE = 4
    UNAVAILABLE = 5
    FORBIDDEN = 6
    TIMED_OUT = 7
    TAKEN_BACK = 8
    ALARM = 9
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "refused or failed; `wait`, `deploy`: archived or cancelled; `doctor`, `why`: a check is bad",
    Exit.USAGE: "usage error: nothing was done",
    Exit.NOTHING: (
        "no such task, bulk action, batch, type, queue, schedule, pause or error, or nothing matches; `status`: a part"
        " is stopped"
    ),
    Exit.STATE: "the task is in another state, or was changed in the meantime",
    Exit.UNAVAILABLE: (
        "the stack, its database or its API is unavailable; `doctor`: a check is unknown, and none is bad"
    ),
    Exit.FORBIDDEN: "a permission is missing",
    Exit.TIMED_OUT: "`wait`, `deploy`: the task has not ended in time; it continues",
    Exit.TAKEN_BACK: "`deploy --watch`: an alarm fired, and the deploy was reverted",
    Exit.ALARM: "`deploy --watch`: an alarm fired, and the deploy was not reverted, or not all of it",
    Exit.INTERRUPTED: "Ctrl-C",
}


NOTHING_FOUND = ("type", "types", "filter", "name")
"""Fields of a :class:`SelectionError` or :class:`LimitError` that mean that the target does not exist. The problem
names the target, so the message needs no option."""

OPTIONS = {
    "id_prefix": "--id",
    "states": "--state",
    "queues": "--queue",
    "created_after": "--newer",
    "created_before": "--older",
    "ended_after": "--ended-newer",
    "ended_before": "--ended-older",
    "lease_over": "--lease-over",
    "ids": "ID",
    "id": "ID",
    "text": "TEXT",
    "scope": "SCOPE",
}
"""Field of a :class:`SelectionError` or :class:`LimitError` → the option or argument; any other field has an option of
its own name."""


def message_of(error: Exception) -> str:
    """The message of an error, which names options as the user types them."""
    from joblane.errors import LimitError
    from joblane.inspector.errors import SelectionError
    from joblane.inspector.wire import ArgumentsError

    if isinstance(error, ArgumentsError):
        text = str(error)
        for name in (field.rpartition(".")[2] for field in error.fields):
            text = text.replace(repr(name), OPTIONS.get(name, f"--{name.replace('_', '-')}"))
        return text
    if not isinstance(error, (LimitError, SelectionError)):
        return str(error)
    if error.field in NOTHING_FOUND:
        return error.problem
    if error.field == "action":  # no option stands for it
        return str(error)
    option = f"--{error.field.replace('_', '-')}"
    return f"{OPTIONS.get(error.field, option)}: {error.problem}"


def exit_of(error: Exception) -> Exit | None:
    """The status for an error that the user can fix; None for a bug."""
    from pg8000.exceptions import Error as PostgresError

    from joblane import errors
    from joblane.inspector.errors import (
        ActionError,
        AwsCallError,
        BusyError,
        SelectionError,
        UnknownBatchError,
        UnknownBulkError,
    )
    from joblane.inspector.wire import ArgumentsError
    from joblane.local.errors import ForbiddenError, LocalError, MisuseError, UnavailableError
    from joblane.record.driver.connection import is_unavailable
    from joblane.settings import MissingSettingError

    if isinstance(error, (errors.LimitError, SelectionError)):
        return Exit.NOTHING if error.field in NOTHING_FOUND else Exit.USAGE
    if isinstance(error, AwsCallError):
        return Exit.FORBIDDEN if error.denied else Exit.UNAVAILABLE
    if isinstance(error, (PostgresError, OSError)) and is_unavailable(error):
        file = getattr(error, "filename", None)  # an error about a local file does not mean an unavailable service
        return Exit.UNAVAILABLE if file is None else Exit.FAILED
    kinds: dict[type[Exception], Exit] = {  # the first entry that fits applies
        errors.UnknownTaskError: Exit.NOTHING,
        errors.UnknownTypeError: Exit.NOTHING,
        errors.UnknownScheduleError: Exit.NOTHING,
        UnknownBatchError: Exit.NOTHING,
        UnknownBulkError: Exit.NOTHING,
        ActionError: Exit.STATE,
        BusyError: Exit.STATE,
        ArgumentsError: Exit.USAGE,
        errors.PayloadError: Exit.FAILED,
        errors.TaskIdConflictError: Exit.FAILED,
        errors.DuplicateTaskError: Exit.FAILED,
        errors.EnqueueError: Exit.USAGE,
        errors.SignalError: Exit.USAGE,
        MisuseError: Exit.USAGE,
        errors.DatabaseUnavailableError: Exit.UNAVAILABLE,
        errors.SendError: Exit.UNAVAILABLE,
        MissingSettingError: Exit.UNAVAILABLE,
        UnavailableError: Exit.UNAVAILABLE,
        ForbiddenError: Exit.FORBIDDEN,
        errors.JobError: Exit.FAILED,
        LocalError: Exit.FAILED,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), None)


def epilog() -> str:
    """The table for the help."""
    return "\b\nExit status:\n" + "\n".join(f"{code.value:>5}  {text}" for code, text in MEANINGS.items())
