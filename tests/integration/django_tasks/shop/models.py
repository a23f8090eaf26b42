"""The only table of the shop."""

from __future__ import annotations

from django.db import models


class Note(models.Model):  # type: ignore[misc]
    """A line that a task has written."""

    text = models.TextField(unique=True)

    class Meta:
        app_label = "shop"
