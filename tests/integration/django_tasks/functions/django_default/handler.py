"""The tasks of the queue `default`: two attempts."""

from __future__ import annotations

from datetime import timedelta

from joblane.django import django_tasks

django_default = django_tasks("default", max_retry=1, retry_delay=timedelta(0))
