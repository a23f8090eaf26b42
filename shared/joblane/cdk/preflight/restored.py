"""Rules on a restored copy that a stage will use: what differs from the stage's own database, and its reader.

A restore to a time keeps the configuration of the original except the security group, which is the default of the
VPC; parameter group, subnet group, IAM authentication, deletion protection and the copying of tags have to be given as
well, and an Aurora cluster has no instance at first. Source: RDS API reference, *RestoreDBClusterToPointInTime* and
*RestoreDBInstanceToPointInTime*; names of the fields: *DBCluster*, *DBInstance*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joblane.cdk.preflight.findings import Finding, note, refused
from joblane.cdk.templates import Template

if TYPE_CHECKING:
    from mypy_boto3_rds import RDSClient

WHAT = "database.restored"
PERMISSIONS = "rds:DescribeDBClusters and rds:DescribeDBInstances"
AVAILABLE = "available"
"""Status of a cluster and of an instance. Source: Aurora, *Viewing DB cluster status*; RDS, *Viewing instance
status*."""
ANSWERS = ("backing-up", "storage-optimization", "storage-initialization")
"""Statuses in which a database answers as well, and which can last for hours after a restore. Source: RDS, *Modifying
settings for General Purpose SSD (gp3) storage*, for ``storage-optimization``; the others are not confirmed."""
STANDBY_TIER = 1
"""The capacity of a reader in tier 0 or 1 follows the writer. Source: Aurora, *Aurora Serverless v2 scaling*; the stage
has the same by ``scale_with_writer`` of the CDK."""
RESTORE = "restore the copy again, as in step 2 of docs/how-to/restore.md"


@dataclass(frozen=True)
class Wanted:
    """The copy that the checkout names. ``prefix``: of the stage."""

    kind: str
    prefix: str
    host: str
    resource_id: str

    @classmethod
    def of(cls, settings: Mapping[str, Any], templates: Mapping[str, Template]) -> Wanted | None:
        """Return the copy; None: the stage uses none. ``settings``: the metadata of its jobs stack."""
        if not settings.get("restored"):
            return None
        prefix = settings["prefix"]
        host = templates[f"{prefix}-data"]["Outputs"]["DatabaseHost"]["Value"]
        return cls(settings["database"], prefix, host, settings["restored"])


@dataclass(frozen=True)
class RestoredState:
    """Facts of a cluster, or of an instance outside of one. ``instances``: id → status of its instances.

    ``parameters``: its parameter group. ``capacity``: minimum and maximum of a serverless cluster.
    """

    id: str
    host: str
    status: str
    instances: Mapping[str, str]
    by_iam: bool
    groups: frozenset[str]
    vpc: str | None
    subnets: str
    parameters: str
    version: str
    encrypted: bool
    key: str | None
    protected: bool
    public: bool
    backup_days: int
    logs: frozenset[str]
    copies_tags: bool
    capacity: tuple[float, float] | None

    @classmethod
    def of_cluster(cls, found: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> RestoredState:
        """``found``, ``instances``: of DescribeDBClusters, and of DescribeDBInstances for the cluster."""
        scaling = found.get("ServerlessV2ScalingConfiguration")
        return cls(
            id=found["DBClusterIdentifier"],
            host=found.get("Endpoint", ""),
            instances={each["DBInstanceIdentifier"]: each.get("DBInstanceStatus", "") for each in instances},
            status=found.get("Status", ""),
            vpc=next((each["DBSubnetGroup"].get("VpcId") for each in instances if "DBSubnetGroup" in each), None),
            subnets=found.get("DBSubnetGroup", ""),
            parameters=found.get("DBClusterParameterGroup", ""),
            public=any(each.get("PubliclyAccessible", False) for each in instances),
            capacity=(scaling["MinCapacity"], scaling["MaxCapacity"]) if scaling else None,
            **_common(found),
        )

    @classmethod
    def of_instance(cls, found: Mapping[str, Any]) -> RestoredState:
        """``found``: of DescribeDBInstances."""
        status = found.get("DBInstanceStatus", "")
        return cls(
            id=found["DBInstanceIdentifier"],
            host=found.get("Endpoint", {}).get("Address", ""),
            instances={found["DBInstanceIdentifier"]: status},
            status=status,
            vpc=found.get("DBSubnetGroup", {}).get("VpcId"),
            subnets=found.get("DBSubnetGroup", {}).get("DBSubnetGroupName", ""),
            parameters=next((each["DBParameterGroupName"] for each in found.get("DBParameterGroups", ())), ""),
            public=found.get("PubliclyAccessible", False),
            capacity=None,
            **_common(found),
        )


def _common(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "by_iam": found.get("IAMDatabaseAuthenticationEnabled", False),
        "groups": frozenset(each["VpcSecurityGroupId"] for each in found.get("VpcSecurityGroups", ())),
        "version": found.get("EngineVersion", ""),
        "encrypted": found.get("StorageEncrypted", False),
        "key": found.get("KmsKeyId"),
        "protected": found.get("DeletionProtection", False),
        "backup_days": found.get("BackupRetentionPeriod", 0),
        "logs": frozenset(found.get("EnabledCloudwatchLogsExports", ())),
        "copies_tags": found.get("CopyTagsToSnapshot", False),
    }


def restored(wanted: Wanted, copy: RestoredState | None, own: RestoredState | None) -> Iterator[Finding]:
    """Compare the copy with the stage's own database. ``own`` None: it does not exist any more."""
    kind = "cluster" if wanted.kind == "aurora" else "instance"
    if copy is None:
        yield refused(
            WHAT,
            f"the account has no {kind} with the resource id {wanted.resource_id} in this region",
            f"compare the id with aws rds describe-db-{kind}s, and check account and region",
        )
        return
    modify = f"aws rds modify-db-{kind} --db-{kind}-identifier {copy.id} --apply-immediately"
    yield from _unusable(wanted, copy, kind, modify)
    if own is None:
        yield note(WHAT, f"{wanted.prefix}-database does not exist, so that {copy.id} was compared with nothing")
    else:
        yield from _different(copy, own, modify)


