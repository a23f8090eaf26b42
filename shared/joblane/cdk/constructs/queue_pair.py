"""A queue with its dead-letter queue: every lane and every front door is one."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_lambda_event_sources import SqsEventSource
from constructs import Construct

from joblane.cdk.settings.stage import REMOVAL, Stage
from joblane.limits import DEAD_LETTER_RETENTION, QUEUE_RETENTION
from joblane.queues import dead_letter_name

SENDING = ["sqs:GetQueueUrl", "sqs:SendMessage"]
"""Actions of a sender: resolve a queue's name to its URL, and send messages, singly or in batches.

``sqs:SendMessage`` allows SendMessageBatch. Source: Service Authorization Reference, Amazon SQS.
"""


class QueuePair(Construct):
    """The queues ``name`` and ``name-dlq``: encrypted, and reached by TLS only if the stage is not local.

    ``max_receive_count``: receives after which SQS itself moves a message, for failures that the code cannot handle.
    ``consumer``: the only function that reads the queue. It may hide and delete messages, and send to the queue's DLQ.
    The mapping has no filter, because messages that a filter does not match are deleted.
    Source: Lambda, *Using event filtering with an Amazon SQS event source*.
    """

    def __init__(
        self,
        scope: Construct,
        id_: str,
        *,
        stage: Stage,
        name: str,
        visibility: timedelta,
        max_receive_count: int,
        consumer: lambda_.Function,
        batch_size: int,
        max_concurrency: int,
    ) -> None:
        super().__init__(scope, id_)
        self.name = name
        self.dead_letters = dead_letter_queue(self, "DeadLetters", stage=stage, name=dead_letter_name(name))
        self.queue = sqs.Queue(
            self,
            "Queue",
            queue_name=name,
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            enforce_ssl=not stage.local,
            visibility_timeout=seconds(visibility),
            retention_period=seconds(QUEUE_RETENTION),
            removal_policy=REMOVAL[stage.removal],
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=max_receive_count),
        )
        consumer.add_event_source(
            SqsEventSource(
                self.queue, batch_size=batch_size, max_concurrency=max_concurrency, report_batch_item_failures=True
            )
        )
        consumer.add_to_role_policy(send_statement([self.dead_letters]))


def dead_letter_queue(scope: Construct, id_: str, *, stage: Stage, name: str) -> sqs.Queue:
    """Create a dead-letter queue with SQS's longest retention, which counts from the first send of a message."""
    return sqs.Queue(
        scope,
        id_,
        queue_name=name,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=not stage.local,
        retention_period=seconds(DEAD_LETTER_RETENTION),
        removal_policy=REMOVAL[stage.removal],  # removing or renaming a job deletes no messages
    )


def send_statement(queues: Iterable[sqs.IQueue]) -> iam.PolicyStatement:
    """Allow sending to ``queues``."""
    return iam.PolicyStatement(actions=SENDING, resources=[queue.queue_arn for queue in queues])


def seconds(value: timedelta) -> Duration:
    return Duration.seconds(int(value.total_seconds()))
