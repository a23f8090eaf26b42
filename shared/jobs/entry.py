"""The Lambda entry of every task: ``shared.jobs.entry.handler``. ``JOBLANE_TASK`` says which one it serves.

Lambda gives the import of this module more processor than a small function has later; so the task and what its path
needs are imported here. Nothing is connected to before the first message.
"""

from __future__ import annotations

from shared import settings
from shared.db import Database
from shared.jobs.discovery import load
from shared.jobs.runtime import Worker
from shared.jobs.sqs import Sqs

handler = Worker(
    load(settings.required("JOBLANE_TASK", "the type this function serves", "data:export")),
    Database(settings.database_url()),
    Sqs(),
    settings.prefix(),
).handle
