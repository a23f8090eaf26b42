"""The tasks of the queue `mail`: one attempt of two seconds."""

from __future__ import annotations

from datetime import timedelta

from joblane import Queue
from joblane.django import django_tasks

django_mail = django_tasks("mail", max_retry=0, timeout=timedelta(seconds=1), queue=Queue.LOW)
