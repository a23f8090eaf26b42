"""The Lambda entry of every task: ``joblane.worker.lambda_entry.handler``. ``JOBLANE_TASK`` names the task type.

A small function has more processor while Lambda imports this module than later. So the task and everything it needs are
imported here. The first message opens the connections. A place has ``JOBLANE_PLACE`` instead, and imports a handler
with the first message of its type.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import joblane.worker.late_imports  # noqa: F401  # isort: skip - before whatever imports pg8000
from joblane import settings
from joblane.errors import text_of
from joblane.names import PLACE, PLACES
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import WORKER
from joblane.sqs.client import Sqs
from joblane.tasks.discovery import load
from joblane.worker.invocation import lambda_handler
from joblane.worker.of_type import worker_of
from joblane.worker.printed import Printed

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus
    from joblane.worker.invocation import Handle


def _bus() -> EventBus | None:
    """Return the bus for events. Most functions send none, and do not import it."""
    if settings.event_bus() is None:
        return None
    from joblane.enqueue.event_bus import bus_of_environment

    return bus_of_environment(brief=True)


def _handle() -> Handle:
    """Return the function that handles the messages. Lambda logs only the message of an import error."""
    prefix, sqs = settings.prefix(), Sqs()
    database = Database(settings.database_url(), prefix=prefix, limits=WORKER)
    printed, bus = Printed(), _bus()
    if place := os.environ.get(PLACE):
        from joblane.worker.group import group_of

        text = settings.required(PLACES, "the types of each place", "the text that a deploy sets")
        return group_of(place, text, database, sqs, prefix, printed=printed, bus=bus).handle
    type_ = settings.required("JOBLANE_TASK", "the type this function serves", "data:export")
    try:
        task = load(type_)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(text_of(error), name=error.name) from error
    return worker_of(task, database, sqs, prefix, printed=printed, bus=bus).handle


if deployed := os.environ.get(settings.VERSION):
    from joblane.worker.image import log_other_version

    log_other_version(deployed)
handler = lambda_handler(_handle())
