"""Who may call what: each operation of the inspector is marked with the one permission that it takes."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from shared.jobs.inspector.inspector import Inspector

F = TypeVar("F", bound=Callable[..., object])


class Permission(StrEnum):
    """``view`` changes nothing; ``operate`` decides when and whether tasks run; ``edit`` says what they run with."""

    VIEW = "view"
    OPERATE = "operate"
    EDIT = "edit"


def needs(permission: Permission) -> Callable[[F], F]:
    """Mark an operation of the inspector."""

    def mark(function: F) -> F:
        function.__permission__ = permission  # type: ignore[attr-defined]
        return function

    return mark


def permission_of(inspector: type[Inspector], operation: str) -> Permission | None:
    """What ``operation`` takes; None for a name that is no operation."""
    found = vars(inspector).get(operation)
    return getattr(found, "__permission__", None)
