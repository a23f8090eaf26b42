"""The stage's own database: a small instance of RDS for PostgreSQL."""

from __future__ import annotations

from aws_cdk import Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms
from aws_cdk import aws_rds as rds
from constructs import Construct

from joblane.cdk.constructs.aurora import LOG, PORT, REMOVAL, logins, without_password
from joblane.cdk.constructs.log_group import log_group
from joblane.cdk.constructs.network import StageNetwork
from joblane.cdk.database_access import Address
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.database import MASTER_USER, Rds
from joblane.cdk.settings.stage import Stage
from joblane.names import database_id

VERSION = rds.PostgresEngineVersion.VER_16_13
"""The version of the Aurora cluster, so that the same SQL is tested. RDS upgrades minor versions automatically."""


class RdsInstance(Construct):
    """An instance in a single zone that only the functions' security group reaches, by TLS only.

    The logins and their rights are as in :class:`~joblane.cdk.constructs.aurora.AuroraDatabase`. ``own``: host and
    resource id of the instance.
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, settings: Rds, network: StageNetwork) -> None:
        super().__init__(scope, id_)
        self.security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=network.vpc,
            description=f"Joblane, {stage.name}: the database",
            allow_all_outbound=False,
        )
        name = database_id(stage.prefix)
        # created before the instance: a log group that RDS creates never expires
        logs = log_group(self, "Logs", stage=stage, name=f"/aws/rds/instance/{name}/{LOG}")
        self.instance = rds.DatabaseInstance(
            self,
            "Instance",
            instance_identifier=name,
            engine=rds.DatabaseInstanceEngine.postgres(version=VERSION),
            parameters=_parameters(settings),
            instance_type=ec2.InstanceType(settings.instance_class.removeprefix("db.")),
            allocated_storage=settings.storage_gb,
            storage_type=rds.StorageType.GP3,
            multi_az=False,
            publicly_accessible=False,
            vpc=network.vpc,
            vpc_subnets=network.database,
            security_groups=[self.security_group],
            port=PORT,
            database_name=settings.name,
            credentials=rds.Credentials.from_username(MASTER_USER),
            manage_master_user_password=True,  # otherwise the construct creates a secret; see without_password
            iam_authentication=True,
            storage_encrypted=True,
            storage_encryption_key=kms.Key.from_key_arn(self, "Key", settings.kms_key) if settings.kms_key else None,
            backup_retention=Duration.days(settings.backup_days),
            copy_tags_to_snapshot=True,
            deletion_protection=settings.deletion_protection,
            cloudwatch_logs_exports=[LOG],
            removal_policy=REMOVAL[stage.removal],
        )
        without_password(self.instance)
        self.instance.node.add_dependency(logs)
        acknowledge(self.instance, "RDS3", "The stage sets database.kind to rds, an instance in a single zone.")
        acknowledge(self.instance, "RDS11", "Only the functions' security group reaches the port, as in Aurora's case.")
        if not settings.deletion_protection:
            acknowledge(self.instance, "RDS10", "The stage sets database.deletion_protection to false.")
        address = Address(self.instance.db_instance_endpoint_address, PORT, settings.name)
        self.own = (address.host, str(self.instance.instance_resource_id))
        self.access = logins(Stack.of(self), address, self.own[1], settings)


def _parameters(settings: Rds) -> dict[str, str]:
    # RDS would subtract the memory of its own processes from the memory of the class, and AWS does not say how much
    return {"rds.force_ssl": "1", "max_connections": str(settings.max_connections)}
