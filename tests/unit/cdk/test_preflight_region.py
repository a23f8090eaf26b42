"""The preflight's rules on account and region, and their readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from joblane.cdk.preflight import region
from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cdk.preflight.region import Needs
from joblane.cdk.preflight.roles import Wanted
from joblane.inspector.stage.doctor.mail import Mail, read_mail

REGION = "eu-central-1"
NEEDS = Needs(
    services=frozenset({"lambda", "rds", "sesv2", "sqs"}),
    zones=[],
    database=True,
    sender="no-reply@mail.acme.dev",
    bootstrap="/cdk-bootstrap/hnb659fds/version",
)
SECRET_ARN = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:acme/dev-AbCdEf"
AWS: Any = {"region_name": REGION, "aws_access_key_id": "test", "aws_secret_access_key": "test"}
ZONES = {"eu-central-1a": "euc1-az2", "eu-central-1b": "euc1-az3", "eu-central-1c": "euc1-az1"}


def only(findings: Iterator[Finding], kind: FindingKind) -> Finding:
    (finding,) = findings
    assert finding.kind is kind
    return finding


@contextmanager
def stubbed(service: Any) -> Iterator[tuple[Any, Stubber]]:
    """A client whose answers the test gives. The code must request each of them, in this order."""
    with closing(boto3.client(service, **AWS)) as client, Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


# --- Needs ---------------------------------------------------------------------------------------------------------


def test_the_needs_are_read_from_the_templates() -> None:
    condition = {"StringEquals": {"ses:FromAddress": "no-reply@acme.dev"}}
    resources = {
        "Role": {"Type": "AWS::IAM::Role", "Properties": {"Policies": [{"Condition": condition}]}},
        "Queue": {"Type": "AWS::SQS::Queue", "Properties": {}},
        "Migration": {"Type": "Custom::Migration", "Properties": {}},
        "Subnet": {"Type": "AWS::EC2::Subnet", "Properties": {"AvailabilityZone": "eu-central-1a"}},
        "Connection": {
            "Type": "AWS::Events::Connection",
            "Properties": {
                "Key": "{{resolve:secretsmanager:acme/hook:SecretString:key::}}",
                "Whole": f"{{{{resolve:secretsmanager:{SECRET_ARN}:SecretString:::}}}}",
            },
        },
    }
    bootstrap = {"BootstrapVersion": {"Default": "/cdk-bootstrap/x/version"}}
    found = Needs.of({"jobs": {"Parameters": bootstrap, "Resources": resources}})
    assert found == Needs(
        frozenset({"sqs", "ec2", "events", "sesv2"}),
        ["eu-central-1a"],
        False,
        "no-reply@acme.dev",
        "/cdk-bootstrap/x/version",
        frozenset({"acme/hook", SECRET_ARN}),
    )
    assert Needs.of({"jobs": {"Resources": {}}}) == Needs(frozenset(), None, False, None, None)


def test_the_role_of_the_migration_is_known_if_the_template_names_it() -> None:
    def template(url: object, **user: str) -> dict[str, Any]:
        properties = {"Environment": {"Variables": {"DATABASE_URL": url, **user}}}
        return {"jobs": {"Resources": {"Migrate": {"Type": "AWS::Lambda::Function", "Properties": properties}}}}

    iam = {"DATABASE_USER": "app", "DATABASE_USER_LOGIN": "iam"}
    assert Wanted.of(template("postgresql://owner@db:5432/acme?auth=iam", **iam)) == Wanted("app", True, "owner")
    assert Wanted.of(template("postgresql://db:5432/acme?secret=x", DATABASE_USER="app")) == Wanted("app", False, None)
    assert Wanted.of(template({"Fn::Join": []}, **iam)) == Wanted("app", True, None)
    assert Wanted.of(template("postgresql://db")) is None


# --- Rules ---------------------------------------------------------------------------------------------------------

EAST = {"us-east-1a": "use1-az6", "us-east-1b": "use1-az1", "us-east-1e": "use1-az3"}
SENDER, HOOK = "no-reply@mail.acme.dev", "acme/hook"


def services(name: str, needs: Needs = NEEDS) -> Iterator[Finding]:
    yield from region.services(needs, name, region.offered(boto3.session.Session(), name, needs.services))


@pytest.mark.parametrize(
    ("findings", "kind", "why", "do"),
    [
        (services("ap-east-1"), FindingKind.REFUSED, "the region ap-east-1 does not offer it", "another region"),
        (services("eu-nowhere-1"), FindingKind.UNCHECKED, "does not know the region", "update boto3"),
        (region.bootstrap("/cdk-bootstrap/hnb659fds/version", REGION, None), FindingKind.REFUSED, "", "cdk bootstrap,"),
        (
            region.bootstrap("/cdk-bootstrap/x/version", REGION, None),
            FindingKind.REFUSED,
            "SSM has no parameter /cdk-bootstrap/x/version",
            "cdk bootstrap --qualifier x,",
        ),
        (
            region.zones(["eu-central-1a", "eu-central-1d"], REGION, ZONES),
            FindingKind.REFUSED,
            "the account has no zone eu-central-1d in eu-central-1",
            "two of eu-central-1a, eu-central-1b, eu-central-1c",
        ),
        (
            region.zones(["us-east-1a", "us-east-1e"], "us-east-1", EAST),
            FindingKind.REFUSED,
            "Lambda accepts no subnets in us-east-1e, which is use1-az3 in this account",
            "two of us-east-1a, us-east-1b",
        ),
        (
            region.zones([], "us-east-1", EAST),  # CloudFormation chooses
            FindingKind.NOTE,
            "us-east-1e, which is use1-az3 in this account, and CloudFormation may choose it",
            'write "availability_zones"',
        ),
        (
            region.zones([], "us-east-1", {name: EAST[name] for name in ("us-east-1a", "us-east-1e")}),
            FindingKind.REFUSED,  # no two zones are right
            "CloudFormation may choose it",
            "",
        ),
        (
            region.rds_role(None),
            FindingKind.NOTE,
            "",
            "aws iam create-service-linked-role --aws-service-name rds.amazonaws.com",
        ),
        (
            region.mail(SENDER, REGION, Mail(False, True, [])),
            FindingKind.NOTE,
            "",
            f"aws sesv2 create-email-identity --email-identity {SENDER}",
        ),
        (
            region.mail(SENDER, REGION, Mail(True, True, ["acme.dev"])),
            FindingKind.NOTE,
            "",
            "aws sesv2 put-account-details --production-access-enabled",
        ),
        (region.mail(SENDER, REGION, Mail(False, False, ["acme.dev"])), FindingKind.NOTE, "", "SES console"),
        *(
            (region.secret(HOOK, REGION, found), FindingKind.REFUSED, "", f"create-secret --name {HOOK}")
            for found in (None, {"DeletedDate": datetime(2026, 1, 1, tzinfo=UTC)})
        ),
    ],
)
def test_a_part_that_account_or_region_lack_is_found(
    findings: Iterator[Finding], kind: FindingKind, why: str, do: str
) -> None:
    found = only(findings, kind)
    assert why in found.why
    assert do in (found.do or "")


@pytest.mark.parametrize(
    "findings",
    [
        *(
            services(name, replace(NEEDS, services=NEEDS.services - {"sesv2"} | {"apigatewayv2", "scheduler", "no"}))
            for name in ("us-east-1", "eu-central-1", "ap-southeast-3", "cn-north-1")
        ),
        region.bootstrap("/cdk-bootstrap/x/version", REGION, {}),
        region.zones([], REGION, ZONES),
        region.rds_role({}),
        region.secret(HOOK, REGION, {"Name": HOOK}),
    ],
)
def test_a_part_that_is_there_is_no_finding(findings: Iterator[Finding]) -> None:
    assert list(findings) == []


def test_the_bootstrap_exists_if_its_parameter_does() -> None:
    name = "/cdk-bootstrap/x/version"
    with stubbed("ssm") as (client, stub):
        stub.add_client_error("get_parameter", "ParameterNotFound", expected_params={"Name": name})
        stub.add_response("get_parameter", {"Parameter": {"Value": "25"}}, {"Name": name})
        found = [region.existing("get_parameter", "ParameterNotFound", client, Name=name) for _ in range(2)]
        assert [each is not None for each in found] == [False, True]


class Ses:
    """SESv2 with one verified identity."""

    class exceptions:  # noqa: N801 - as of a boto3 client
        class NotFoundException(Exception):  # noqa: N818
            pass

    def __init__(self, identity: str) -> None:
        self._identity = identity

    def get_account(self) -> dict[str, bool]:
        return {"ProductionAccessEnabled": False, "SendingEnabled": True}

    def get_email_identity(self, EmailIdentity: str) -> dict[str, bool]:  # noqa: N803
        if EmailIdentity != self._identity:
            raise self.exceptions.NotFoundException
        return {"VerifiedForSendingStatus": True}


@pytest.mark.parametrize(
    ("identity", "covered"),
    [("no-reply@mail.acme.dev", True), ("mail.acme.dev", True), ("acme.dev", True), ("dev", False), ("a.dev", False)],
)
def test_an_address_is_verified_by_itself_or_a_domain_above_it(identity: str, covered: bool) -> None:
    client: Any = Ses(identity)
    assert read_mail(client, "no-reply@mail.acme.dev") == Mail(True, True, [identity] if covered else [])


def test_each_part_that_is_needed_is_read() -> None:
    session, read = boto3.session.Session(region_name=REGION), []

    def reader(service: Any, part: str, permission: str, call: Any) -> Any:
        read.append(permission)
        return Finding(FindingKind.UNCHECKED, part, permission)

    needs = replace(NEEDS, secrets=frozenset({"acme/hook", "acme/other"}))
    assert len(list(region.findings_on_region(session, needs, reader))) == len(read) == 6
    nothing = Needs(frozenset(), None, False, None, None)
    assert list(region.findings_on_region(session, replace(nothing, services=NEEDS.services), reader)) == []
    assert len(read) == 6


def test_what_the_account_lacks_is_found_by_name_without_reading_a_secrets_value() -> None:
    # given an account without bootstrap, role, one of two secrets, and a verified sender
    needs = replace(NEEDS, zones=None, sender=None, secrets=frozenset({"acme/hook", "acme/other"}))
    session = boto3.session.Session(region_name=REGION)

    def reader(service: Any, part: str, permission: str, call: Any) -> Any:
        with stubbed(service) as (client, stub):
            match service:
                case "ssm":
                    name = {"Name": needs.bootstrap}
                    stub.add_client_error("get_parameter", "ParameterNotFound", expected_params=name)
                case "iam":
                    stub.add_client_error("get_role", "NoSuchEntity", expected_params={"RoleName": region.RDS_ROLE})
                case "secretsmanager" if "hook" in part:
                    stub.add_response("describe_secret", {"Name": "acme/hook"}, {"SecretId": "acme/hook"})
                case "secretsmanager":
                    asked = {"SecretId": "acme/other"}
                    stub.add_client_error("describe_secret", "ResourceNotFoundException", expected_params=asked)
            return call(client)

    found = region.findings_on_region(session, needs, reader)
    assert [finding.what for finding in found] == ["CDK bootstrap", f"role {region.RDS_ROLE}", "secret acme/other"]


def test_nothing_is_read_in_a_region_that_lacks_a_service() -> None:
    session = boto3.session.Session(region_name="ap-east-1")
    found = region.findings_on_region(session, NEEDS, lambda *_: pytest.fail("it was read"))
    assert only(found, FindingKind.REFUSED).what == "service sesv2"


def test_zones_are_read_from_aws() -> None:
    filters = [{"Name": "zone-type", "Values": ["availability-zone"]}]
    with stubbed("ec2") as (client, stub):
        found = {"AvailabilityZones": [{"ZoneName": name, "ZoneId": id_} for name, id_ in ZONES.items()]}
        stub.add_response("describe_availability_zones", found, {"Filters": filters})
        assert region.read_zones(client) == ZONES
