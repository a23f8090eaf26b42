"""Rules on the account and the region of a deploy, on plain data: bootstrap, services, zones, roles, mail,
and costs of a database that schedules keep awake.

:mod:`joblane.cdk.preflight.read_region` reads the data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from joblane.cdk.costs import pausing
from joblane.cdk.database_hours import Tasks, sentences
from joblane.cdk.preflight.findings import Finding, note, refused, unchecked
from joblane.cdk.settings.network import ZONES
from joblane.cdk.templates import Template, of_type, strings
from joblane.inspector.stage.doctor_mail import Mail, problems

RDS_ROLE = "AWSServiceRoleForRDS"
"""Source: Aurora, *Using service-linked roles*."""
ZONES_WITHOUT_LAMBDA = ("use1-az3",)
"""Ids of zones in which Lambda refuses subnets: *The provided subnets contain availability zone Lambda doesn't
support*. The name of a zone, such as us-east-1e, means another zone in each account."""
NOT_REGIONAL = ("iam",)
RESOLVED = re.compile(r"\{\{resolve:secretsmanager:(arn:(?:[^:{}]*:){5}[^:{}]+|[^:{}]+)")
"""A dynamic reference, and the name or ARN of its secret. Source: CloudFormation, *Get a secret or secret value from
Secrets Manager*."""


@dataclass(frozen=True)
class Needs:
    """The parts of account and region that a stage needs.

    ``services``: as boto3 names them. ``zones``: names of the new network's zones; empty: CloudFormation
    chooses them;
    None: no new network. ``cluster``: True if the stage creates a database cluster. ``sender``: address from which it
    sends by Amazon SES. ``bootstrap``: name of the SSM parameter with the version of the CDK's bootstrap. ``secrets``:
    names or ARNs of the secrets whose values CloudFormation reads in the deploy.
    """

    services: frozenset[str]
    zones: Sequence[str] | None
    cluster: bool
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
            cluster="AWS::RDS::DBCluster" in kinds,
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


def bootstrap(needs: Needs, region: str, exists: bool) -> Iterator[Finding]:
    """Find a missing bootstrap. ``exists``: True if the parameter ``needs.bootstrap`` exists."""
    if needs.bootstrap and not exists:
        qualifier = needs.bootstrap.split("/")[2]
        option = "" if qualifier == "hnb659fds" else f" --qualifier {qualifier}"
        yield refused(
            "CDK bootstrap",
            f"the account has none in {region}: SSM has no parameter {needs.bootstrap}",
            f'PATH="$PWD/.joblane/tools/bin:$PATH" cdk bootstrap{option}, once for each account and region',
        )


def zones(needs: Needs, region: str, known: Mapping[str, str]) -> Iterator[Finding]:
    """Find zones that do not exist or that Lambda does not support. ``known``: name → id of the account's zones."""
    if needs.zones is None:
        return
    missing = [zone for zone in needs.zones if zone not in known]
    usable = [zone for zone, id_ in sorted(known.items()) if id_ not in ZONES_WITHOUT_LAMBDA]
    do = f'write "availability_zones" into the network of the stage, two of {", ".join(usable)}'
    if missing:
        yield refused("availability zones", f"the account has no zone {', '.join(missing)} in {region}", do)
    # Fn::GetAZs chooses unnamed zones: zones with a default subnet, if there are any, and in no guaranteed order.
    # Source: CloudFormation, Fn::GetAZs. So a deploy is refused only if no two zones are right
    find = refused if needs.zones or len(usable) < ZONES else note
    for zone in needs.zones or sorted({*known} - {*usable}):
        if known.get(zone) in ZONES_WITHOUT_LAMBDA:
            may = "" if needs.zones else ", and CloudFormation may choose it, because the stage names no zones"
            yield find(
                "availability zones",
                f"Lambda accepts no subnets in {zone}, which is {known[zone]} in this account{may}",
                do,
            )


def rds_role(needs: Needs, exists: bool) -> Iterator[Finding]:
    """Note a missing role of RDS. RDS creates it with the first cluster, and this first attempt can fail."""
    if needs.cluster and not exists:
        yield note(
            f"role {RDS_ROLE}",
            "the account has no RDS resource yet. RDS creates this role with the first one, and the deploy can fail "
            "because the role is not ready",
            "aws iam create-service-linked-role --aws-service-name rds.amazonaws.com, and wait a minute",
        )


def secret(name: str, region: str, exists: bool) -> Iterator[Finding]:
    """Find a missing secret, without which the deploy fails. ``name``: or ARN."""
    if not exists:
        yield refused(
            f"secret {name}",
            f"it does not exist in {region}, and CloudFormation reads it in the deploy",
            f"create it, with the value in a file: aws secretsmanager create-secret --name {name} --secret-string "
            "file://FILE",
        )


def mail(needs: Needs, region: str, found: Mail) -> Iterator[Finding]:
    """Note what keeps mails from being sent. The tasks are retried, and run when it is fixed."""
    if needs.sender is not None:
        for check in problems(needs.sender, region, found):
            yield note(check.what, check.found, check.do)


def findings_on_pauses(templates: Iterable[Template], tasks: Tasks) -> Iterator[Finding]:
    """Yield a note if the stage's own database may pause. ``tasks``: as declared."""
    if (found := pausing(templates, tasks)) is not None:
        why, do = sentences(*found)
        yield note("database", why, do)
