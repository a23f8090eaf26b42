"""Facts of AWS that Joblane's decisions rest on, each with its value, its source and the date.

``tests/infra/test_aws_facts.py`` reads each of them from the API models of the locked botocore, from CloudFormation's
resource schemas in the locked cfn-lint, or from the locked CDK, so that an update of these packages shows that AWS has
changed one. Then decide again, write the new value and date here, and run ``python -m tests.aws_facts``, which writes
the table into ``docs/explanation/aws-offers.md``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any

from joblane.quotas import (
    MAX_CONCURRENCY,
    MAX_DELAY_SECONDS,
    MAX_FUNCTION_TIMEOUT,
    MAX_MESSAGE_BYTES,
    MIN_CONCURRENCY,
)
from tests.pages import ROOT

PAGE = ROOT / "docs" / "explanation" / "aws-offers.md"
MARK = re.compile(r"(<!-- facts -->\n).*?(<!-- end -->)", re.S)
LIBRARY = "joblane.quotas."


@dataclass(frozen=True, slots=True)
class Fact:
    """``read``: reads the value from the installed packages. ``so``: the decision that rests on it.

    ``ours``: the value of the library that has to be the same; None: the library has none.
    """

    what: str
    value: object
    read: Callable[[], object]
    source: str
    since: date
    so: str
    ours: object = None


# --- The sources ---------------------------------------------------------------------------------------------------


@cache
def model(service: str) -> Any:
    """The API model of a service."""
    from botocore.session import Session

    return Session().get_service_model(service)


def field(service: str, operation: str, name: str) -> Any:
    """The shape of a field of a request. None: the request has no such field."""
    return model(service).operation_model(operation).input_shape.members.get(name)


def number(text: str, pattern: str) -> int | None:
    """The number that ``pattern`` finds in a description. None: the description has another text."""
    found = re.search(pattern, text)
    return int(found[1].replace(",", "")) if found else None


def schema(kind: str, *path: str, region: str = "us-east-1") -> Any:
    """The part of the schema of a resource type. None: there is no such part."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    found = PROVIDER_SCHEMA_MANAGER.get_resource_schema(region, kind).schema
    for key in path:
        if key not in found:
            return None
        found = found[key]
    return found


def types_of(region: str) -> Iterable[str]:
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    found: Iterable[str] = PROVIDER_SCHEMA_MANAGER.get_resource_types(region)
    return found


def cdk_takes(word: str) -> bool:
    """True if a property of the CDK's database cluster has this word in its name."""
    from aws_cdk import aws_rds as rds

    return any(word in name for name in inspect.signature(rds.DatabaseClusterProps.__init__).parameters)


# --- The table -----------------------------------------------------------------------------------------------------

