"""Reading a synthesised template by the names of its resources."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

Template = Mapping[str, Any]
Properties = Mapping[str, Any]

NAMES = {
    "AWS::SQS::Queue": "QueueName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::Scheduler::Schedule": "Name",
}
QUEUES = "arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:"


def of_type(template: Template, kind: str) -> dict[str, Properties]:
    """Return the properties of all resources of a type, by name, or by logical id if the type has no name."""
    found = {}
    for logical_id, resource in template["Resources"].items():
        if resource["Type"] == kind:
            properties = resource.get("Properties", {})
            found[properties.get(NAMES.get(kind, ""), logical_id)] = properties
    return found


def queues(template: Template) -> dict[str, Properties]:
    return of_type(template, "AWS::SQS::Queue")


def functions(template: Template) -> dict[str, Properties]:
    return of_type(template, "AWS::Lambda::Function")


def variables(template: Template, function: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = functions(template)[function]["Environment"]["Variables"]
    return found


def mappings(template: Template) -> dict[str, tuple[str, Properties]]:
    """Return queue → its function and its mapping."""
    return {
        target(template, properties["EventSourceArn"]): (target(template, properties["FunctionName"]), properties)
        for properties in of_type(template, "AWS::Lambda::EventSourceMapping").values()
    }


def allowed(template: Template, function: str) -> dict[str, set[str]]:
    """Return action → names or texts of the resources for which a function's role allows it."""
    role = functions(template)[function]["Role"]["Fn::GetAtt"][0]
    return _allowed(template, role)


def allowed_to_role(template: Template, role_arn: Mapping[str, Any]) -> dict[str, set[str]]:
    return _allowed(template, role_arn["Fn::GetAtt"][0])


def statements(template: Template, role: str) -> Iterator[Mapping[str, Any]]:
    for policy in template["Resources"][role]["Properties"].get("Policies", ()):
        yield from policy["PolicyDocument"]["Statement"]
    for properties in of_type(template, "AWS::IAM::Policy").values():
        if {"Ref": role} in properties["Roles"]:
            yield from properties["PolicyDocument"]["Statement"]


def closed_to(template: Template, function: str) -> set[str]:
    """Return the queues to which a function may not send, whatever its role allows."""
    role, closed = functions(template)[function]["Role"], set()
    for policy in of_type(template, "AWS::SQS::QueuePolicy").values():
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement.get("Condition") == {"ArnEquals": {"aws:PrincipalArn": role}}:
                assert (statement["Effect"], statement["Principal"]) == ("Deny", {"AWS": "*"})
                assert (statement["Action"], statement["Resource"]) == ("sqs:SendMessage", "*")
                closed |= {target(template, queue) for queue in policy["Queues"]}
    return closed


def target(template: Template, value: Any) -> str:
    """Return the name of the resource that a reference or the ARN of a queue names.

    For other values, return their text with ``${…}`` for values from AWS.
    """
    if isinstance(value, str):
        return value
    if "Fn::Join" in value:
        text = "".join(target(template, part) for part in value["Fn::Join"][1])
        name = text.removeprefix(QUEUES)
        return name if name in queues(template) else text
    logical_id = value.get("Ref") or value.get("Fn::GetAtt", [None])[0]
    if logical_id in template["Resources"]:
        resource = template["Resources"][logical_id]
        name = resource.get("Properties", {}).get(NAMES.get(resource["Type"], ""), logical_id)
        return name if isinstance(name, str) else str(logical_id)
    return f"${{{logical_id}}}" if logical_id else json.dumps(value)


def circle(template: Template) -> list[str]:
    """Return logical ids of which each depends on the next, and the last on the first; empty if there are none."""
    resources = template["Resources"]
    edges = {name: {*_references(item)} & resources.keys() - {name} for name, item in resources.items()}
    while free := {name for name, needs in edges.items() if not needs & edges.keys()}:
        edges = {name: needs for name, needs in edges.items() if name not in free}
    if not edges:
        return []
    path = [min(edges)]
    while path[-1] not in path[:-1]:
        path.append(min(edges[path[-1]] & edges.keys()))
    return path[path.index(path[-1]) + 1 :]


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("Ref", "DependsOn", "Fn::GetAtt", "Fn::Sub"):
                yield from re.findall(r"\w+", json.dumps(inner))
            else:
                yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _allowed(template: Template, role: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for statement in statements(template, role):
        if statement["Effect"] == "Deny":
            continue
        actions, resources = (_many(statement[key]) for key in ("Action", "Resource"))
        for action in actions:
            found.setdefault(action, set()).update(target(template, resource) for resource in resources)
    return found


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
