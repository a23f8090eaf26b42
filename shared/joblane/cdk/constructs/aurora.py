"""The stage's own database: Aurora PostgreSQL Serverless v2."""

from __future__ import annotations

from typing import cast

from aws_cdk import Duration, RemovalPolicy, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from constructs import Construct

from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.constructs.network import StageNetwork
from joblane.cdk.database_access import Address, DatabaseAccess, by_iam
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.database import MASTER_USER, Aurora, OwnDatabase
from joblane.cdk.settings.stage import Stage
from joblane.names import database_id

VERSION = rds.AuroraPostgresEngineVersion.VER_16_13
"""Versions from 16.3 pause at 0 ACU. Source: Aurora, *Aurora Serverless v2 capacity*. RDS upgrades minor versions
automatically; Joblane's SQL stays within PostgreSQL 16."""
PORT = 5432
LOG = "postgresql"
REMOVAL = {"retain": RemovalPolicy.SNAPSHOT, "destroy": RemovalPolicy.DESTROY}
"""A final snapshot keeps the data. A retained cluster would keep its network from being removed."""
IDLE_SESSION_MS = 60_000
"""A cluster pauses only without connections, and a function between two messages keeps its connection. This setting
closes it; the function notices and connects again. Source: Aurora, *Scaling to zero ACUs with automatic pause and
resume*."""


class AuroraDatabase(Construct):
    """A cluster that only the functions' security group reaches, by TLS only.

    Every login is by IAM, so there is no password: the migration logs in as the master user, the functions as a role
    that the migration creates. ``own``: host and resource id of the cluster.
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, settings: Aurora, network: StageNetwork) -> None:
        super().__init__(scope, id_)
        self.security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=network.vpc,
            description=f"Joblane, {stage.name}: the database",
            allow_all_outbound=False,
        )
        name = database_id(stage.prefix)
        # created before the cluster: a log group that RDS creates never expires
        logs = log_group(self, "Logs", stage=stage, name=f"/aws/rds/cluster/{name}/{LOG}")
        self.cluster = rds.DatabaseCluster(
            self,
            "Cluster",
            cluster_identifier=name,
            engine=rds.DatabaseClusterEngine.aurora_postgres(version=VERSION),
            parameters=_parameters(settings),
            writer=rds.ClusterInstance.serverless_v2("Writer", publicly_accessible=False),
            readers=[rds.ClusterInstance.serverless_v2("Standby", publicly_accessible=False, scale_with_writer=True)]
            if settings.standby
            else [],
            serverless_v2_min_capacity=settings.min_capacity,
            serverless_v2_max_capacity=settings.max_capacity,
            serverless_v2_auto_pause_duration=Duration.minutes(settings.pause_after_minutes)
            if settings.min_capacity == 0
            else None,
            vpc=network.vpc,
            vpc_subnets=network.database,
            security_groups=[self.security_group],
            port=PORT,
            default_database_name=settings.name,
            credentials=rds.Credentials.from_username(MASTER_USER),
            manage_master_user_password=True,  # otherwise the construct creates a secret; see without_password
            iam_authentication=True,
            storage_encrypted=True,
            storage_encryption_key=kms.Key.from_key_arn(self, "Key", settings.kms_key) if settings.kms_key else None,
            backup=rds.BackupProps(retention=Duration.days(settings.backup_days)),
            copy_tags_to_snapshot=True,
            deletion_protection=settings.deletion_protection,
            cloudwatch_logs_exports=[LOG],
            removal_policy=REMOVAL[stage.removal],
        )
        without_password(self.cluster)
        self.cluster.node.add_dependency(logs)
        if not settings.deletion_protection:
            acknowledge(self.cluster, "RDS10", "The stage sets database.deletion_protection to false.")
        address = Address(self.cluster.cluster_endpoint.hostname, PORT, settings.name)
        self.own = (address.host, self.cluster.cluster_resource_identifier)
        self.access = logins(Stack.of(self), address, self.own[1], settings)


def logins(stack: Stack, own: Address, resource_id: str, settings: OwnDatabase) -> DatabaseAccess:
    """Return the access to the stage's ``own`` database, or to the copy that ``restored`` names in its place."""
    address, restored = own, None
    if (copy := settings.restored) is not None:
        address, resource_id = Address(copy.host, PORT, own.name), copy.resource_id
        restored = resource_id
    functions, migration = (by_iam(stack, address, user, resource_id) for user in (settings.user, MASTER_USER))
    return DatabaseAccess(functions, migration, user=settings.user, restored=restored)


def without_password(database: rds.DatabaseCluster | rds.DatabaseInstance) -> None:
    """Let the master user log in by IAM, for which the constructs have no property yet (aws/aws-cdk, issue 37658).

    Excludes any master password, and requires IAM authentication. Sources: CreateDBCluster and CreateDBInstance, RDS
    API reference, *MasterUserAuthenticationType*; hashicorp/terraform-provider-aws, pull request 49670.
    """
    resource = cast(rds.CfnDBCluster | rds.CfnDBInstance, database.node.default_child)
    resource.manage_master_user_password = None
    resource.master_user_authentication_type = "iam-db-auth"


def _parameters(settings: Aurora) -> dict[str, str]:
    parameters = {"rds.force_ssl": "1"}  # up to version 16 the default accepts connections without TLS
    if settings.min_capacity == 0:
        parameters["idle_session_timeout"] = str(IDLE_SESSION_MS)
    return parameters
