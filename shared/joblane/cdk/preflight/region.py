"""Rules on the account and the region of a deploy, on plain data: bootstrap, services, zones, roles, mail,
and costs of a database that schedules keep awake. And the reading of this data, each part if it is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.cdk.costs import Tasks, Templates, pausing, sentences
from joblane.cdk.preflight.findings import Finding, blocks_deploy, note, refused, unchecked
from joblane.cdk.settings.network import ZONES
from joblane.cdk.templates import Template, of_type, strings
from joblane.inspector.stage.doctor.mail import SES, Mail, problems, read_mail

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_ec2 import EC2Client

RDS_ROLE = "AWSServiceRoleForRDS"
"""Source: Aurora, *Using service-linked roles*."""
ZONES_WITHOUT_LAMBDA = ("use1-az3",)
"""Ids of zones in which Lambda refuses subnets: *The provided subnets contain availability zone Lambda doesn't
support*. The name of a zone, such as us-east-1e, means another zone in each account."""
NOT_REGIONAL = ("iam",)
RESOLVED = re.compile(r"\{\{resolve:secretsmanager:(arn:(?:[^:{}]*:){5}[^:{}]+|[^:{}]+)")
"""A dynamic reference, and the name or ARN of its secret. Source: CloudFormation, *Get a secret or secret value from
Secrets Manager*."""
Reader = Callable[[Any], Any]
Read = Callable[[Any, str, str, Reader], Any]
"""Service, part, permission and reader → the reader's result, or a finding if AWS denies the access."""


@dataclass(frozen=True)
class Needs:
    """The parts of account and region that a stage needs.

    ``services``: as boto3 names them. ``zones``: names of the new network's zones; empty: CloudFormation
    chooses them;
    None: no new network. ``database``: True if the stage creates a database. ``sender``: address from which it
    sends by Amazon SES. ``bootstrap``: name of the SSM parameter with the version of the CDK's bootstrap. ``secrets``:
    names or ARNs of the secrets whose values CloudFormation reads in the deploy.
    """

    services: frozenset[str]
    zones: Sequence[str] | None
    database: bool
    sender: str | None
    bootstrap: str | None
    secrets: frozenset[str] = frozenset()

    @classmethod
    def of(cls, templates: Mapping[str, Template]) -> Needs:
        """Return the needs of the stage with these templates, by stack."""
        kinds = {resource["Type"] for template in templates.values() for resource in template["Resources"].values()}
        named = {part[1].lower() for kind in kinds if len(part := kind.split("::")) == 3 and part[0] == "AWS"}
        texts = list(strings([*templates.values()]))
        senders = {text for path, text in texts if path[-1] == "ses:FromAddress"}
        subnets = [found for template in templates.values() for _, found in of_type(template, "AWS::EC2::Subnet")]
        zones = {found["AvailabilityZone"] for found in subnets if isinstance(found.get("AvailabilityZone"), str)}
        parameters = [template.get("Parameters", {}).get("BootstrapVersion", {}) for template in templates.values()]
        return cls(
            services=frozenset(named - {*NOT_REGIONAL} | ({"sesv2"} if senders else set())),
            zones=sorted(zones) if subnets else None,
            database=not kinds.isdisjoint({"AWS::RDS::DBCluster", "AWS::RDS::DBInstance"}),
            sender=min(senders, default=None),
            bootstrap=next((found["Default"] for found in parameters if "Default" in found), None),
            secrets=frozenset(found for _, text in texts for found in RESOLVED.findall(text)),
        )


