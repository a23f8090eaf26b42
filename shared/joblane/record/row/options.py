"""The options of a task that no statement reads. Only :class:`TaskOptions` writes and reads the column ``options``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from joblane.tasks.job import OPTIONS

if TYPE_CHECKING:
    from joblane.tasks.options import Options

TIMEOUT: tuple[Any, Any] = OPTIONS["timeout"].bounds
RETRY_DELAY: tuple[Any, Any] = OPTIONS["retry_delay"].bounds


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options that a task has instead of those that its type declares. Not given: as the type declares.

    ``timeout``: seconds of an attempt. ``retry_delay``: seconds of the wait after each failed attempt, the last
    repeated.
    """

    timeout: float | None = None
    retry_delay: Sequence[float] = ()

    @classmethod
    def of(cls, options: Options) -> TaskOptions:
        """Return what the row of a task with these options stores."""
        if options.timeout is None and options.retry_delay is None:
            return AS_DECLARED
        return cls(options.timeout, options.retry_delay or ())

    @classmethod
    def read(cls, given: Any) -> Self:
        """Return the options of a row. SQL without the table's checks may have written it.

        Raises ValueError with the first fault, of those that ``0001_check_task.sql`` refuses.
        """
        if not isinstance(given, dict):
            raise ValueError("options: an object is required")
        if not _is_number(given.get("timeout", 1), *TIMEOUT):
            raise ValueError("options: timeout: {:,} to {:,} seconds are required".format(*TIMEOUT))
        delays = given.get("retry_delay", ())
        if not isinstance(delays, (list, tuple)) or not all(_is_number(delay, *RETRY_DELAY) for delay in delays):
            raise ValueError(
                "options: retry_delay: a list of seconds, each from {:,} to {:,}, is required".format(*RETRY_DELAY)
            )
        return cls(given.get("timeout"), delays)

    def row(self) -> dict[str, Any]:
        """Return the column ``options``."""
        row: dict[str, Any] = {} if self.timeout is None else {"timeout": self.timeout}
        return row | {"retry_delay": list(self.retry_delay)} if self.retry_delay else row


AS_DECLARED = TaskOptions()
"""The options of most tasks."""


def _is_number(value: Any, least: float, most: float) -> bool:
    return type(value) in (int, float) and least <= value <= most
