"""The application ``joblane.django``, with the command ``manage.py joblane``."""

from __future__ import annotations

from django.apps import AppConfig


class JoblaneConfig(AppConfig):  # type: ignore[misc]
    """The application of ``INSTALLED_APPS``. It has no models: ``manage.py joblane migrate`` creates the tables."""

    name = "joblane.django"
    label = "joblane"
    verbose_name = "Joblane"
