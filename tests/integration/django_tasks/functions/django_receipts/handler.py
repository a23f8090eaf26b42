"""The tasks of the queue `receipts`, on a place."""

from __future__ import annotations

from datetime import timedelta

from joblane.django import django_tasks
from tests.integration.django_tasks.functions.places import OFFICE

django_receipts = django_tasks("receipts", runs_on=OFFICE, max_retry=1, retry_delay=timedelta(0))
