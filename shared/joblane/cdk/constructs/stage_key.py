"""The KMS key of a stage, and the permissions with which functions, schedules and producers use it.

SQS, S3 and Secrets Manager call KMS in the name of their caller, so each role that sends or receives needs the key.
Sources: SQS, *Key management*, permissions of producers and consumers; S3, *Using server-side encryption with AWS KMS
keys*; Lambda, *Using Lambda with Amazon SQS*; KMS, *kms:ViaService*. The execution role of Amazon MWAA has the same
condition for its queues: public copies of its policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aws_cdk import Aws, Duration, Stack, Token
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from constructs import Construct

from joblane.cdk.settings.keys import region_of
from joblane.cdk.settings.stage import Stage as Settings

READ = ("kms:Decrypt",)
WRITE = ("kms:Decrypt", "kms:GenerateDataKey")
"""A producer decrypts, too: it verifies the new data key. So does a multipart upload. Sources: as above."""
OF_SQS = {"sqs:SendMessage": WRITE, "sqs:ReceiveMessage": READ}
"""Action → what it needs of the key of the queue."""
REUSE = Duration.hours(1)
"""Time for which SQS uses a data key again, 5 minutes by default, and at most 24 hours. In this time a lane costs two
requests to KMS for each sender and one for each receiver, and works on after the key is disabled.
Source: SQS, *Key management*, data key reuse period and estimating costs."""


def stage_key(scope: Construct, settings: Settings) -> kms.IKey | None:
    """Return the key of the stage in the stack of ``scope``, for properties of constructs. None: there is none."""
    if settings.kms_key is None:
        return None
    stack, id_ = Stack.of(scope), "JoblaneKey"
    found = stack.node.try_find_child(id_)
    return kms.Key.from_key_arn(stack, id_, settings.kms_key) if found is None else found  # type: ignore[return-value]


def with_keys(settings: Settings, statement: iam.PolicyStatement) -> Iterator[iam.PolicyStatement]:
    """Yield ``statement``, and a second one if it allows to send or receive messages on a stage with keys."""
    yield statement
    uses = {use for action in statement.actions for use in OF_SQS.get(action, ())}
    if (keys := settings.usable_keys) and uses and statement.effect == iam.Effect.ALLOW:
        yield use_statement("sqs", sorted(uses), keys, region=region_of(keys[0]))


def use_statement(service: str, actions: Sequence[str], keys: Iterable[str], *, region: str) -> iam.PolicyStatement:
    """Allow ``actions`` with ``keys``, which are ARNs, to calls by ``service`` in ``region`` only."""
    return iam.PolicyStatement(
        actions=list(actions),
        resources=list(dict.fromkeys(keys)),
        conditions={"StringEquals": {"kms:ViaService": [*_hosts(service, region)]}},
    )


def _hosts(service: str, region: str) -> Iterator[str]:
    """Yield the values of ``kms:ViaService``. Hosts in China end otherwise, and both forms are accepted there."""
    yield f"{service}.{region}.amazonaws.com"
    if Token.is_unresolved(region):
        yield f"{service}.{region}.{Aws.URL_SUFFIX}"
    elif region.startswith("cn-"):
        yield f"{service}.{region}.amazonaws.com.cn"
