"""The payload of Django tasks, and the type of a queue of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from joblane.errors import DeclarationError
from joblane.tasks.payload import Payload
from joblane.tasks.task import check_type

CATEGORY = "django"
SETTINGS = "DJANGO_SETTINGS_MODULE"
ModulePath = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$", max_length=300)
]


class DjangoTask(Payload):
    """Payload of every Django task: the call of its function."""

    task: ModulePath
    """Path of the function, for example ``shop.tasks.send_receipt``: Django's ``Task.module_path``."""
    args: list[Any] = Field(default_factory=list)
    """Positional arguments."""
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Named arguments."""
    backend: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=100)] = "default"
    """Name of the backend in Django's setting ``TASKS``."""


def type_of(queue_name: str) -> str:
    """``mail`` → ``django:mail``. Raises :class:`DeclarationError` for a name that no type can have."""
    type_ = f"{CATEGORY}:{queue_name}"
    try:
        check_type(type_)
    except DeclarationError as error:
        raise DeclarationError(
            f"queue name {queue_name!r}: lower-case letters, digits and single underscores are required, for example "
            f"'mail', because its type is {type_!r}: {error}"
        ) from None
    return type_
