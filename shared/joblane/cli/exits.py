"""What `joblane` tells the shell by its exit status: one table, for the help, the documentation and the code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses. A usage error is the parser's own 2; `joblane wait` has `TIMED_OUT` to itself."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING = 3
    STATE = 4
    AWAY = 5
    FORBIDDEN = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


MEANINGS = {
    Exit.DONE: "done",
    Exit.FAILED: "refused, or it failed; `wait`: archived or cancelled; `doctor`: something is bad",
    Exit.USAGE: "used wrongly: nothing was done",
    Exit.NOTHING: (
        "there is no such task, type, queue, schedule or pause, or nothing matches; `status`: a part is stopped"
    ),
    Exit.STATE: "the task is in another state, or was changed meanwhile",
    Exit.AWAY: (
        "the stack, its database or its API cannot be reached; `doctor`: something is unknown, and nothing bad"
    ),
    Exit.FORBIDDEN: "you may not do this",
    Exit.TIMED_OUT: "`wait`: not ended in time; it goes on",
    Exit.INTERRUPTED: "Ctrl-C",
}


NOTHING_THERE = ("type", "types", "filter", "name")
"""Fields of an inspector's refusal that say that there is no such thing."""


def exit_of(error: Exception) -> Exit | None:
    """The status for an error that the reader can mend; None for one that is a fault of ours."""
    from pg8000.exceptions import Error as PostgresError

    from joblane import errors
    from joblane.inspector.errors import ActionError, AwsCallError, BusyError, SelectionError
    from joblane.inspector.wire import ArgumentsError
    from joblane.local.errors import ForbiddenError, LocalError, MisuseError, UnavailableError
    from joblane.record.connection import is_unavailable
    from joblane.settings import MissingSettingError

    if isinstance(error, SelectionError):
        return Exit.NOTHING if error.field in NOTHING_THERE else Exit.USAGE
    if isinstance(error, AwsCallError):
        return Exit.FORBIDDEN if error.denied else Exit.AWAY
    if isinstance(error, (PostgresError, OSError)) and is_unavailable(error):
        file = getattr(error, "filename", None)  # what is wrong with a file of this machine is no absence
        return Exit.AWAY if file is None else Exit.FAILED
    kinds: dict[type[Exception], Exit] = {  # the first that fits
        errors.UnknownTaskError: Exit.NOTHING,
        errors.UnknownTypeError: Exit.NOTHING,
        ActionError: Exit.STATE,
        BusyError: Exit.STATE,
        ArgumentsError: Exit.USAGE,
        errors.PayloadError: Exit.FAILED,
        errors.TaskIdConflictError: Exit.FAILED,
        errors.DuplicateTaskError: Exit.FAILED,
        errors.EnqueueError: Exit.USAGE,
        MisuseError: Exit.USAGE,
        errors.DatabaseUnavailableError: Exit.AWAY,
        errors.SendError: Exit.AWAY,
        MissingSettingError: Exit.AWAY,
        UnavailableError: Exit.AWAY,
        ForbiddenError: Exit.FORBIDDEN,
        errors.JobError: Exit.FAILED,
        LocalError: Exit.FAILED,
    }
    return next((code for kind, code in kinds.items() if isinstance(error, kind)), None)


def epilog() -> str:
    """The table as the help shows it."""
    return "\b\nExit status:\n" + "\n".join(f"{code.value:>5}  {text}" for code, text in MEANINGS.items())
