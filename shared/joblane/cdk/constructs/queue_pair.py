"""A queue and its dead-letter queue, as lanes and front doors both are."""

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
"""The address of a queue by its name, and sending, singly or in batches.

Source: Service Authorization Reference, Amazon SQS: SendMessageBatch is allowed by ``sqs:SendMessage``.
"""


class QueuePair(Construct):
    """``name`` and ``name-dlq``: encrypted, and open to TLS alone where the stage is not local.

    ``max_receive_count``: receives before SQS itself moves a message, the net under what the code does. ``consumer``:
    the one function that reads the queue, allowed to hide, delete and, through its own DLQ, give up messages. There is
    no filter: what a filter does not match is deleted from the queue.
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
        consumer.add_to_role_policy(sending([self.dead_letters]))


def dead_letter_queue(scope: Construct, id_: str, *, stage: Stage, name: str) -> sqs.Queue:
    """Kept for as long as SQS can: the clock of a dead letter started in the queue it came from."""
    return sqs.Queue(
        scope,
        id_,
        queue_name=name,
        encryption=sqs.QueueEncryption.SQS_MANAGED,
        enforce_ssl=not stage.local,
        retention_period=seconds(DEAD_LETTER_RETENTION),
        removal_policy=REMOVAL[stage.removal],  # a job that is dropped or renamed takes no messages along
    )


def sending(queues: Iterable[sqs.IQueue]) -> iam.PolicyStatement:
    """What a sender calls."""
    return iam.PolicyStatement(actions=SENDING, resources=[queue.queue_arn for queue in queues])


def seconds(value: timedelta) -> Duration:
    return Duration.seconds(int(value.total_seconds()))
