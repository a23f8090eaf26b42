"""Reading the templates that a synth wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Properties = Mapping[str, Any]
Template = Mapping[str, Any]


def of_type(template: Template, kind: str) -> Iterator[tuple[str, Properties]]:
    """Logical id and properties of each resource of type ``kind``, as ``AWS::SQS::Queue``."""
    for logical_id, resource in template.get("Resources", {}).items():
        if resource["Type"] == kind:
            yield logical_id, resource.get("Properties", {})
