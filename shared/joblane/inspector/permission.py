"""Permissions: each operation of the inspector is marked with the permission that it takes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from joblane.inspector.unavailable import translated_errors

P = ParamSpec("P")
R = TypeVar("R")
Operation = Callable[Concatenate[Any, P], R]
"""A method of the inspector."""


class Permission(StrEnum):
    """``view`` changes nothing; ``operate`` decides when and whether tasks run; ``edit`` says what they run with."""

    VIEW = "view"
    OPERATE = "operate"
    EDIT = "edit"


def needs(permission: Permission) -> Callable[[Operation[P, R]], Operation[P, R]]:
    """Mark an operation, and translate the errors of a database or of AWS that it raises."""

    def mark(function: Operation[P, R]) -> Operation[P, R]:
        @wraps(function)
        def operation(inspector: Any, *args: P.args, **kwargs: P.kwargs) -> R:
            with translated_errors(inspector._scope):
                return function(inspector, *args, **kwargs)

        operation.__permission__ = permission  # type: ignore[attr-defined]
        return operation  # type: ignore[return-value]

    return mark


def permission_of(inspector: type, operation: str) -> Permission | None:
    """The permission that ``operation`` takes; None for a name that is no operation."""
    found = vars(inspector).get(operation)
    return getattr(found, "__permission__", None)