def services(needs: Needs, region: str, offered: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Find services that the region lacks. ``offered``: service → its regions; a service without any is not listed."""
    known = {name for regions in offered.values() for name in regions}
    if known and region not in known:
        yield unchecked("region", f"this boto3 does not know the region {region}", "update boto3, or check AWS_REGION")
        return
    for service in sorted(needs.services):
        if region not in offered.get(service, (region,)):
            yield refused(
                f"service {service}",
                f"the region {region} does not offer it, and the stage needs it",
                "deploy to another region, or leave out what needs it; if AWS offers it there by now, update boto3",
            )


def bootstrap(parameter: str, region: str, found: object) -> Iterator[Finding]:
    """Find a missing bootstrap. ``found``: None if there is no such parameter."""
    if found is None:
        qualifier = parameter.split("/")[2]
        option = "" if qualifier == "hnb659fds" else f" --qualifier {qualifier}"
        yield refused(
            "CDK bootstrap",
            f"the account has none in {region}: SSM has no parameter {parameter}",
            f'PATH="$PWD/.joblane/tools/bin:$PATH" cdk bootstrap{option}, once for each account and region',
        )


def zones(wanted: Sequence[str], region: str, known: Mapping[str, str]) -> Iterator[Finding]:
    """Find zones that do not exist or that Lambda does not support. ``known``: name → id of the account's zones.

    ``wanted`` empty: CloudFormation chooses them.
    """
    missing = [zone for zone in wanted if zone not in known]
    usable = [zone for zone, id_ in sorted(known.items()) if id_ not in ZONES_WITHOUT_LAMBDA]
    do = f'write "availability_zones" into the network of the stage, two of {", ".join(usable)}'
    if missing:
        yield refused("availability zones", f"the account has no zone {', '.join(missing)} in {region}", do)
    # Fn::GetAZs chooses unnamed zones: zones with a default subnet, if there are any, and in no guaranteed order.
    # Source: CloudFormation, Fn::GetAZs. So a deploy is refused only if no two zones are right
    find = refused if wanted or len(usable) < ZONES else note
    for zone in wanted or sorted({*known} - {*usable}):
        if known.get(zone) in ZONES_WITHOUT_LAMBDA:
            may = "" if wanted else ", and CloudFormation may choose it, because the stage names no zones"
            yield find(
                "availability zones",
                f"Lambda accepts no subnets in {zone}, which is {known[zone]} in this account{may}",
                do,
            )


def rds_role(found: object) -> Iterator[Finding]:
    """Note a missing role of RDS. RDS creates it with the first database, and this first attempt can fail."""
    if found is None:
        yield note(
            f"role {RDS_ROLE}",
            "the account has no RDS resource yet. RDS creates this role with the first one, and the deploy can fail "
            "because the role is not ready",
            "aws iam create-service-linked-role --aws-service-name rds.amazonaws.com, and wait a minute",
        )


def secret(name: str, region: str, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Find a missing secret, without which the deploy fails, or a secret that is being deleted. ``name``: or ARN."""
    if found is None or "DeletedDate" in found:
        yield refused(
            f"secret {name}",
            f"it does not exist in {region}, and CloudFormation reads it in the deploy",
            f"create it, with the value in a file: aws secretsmanager create-secret --name {name} --secret-string "
            "file://FILE",
        )


def mail(sender: str, region: str, found: Mail) -> Iterator[Finding]:
    """Note what keeps mails from being sent. The tasks are retried, and run when it is fixed."""
    return (note(check.what, check.found, check.do) for check in problems(sender, region, found))


def findings_on_pauses(templates: Templates, tasks: Tasks) -> Iterator[Finding]:
    """Yield a note if the stage's own database may pause. ``tasks``: as declared."""
    if (found := pausing(templates, tasks)) is not None:
        why, do = sentences(*found)
        yield note("database", why, do)


# --- Reading -------------------------------------------------------------------------------------------------------


def findings_on_region(session: Session, needs: Needs, read: Read) -> Iterator[Finding]:
    """Return the findings on the account and the region of ``session``."""
    region = session.region_name
    yield from (missing := list(services(needs, region, offered(session, region, needs.services))))
    if blocks_deploy(missing):  # a call to a missing service would wait for nothing
        return
    for rule, *part in _parts(needs, region):
        found = read(*part)
        yield from (found,) if isinstance(found, Finding) else rule(found)


def _parts(needs: Needs, region: str) -> Iterator[tuple[Callable[[Any], Iterable[Finding]], Any, str, str, Reader]]:
    """Yield the rule and the arguments of :data:`Read` for each part that is needed."""
    if name := needs.bootstrap:
        reader = partial(existing, "get_parameter", "ParameterNotFound", Name=name)
        yield partial(bootstrap, name, region), "ssm", "the CDK bootstrap", "ssm:GetParameter", reader
    if (wanted := needs.zones) is not None:
        what = "the availability zones"
        yield partial(zones, wanted, region), "ec2", what, "ec2:DescribeAvailabilityZones", read_zones
    if needs.database:
        reader = partial(existing, "get_role", "NoSuchEntityException", RoleName=RDS_ROLE)
        yield rds_role, "iam", f"the role {RDS_ROLE}", "iam:GetRole", reader
    for name in sorted(needs.secrets):  # their values are not read
        reader = partial(existing, "describe_secret", "ResourceNotFoundException", SecretId=name)
        rule = partial(secret, name, region)
        yield rule, "secretsmanager", f"the secret {name}", "secretsmanager:DescribeSecret", reader
    if sender := needs.sender:
        permission = "ses:GetAccount and ses:GetEmailIdentity"
        yield partial(mail, sender, region), "sesv2", SES, permission, lambda client: read_mail(client, sender)


def offered(session: Session, region: str, services: Iterable[str]) -> dict[str, list[str]]:
    """Return service → its regions, by the data of the installed boto3, for services that it lists by region."""
    partition = session.get_partition_for_region(region)
    names = set(session.get_available_services())
    found = {name: session.get_available_regions(name, partition_name=partition) for name in services if name in names}
    return {name: regions for name, regions in found.items() if regions}


def existing(operation: str, missing: str, client: Any, **arguments: Any) -> Mapping[str, Any] | None:
    """Return the answer of AWS to ``operation``, or None if its error is ``missing``."""
    try:
        found: Mapping[str, Any] = getattr(client, operation)(**arguments)
    except getattr(client.exceptions, missing):
        return None
    return found


def read_zones(client: EC2Client) -> dict[str, str]:
    """Return name → id of the zones in which the account can create subnets."""
    found = client.describe_availability_zones(Filters=[{"Name": "zone-type", "Values": ["availability-zone"]}])
    return {zone["ZoneName"]: zone["ZoneId"] for zone in found["AvailabilityZones"]}
