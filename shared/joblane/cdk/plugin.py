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
from joblane.cdk.templates import Template

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
        elements = [each for each in self._jobs.node.find_all() if isinstance(each, CfnElement)]
        own = {str(stack.resolve(element.logical_id)) for element in elements}
        place = next(path for path in context.template_paths if Path(path).name == stack.template_file)
        template = _part(json.loads(Path(place).read_text(encoding="utf-8")), own)
        return PolicyValidationPluginReport(
            success=not (problems := problems_of([template], self._jobs.stage)),
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
    """Return the resources ``own``, and every event source mapping that refers to them."""

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
