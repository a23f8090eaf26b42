"""The Lambda entry of every task: ``joblane.worker.lambda_entry.handler``. ``JOBLANE_TASK`` says which one it serves.

Lambda gives the import of this module more processor than a small function has later; so the task and what its path
needs are imported here. Nothing is connected to before the first message.
"""

from __future__ import annotations

from joblane import settings
from joblane.discovery import load
from joblane.record.database import Database
from joblane.sqs.client import Sqs
from joblane.worker.worker import Worker

handler = Worker(
    load(settings.required("JOBLANE_TASK", "the type this function serves", "data:export")),
    Database(settings.database_url(), prefix=settings.prefix()),
    Sqs(),
    settings.prefix(),
).handle
