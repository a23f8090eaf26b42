"""What cdk-nag's AwsSolutions rules say of the stacks, and what is answered: one by one, beside what causes it.

Source: cdk-nag 3, *Acknowledging a Rule*; its RULES.md says what each rule wants.
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
    """Say why what ``rule`` finds at ``construct``, or inside of it, is right. ``rule``: as ``S1`` or ``L1``."""
    Validations.of(construct).acknowledge(Acknowledgment(id=f"{PACK}-{rule}", reason=reason))


def acknowledge_wildcards(role: IConstruct, resources: Iterable[str], reason: str) -> None:
    """Say why the policies of ``role`` name ``resources``, ARNs with a ``*`` in them, and nothing narrower."""
    for resource in resources:
        acknowledge(role, f"IAM5[Resource::{_flat(Stack.of(role).resolve(resource))}]", reason)


def refuse_findings(scope: IConstruct) -> None:
    """Raise :class:`RefusedTemplateError` with every finding in ``scope`` that is neither mended nor acknowledged.

    To be called before the synthesis: it settles references between stacks, and what was acknowledged names them as
    they were.
    """
    # not at the top: a local stage is synthesised without, and loading it takes a second
    from cdk_nag import AwsSolutionsChecks

    violations = AwsSolutionsChecks().validate_scope(scope).violations
    if violations:
        raise RefusedTemplateError(
            f"{resource.construct_path}: {violation.rule_name}: {violation.description} Mend it, or say beside the "
            "construct why it is right, by joblane.cdk.nag.acknowledge"
            for violation in violations
            for resource in violation.violating_resources
        )


def _flat(value: Any) -> str:
    """A resolved value as cdk-nag writes it: ``arn:<AWS::Partition>:s3:::…``, ``<Exports.Arn>/exports/*``."""
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
