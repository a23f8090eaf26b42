"""The backend of Django's tasks framework, ``django.tasks``. It needs Django 6, Python 3.12 and psycopg 3.

Settings
    JoblaneBackend, which ``TASKS`` names as ``joblane.django.JoblaneBackend``; database
Handlers
    django_tasks, DjangoTask
Inside a task
    current_run
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.lazy import importer

if TYPE_CHECKING:
    from joblane.django.backend import JoblaneBackend
    from joblane.django.database import database
    from joblane.django.declare import django_tasks
    from joblane.django.payload import DjangoTask, current_run

__all__ = ["DjangoTask", "JoblaneBackend", "current_run", "database", "django_tasks"]

# A handler declares its queue without an import of Django: a deploy reads it on machines that have no Django.
__getattr__ = importer(
    __name__,
    {
        "joblane.django.backend": "JoblaneBackend",
        "joblane.django.database": "database",
        "joblane.django.declare": "django_tasks",
        "joblane.django.payload": "DjangoTask current_run",
    },
)
