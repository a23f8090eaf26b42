"""The stacks of a stage as CloudFormation has them before a deploy: templates, tags, and names of alarms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from joblane.cdk.preflight.moves import GONE, stack_of
from joblane.cdk.templates import NESTED, Template, strings

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

    from joblane.cdk.preflight.compare import Place

PERMISSIONS = (
    "cloudformation:DescribeStacks, cloudformation:DescribeStackEvents, cloudformation:GetTemplate and "
    "cloudformation:ListStackResources"
)
ALARMS = ("AWS::CloudWatch::Alarm", "AWS::CloudWatch::CompositeAlarm")
NOT_ASCII = re.compile(r"[^\x00-\x7f]")
SHOWN = {"Metadata", "Description", "AlarmDescription", "DashboardBody", "By"}
"""Keys whose strings are only shown to people, or have no effect."""


@dataclass(frozen=True)
class Deployed:
    """The deployed stacks.

    ``templates``: stack → template; a nested stack is ``STACK/LOGICAL_ID``. ``tags``: of the stacks that are not
    nested. ``alarms``: name of each alarm. ``missing``: stacks that do not exist yet. ``unreadable``: places of
    strings that CloudFormation does not return as they were. ``statuses``: of the stacks that are not nested.
    ``elsewhere``: stacks of the checkout in another region, with the region; they are not read.
    """

    templates: Mapping[str, Template] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    alarms: Mapping[Place, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    statuses: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)


def read_deployed(client: CloudFormationClient, wanted: Mapping[str, Template]) -> Deployed:
    """Return the deployed stacks of the checkout's templates, ``wanted``. Raises botocore's errors."""
    templates: dict[str, Template] = {}
    tags: dict[str, dict[str, str]] = {}
    alarms: dict[Place, str] = {}
    statuses: dict[str, str] = {}
    missing, unreadable = [], []
    waiting = [(stack, stack) for stack in wanted if "/" not in stack]
    for stack, called in waiting:  # grows by the nested stacks
        found = stack_of(client, called)
        if found is None:
            missing.append(stack)
            continue
        if "/" not in stack:
            statuses[stack] = str(found["StackStatus"])
        body = client.get_template(StackName=called, TemplateStage="Original")["TemplateBody"]
        if not isinstance(body, Mapping):  # botocore parses JSON alone
            unreadable.append(f"{stack}: its template is not JSON")
            continue
        templates[stack] = whole = _with_characters(body, wanted.get(stack, {}))
        if "/" not in stack:  # a nested template is deployed from its file
            unreadable += [f"{stack}: {place}" for place in _lost(whole, wanted.get(stack, {}))]
            tags[stack] = {tag["Key"]: tag["Value"] for tag in found.get("Tags", ())}
        for kind, logical_id, name in _resources(client, called):
            if kind in ALARMS:
                alarms[stack, logical_id] = name
            elif kind == NESTED and name:
                waiting.append((f"{stack}/{logical_id}", name))
    return Deployed(templates, tags, alarms, tuple(missing), tuple(unreadable), statuses)


def other_stacks(now: Deployed, wanted: Mapping[str, Template]) -> set[str]:
    """Return the stacks that do not have the resources of ``wanted``, or that an operation changes now."""
    return {
        stack
        for name, template in wanted.items()
        for stack in [name.partition("/")[0]]
        if now.statuses.get(stack) == "UPDATE_IN_PROGRESS"
        or now.templates.get(name, {}).get("Resources") != template.get("Resources")
    }


def _resources(client: CloudFormationClient, called: str) -> Iterator[tuple[str, str, str]]:
    """Yield type, logical id and name of each resource."""
    for page in client.get_paginator("list_stack_resources").paginate(StackName=called):
        for each in page["StackResourceSummaries"]:
            if each["ResourceStatus"] not in GONE:
                yield each["ResourceType"], each["LogicalResourceId"], each.get("PhysicalResourceId", "")


# --- Characters ----------------------------------------------------------------------------------------------------

# GetTemplate returns `?` for each character that is not ASCII.
# Source: aws-cloudformation/cloudformation-coverage-roadmap, issue 1220; `mangleLikeCloudFormation` of aws-cdk.


def _with_characters(template: Any, wanted: Any) -> Any:
    """Return the template with the strings of ``wanted`` that CloudFormation would return as ``template`` has them."""
    match template, wanted:
        case dict(), Mapping():
            return {key: _with_characters(each, wanted.get(key)) for key, each in template.items()}
        case list(), list():
            others = [*wanted, *[None] * (len(template) - len(wanted))]
            return [_with_characters(each, other) for each, other in zip(template, others, strict=False)]
        case str(), str() if template == NOT_ASCII.sub("?", wanted):
            return wanted
    return template


def _lost(template: Template, wanted: Template) -> Iterator[str]:
    """Yield the places of strings that may lack a character: they have a ``?`` that ``wanted`` does not have there."""
    same = set(strings(wanted))
    for path, text in strings(template):
        if "?" in text and (path, text) not in same and SHOWN.isdisjoint(path):
            yield "/".join(map(str, path))