MOST = r"maximum allowed value is ([\d,]+) seconds"
API, SCHEMA = "API model of botocore, ", "CloudFormation's schema, "
DECEMBER = date(2026, 12, 1)
FACTS = (
    Fact(
        "seconds that an ordinary function may run, by Lambda's API",
        1800,
        lambda: number(field("lambda", "CreateFunction", "Timeout").documentation, MOST),
        f"{API}`CreateFunction.Timeout`. Lambda's guide says 900",
        DECEMBER,
        "not used yet: see the next row",
    ),
    Fact(
        "the same, by CloudFormation",
        900,
        lambda: number(schema("AWS::Lambda::Function", "properties", "Timeout", "description"), MOST),
        f"{SCHEMA}`AWS::Lambda::Function.Timeout`",
        DECEMBER,
        f"`{LIBRARY}MAX_FUNCTION_TIMEOUT`: when it is 1,800, raise the constant",
        int(MAX_FUNCTION_TIMEOUT.total_seconds()),
    ),
    Fact(
        "seconds that a function on Managed Instances may run behind an SQS mapping",
        5400,
        lambda: field("lambda", "CreateFunction", "Timeout").metadata["max"],
        f"{API}`CreateFunction.Timeout`",
        DECEMBER,
        "Managed Instances are not used",
    ),
    Fact(
        "lowest concurrency of an environment on Managed Instances",
        1,
        lambda: model("lambda").shape_for("PerExecutionEnvironmentMaxConcurrency").metadata["min"],
        f"{API}`PerExecutionEnvironmentMaxConcurrency`",
        DECEMBER,
        "Managed Instances are not used, for other reasons",
    ),
    Fact(
        "newest Python of Lambda",
        "python3.15",
        lambda: max(
            (name for name in model("lambda").shape_for("Runtime").enum if name.startswith("python3.")),
            key=lambda name: int(name.rpartition(".")[2]),
        ),
        f"{API}`Runtime`. A model has versions that are not offered yet",
        DECEMBER,
        "Python 3.13 is used",
    ),
    Fact(
        "Aurora express clusters exist, without or with a VPC",
        (True, True),
        lambda: tuple(
            field("rds", "CreateDBCluster", name) is not None
            for name in ("WithExpressConfiguration", "EnableVPCNetworking")
        ),
        f"{API}`CreateDBCluster`",
        DECEMBER,
        "not used: see the next row",
    ),
    Fact(
        "CloudFormation can create an express cluster",
        False,
        lambda: schema("AWS::RDS::DBCluster", "properties", "WithExpressConfiguration") is not None,
        f"{SCHEMA}`AWS::RDS::DBCluster`",
        DECEMBER,
        "an account on AWS's Free plan accepts express clusters only, so it cannot have a stage with Aurora",
    ),
    Fact(
        "the CDK has a property for a master user that logs in with IAM",
        False,
        lambda: cdk_takes("master_user_auth"),
        "`DatabaseClusterProps` of aws-cdk-lib",
        DECEMBER,
        "`constructs/aurora.py` sets the property of CloudFormation",
    ),
    Fact(
        "MB of all entries of a PutEvents",
        1,
        lambda: number(model("events").operation_model("PutEvents").documentation, r"must be less than ([\d,]+)MB"),
        f"{API}`PutEvents`",
        DECEMBER,
        "an event of a task is far smaller",
    ),
    Fact(
        "bytes of an SQS message",
        1_048_576,
        lambda: schema("AWS::SQS::Queue", "properties", "MaximumMessageSize", "maximum"),
        f"{SCHEMA}`AWS::SQS::Queue.MaximumMessageSize`",
        DECEMBER,
        f"`{LIBRARY}MAX_MESSAGE_BYTES`",
        MAX_MESSAGE_BYTES,
    ),
    Fact(
        "seconds of delay of an SQS message",
        900,
        lambda: schema("AWS::SQS::Queue", "properties", "DelaySeconds", "maximum"),
        f"{SCHEMA}`AWS::SQS::Queue.DelaySeconds`",
        DECEMBER,
        f"`{LIBRARY}MAX_DELAY`",
        MAX_DELAY_SECONDS,
    ),
    Fact(
        "concurrency of a mapping, lowest and highest",
        (2, 1000),
        lambda: tuple(model("lambda").shape_for("MaximumConcurrency").metadata[key] for key in ("min", "max")),
        f"{API}`MaximumConcurrency`",
        DECEMBER,
        f"`{LIBRARY}MIN_CONCURRENCY`, `{LIBRARY}MAX_CONCURRENCY`",
        (MIN_CONCURRENCY, MAX_CONCURRENCY),
    ),
    Fact(
        "CloudFormation has API destinations in mx-central-1",
        False,
        lambda: "AWS::Events::ApiDestination" in types_of("mx-central-1"),
        f"{SCHEMA}list of types",
        DECEMBER,
        "[webhooks](../how-to/events.md#call-a-webhook) do not work there",
    ),
    Fact(
        "the KMS key of a database can change",
        False,
        lambda: (
            field("rds", "ModifyDBCluster", "KmsKeyId") is not None
            or field("rds", "ModifyDBInstance", "KmsKeyId") is not None
            or "/properties/KmsKeyId" not in schema("AWS::RDS::DBCluster", "createOnlyProperties")
        ),
        f"{API}`ModifyDBCluster` and `ModifyDBInstance`; {SCHEMA}`AWS::RDS::DBCluster`",
        DECEMBER,
        "the preflight refuses to [change it](../how-to/own-keys.md#the-database)",
    ),
)


def table() -> str:
    rows = [
        f"| {fact.what} | {_shown(fact.value)} | {fact.source} | {fact.since:%Y-%m} | {fact.so} |" for fact in FACTS
    ]
    return "\n".join(["| fact | value | source | read | so |", "|---|---|---|---|---|", *rows])


def _shown(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(map(_shown, value))
        case int():
            return f"{value:,}"
    return str(value)


def rendered(text: str) -> str:
    """The page with the table."""
    text, count = MARK.subn(lambda match: f"{match[1]}{table()}\n{match[2]}", text)
    assert count == 1, f"{PAGE.name} has {count} marks <!-- facts -->"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
