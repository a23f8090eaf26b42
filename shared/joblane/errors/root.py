"""The roots of the library's errors."""

from __future__ import annotations


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
        self.field, self.problem = field, problem
