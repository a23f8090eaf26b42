"""The preflight's rules on the restored copy of a stage's database, and their reader."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from joblane.cdk.preflight.findings import Finding, FindingKind
from joblane.cdk.preflight.restored import RestoredState, Wanted, read_restored, restored

HOST = "jobs-restored.cluster-c1.eu-central-1.rds.amazonaws.com"
CLUSTER = Wanted("aurora", "jobs", HOST, "cluster-COPY")
INSTANCE = Wanted("rds", "jobs", "jobs-restored.c1.eu-central-1.rds.amazonaws.com", "db-COPY")
MODIFY = "aws rds modify-db-cluster --db-cluster-identifier jobs-restored --apply-immediately "
OF_CLUSTER: dict[str, Any] = {
    "DBClusterIdentifier": "jobs-restored",
    "DbClusterResourceId": "cluster-COPY",
    "Endpoint": HOST,
    "Status": "available",
    "DBSubnetGroup": "jobs-subnets",
    "DBClusterParameterGroup": "jobs-parameters",
    "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-stage", "Status": "active"}],
    "IAMDatabaseAuthenticationEnabled": True,
    "EngineVersion": "16.13",
    "StorageEncrypted": True,
    "KmsKeyId": "arn:aws:kms:eu-central-1:111122223333:key/1",
    "DeletionProtection": True,
    "BackupRetentionPeriod": 7,
    "EnabledCloudwatchLogsExports": ["postgresql"],
    "CopyTagsToSnapshot": True,
    "ServerlessV2ScalingConfiguration": {"MinCapacity": 0.5, "MaxCapacity": 2.0},
}
OF_INSTANCE: dict[str, Any] = {
    "DBInstanceIdentifier": "jobs-restored-1",
    "DBInstanceStatus": "available",
    "DBSubnetGroup": {"DBSubnetGroupName": "jobs-subnets", "VpcId": "vpc-stage"},
    "PubliclyAccessible": False,
}
COPY = RestoredState.of_cluster(OF_CLUSTER, [OF_INSTANCE])
OWN = replace(COPY, id="jobs-database", host=HOST.replace("restored", "database"))


def found(copy: RestoredState | None, own: RestoredState | None = OWN, wanted: Wanted = CLUSTER) -> list[Finding]:
    return list(restored(wanted, copy, own))


def test_a_copy_with_everything_of_the_stages_database_is_no_finding() -> None:
    assert found(COPY) == []


def test_an_unknown_resource_id_is_refused() -> None:
    (finding,) = found(None)
    assert finding.kind is FindingKind.REFUSED
    assert finding.why == "the account has no cluster with the resource id cluster-COPY in this region"


@pytest.mark.parametrize(
    ("changes", "why", "do"),
    [
        ({"host": "jobs-other.cluster-c1"}, f"is jobs-other.cluster-c1, and cdk.json has {HOST}", "of the same copy"),
        ({"status": "creating"}, "the cluster jobs-restored is creating", "wait db-cluster-available --db-cluster-ide"),
        ({"instances": {}}, "has no instance, so that nothing answers", "create-db-instance --db-instance-iden"),
        (
            {"instances": {"jobs-restored-1": "creating"}},
            "the instance jobs-restored-1 is creating",
            "aws rds wait db-instance-available --db-instance-identifier jobs-restored-1",
        ),
        ({"by_iam": False}, "has no IAM authentication", f"{MODIFY}--enable-iam-database-authentication"),
        (
            {"groups": frozenset({"sg-default"})},
            "is not in the security group sg-stage of jobs-database, so that no function reaches it; it is in sg-defau",
            f"{MODIFY}--vpc-security-group-ids sg-stage",
        ),
        ({"vpc": "vpc-other"}, "is in the VPC vpc-other, and jobs-database in vpc-stage", "--db-subnet-group-name job"),
        ({"encrypted": False}, "is not encrypted, and jobs-database is", "restore the copy again"),
        ({"version": "17.5"}, "has PostgreSQL 17.5, and jobs-database 16.13", "restore the copy again"),
    ],
)
def test_a_copy_that_functions_cannot_use_is_refused_with_the_command_that_fixes_it(
    changes: dict[str, Any], why: str, do: str
) -> None:
    (finding,) = found(replace(COPY, **changes))
    assert finding.kind is FindingKind.REFUSED
    assert why in finding.why
    assert do in finding.do


@pytest.mark.parametrize(
    ("changes", "why", "do"),
    [
        ({"status": "backing-up"}, "the cluster jobs-restored is backing-up", "aws rds wait"),
        ({"subnets": "default"}, "the subnet group default, and jobs-database jobs-subnets", "the same VPC"),
        ({"key": "arn:key/2"}, "is encrypted with arn:key/2, and jobs-database with arn:", "--kms-key-id arn:aws:kms"),
        ({"version": "16.14"}, "has PostgreSQL 16.14, and jobs-database 16.13", ""),
        (
            {"parameters": "default.aurora-postgresql16"},
            "has the parameter group default.aurora-postgresql16, and jobs-database jobs-parameters",
            f"{MODIFY}--db-cluster-parameter-group-name jobs-parameters",
        ),
        ({"protected": False}, "has no deletion protection", f"{MODIFY}--deletion-protection"),
        (
            {"public": True},
            "jobs-restored-1 has a public address",
            "aws rds modify-db-instance --db-instance-identifier jobs-restored-1 --apply-immediately --no-publicly-acc",
        ),
        ({"backup_days": 1}, "keeps backups for 1 days, and jobs-database for 7", "--backup-retention-period 7"),
        ({"logs": frozenset()}, 'does not send the logs "postgresql"', """'{"EnableLogTypes":["postgresql"]}'"""),
        ({"copies_tags": False}, "does not copy its tags", f"{MODIFY}--copy-tags-to-snapshot"),
        (
            {"capacity": (0.0, 1.0)},
            "another capacity than jobs-database, 0.5 to 2",
            "--serverless-v2-scaling-configuration MinCapacity=0.5,MaxCapacity=2",
        ),
    ],
)
def test_what_else_differs_is_a_note_with_the_command_that_fixes_it(changes: dict[str, Any], why: str, do: str) -> None:
    (finding,) = found(replace(COPY, **changes))
    assert finding.kind is FindingKind.NOTE
    assert why in finding.why
    assert do in finding.do


def test_a_copy_without_the_stages_standby_is_a_note_with_the_command_that_adds_it() -> None:
    two = replace(OWN, instances={"jobs-database-1": "available", "jobs-database-2": "available"})
    (finding,) = found(COPY, two)
    assert finding.kind is FindingKind.NOTE
    assert "jobs-restored has 1 instance, and jobs-database 2 (database.standby)" in finding.why
    assert finding.do == (
        "aws rds create-db-instance --db-instance-identifier jobs-restored-2 --db-cluster-identifier jobs-restored "
        "--engine aurora-postgresql --db-instance-class db.serverless --promotion-tier 1"
    )


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c")])
def test_a_copy_with_as_many_instances_as_the_stage_is_no_finding(names: tuple[str, ...]) -> None:
    two = replace(OWN, instances={"jobs-database-1": "available", "jobs-database-2": "available"})
    assert found(replace(COPY, instances=dict.fromkeys(names, "available")), two) == []


def test_without_the_stages_own_database_the_copy_is_still_checked() -> None:
    refused, note = found(replace(COPY, by_iam=False, groups=frozenset()), None)
    assert (refused.kind, note.kind) == (FindingKind.REFUSED, FindingKind.NOTE)
    assert "jobs-database does not exist" in note.why


def test_a_copy_with_the_defaults_of_a_restore_names_each_of_them() -> None:
    """Source of the defaults: RestoreDBClusterToPointInTime, RDS API reference."""
    given = {name: value for name, value in OF_CLUSTER.items() if name not in ("ServerlessV2ScalingConfiguration",)}
    defaults = {
        "DBSubnetGroup": "default",
        "DBClusterParameterGroup": "default.aurora-postgresql16",
        "VpcSecurityGroups": [{"VpcSecurityGroupId": "sg-default"}],
        "IAMDatabaseAuthenticationEnabled": False,
        "DeletionProtection": False,
        "CopyTagsToSnapshot": False,
        "EnabledCloudwatchLogsExports": [],
    }
    findings = found(RestoredState.of_cluster(given | defaults, []))
    assert [each.kind for each in findings].count(FindingKind.REFUSED) == 3  # instance, IAM, security group
    assert [each.kind for each in findings].count(FindingKind.NOTE) == 6


def test_an_instance_is_changed_by_its_own_command() -> None:
    of_instance = {
        "DBInstanceIdentifier": "jobs-restored",
        "DbiResourceId": "db-COPY",
        "DBInstanceStatus": "available",
        "Endpoint": {"Address": INSTANCE.host, "Port": 5432},
        "DBSubnetGroup": {"DBSubnetGroupName": "jobs-subnets", "VpcId": "vpc-stage"},
        "DBParameterGroups": [{"DBParameterGroupName": "default.postgres16"}],
        "IAMDatabaseAuthenticationEnabled": False,
    }
    copy = RestoredState.of_instance(of_instance)
    own = replace(copy, id="jobs-database", parameters="jobs-parameters")
    refused, note = found(copy, own, INSTANCE)
    modify = "aws rds modify-db-instance --db-instance-identifier jobs-restored --apply-immediately "
    assert refused.do == f"{modify}--enable-iam-database-authentication"
    restart = "aws rds reboot-db-instance --db-instance-identifier jobs-restored"
    assert note.do == f"{modify}--db-parameter-group-name jobs-parameters; then {restart}"


def test_the_checkout_names_the_copy_or_none() -> None:
    templates: Any = {"jobs-data": {"Outputs": {"DatabaseHost": {"Value": HOST}}}}
    settings = {"prefix": "jobs", "database": "aurora", "restored": "cluster-COPY"}
    assert Wanted.of(settings, templates) == CLUSTER
    assert Wanted.of(settings | {"restored": None}, {}) is None


# --- Reading -------------------------------------------------------------------------------------------------------


@mock_aws
def test_a_cluster_and_its_instances_are_found_by_resource_id() -> None:
    with closing(boto3.client("rds", region_name="eu-central-1")) as client:
        master: Any = {"MasterUsername": "postgres", "MasterUserPassword": "x" * 9}
        for name in ("jobs-database", "jobs-restored", "other"):
            client.create_db_cluster(DBClusterIdentifier=name, Engine="aurora-postgresql", **master)
        client.create_db_instance(
            DBInstanceIdentifier="jobs-restored-1",
            DBClusterIdentifier="jobs-restored",
            Engine="aurora-postgresql",
            DBInstanceClass="db.serverless",
        )
        (made,) = client.describe_db_clusters(DBClusterIdentifier="jobs-restored")["DBClusters"]
        wanted = Wanted("aurora", "jobs", made["Endpoint"], made["DbClusterResourceId"])

        copy, own = read_restored(client, wanted)
        missing, _ = read_restored(client, replace(wanted, resource_id="cluster-NONE"))

    assert copy is not None
    assert own is not None
    assert (copy.id, copy.host, [*copy.instances]) == ("jobs-restored", made["Endpoint"], ["jobs-restored-1"])
    assert (own.id, [*own.instances], missing) == ("jobs-database", [], None)


def test_an_instance_is_found_by_resource_id() -> None:
    instances = [
        {"DBInstanceIdentifier": name, "DbiResourceId": id_, "Endpoint": {"Address": host}}
        for name, id_, host in (("jobs-database", "db-OWN", "own"), ("jobs-restored", "db-COPY", INSTANCE.host))
    ]
    with closing(boto3.client("rds", region_name="eu-central-1")) as client, Stubber(client) as stub:
        stub.add_response("describe_db_instances", {"DBInstances": instances}, {})
        copy, own = read_restored(client, INSTANCE)

    assert copy is not None
    assert own is not None
    assert (copy.id, copy.host, own.id) == ("jobs-restored", INSTANCE.host, "jobs-database")
