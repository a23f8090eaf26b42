"""Log groups with a retention time."""

from __future__ import annotations

from typing import cast

from aws_cdk import CfnResource
from aws_cdk import aws_logs as logs
from constructs import Construct

from joblane.cdk.constructs.stage_key import stage_key
from joblane.cdk.settings.stage import REMOVAL, Stage


def log_group(scope: Construct, id_: str, *, stage: Stage, name: str) -> logs.LogGroup:
    """Create a log group with the stage's retention and key. A group that an AWS service creates never expires."""
    group = logs.LogGroup(
        scope,
        id_,
        log_group_name=name,
        removal_policy=REMOVAL[stage.removal],
        encryption_key=stage_key(scope, stage),
    )
    resource = cast(CfnResource, group.node.default_child)
    resource.add_property_override(
        "RetentionInDays", stage.log_retention_days
    )  # the enum RetentionDays takes no number
    return group
