"""Signals: the check of their arguments, and the wake-up of their tasks after the commit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from joblane.errors import MessageError, SignalError, sqlstate, text_of
from joblane.json_values import check_tree
from joblane.record.driver.connection import PROGRAM_LIMIT_EXCEEDED
from joblane.record.task.waits import SIGNAL_PATTERN, signal_document
from joblane.sqs.message import ID_PATTERN

MAX_SIGNAL_BYTES = 64 * 1024
"""The maximum size of the value of a signal, as JSON."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """A task that has got a signal. Once it is committed, the task continues if it waits for it."""

    id: str


def checked(task_id: str, signal: str, value: Any, sent_by: str | None = None) -> str:
    """Return the parameter of a signal's statement. Raises :class:`SignalError`."""
    check_target(task_id, signal)
    return signal_document(task_id, signal, json_text(value), sent_by)


def check_target(task_id: str, signal: str) -> None:
    """Check the id of a task and the name of a signal. Raises :class:`SignalError`."""
    if not isinstance(task_id, str) or not ID_PATTERN.fullmatch(task_id):
        raise SignalError("task_id", "1 to 200 printable ASCII characters without spaces are required")
    if not isinstance(signal, str) or not SIGNAL_PATTERN.fullmatch(signal):
        raise SignalError("signal", "1 to 100 printable ASCII characters are required")


def json_text(value: Any) -> str:
    """Return the value of a signal as JSON. Raises :class:`SignalError`."""
    try:
        value = to_jsonable_python(value)
        check_tree(value, "value")
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except MessageError as error:
        raise SignalError("value", str(error).removeprefix("value: ")) from None
    except (PydanticSerializationError, TypeError, ValueError):
        problem = (
            "a value that JSON can hold is required: a string, a finite number, a boolean, None, or a list or dict of "
            f"such values; this {type(value).__name__} is not, or contains another value"
        )
        raise SignalError("value", problem) from None  # the error has the value
    if (size := len(text.encode())) > MAX_SIGNAL_BYTES:
        raise SignalError("value", f"it has {size:,} bytes as JSON, and at most {MAX_SIGNAL_BYTES:,} are stored")
    return text


def check_refusal(error: BaseException) -> None:
    """Raise :class:`SignalError` if the task has too many signals, which the database has found."""
    if sqlstate(error) == PROGRAM_LIMIT_EXCEEDED:
        raise SignalError("signal", text_of(error).removeprefix("signal: ")) from error
