"""Reading the templates that a synth wrote, with those of nested stacks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Properties = Mapping[str, Any]
Template = Mapping[str, Any]

NESTED, MIGRATION = "AWS::CloudFormation::Stack", "Custom::Migration"
SETTINGS, COSTS = "Joblane", "JoblaneCosts"
"""Keys of the metadata in the jobs stack's template: settings of the stage for `joblane preflight`, and architecture,
schedules and extras for `joblane costs`."""


@dataclass(frozen=True, slots=True)
class Extra:
    """Additional costs of the runs of a periodic task.

    ``metrics``: metrics of its own that each run writes. ``sqs_requests``: additional requests of each run.
    """

    metrics: int = 0
    sqs_requests: int = 0


def metadata(templates: Iterable[Template], key: str) -> Mapping[str, Any] | None:
    """Return the metadata ``key`` of the first template that has it, or None."""
    return next((found for template in templates if (found := template.get("Metadata", {}).get(key))), None)


def strings(node: object, *path: object) -> Iterator[tuple[tuple[object, ...], str]]:
    """Yield each string in a tree of JSON, with the keys and the positions that lead to it."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping | list):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from strings(value, *path, key)


def variables(function: Properties) -> Mapping[str, Any]:
    """Return the environment variables of a function."""
    found: Mapping[str, Any] = function.get("Environment", {}).get("Variables", {})
    return found


def name_of(resource: Properties, key: str, logical_id: str) -> str:
    """Return the name of a resource, or its logical id if the template does not have the name as a string."""
    name = resource.get(key, logical_id)
    return name if isinstance(name, str) else logical_id


def of_type(template: Template, kind: str) -> Iterator[tuple[str, Properties]]:
    """Logical id and properties of each resource of type ``kind``, as ``AWS::SQS::Queue``."""
    for logical_id, resource in template.get("Resources", {}).items():
        if resource["Type"] == kind:
            yield logical_id, resource.get("Properties", {})


# --- The files of an assembly --------------------------------------------------------------------------------------


def read_assembly(folder: Path) -> dict[str, Template]:
    """Return stack → template of the assembly in ``folder``; a nested stack is ``STACK/LOGICAL_ID`` of its resource.

    Templates that its manifest does not name are left from an earlier synthesis.
    Raises :class:`FileNotFoundError` if there is no manifest.
    """
    artifacts = _read(folder / "manifest.json")["artifacts"].values()
    sources = {
        digest: asset["source"]["path"]
        for artifact in artifacts
        if artifact["type"] == "cdk:asset-manifest"
        for digest, asset in _read(folder / artifact["properties"]["file"])["files"].items()
    }
    found: dict[str, Template] = {}
    for artifact in artifacts:
        if artifact["type"] == "aws:cloudformation:stack":
            file = artifact["properties"]["templateFile"]
            found |= _with_nested(
                folder, artifact["properties"].get("stackName", file.partition(".")[0]), file, sources
            )
    return found


def _with_nested(folder: Path, stack: str, file: str, sources: Mapping[str, str]) -> dict[str, Template]:
    template = _read(folder / file)
    found = {stack: template}
    for logical_id, properties in of_type(template, NESTED):
        url = json.dumps(properties["TemplateURL"])  # it ends in the digest of the file
        own = next(source for digest, source in sources.items() if digest in url)
        found |= _with_nested(folder, f"{stack}/{logical_id}", own, sources)
    return found


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


# --- A stack with its nested stacks --------------------------------------------------------------------------------


def stacks_of(templates: Mapping[str, Template]) -> list[str]:
    """Return the stacks that are not nested."""
    return [stack for stack in templates if "/" not in stack]


def whole(templates: Mapping[str, Template], stack: str) -> Template:
    """Return ``stack`` and its nested stacks as a single template, as if they were not nested.

    Parameters and outputs between them are replaced by their values. What a nested stack depends on, each of its
    resources depends on.
    """
    template = templates[stack]
    resources: dict[str, Any] = {}
    outputs: dict[str, Mapping[str, Any]] = {}
    inside: dict[str, list[str]] = {}
    for logical_id, resource in template.get("Resources", {}).items():
        if resource["Type"] != NESTED:
            resources[logical_id] = resource
            continue
        nested = whole(templates, f"{stack}/{logical_id}")
        nested = _replaced(nested, parameters=resource["Properties"].get("Parameters", {}), outputs={})
        outputs[logical_id] = {name: output["Value"] for name, output in nested.get("Outputs", {}).items()}
        inside[logical_id] = [*nested["Resources"]]
        for name, own in nested["Resources"].items():
            if name in resources:
                raise ValueError(f"{stack}: two resources are called {name}")
            on = [*_many(own.get("DependsOn", ())), *_many(resource.get("DependsOn", ()))]
            resources[name] = {**own, "DependsOn": on} if on else own
    merged: Template = _replaced({**template, "Resources": resources}, parameters={}, outputs=outputs)
    for resource in merged["Resources"].values():
        if names := resource.get("DependsOn"):
            resource["DependsOn"] = [one for name in _many(names) for one in inside.get(name, [name])]
    return merged


def _replaced(value: Any, *, parameters: Mapping[str, Any], outputs: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a copy of ``value`` in which references to parameters and to outputs of nested stacks are their values."""
    match value:
        case {"Ref": str(name)} if len(value) == 1 and name in parameters:
            return parameters[name]
        case {"Fn::GetAtt": [str(name), str(attribute)]} if name in outputs:
            output = outputs[name][attribute.removeprefix("Outputs.")]
            return _replaced(output, parameters=parameters, outputs=outputs)
        case dict():
            return {key: _replaced(item, parameters=parameters, outputs=outputs) for key, item in value.items()}
        case list():
            return [_replaced(item, parameters=parameters, outputs=outputs) for item in value]
    return value


def _many(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)
