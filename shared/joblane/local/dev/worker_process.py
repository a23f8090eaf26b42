"""A process that runs the tasks of one type, as a Lambda function does."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from joblane import settings
from joblane.enqueue.event_bus import bus_of_environment
from joblane.errors import JobError
from joblane.local.dev.channel import Channel
from joblane.local.dev.slow_import import named_if_slow
from joblane.local.lambda_context import LambdaContext
from joblane.names import folder_of, function_name
from joblane.project import Project
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import WORKER
from joblane.sqs.client import Sqs
from joblane.tasks import discovery
from joblane.telemetry import TRACE_VARIABLE
from joblane.worker.of_type import worker_of
from joblane.worker.printed import Printed
from joblane.worker.run_log import Ended, RunLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from joblane.names import Queue
    from joblane.record.task.claim import Claim


class TracedRunLog(RunLog):
    """Also writes the tracebacks of failed runs, which on AWS are in the row alone."""

    def write(self, queue: Queue, runs: Sequence[Ended], archived: Sequence[Claim]) -> None:
        """Write the log lines and metrics of an invocation."""
        for claim, end, _ in runs:
            if end.traceback:
                line = {"level": "ERROR", "message": "traceback", "task_id": claim.id, "traceback": end.traceback}
                print(json.dumps(line))  # noqa: T201
        super().write(queue, runs, archived)


def serve(channel: Channel, _files: list[int], *, type: str) -> None:  # noqa: A002 - a name of the wire
    """Serve invocations until the command ends this process. Import errors of the handler are sent to the command."""
    project = Project.here()
    project.activate()
    # As in its Lambda function. A queue of Django imports its tasks at the start.
    os.environ.update(JOBLANE_TASK=type, AWS_LAMBDA_FUNCTION_NAME=function_name(settings.prefix(), type))
    discovery.leave_out_broken()  # the sweep and bulk actions discover all tasks
    try:
        with named_if_slow(project.root):
            task = discovery.load_for_person(type)
    except JobError as error:
        channel.send({"kind": "broken", "folder": folder_of(type), "text": str(error)})
        return
    database = Database(settings.database_url(), prefix=settings.prefix(), limits=WORKER)
    bus = bus_of_environment(brief=True)
    worker = worker_of(task, database, Sqs(), settings.prefix(), printed=Printed(), log=TracedRunLog(task), bus=bus)
    seconds = task.numbers.function_timeout.total_seconds()
    channel.send({"kind": "ready"})
    for invocation in channel:
        os.environ[TRACE_VARIABLE] = invocation["trace"]
        context = LambdaContext(seconds, invocation["request_id"])
        started = time.monotonic()
        response: dict[str, Any] = worker.handle({"Records": invocation["records"]}, context)
        channel.send({"kind": "done", "response": response, "seconds": time.monotonic() - started})
