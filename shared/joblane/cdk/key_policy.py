"""The policy that a KMS key needs to be the key of a stage.

A template cannot change the policy of a key that it does not create. So the preflight compares the policy with these
statements, and the page *Use your own KMS keys* shows them. Sources: CloudWatch Logs, *Encrypt log data in CloudWatch
Logs using AWS KMS*; SNS, *Key management*, on event sources from AWS services, and that ``aws:SourceArn`` is not
supported for EventBridge; AWS Cost Management, *Creating an Amazon SNS topic for budget notifications*; SQS, *Key
management*, KMS permissions for AWS services.
"""

from __future__ import annotations

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
    """Return the name of a service in a policy. The name of CloudWatch Logs has the region."""
    return f"logs.{region}.amazonaws.com" if service == "logs" else f"{service}.amazonaws.com"


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


def missing(policy: Mapping[str, Any], services: Iterable[str], region: str) -> Iterator[str]:
    """Yield the principals to which ``policy`` does not allow what they need. Conditions are not compared."""
    found = [each for each in _many(policy.get("Statement", [])) if each.get("Effect") == "Allow"]
    if not any(_allows(each, "AWS", is_account, USE) for each in found):
        yield "the account"
    for service in services:
        name = principal(service, region)
        needed = OF_LOGS if service == "logs" else USE
        allowed = [action for each in found if _names(each, "Service", name.__eq__) for action in _many(each["Action"])]
        if not all(_covers(allowed, action) for action in needed):
            yield name


def is_account(name: str) -> bool:
    return name.endswith(":root") or name.isdecimal()


def _allows(statement: Statement, kind: str, is_named: Any, needed: Iterable[str]) -> bool:
    return _names(statement, kind, is_named) and all(_covers(_many(statement["Action"]), each) for each in needed)


def _names(statement: Statement, kind: str, is_named: Any) -> bool:
    given = statement.get("Principal", {})
    named = [given] if isinstance(given, str) else _many(given.get(kind, []))
    return "Action" in statement and any(name == "*" or is_named(name) for name in named)


def _covers(allowed: Iterable[str], action: str) -> bool:
    """True if one of ``allowed``, which may have wildcards, includes ``action``, which may end with one."""
    return any(fnmatchcase(action.lower().rstrip("*"), each.lower()) for each in allowed)


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
