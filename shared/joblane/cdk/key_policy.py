"""The policy that a KMS key needs to be the key of a stage.

A template cannot change the policy of a key that it does not create. So the preflight compares the policy with these
statements, and the page *Use your own KMS keys* shows them. Sources: CloudWatch Logs, *Encrypt log data in CloudWatch
Logs using AWS KMS*; SNS, *Key management*, on event sources from AWS services, and that ``aws:SourceArn`` is not
supported for EventBridge; AWS Cost Management, *Creating an Amazon SNS topic for budget notifications*; SQS, *Key
management*, KMS permissions for AWS services.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from joblane.cdk.templates import Template, of_type

Statement = Mapping[str, Any]

USE = ("kms:Decrypt", "kms:GenerateDataKey")
OF_LOGS = ("kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey")
"""CloudWatch Logs encrypts for itself, so it needs more actions than the other services."""
BY_TYPE = {
    "AWS::Logs::LogGroup": "logs",
    "AWS::SNS::Topic": "cloudwatch",
    "AWS::Budgets::Budget": "budgets",
    "AWS::Events::Rule": "events",
}
"""Type of a resource → the service that uses the key for it, without a role. A rule sends the events that its webhook
refuses to a queue."""


@dataclass(frozen=True)
class Place:
    """Where a stage is. ``account``: its id."""

    partition: str
    region: str
    account: str
    prefix: str

    def arn(self, service: str, resource: str, *, region: str | None = None) -> str:
        region = self.region if region is None else region
        return f"arn:{self.partition}:{service}:{region}:{self.account}:{resource}"


def services_of(templates: Iterable[Template]) -> list[str]:
    """Return the services that use the key of a stage with these templates, sorted."""
    templates = list(templates)
    kinds = [kind for kind in BY_TYPE if any(list(of_type(template, kind)) for template in templates)]
    return sorted(BY_TYPE[kind] for kind in kinds)


def principal(service: str, region: str) -> str:
    """Return the name of a service in a policy. The name of CloudWatch Logs has the region, and another end in China.

    Source: second-hand, the tables of the CDK (``Default.servicePrincipal`` in region-info) and of Terraform
    (``aws_service_principal``). Pages of AWS show the form of the other regions only.
    """
    if service != "logs":
        return f"{service}.amazonaws.com"
    return f"logs.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def statements(place: Place, services: Collection[str]) -> list[Statement]:
    """Return the statements of the whole policy: of the account, whose own policies decide on its roles, and of each of
    ``services``."""
    return [
        {
            "Sid": "RolesOfTheAccount",
            "Effect": "Allow",
            "Principal": {"AWS": place.arn("iam", "root", region="")},
            "Action": "kms:*",
            "Resource": "*",
        },
        *(
            {
                "Sid": service.capitalize(),
                "Effect": "Allow",
                "Principal": {"Service": principal(service, place.region)},
                "Action": list(OF_LOGS if service == "logs" else USE),
                "Resource": "*",
                **_condition(place, service),
            }
            for service in sorted(services)
        ),
    ]


def _condition(place: Place, service: str) -> dict[str, Any]:
    groups = (f"/aws/*/{place.prefix}-*", f"/joblane/{place.prefix}/*")
    source = {
        "cloudwatch": place.arn("cloudwatch", f"alarm:{place.prefix}-*"),
        "budgets": place.arn("budgets", "*", region=""),
    }
    match service:
        case "logs":
            names = [place.arn("logs", f"log-group:{name}") for name in groups]
            return {"Condition": {"ArnLike": {"kms:EncryptionContext:aws:logs:arn": names}}}
        case "cloudwatch" | "budgets":
            own = {"StringEquals": {"aws:SourceAccount": place.account}}
            return {"Condition": {**own, "ArnLike": {"aws:SourceArn": source[service]}}}
    return {}  # AWS supports no condition on the source for EventBridge


def missing(policy: Mapping[str, Any], services: Iterable[str], region: str, account: str) -> Iterator[str]:
    """Yield the principals to which ``policy`` does not allow what they need, or denies it.

    ``account``: of the key, by its ARN. It is the account of the stage too, because no other account reads the policy.
    Conditions are not compared: an Allow with a condition counts, and a Deny with a condition does not. Neither does a
    statement with ``NotPrincipal`` or ``NotAction``.
    """
    found = [each for each in _many(policy.get("Statement", [])) if "Action" in each]
    allows = [each for each in found if each.get("Effect") == "Allow"]
    denies = [each for each in found if each.get("Effect") == "Deny" and not each.get("Condition")]
    principals: list[tuple[str, str, re.Pattern[str], Iterable[str]]]
    principals = [("the account", "AWS", _names_of_account(account), USE)]
    for service in services:
        name = principal(service, region)
        principals.append((name, "Service", _names_of_service(name), OF_LOGS if service == "logs" else USE))
    for shown, kind, names, needed in principals:
        if not all(_covers(_actions(allows, kind, names), action) for action in needed):
            yield shown
        elif any(_covers(_actions(denies, kind, names), action) for action in needed):
            yield f"{shown} (which a Deny names)"


def _names_of_account(account: str) -> re.Pattern[str]:
    return re.compile(rf"{account}|arn:aws[a-z-]*:iam::{account}:root")


def _names_of_service(name: str) -> re.Pattern[str]:
    """Match ``name``. Both forms of a name in China are accepted, because AWS's own pages do not settle it."""
    always = re.escape(name.removesuffix(".cn"))
    return re.compile(rf"{always}(\.cn)?" if name.endswith(".cn") else always)


def _actions(statements: Iterable[Statement], kind: str, names: re.Pattern[str]) -> list[str]:
    """Return the actions of the statements whose principal, of ``kind``, is everyone or matches ``names``."""
    found: list[str] = []
    for each in statements:
        given = each.get("Principal", {})
        named = [given] if isinstance(given, str) else _many(given.get(kind, []))
        if any(name == "*" or names.fullmatch(name) for name in named):
            found += _many(each["Action"])
    return found


def _covers(allowed: Iterable[str], action: str) -> bool:
    """True if one of ``allowed``, which may have wildcards, includes ``action``, which may end with one."""
    return any(fnmatchcase(action.lower().rstrip("*"), each.lower()) for each in allowed)


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
