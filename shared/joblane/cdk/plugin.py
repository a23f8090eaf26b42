"""The checks of a stage's templates as a CDK validation plugin: a problem fails the synthesis of any CDK app."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsii
from aws_cdk import (
    CfnElement,
    IPolicyValidationContext,
    IPolicyValidationPlugin,
    PolicyValidationPluginReport,
    PolicyViolatingResource,
    PolicyViolation,
    Stack,
)

from joblane.cdk.checks import problems_of
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.shares import sharing_lanes
from joblane.cdk.templates import Template, read_assembly

RULE = "jobs-arrive"


@jsii.implements(IPolicyValidationPlugin)
class TemplateChecks:
    """Checks the resources of ``jobs`` in an app's templates, and no other resources."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @property
    def name(self) -> str:
        return "Joblane"

    @property
    def version(self) -> None:
        """None: the report does not need a version."""

    @property
    def rule_ids(self) -> list[str]:
        return [RULE]

    def validate(self, context: IPolicyValidationContext) -> PolicyValidationPluginReport:
        stack = Stack.of(self._jobs)
        place = next(path for path in context.template_paths if Path(path).name == stack.template_file)
        elements = [each for each in self._jobs.node.find_all() if isinstance(each, CfnElement)]
        own = {str(stack.resolve(element.logical_id)) for element in elements}
        templates = read_assembly(Path(place).parent)
        parts = {name: template for name, template in templates.items() if name.startswith(f"{stack.stack_name}/")}
        lanes = sharing_lanes(self._jobs.stage.prefix, self._jobs.tasks.values())
        problems = problems_of(
            {stack.stack_name: _part(templates[stack.stack_name], own), **parts}, self._jobs.stage, lanes
        )
        return PolicyValidationPluginReport(
            success=not problems,
            violations=[
                PolicyViolation(
                    rule_name=RULE,
                    description=problem,
                    violating_resources=[
                        PolicyViolatingResource(locations=[], construct_path=self._jobs.node.path, template_path=place)
                    ],
                )
                for problem in problems
            ],
        )


def _part(template: Template, own: set[str]) -> Mapping[str, Any]:
    """Return the resources ``own``, and every event source mapping that refers to them or their nested stacks."""

    def refers(resource: Mapping[str, Any]) -> bool:
        text = json.dumps(resource["Properties"])
        return any(f'"{logical_id}"' in text for logical_id in own)

    return {
        "Resources": {
            logical_id: resource
            for logical_id, resource in template.get("Resources", {}).items()
            if logical_id in own or (resource["Type"] == "AWS::Lambda::EventSourceMapping" and refers(resource))
        }
    }
