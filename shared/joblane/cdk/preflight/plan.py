"""The account's plan: on the Free plan AWS refuses some databases and instances, so a deploy would fail later.

An account that was opened since July 2025 is on the Free plan until its owner upgrades it. Source: AWS Free Tier API,
*GetAccountPlanState*. RDS answers ``FreeTierRestrictionError`` to what :data:`Wanted.refused` lists. Source: reports of
users with AWS's words, yc-software/qm, issue 352, and ed-donner/alex, pull request 42; AWS has no list. EC2 refuses
instances of most types. Source: the same, LinkedInLearning/learning-terraform-3087701, issue 345.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from joblane.cdk.preflight.findings import Finding, note, refused
from joblane.cdk.templates import SETTINGS, Template, metadata, of_type
from joblane.names import nat_name

if TYPE_CHECKING:
    from boto3.session import Session

WHAT = "the plan of the account"
FREE = "FREE"
"""The other plan is ``PAID``. Source: AccountPlanType, AWS Free Tier API."""
PARTITION, API_REGION = "aws", "us-east-1"
"""The API has one address in this partition. Source: the endpoint rules of ``freetier`` in botocore."""
SECONDS = 5
"""The API may be out of reach where the other AWS services are not: then the check continues without it."""
FREE_BACKUP_DAYS = 1
FREE_CLASS = ".micro"
FREE_INSTANCES = frozenset({"t3.micro", "t3.small", "t4g.micro", "t4g.small", "c7i-flex.large", "m7i-flex.large"})
"""Source: ``aws ec2 describe-instance-types --filters Name=free-tier-eligible,Values=true``, as
RhinoSecurityLabs/cloudgoat, issue 375, has it."""
SMALL_DATABASE = '"database": {"kind": "rds"}, whose defaults the Free plan accepts'
OTHER_EGRESS = '"egress" of network to "ipv6"'
UPGRADE = f"aws freetier upgrade-account-plan --account-plan-type PAID --region {API_REGION}"


@dataclass(frozen=True)
class Wanted:
    """The parts of a stage that AWS refuses on the Free plan, as parts of a sentence → the setting without it."""

    refused: Mapping[str, str]

    @classmethod
    def of(cls, templates: Mapping[str, Template]) -> Wanted:
        settings = metadata(templates.values(), SETTINGS) or {}
        nat = nat_name(str(settings.get("prefix")))
        return cls(dict(found for template in templates.values() for found in _refused(template, nat)))


def _refused(template: Template, nat: str) -> Iterator[tuple[str, str]]:
    """Yield what is refused by the values in the template. A CDK app may have references instead.

    ``nat``: description of the launch template of the NAT instance.
    """
    clusters, instances = (
        [properties for _, properties in of_type(template, f"AWS::RDS::{kind}")] for kind in ("DBCluster", "DBInstance")
    )
    if clusters:
        yield "an Aurora cluster (database.kind aurora)", SMALL_DATABASE
    for found in (*clusters, *instances):
        if isinstance(days := found.get("BackupRetentionPeriod"), int) and days > FREE_BACKUP_DAYS:
            yield f"backups for {days} days (database.backup_days above {FREE_BACKUP_DAYS})", SMALL_DATABASE
    for found in instances:
        class_ = found.get("DBInstanceClass")
        if isinstance(class_, str) and "DBClusterIdentifier" not in found and not class_.endswith(FREE_CLASS):
            yield f"the class {class_} (database.instance_class other than db.t4g{FREE_CLASS})", SMALL_DATABASE
    for _, found in of_type(template, "AWS::EC2::LaunchTemplate"):
        type_ = found["LaunchTemplateData"].get("InstanceType")
        if found.get("VersionDescription") == nat and type_ not in FREE_INSTANCES:
            yield f"an EC2 instance of type {type_} (network.egress nat_instance)", OTHER_EGRESS


def plan(wanted: Wanted, found: str | None) -> Iterator[Finding]:
    """Find what RDS refuses. ``found``: the plan; None: the account is older than the plans."""
    if found == FREE and wanted.refused:
        yield refused(
            WHAT,
            f"it is AWS's Free plan, which refuses {' and '.join(wanted.refused)}",
            f"upgrade the account: {UPGRADE}; or, before the first deploy of the stage, set "
            f"{' and '.join(dict.fromkeys(wanted.refused.values()))}",
        )


def findings_on_plan(session: Session, wanted: Wanted) -> Iterator[Finding]:
    """Return the findings on the plan. It is read only if it matters, and not needed: an unread plan is a note."""
    if not wanted.refused or session.get_partition_for_region(session.region_name) != PARTITION:
        return
    try:
        found = read_plan(session)
    except UnreadPlanError as error:
        yield note(
            WHAT,
            f"it could not be read: {error}. If it is the Free plan, the deploy fails: AWS refuses "
            f"{' and '.join(wanted.refused)}",
            f"allow freetier:GetAccountPlanState, or look: aws freetier get-account-plan-state --region {API_REGION}",
        )
    else:
        yield from plan(wanted, found)


class UnreadPlanError(Exception):
    """The plan could not be read; the text says why."""


def read_plan(session: Session) -> str | None:
    """Return the plan of the account, or None for an account that has none. Raises :class:`UnreadPlanError`."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=SECONDS, read_timeout=SECONDS, retries={"total_max_attempts": 2})
    try:
        with closing(session.client("freetier", region_name=API_REGION, config=config)) as client:
            return str(client.get_account_plan_state()["accountPlanType"])
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code == "ResourceNotFoundException":
            return None
        raise UnreadPlanError(f"AWS answers {code}") from error
    except BotoCoreError as error:
        raise UnreadPlanError(str(error).rstrip(".")) from error
