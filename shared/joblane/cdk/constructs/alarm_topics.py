"""The SNS topics to which alarms publish, and who is notified: addresses, and a channel of Slack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Aws, RemovalPolicy, Stack
from aws_cdk import aws_chatbot as chatbot
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk.aws_sns_subscriptions import EmailSubscription
from constructs import Construct

from joblane.cdk.constructs.stage_key import WRITE, stage_key
from joblane.cdk.settings.apis import Monitoring, Slack
from joblane.cdk.settings.stage import Stage as Settings
from joblane.cdk.watching.alarms import Topic

CLOUDWATCH = iam.ServicePrincipal("cloudwatch.amazonaws.com")
BUDGETS = iam.ServicePrincipal("budgets.amazonaws.com")
CHATBOT = iam.ServicePrincipal("chatbot.amazonaws.com")
"""Amazon Q Developer in chat applications, formerly AWS Chatbot."""
DENY_ALL = "AWSDenyAll"
"""A policy that AWS manages. The service attaches ``AdministratorAccess`` if the channel has no guardrail.
Source: CloudFormation, *AWS::Chatbot::SlackChannelConfiguration*, GuardrailPolicies."""


class AlarmTopics(Construct):
    """``PREFIX-urgent`` and ``PREFIX-later``: reached by TLS only, open to the alarms of the stage, encrypted by a key.

    ``topics``: the topics. They share one key, from the settings or of their own. CloudWatch may not use the AWS
    managed key for SNS, so there is no encryption by KMS without such a key, which costs money every month.
    Source: AWS re:Post, *Why didn't I receive an SNS notification for my CloudWatch alarm trigger?*
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Settings, monitoring: Monitoring) -> None:
        super().__init__(scope, id_)
        prefix = stage.prefix
        alarms = Stack.of(self).format_arn(service="cloudwatch", resource=f"alarm:{prefix}-*")
        own = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}, "ArnLike": {"aws:SourceArn": alarms}}
        key = stage_key(self, stage)
        if key is None and monitoring.topic_key:
            key = self._key(prefix, own)
        self.topics: Mapping[Topic, sns.Topic] = {topic: self._topic(topic, prefix, key, own) for topic in Topic}
        if monitoring.budget is not None:
            self._allow_budgets(self.topics[Topic.LATER], key)
        later = monitoring.email if monitoring.later_email is None else monitoring.later_email
        for topic, address in ((Topic.URGENT, monitoring.email), (Topic.LATER, later)):
            if address not in (None, "off"):
                self.topics[topic].add_subscription(EmailSubscription(address))
        if monitoring.slack is not None:
            self._add_slack(prefix, monitoring.slack)

    def _topic(self, kind: Topic, prefix: str, key: kms.IKey | None, conditions: Mapping[str, Any]) -> sns.Topic:
        topic = sns.Topic(self, kind.capitalize(), topic_name=f"{prefix}-{kind}", master_key=key, enforce_ssl=True)
        topic.add_to_resource_policy(
            iam.PolicyStatement(
                principals=[CLOUDWATCH], actions=["sns:Publish"], resources=[topic.topic_arn], conditions=conditions
            )
        )
        return topic

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
                actions=list(WRITE),
                resources=["*"],  # in a key policy: this key
                conditions=conditions,
            )
        )
        return key

    def _allow_budgets(self, topic: sns.Topic, key: kms.IKey | None) -> None:
        """Source: AWS Cost Management, *Creating an Amazon SNS topic for budget notifications*."""
        budgets = f"arn:{Aws.PARTITION}:budgets::{Aws.ACCOUNT_ID}:*"
        conditions = {"StringEquals": {"aws:SourceAccount": Aws.ACCOUNT_ID}, "ArnLike": {"aws:SourceArn": budgets}}
        of_topic = iam.PolicyStatement(
            principals=[BUDGETS], actions=["sns:Publish"], resources=[topic.topic_arn], conditions=conditions
        )
        topic.add_to_resource_policy(of_topic)
        if key is not None:
            of_key = iam.PolicyStatement(
                principals=[BUDGETS], actions=list(WRITE), resources=["*"], conditions=conditions
            )
            key.add_to_resource_policy(of_key)  # no effect on a key of the settings, whose policy is not in the stack

    def _add_slack(self, prefix: str, slack: Slack) -> None:
        """Show both topics in a channel, whose members can run nothing in AWS: the role has no permission, and the
        guardrail denies everything."""
        role = iam.Role(
            self,
            "SlackRole",
            assumed_by=CHATBOT,
            description=f"Alarms of {prefix} in Slack: no permissions",
        )
        chatbot.CfnSlackChannelConfiguration(
            self,
            "Slack",
            configuration_name=f"{prefix}-alarms",
            slack_workspace_id=slack.workspace_id,
            slack_channel_id=slack.channel_id,
            iam_role_arn=role.role_arn,
            guardrail_policies=[iam.ManagedPolicy.from_aws_managed_policy_name(DENY_ALL).managed_policy_arn],
            sns_topic_arns=[topic.topic_arn for topic in self.topics.values()],
        )
