"""The Lambda entry of every task: ``joblane.worker.lambda_entry.handler``. ``JOBLANE_TASK`` names the task type.

A small function has more processor while Lambda imports this module than later. So the task and everything it needs are
imported here. The first message opens the connections.
"""

from __future__ import annotations

from joblane import settings
from joblane.discovery import load
from joblane.record.database import Database
from joblane.record.time_limits import WORKER
from joblane.sqs.client import Sqs
from joblane.worker.printed import Printed
from joblane.worker.serving import worker_of

handler = worker_of(
    load(settings.required("JOBLANE_TASK", "the type this function serves", "data:export")),
    Database(settings.database_url(), prefix=settings.prefix(), limits=WORKER),
    Sqs(),
    settings.prefix(),
    printed=Printed(),
).handle
