"""A queue with its dead-letter queue: every lane and every front door is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from aws_cdk import Aws, Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from joblane.cdk.constructs.stage_key import REUSE, stage_key
from joblane.cdk.settings.stage import REMOVAL, Stage
from joblane.names import dead_letter_name
from joblane.quotas import DEAD_LETTER_RETENTION, MAX_MESSAGE_BYTES, QUEUE_RETENTION

SENDING = ["sqs:GetQueueUrl", "sqs:SendMessage"]
"""Actions of a sender: resolve a queue's name to its URL, and send messages, singly or in batches.

``sqs:SendMessage`` allows SendMessageBatch. Source: Service Authorization Reference, Amazon SQS.
"""
RECEIVING = [
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
]
"""Actions to receive a queue's messages, to return them, and to delete them."""


class QueuePair(Construct):
    """The queues ``name`` and ``name-dlq``: encrypted by a key of SQS or of the stage, and reached by TLS only if the
    stage is not local.

    ``max_receive_count``: receives after which SQS itself moves a message, for failures that the code cannot handle.
    ``closed_to``: ARN of a role that may send to neither queue, whatever its own policies allow.
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
        closed_to: str | None = None,
    ) -> None:
        super().__init__(scope, id_)
        self.name = name
        self.dead_letters = _dead_letters(self, "DeadLetters", stage=stage, name=dead_letter_name(name))
        self.queue = _queue(
            self,
            "Queue",
            stage=stage,
            name=name,
            retention=QUEUE_RETENTION,
            visibility_timeout=seconds(visibility),
            dead_letter_queue=sqs.DeadLetterQueue(queue=self.dead_letters, max_receive_count=max_receive_count),
        )
        if not stage.local:
            _guard(self, "Policy", [self.queue, self.dead_letters], closed_to)

    def add_mapping(self, function: str, *, batch_size: int, max_concurrency: int) -> None:
        """Make ``function``, a name or an ARN, the consumer of the queue: a queue has only one."""
        add_mapping(
            self,
            "Mapping",
            queue=self.queue.queue_arn,
            function=function,
            batch_size=batch_size,
            max_concurrency=max_concurrency,
        )


def dead_letter_queue(
    scope: Construct, id_: str, *, stage: Stage, name: str, accepts: Iterable[Mapping[str, Any]] = ()
) -> sqs.Queue:
    """Create a dead-letter queue that no queue moves messages to, but a service.

    ``accepts``: statements for its policy that allow senders without a role.
    """
    queue = _dead_letters(scope, id_, stage=stage, name=name)
    if not stage.local:
        _guard(scope, f"{id_}Policy", [queue], None, accepts)
    return queue


def add_mapping(
    scope: Construct, id_: str, *, queue: str, function: str, batch_size: int, max_concurrency: int
) -> lambda_.CfnEventSourceMapping:
    """Add a mapping without a filter, because messages that a filter does not match are deleted.

    Source: Lambda, *Using event filtering with an Amazon SQS event source*.
    """
    return lambda_.CfnEventSourceMapping(
        scope,
        id_,
        event_source_arn=queue,
        function_name=function,
        batch_size=batch_size,
        function_response_types=["ReportBatchItemFailures"],
        scaling_config=lambda_.CfnEventSourceMapping.ScalingConfigProperty(maximum_concurrency=max_concurrency),
    )


def send_statement(queues: Iterable[str]) -> iam.PolicyStatement:
    """Allow sending to ``queues``, which are names."""
    return iam.PolicyStatement(actions=SENDING, resources=[queue_arn(queue) for queue in queues])


def queue_arn(name: str) -> str:
    """Return the ARN of a queue in the stage's account and region. ``name`` may have wildcards.

    A reference to a queue in another nested stack would be an output and a parameter, of which a stack has 200 at most.
    """
    return f"{_arn_of_queues()}:{name}"


@cache
def _arn_of_queues() -> str:
    return f"arn:{Aws.PARTITION}:sqs:{Aws.REGION}:{Aws.ACCOUNT_ID}"


def seconds(value: timedelta) -> Duration:
    return Duration.seconds(int(value.total_seconds()))


def _dead_letters(scope: Construct, id_: str, *, stage: Stage, name: str) -> sqs.Queue:
    """Create a queue with SQS's longest retention, which counts from the first send of a message."""
    return _queue(scope, id_, stage=stage, name=name, retention=DEAD_LETTER_RETENTION)


def _queue(scope: Construct, id_: str, *, stage: Stage, name: str, retention: timedelta, **more: Any) -> sqs.Queue:
    key = stage_key(scope, stage)
    return sqs.Queue(
        scope,
        id_,
        queue_name=name,
        encryption=sqs.QueueEncryption.KMS if key else sqs.QueueEncryption.SQS_MANAGED,
        encryption_master_key=key,
        data_key_reuse=REUSE if key else None,
        max_message_size_bytes=MAX_MESSAGE_BYTES,
        retention_period=seconds(retention),
        removal_policy=REMOVAL[stage.removal],  # removing or renaming a job deletes no messages
        **more,
    )


def _guard(
    scope: Construct,
    id_: str,
    queues: list[sqs.Queue],
    closed_to: str | None,
    accepts: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Add one policy for all ``queues``, because a queue has one policy. The resource ``*`` in it is the queue itself.

    Source: CloudFormation, *IAM template snippets*, "Declaring an Amazon SQS policy", which has two queues; IAM, *AWS
    global condition context keys*, on aws:PrincipalArn, which is the role's ARN in a session of the role.
    """
    denied: list[dict[str, Any]] = [
        {"Action": "sqs:*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
    ]
    if closed_to is not None:
        denied.append({"Action": "sqs:SendMessage", "Condition": {"ArnEquals": {"aws:PrincipalArn": closed_to}}})
    sqs.CfnQueuePolicy(
        scope,
        id_,
        queues=[queue.queue_url for queue in queues],
        policy_document={
            "Version": "2012-10-17",
            "Statement": [
                *({"Effect": "Deny", "Principal": {"AWS": "*"}, **each, "Resource": "*"} for each in denied),
                *({"Effect": "Allow", **each, "Resource": "*"} for each in accepts),
            ],
        },
    )
