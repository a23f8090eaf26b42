"""Permissions of the inspector's operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
Operation = Callable[Concatenate[Any, P], R]
"""A method of the inspector."""


class Permission(StrEnum):
    """``view`` changes nothing; ``operate`` decides if and when tasks run; ``edit`` changes their payloads, and
    sends them signals."""

    VIEW = "view"
    OPERATE = "operate"
    EDIT = "edit"


ROUTES: Mapping[str, Permission] = {f"POST /{permission}/{{operation}}": permission for permission in Permission}
"""The routes of the control API → the permission that IAM has verified."""


def needs(permission: Permission) -> Callable[[Operation[P, R]], Operation[P, R]]:
    """Mark an operation with its permission, and translate errors of the database and of AWS that it raises."""

    def mark(function: Operation[P, R]) -> Operation[P, R]:
        @wraps(function)
        def operation(self: Any, *args: P.args, **kwargs: P.kwargs) -> R:
            from joblane.inspector.unavailable import translated_errors  # a remote inspector has no database driver

            with translated_errors(self._scope):
                return function(self, *args, **kwargs)

        operation.__permission__ = permission  # type: ignore[attr-defined]
        return operation  # type: ignore[return-value]

    return mark


def permission_of(inspector: type, operation: str) -> Permission | None:
    """The permission that ``operation`` takes; None if no operation has this name."""
    found = vars(inspector).get(operation)
    return getattr(found, "__permission__", None)