def _unusable(wanted: Wanted, copy: RestoredState, kind: str, modify: str) -> Iterator[Finding]:
    """Find what keeps functions from the copy."""
    if copy.host != wanted.host.lower():
        yield refused(
            f"{WHAT}.host",
            f"the endpoint of {copy.id}, whose resource id is {wanted.resource_id}, is {copy.host or 'not known yet'}, "
            f"and cdk.json has {wanted.host}",
            "write the endpoint and the resource id of the same copy",
        )
    if not copy.instances:
        yield refused(
            WHAT,
            f"the cluster {copy.id} has no instance, so that nothing answers at its endpoint",
            _add_instance(copy.id, 1),
        )
    waiting = {copy.id: copy.status, **copy.instances}
    for id_, status in waiting.items():
        if status != AVAILABLE:
            what = "cluster" if id_ == copy.id and kind == "cluster" else "instance"
            yield (note if status in ANSWERS else refused)(
                WHAT,
                f"the status of the {what} {id_} is {status or 'not known'}",
                f"aws rds wait db-{what}-available --db-{what}-identifier {id_}",
            )
    if not copy.by_iam:
        yield refused(
            WHAT,
            f"{copy.id} has no IAM authentication, and functions log in with IAM only",
            f"{modify} --enable-iam-database-authentication",
        )


def _add_instance(cluster: str, number: int) -> str:
    """Return the command that adds a serverless instance to the cluster."""
    return (
        f"aws rds create-db-instance --db-instance-identifier {cluster}-{number} --db-cluster-identifier {cluster} "
        "--engine aurora-postgresql --db-instance-class db.serverless"
    )


def _different(copy: RestoredState, own: RestoredState, modify: str) -> Iterator[Finding]:
    """Find what the copy does not have in common with the database of the stage."""
    if copy.instances and len(copy.instances) < len(own.instances):
        yield note(
            WHAT,
            f"{copy.id} has {len(copy.instances)} instance, and {own.id} {len(own.instances)} (database.standby): a "
            "failure of the only instance is an outage until RDS has replaced it",
            f"{_add_instance(copy.id, 2)} --promotion-tier {STANDBY_TIER}",
        )
    if missing := own.groups - copy.groups:
        yield refused(
            WHAT,
            f"{copy.id} is not in the security group {', '.join(sorted(missing))} of {own.id}, so that no function "
            f"reaches it; it is in {', '.join(sorted(copy.groups)) or 'none'}",
            f"{modify} --vpc-security-group-ids {' '.join(sorted(own.groups))}",
        )
    if copy.vpc and own.vpc and copy.vpc != own.vpc:
        yield refused(
            WHAT,
            f"{copy.id} is in the VPC {copy.vpc}, and {own.id} in {own.vpc}",
            f"{RESTORE}, with --db-subnet-group-name {own.subnets}",
        )
    elif copy.subnets != own.subnets:
        yield note(
            WHAT,
            f"{copy.id} has the subnet group {copy.subnets}, and {own.id} {own.subnets}",
            f"it is in the same VPC. To have it in the same subnets, {RESTORE}",
        )
    if own.encrypted and not copy.encrypted:
        yield refused(WHAT, f"{copy.id} is not encrypted, and {own.id} is", RESTORE)
    elif copy.key != own.key:
        yield note(
            WHAT,
            f"{copy.id} is encrypted with {copy.key}, and {own.id} with {own.key}",
            f"if that is not intended, {RESTORE}, with --kms-key-id {own.key}",
        )
    if copy.version.partition(".")[0] != own.version.partition(".")[0]:
        yield refused(WHAT, f"{copy.id} has PostgreSQL {copy.version}, and {own.id} {own.version}", RESTORE)
    elif copy.version != own.version:
        yield note(WHAT, f"{copy.id} has PostgreSQL {copy.version}, and {own.id} {own.version}")
    for is_different, why, option in _settings(copy, own):
        if is_different:
            yield note(WHAT, f"{copy.id} {why}", f"{modify} {option}")
    if copy.public and not own.public:
        for id_ in copy.instances:
            yield note(
                WHAT,
                f"{id_} has a public address",
                f"aws rds modify-db-instance --db-instance-identifier {id_} --apply-immediately "
                "--no-publicly-accessible",
            )


