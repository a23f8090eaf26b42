"""The limits of CloudFormation, IAM and Lambda that templates reach as a stage grows, each refused with a sentence.

Sources: CloudFormation quotas; IAM quotas; Lambda quotas.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joblane.cdk.templates import Properties, Template, name_of, of_type, stacks_of, variables
from joblane.names import PLACE

MAX_RESOURCES = 500
"""Resources of a stack, each nested one by itself."""
MAX_OPERATION = 2500
"""Resources of a stack and its nested stacks that one operation creates, updates or deletes."""
MAX_VALUES = 200
"""Parameters of a stack, and outputs of a stack."""
MAX_TEMPLATE_BYTES = 1_000_000
MAX_DYNAMIC_REFERENCES = 60
"""Values of a template that CloudFormation resolves during the deploy, such as those of secrets."""
MAX_INLINE_CHARACTERS = 10_240
"""All inline policies of a role together, without white space."""
MAX_MANAGED_CHARACTERS = 6_144
MAX_MANAGED_POLICIES = 10
"""Managed policies of a role."""
MAX_ENVIRONMENT_BYTES = 4096
"""All variables of a function together."""

RESOLVED = {"AWS::Region": "ap-southeast-1", "AWS::AccountId": "1" * 12, "AWS::Partition": "aws-cn"}
"""The longest values of references in most regions."""
UNKNOWN = "x" * 80
"""In place of a reference to a resource, whose ARN is not known at synth."""


def problems_of_size(templates: Mapping[str, Template], merged: Sequence[Template]) -> list[str]:
    """Return all problems, one sentence each. A nested stack is ``STACK/LOGICAL_ID``; ``merged`` has none of them."""
    return [
        *(problem for stack, template in templates.items() for problem in _template(stack, template)),
        *(problem for stack in stacks_of(templates) for problem in _operation(stack, resources_of(templates, stack))),
        *(problem for template in merged for problem in _roles(template)),
        *(problem for template in merged for problem in _managed_policies(template)),
        *(problem for template in merged for problem in _environments(template)),
    ]


def resources_of(templates: Mapping[str, Template], stack: str) -> int:
    """Return the number of resources in ``stack`` and its nested stacks."""
    own = [template for name, template in templates.items() if f"{name}/".startswith(f"{stack}/")]
    return sum(len(template.get("Resources", ())) for template in own)


def body(template: Template) -> str:
    """Return the text of ``template`` as the CDK writes it."""
    return json.dumps(template, indent=1, ensure_ascii=False)


# --- CloudFormation ------------------------------------------------------------------------------------------------


def _template(stack: str, template: Template) -> Iterator[str]:
    text = body(template)
    for what, number, limit, remedy in (
        ("resources", len(template.get("Resources", ())), MAX_RESOURCES, "declare fewer schedules and lanes"),
        ("parameters", len(template.get("Parameters", ())), MAX_VALUES, "use fewer resources of other stacks"),
        ("outputs", len(template.get("Outputs", ())), MAX_VALUES, "use fewer of its resources in other stacks"),
        ("bytes", len(text.encode()), MAX_TEMPLATE_BYTES, "shorten descriptions and payloads of schedules"),
        ("references to secrets", text.count("{{resolve:"), MAX_DYNAMIC_REFERENCES, "let fewer tasks use a secret"),
    ):
        if number > limit:
            yield (
                f"stack {stack}: its template has {number:,} {what}, and CloudFormation's limit is {limit:,}: "
                f"{remedy}, or move task types to a stage of their own"
            )


def _operation(stack: str, resources: int) -> Iterator[str]:
    if resources > MAX_OPERATION:
        yield (
            f"stack {stack}: it and its nested stacks have {resources:,} resources, and CloudFormation creates at most "
            f"{MAX_OPERATION:,} in one operation: let types share a place, or move task types to a stage of their own"
        )


# --- IAM -----------------------------------------------------------------------------------------------------------


def _roles(template: Template) -> Iterator[str]:
    inline, attached = Counter[str](), Counter[str]()
    roles = dict(of_type(template, "AWS::IAM::Role"))
    for logical_id, role in roles.items():
        inline[logical_id] += sum(_characters(policy["PolicyDocument"]) for policy in role.get("Policies", ()))
        attached[logical_id] += len(role.get("ManagedPolicyArns", ()))
    for kind, counted in (("AWS::IAM::Policy", inline), ("AWS::IAM::ManagedPolicy", attached)):
        for _, policy in of_type(template, kind):
            for role in policy.get("Roles", ()):
                if isinstance(role, Mapping):
                    counted[role.get("Ref", "")] += _characters(policy["PolicyDocument"]) if counted is inline else 1
    users = {_role_of(function): name for name, function in _functions(template)}
    of_places = {_role_of(function) for _, function in _functions(template) if PLACE in variables(function)}
    for logical_id in roles:
        what = f"function {users[logical_id]}" if logical_id in users else f"role {logical_id}"
        also = ", or move types to another place" if logical_id in of_places else ""
        if inline[logical_id] > MAX_INLINE_CHARACTERS:
            yield (
                f"{what}: the policies of its role have {inline[logical_id]:,} characters, and IAM's limit is "
                f'{MAX_INLINE_CHARACTERS:,}: name fewer types in grants.enqueue, or all by "*"{also}'
            )
        if attached[logical_id] > MAX_MANAGED_POLICIES:
            yield (
                f"{what}: its role has {attached[logical_id]} managed policies, and IAM's limit is "
                f"{MAX_MANAGED_POLICIES}: put statements of several into one policy"
            )


def _managed_policies(template: Template) -> Iterator[str]:
    for logical_id, policy in of_type(template, "AWS::IAM::ManagedPolicy"):
        if (size := _characters(policy["PolicyDocument"])) > MAX_MANAGED_CHARACTERS:
            yield (
                f"managed policy {logical_id}: it has {size:,} characters, and IAM's limit is "
                f"{MAX_MANAGED_CHARACTERS:,}: divide it"
            )


def _characters(document: Any) -> int:
    """Return an upper estimate of the size that IAM counts: without white space, with references resolved."""
    text = json.dumps(_resolved(document), separators=(",", ":"))
    return len(text) - text.count(" ")


def _resolved(value: Any) -> Any:
    match value:
        case {"Ref": str(name)}:
            return RESOLVED.get(name, UNKNOWN)
        case {"Fn::Join": [str(separator), list(parts)]}:
            return separator.join(str(_resolved(part)) for part in parts)
        case {"Fn::GetAtt": _} | {"Fn::ImportValue": _} | {"Fn::Sub": _}:
            return UNKNOWN
        case dict():
            return {key: _resolved(item) for key, item in value.items()}
        case list():
            return [_resolved(item) for item in value]
    return value


# --- Lambda --------------------------------------------------------------------------------------------------------


def _environments(template: Template) -> Iterator[str]:
    for name, function in _functions(template):
        sizes = {
            key: len(key) + len((value if isinstance(value, str) else json.dumps(value)).encode())
            for key, value in variables(function).items()
        }
        if sum(sizes.values()) > MAX_ENVIRONMENT_BYTES:
            largest = max(sizes, key=lambda key: sizes[key])
            also = "; move types to another place" if PLACE in sizes else ""
            yield (
                f"function {name}: its environment has {sum(sizes.values())} bytes, and Lambda's limit is "
                f"{MAX_ENVIRONMENT_BYTES}; the largest variable is {largest} with {sizes[largest]}{also}"
            )


def _functions(template: Template) -> Iterator[tuple[str, Properties]]:
    for logical_id, function in of_type(template, "AWS::Lambda::Function"):
        yield name_of(function, "FunctionName", logical_id), function


def _role_of(function: Properties) -> str:
    role = function.get("Role")
    return str(role["Fn::GetAtt"][0]) if isinstance(role, Mapping) and "Fn::GetAtt" in role else ""
