"""The SNS topic to which alarms publish."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Aws, RemovalPolicy, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk.aws_sns_subscriptions import EmailSubscription
from constructs import Construct

from joblane.cdk.settings.apis import Monitoring

CLOUDWATCH = iam.ServicePrincipal("cloudwatch.amazonaws.com")


class AlarmTopic(Construct):
    """``PREFIX-alarms``: reached by TLS only, open to the alarms of the stage, and encrypted with a key of its own.

    CloudWatch may not use the AWS managed key for SNS, so there is no encryption by KMS without that key, which costs
    money every month.
    Source: AWS re:Post, *Why didn't I receive an SNS notification for my CloudWatch alarm trigger?*
    """

    def __init__(self, scope: Construct, id_: str, *, prefix: str, monitoring: Monitoring) -> None:
        super().__init__(scope, id_)
        alarms = Stack.of(self).format_arn(service="cloudwatch", resource=f"alarm:{prefix}-*")
        own = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}, "ArnLike": {"aws:SourceArn": alarms}}
        key = self._key(prefix, own) if monitoring.topic_key else None
        self.topic = sns.Topic(self, "Topic", topic_name=f"{prefix}-alarms", master_key=key, enforce_ssl=True)
        self.topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[CLOUDWATCH], actions=["sns:Publish"], resources=[self.topic.topic_arn], conditions=own
            )
        )
        if monitoring.email not in (None, "off"):
            self.topic.add_subscription(EmailSubscription(monitoring.email))

    def _key(self, prefix: str, conditions: Mapping[str, Any]) -> kms.Key:
        key = kms.Key(
            self,
            "Key",
            description=f"Encrypts the notifications of the alarms of {prefix}",
            enable_key_rotation=True,
            removal_policy=RemovalPolicy.DESTROY,  # no stored data is encrypted with it
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[CLOUDWATCH],
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                resources=["*"],  # in a key policy: this key
                conditions=conditions,
            )
        )
        return key
