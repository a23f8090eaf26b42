"""The declaration of a queue of Django tasks: the tasks of one ``queue_name`` are one type and one Lambda function."""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

from joblane.django.payload import SETTINGS, DjangoTask, type_of
from joblane.errors import DeclarationError
from joblane.handler.context import TaskContext
from joblane.names import PLACE, folder_of
from joblane.tasks.decorator import task
from joblane.tasks.event_kinds import OWN_TRANSACTION
from joblane.tasks.task import Task


def django_tasks(queue_name: str, *, atomic: bool = True, **options: Any) -> Task[DjangoTask, Any]:
    """Declare a queue of Django tasks, in its own ``handler.py``.

    The folder is ``django_NAME``, for example ``functions/django_mail/handler.py`` for the queue ``mail``. The type is
    ``django:NAME``. External producers cannot send it to a front door, unless ``front_door=True``.

    Args:
        queue_name: Name of the queue in ``QUEUES`` of Django's setting ``TASKS``: lower-case letters, digits and single
            underscores.
        atomic: True: a run is one transaction on Django's connection. What the task writes commits together with its
            completion, so it takes effect exactly once. False: the task manages its own transactions, and what it
            has committed before a crash is done again by the next run.
        options: The options of :func:`joblane.task`, for all tasks of the queue, except ``resumable``.
            ``DJANGO_SETTINGS_MODULE`` is added to ``environment``.

    Raises:
        DeclarationError: the name or an option is wrong.
    """
    type_ = type_of(queue_name)
    if not isinstance(atomic, bool):
        raise DeclarationError(f"task {type_!r}: atomic: True or False is required, not {atomic!r}")
    if "resumable" in options:
        raise DeclarationError(
            f"task {type_!r}: resumable: a Django task has no ctx.resume; declare it with @task instead"
        )
    environment = options.pop("environment", ())
    names = environment if isinstance(environment, str) else (SETTINGS, *environment)

    def run(payload: DjangoTask, ctx: TaskContext) -> Any:
        prepare()
        from joblane.django.run import run_task

        return run_task(queue_name, payload, ctx, atomic=atomic)

    run.__name__ = run.__qualname__ = folder_of(type_)
    run.__module__ = sys._getframe(1).f_globals["__name__"]  # the handler, where discovery looks for its task
    run.__annotations__["payload"] = DjangoTask
    setattr(run, OWN_TRANSACTION, True)
    declared = task(type_, environment=names, front_door=options.pop("front_door", False), **options)(run)
    is_here = declared.place is not None and os.environ.get(PLACE) == declared.place.name
    if is_here or os.environ.get("JOBLANE_TASK") == type_ or run.__module__ == "__main__":
        # A function has more processor while it starts than for its first message. On a place, an error or a slow start
        # then spends no attempt. `python -m` shows an import error.
        prepare()
    return declared


@cache
def prepare() -> None:
    """Set Django up, and import the modules with tasks. Once per process.

    Raises :class:`DeclarationError` if the settings are not known.
    """
    import django
    from django.apps import apps
    from django.conf import settings

    if not settings.configured and not os.environ.get(SETTINGS, "").strip():
        raise DeclarationError(
            f"{SETTINGS} is not set: the module with Django's settings. Put it into the stage's settings, or set it in "
            f'handler.py as manage.py does: os.environ.setdefault("{SETTINGS}", "shop.settings")'
        )
    if not apps.ready:
        django.setup()
    from joblane.django.backend import joblane_backends

    for backend in joblane_backends():
        _ = backend.registered
