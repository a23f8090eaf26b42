"""The router, which forwards messages from the front doors to the lanes. Any SQS client can send to a front door."""

from __future__ import annotations

import json
from datetime import timedelta

from constructs import Construct

from joblane.cdk.constructs.code import Shared, Tasks
from joblane.cdk.constructs.task_function import JobFunction

HANDLER = "joblane.functions.router.handler.handler"
TIMEOUT = timedelta(seconds=30)
"""Enough for ten messages: one SendMessageBatch for each of their lanes."""
MEMORY_MB = 256
VISIBILITY = 6 * TIMEOUT
"""Source: Lambda, *Configuring an Amazon SQS queue for use with Lambda*."""
WAITS = 100
"""Receives of a message whose type is unknown, about an hour, or whose lane did not accept it."""


class Router(JobFunction):
    """The only consumer of the three front doors. It may send unreadable messages to the DLQ of a front door.

    ``JOBLANE_ROUTES`` lists the lanes of each type that the front doors accept.
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
    """Return the queues in which each type has a lane, its own queue first: ``{"data:export":["default","critical"]}``.

    Types with ``front_door=False`` are not in it.
    """
    open_types = {
        type_: [str(queue) for queue in task.lanes]
        for task in tasks.values()
        if task.front_door
        for type_ in task.types
    }
    return json.dumps(open_types, separators=(",", ":"))
