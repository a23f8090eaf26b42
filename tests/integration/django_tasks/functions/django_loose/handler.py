"""The tasks of the queue `loose`, which manage their own transactions."""

from __future__ import annotations

from datetime import timedelta

from joblane.django import django_tasks

django_loose = django_tasks("loose", atomic=False, max_retry=1, retry_delay=timedelta(0))
