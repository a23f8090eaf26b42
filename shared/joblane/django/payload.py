"""The payload of Django tasks, the type of a queue of them, and what a task can ask of its run."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from joblane.enqueue.drivers import opened
from joblane.errors import DeclarationError
from joblane.handler.context import TaskContext, enqueue_within
from joblane.tasks.job import Job, JobOptions
from joblane.tasks.payload import Payload
from joblane.tasks.task import Task, check_type

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


RUN: ContextVar[TaskContext | None] = ContextVar("joblane_run", default=None)
"""The run in this context. None: outside of a run."""


def current_run() -> TaskContext | None:
    """Return the :class:`joblane.TaskContext` of the Django task that runs now, or None outside of a worker.

    ``progress``, ``check``, ``remaining``, ``deadline``, ``settings`` and ``logger`` can be used. A Django task has no
    ``session``, ``enqueue``, ``each`` and ``resume``: it works on Django's connection. It does not wait: a
    wait archives it.
    """
    return RUN.get()


def enqueue_in_run(ctx: TaskContext, task: Task[Any, Any], payload: Any, connection: Any, options: JobOptions) -> None:
    """Enqueue a task in the transaction of a run, as :meth:`joblane.TaskContext.enqueue` does."""
    enqueue_within(ctx, opened(connection, None, None, is_async=False), Job(task, payload, **options))
