"""What a service is given that sends jobs: a managed policy per task type, and one per front door."""

from __future__ import annotations

from collections.abc import Iterable

from aws_cdk import Aws
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from joblane.cdk.constructs.queue_pair import sending
from joblane.cdk.settings.stage import Stage


def producer_policy(scope: Construct, *, stage: Stage, name: str, queues: Iterable[sqs.IQueue]) -> iam.ManagedPolicy:
    """``PREFIX-send-NAME-REGION``: sending to ``queues`` and nothing else. ``name``: a type's slug, or a queue's name.

    With the region, because the names of policies are the account's, and a stage may be in several regions. A slug has
    a hyphen in the place of the type's colon, so it never is a queue's name.

    A type's policy is all that ``JobClient`` needs to send it. For more than a hundred jobs in one commit it wakes the
    sweep as well; a sender without the policy of ``jobs:sweep`` leaves them to the sweep's next round.
    """
    return iam.ManagedPolicy(
        scope,
        name,
        managed_policy_name=f"{stage.prefix}-send-{name}-{Aws.REGION}",
        description=f"Joblane, {stage.name}: sends {name}",
        statements=[sending(queues)],
    )
