"""The application of the shop."""

from __future__ import annotations

from django.apps import AppConfig


class ShopConfig(AppConfig):  # type: ignore[misc]
    name = "tests.integration.django_tasks.shop"
    label = "shop"
    default_auto_field = "django.db.models.BigAutoField"
