"""Nested stacks put into their parent: the emulator creates them, but an update of one loses attributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STACK = "AWS::CloudFormation::Stack"


@dataclass(frozen=True)
class Inlined:
    """The content of a nested stack, with names and expressions of its parent."""

    resources: dict[str, dict[str, Any]]
    outputs: dict[str, Any]


def inline(parent: dict[str, Any], nested: Mapping[str, dict[str, Any]]) -> None:
    """Put nested stacks into ``parent``, a template. ``nested``: logical id of the nested stack → its template.

    A resource of a nested stack gets the logical id of the stack before its own.
    """
    found = {name: _renamed(name, parent["Resources"].pop(name), template) for name, template in nested.items()}
    for one in found.values():
        parent["Resources"] |= one.resources
    for resource in parent["Resources"].values():
        if after := resource.get("DependsOn"):
            names = [after] if isinstance(after, str) else after
            resource["DependsOn"] = [
                inner for name in names for inner in (found[name].resources if name in found else [name])
            ]
    outputs = {(name, f"Outputs.{key}"): value for name, one in found.items() for key, value in one.outputs.items()}
    for section in ("Resources", "Outputs"):
        parent[section] = _with_outputs(parent.get(section, {}), outputs)


def _renamed(name: str, stack: Mapping[str, Any], template: Mapping[str, Any]) -> Inlined:
    expressions: dict[str, Any] = {
        parameter: stack["Properties"].get("Parameters", {}).get(parameter, declared.get("Default"))
        for parameter, declared in template.get("Parameters", {}).items()
    }
    expressions |= {own: {"Ref": f"{name}{own}"} for own in template["Resources"]}
    resources = {
        f"{name}{own}": _resolved(resource, expressions, name) for own, resource in template["Resources"].items()
    }
    first = stack.get("DependsOn", [])
    for resource in resources.values():
        after = resource.get("DependsOn", [])
        resource["DependsOn"] = [f"{name}{own}" for own in ([after] if isinstance(after, str) else after)]
        resource["DependsOn"] += [first] if isinstance(first, str) else first
    outputs = {key: _resolved(each["Value"], expressions, name) for key, each in template.get("Outputs", {}).items()}
    return Inlined(resources, outputs)


def _resolved(value: Any, expressions: Mapping[str, Any], name: str) -> Any:
    """Return the value with the parent's expressions in place of the nested stack's own names."""
    if isinstance(value, list):
        return [_resolved(item, expressions, name) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and "Ref" in value:
        return expressions.get(value["Ref"], value)
    if len(value) == 1 and "Fn::GetAtt" in value:
        own, attribute = value["Fn::GetAtt"]
        return {"Fn::GetAtt": [f"{name}{own}", attribute]}
    return {key: _resolved(item, expressions, name) for key, item in value.items()}


def _with_outputs(value: Any, outputs: Mapping[tuple[str, str], Any]) -> Any:
    if isinstance(value, list):
        return [_with_outputs(item, outputs) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and "Fn::GetAtt" in value and tuple(value["Fn::GetAtt"]) in outputs:
        return _with_outputs(outputs[tuple(value["Fn::GetAtt"])], outputs)  # it may be the output of another stack
    return {key: _with_outputs(item, outputs) for key, item in value.items()}
