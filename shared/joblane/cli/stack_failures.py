"""The failed stacks of a deploy, with the reason that CloudFormation gives and the command for the next step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

STACK = "AWS::CloudFormation::Stack"
FAILED = ("CREATE_FAILED", "UPDATE_FAILED", "DELETE_FAILED")
CONSEQUENCES = ("Resource creation cancelled", "Resource update cancelled")
"""Reasons of resources that failed because another had failed."""
STUCK = ("UPDATE_ROLLBACK_FAILED", "UPDATE_FAILED")
NEVER_CREATED = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED")


@dataclass(frozen=True)
class StackFailure:
    """A stack that is in a failed ``status``. ``resource``: logical id of the first that failed; empty if unknown."""

    stack: str
    status: str
    resource: str = ""
    reason: str = ""

    @property
    def text(self) -> str:
        """A sentence for people."""
        why = f": {self.resource}: {self.reason}" if self.resource else ""
        return f"{self.stack} is {self.status}{why}"

    def next_step(self, assembly: Path) -> str:
        """The command for the next step. ``assembly``: the folder with the templates."""
        if self.status in STUCK:
            return (
                f"cdk rollback {self.stack} --app {assembly}; if that fails: aws cloudformation "
                f"continue-update-rollback --stack-name {self.stack} --resources-to-skip {self.resource or 'RESOURCE'}"
            )
        if self.status in NEVER_CREATED:
            return "fix the cause and deploy again: docs/how-to/deploy.md, If the first deploy fails"
        return "fix the cause and deploy again: the stack is as it was before the deploy"


def stack_failures(client: CloudFormationClient, stacks: Iterable[str]) -> Iterator[StackFailure]:
    """Find failed stacks and the first resource that failed in each, also in nested stacks."""
    from botocore.exceptions import ClientError

    for name in stacks:
        try:
            (found,) = client.describe_stacks(StackName=name)["Stacks"]
        except ClientError:  # it does not exist, or the caller may not see it
            continue
        status = str(found["StackStatus"])
        if "FAILED" in status or "ROLLBACK" in status:
            yield StackFailure(name, status, *_first_failure(client, name))


def _first_failure(client: CloudFormationClient, stack: str) -> tuple[str, str]:
    """Return logical id and reason of the first resource that failed in the last operation on ``stack``."""
    first = ("", "")
    nested = None
    for page in client.get_paginator("describe_stack_events").paginate(StackName=stack):
        for event in page["StackEvents"]:  # newest first
            status, reason = event.get("ResourceStatus"), event.get("ResourceStatusReason", "")
            if event.get("PhysicalResourceId") == event.get("StackId"):
                if status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"):  # here the operation began
                    return _first_failure(client, nested) if nested else first
            elif status in FAILED and not reason.startswith(CONSEQUENCES):
                first = (event.get("LogicalResourceId", ""), reason)
                nested = event.get("PhysicalResourceId") if event.get("ResourceType") == STACK else None
    return _first_failure(client, nested) if nested else first
