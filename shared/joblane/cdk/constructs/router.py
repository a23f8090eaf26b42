"""The router: it passes on what is sent to the queues with the plain names, by whatever can send to SQS."""

from __future__ import annotations

import json
from datetime import timedelta

from constructs import Construct

from joblane.cdk.constructs.code import Shared, Tasks
from joblane.cdk.constructs.task_function import JobFunction

HANDLER = "joblane.functions.router.handler.handler"
TIMEOUT = timedelta(seconds=30)
"""For ten messages: one SendMessageBatch for each lane they go to."""
MEMORY_MB = 256
VISIBILITY = 6 * TIMEOUT
"""Source: Lambda, *Configuring an Amazon SQS queue for use with Lambda*."""
WAITS = 100
"""Receives of a message whose type is not known yet, for about an hour; and of one that SQS did not take."""


class Router(JobFunction):
    """The one consumer of the three doors, which may also put what it cannot read into a door's DLQ.

    ``JOBLANE_ROUTES`` tells it the lanes of each type they are open for.
    """

    def __init__(self, scope: Construct, id_: str, shared: Shared, tasks: Tasks) -> None:
        super().__init__(
            scope,
            id_,
            shared,
            name=f"{shared.stage.prefix}-router",
            description="Passes messages from the front doors to the lanes",
            handler=HANDLER,
            timeout=TIMEOUT,
            memory_mb=MEMORY_MB,
            environment={"JOBLANE_ROUTES": routes(tasks)},
        )


def routes(tasks: Tasks) -> str:
    """``{"data:export":["default","critical"]}``: the queues in which each open type has a lane, home first."""
    open_types = {
        type_: [str(queue) for queue in task.lanes]
        for task in tasks.values()
        if task.front_door
        for type_ in task.types
    }
    return json.dumps(open_types, separators=(",", ":"))
