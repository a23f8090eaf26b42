"""A lane: the SQS queue of one task type in one of the three queues, with that type's function as its consumer.

A type that was renamed keeps the lanes of its old name: their messages go to the same function.
"""

from __future__ import annotations

from typing import Any

from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from joblane.cdk.constructs.queue_pair import QueuePair, sending
from joblane.cdk.settings.stage import Stage
from joblane.declaration import Task


class Lane(QueuePair):
    """Timeouts and receives follow from the declaration; ``max_concurrency`` is the lane's share of the budget."""

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        task: Task[Any, Any],
        name: str,
        function: lambda_.Function,
        max_concurrency: int,
    ) -> None:
        super().__init__(
            scope,
            id_,
            stage=stage,
            name=name,
            visibility=task.numbers.visibility,
            max_receive_count=task.numbers.max_receive_count,
        )
        self.feed(function, batch_size=task.batch_size, max_concurrency=max_concurrency)
        # a message without an id is sent again with one, and then acknowledged
        function.add_to_role_policy(sending([self.queue]))