def _settings(copy: RestoredState, own: RestoredState) -> Iterator[tuple[bool, str, str]]:
    """Yield for each setting that can be changed at any time: whether it differs, why, and the option that fixes it."""
    group = "--db-parameter-group-name" if own.capacity is None else "--db-cluster-parameter-group-name"
    restarts = [f"aws rds reboot-db-instance --db-instance-identifier {id_}" for id_ in copy.instances]
    yield (
        copy.parameters != own.parameters,
        f"has the parameter group {copy.parameters}, and {own.id} {own.parameters}, which requires TLS",
        "; then ".join([f"{group} {own.parameters}", *restarts]),
    )
    yield (
        own.protected and not copy.protected,
        "has no deletion protection",
        "--deletion-protection",
    )
    yield (
        copy.backup_days < own.backup_days,
        f"keeps backups for {copy.backup_days} days, and {own.id} for {own.backup_days}",
        f"--backup-retention-period {own.backup_days}",
    )
    logs = ",".join(f'"{log}"' for log in sorted(own.logs - copy.logs))
    yield (
        bool(logs),
        f"does not send the logs {logs} to CloudWatch",
        f"""--cloudwatch-logs-export-configuration '{{"EnableLogTypes":[{logs}]}}'""",
    )
    yield own.copies_tags and not copy.copies_tags, "does not copy its tags to snapshots", "--copy-tags-to-snapshot"
    if own.capacity is not None:
        least, most = own.capacity
        yield (
            copy.capacity != own.capacity,
            f"has another capacity than {own.id}, {least:g} to {most:g}, from which max_connections follows",
            f"--serverless-v2-scaling-configuration MinCapacity={least:g},MaxCapacity={most:g}",
        )


# --- AWS -----------------------------------------------------------------------------------------------------------


def read_restored(client: RDSClient, wanted: Wanted) -> tuple[RestoredState | None, RestoredState | None]:
    """Return the copy and the stage's own database; None: there is none."""
    own = f"{wanted.prefix}-database"
    if wanted.kind == "aurora":
        pages = client.get_paginator("describe_db_clusters").paginate()
        clusters: list[Any] = [each for page in pages for each in page["DBClusters"]]
        found = {
            what: next((each for each in clusters if each[field] == value), None)
            for what, field, value in (
                ("copy", "DbClusterResourceId", wanted.resource_id),
                ("own", "DBClusterIdentifier", own),
            )
        }
        return _cluster(client, found["copy"]), _cluster(client, found["own"])
    instances = [
        each for page in client.get_paginator("describe_db_instances").paginate() for each in page["DBInstances"]
    ]
    copies = [each for each in instances if each["DbiResourceId"] == wanted.resource_id]
    owns = [each for each in instances if each["DBInstanceIdentifier"] == own]
    copy, original = (next(map(RestoredState.of_instance, each), None) for each in (copies, owns))
    return copy, original


def _cluster(client: RDSClient, found: Mapping[str, Any] | None) -> RestoredState | None:
    if found is None:
        return None
    only: Any = [{"Name": "db-cluster-id", "Values": [found["DBClusterIdentifier"]]}]
    instances = [
        each
        for page in client.get_paginator("describe_db_instances").paginate(Filters=only)
        for each in page["DBInstances"]
    ]
    return RestoredState.of_cluster(found, instances)
