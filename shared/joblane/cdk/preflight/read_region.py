"""Readers of the account and the region for :mod:`joblane.cdk.preflight.region`. Each part is read if it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.cdk.preflight import region as rules
from joblane.cdk.preflight.findings import Finding, blocks_deploy
from joblane.inspector.stage.doctor_mail import SES, read_mail

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_ec2 import EC2Client

Read = Callable[[Any, str, str, Callable[[Any], Any]], Any]
"""Service, part, permission and reader → the reader's result, or a finding if AWS denies the access."""


def findings_on_region(session: Session, needs: rules.Needs, read: Read) -> Iterator[Finding]:
    """Return the findings on the account and the region of ``session``."""
    region = session.region_name
    yield from (missing := list(rules.services(needs, region, offered(session, region, needs.services))))
    if blocks_deploy(missing):  # a call to a missing service would wait for nothing
        return

    def examine(needed: object, rule: Callable[[Any], Iterable[Finding]], *reading: Any) -> Iterator[Finding]:
        if needed:
            found = read(*reading)
            yield from (found,) if isinstance(found, Finding) else rule(found)

    if name := needs.bootstrap:
        yield from examine(
            name,
            lambda found: rules.bootstrap(needs, region, found),
            *("ssm", "the CDK bootstrap", "ssm:GetParameter", lambda client: has_parameter(client, name)),
        )
    yield from examine(
        needs.zones is not None,
        lambda found: rules.zones(needs, region, found),
        *("ec2", "the availability zones", "ec2:DescribeAvailabilityZones", zones),
    )
    yield from examine(
        needs.cluster,
        lambda found: rules.rds_role(needs, found),
        *("iam", f"the role {rules.RDS_ROLE}", "iam:GetRole", has_rds_role),
    )
    for name in sorted(needs.secrets):
        yield from examine(
            name,
            partial(rules.secret, name, region),
            *("secretsmanager", f"the secret {name}", "secretsmanager:DescribeSecret", partial(has_secret, name=name)),
        )
    if sender := needs.sender:
        yield from examine(
            sender,
            lambda found: rules.mail(needs, region, found),
            *("sesv2", SES, "ses:GetAccount and ses:GetEmailIdentity", lambda client: read_mail(client, sender)),
        )


def offered(session: Session, region: str, services: Iterable[str]) -> dict[str, list[str]]:
    """Return service → its regions, by the data of the installed boto3, for services that it lists by region."""
    partition = session.get_partition_for_region(region)
    names = set(session.get_available_services())
    found = {name: session.get_available_regions(name, partition_name=partition) for name in services if name in names}
    return {name: regions for name, regions in found.items() if regions}


def has_parameter(client: Any, name: str) -> bool:
    try:
        client.get_parameter(Name=name)
    except client.exceptions.ParameterNotFound:
        return False
    return True


def has_secret(client: Any, *, name: str) -> bool:
    """Return true if the secret exists and is not scheduled for deletion. Its value is not read."""
    try:
        found = client.describe_secret(SecretId=name)
    except client.exceptions.ResourceNotFoundException:
        return False
    return "DeletedDate" not in found


def zones(client: EC2Client) -> dict[str, str]:
    """Return name → id of the zones in which the account can create subnets."""
    found = client.describe_availability_zones(Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}])
    return {zone["ZoneName"]: zone["ZoneId"] for zone in found["AvailabilityZones"]}


def has_rds_role(client: Any) -> bool:
    try:
        client.get_role(RoleName=rules.RDS_ROLE)
    except client.exceptions.NoSuchEntityException:
        return False
    return True
