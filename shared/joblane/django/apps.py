"""The application ``joblane.django``, with the command ``manage.py joblane``."""

from __future__ import annotations

import platform
from importlib import import_module

import django
from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured


class JoblaneConfig(AppConfig):  # type: ignore[misc]
    """The application of ``INSTALLED_APPS``. It has no models: ``manage.py joblane migrate`` creates the tables."""

    name = "joblane.django"
    label = "joblane"
    verbose_name = "Joblane"

    def ready(self) -> None:
        """Check the version of Django, and let ``manage.py check`` ask the backends."""
        if django.VERSION < (6,):
            raise ImproperlyConfigured(
                f"joblane.django needs Django 6, which needs Python 3.12; this is Django {django.get_version()} on "
                f"Python {platform.python_version()}. jobs.enqueue(…, connection=django.db.connection) works without it"
            )
        import_module("django.tasks")  # it registers Django's check of TASKS, and nothing in Django imports it
