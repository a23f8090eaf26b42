"""cdk-nag's AwsSolutions rules. Every accepted finding is acknowledged with its reason next to the construct.

Source: cdk-nag 3, *Acknowledging a Rule*; its RULES.md describes each rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from aws_cdk import Acknowledgment, Stack, Validations
from constructs import IConstruct

from joblane.cdk.errors import RefusedTemplateError

PACK = "AwsSolutions"


def acknowledge(construct: IConstruct, rule: str, reason: str) -> None:
    """Accept the findings of ``rule``, such as ``S1``, at ``construct`` and inside it, and give the ``reason``."""
    Validations.of(construct).acknowledge(Acknowledgment(id=f"{PACK}-{rule}", reason=reason))


def acknowledge_wildcards(role: IConstruct, resources: Iterable[str], reason: str) -> None:
    """Accept ``resources``, ARNs that contain a ``*``, in the policies of ``role``, and give the ``reason``."""
    for resource in resources:
        acknowledge(role, f"IAM5[Resource::{_flat(Stack.of(role).resolve(resource))}]", reason)


def refuse_findings(scope: IConstruct) -> None:
    """Raise :class:`RefusedTemplateError` with every finding in ``scope`` that is not acknowledged.

    Call it before the synthesis, which resolves references between stacks: acknowledgements name them unresolved.
    """
    # imported here because it takes a second to load and the synthesis of a local stage does not need it
    from cdk_nag import AwsSolutionsChecks

    violations = AwsSolutionsChecks().validate_scope(scope).violations
    if violations:
        raise RefusedTemplateError(
            f"{resource.construct_path}: {violation.rule_name}: {violation.description} Fix it, or give a reason to "
            "accept it, next to the construct, with joblane.cdk.nag.acknowledge"
            for violation in violations
            for resource in violation.violating_resources
        )


def _flat(value: Any) -> str:
    """Return a resolved value as cdk-nag writes it: ``arn:<AWS::Partition>:s3:::…``, ``<Exports.Arn>/exports/*``."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(_flat(part) for part in parts)
        case {"Fn::GetAtt": [resource, attribute]}:
            return f"<{resource}.{attribute}>"
        case {"Ref": resource}:
            return f"<{resource}>"
        case {"Fn::ImportValue": text} | {"Fn::Sub": text}:
            return _flat(text)
        case str():
            return value.replace("${", "<").replace("}", ">")
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
