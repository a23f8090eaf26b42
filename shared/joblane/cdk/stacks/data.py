"""The stack of the resources that outlive the functions: database, network, and the application's buckets."""

from __future__ import annotations

from dataclasses import replace

from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from joblane.cdk.constructs.aurora import PORT, AuroraDatabase
from joblane.cdk.constructs.code import Workload
from joblane.cdk.constructs.network import FunctionNetwork, NetworkTarget, StageNetwork
from joblane.cdk.constructs.rds_instance import RdsInstance
from joblane.cdk.database_access import DatabaseAccess, Login, existing_access
from joblane.cdk.egress import check_egress, check_services, needs_of
from joblane.cdk.errors import StageError
from joblane.cdk.preflight.moves import DATABASE_KEY_OUTPUT
from joblane.cdk.settings.database import (
    Aurora,
    ExistingDatabase,
    GivenDatabase,
    LocalDatabase,
    OwnDatabase,
    Rds,
)
from joblane.cdk.settings.stage import Stage


class DataStack(Stack):
    """A stack without functions, so that a deploy of code cannot change it.

    With ``removal`` retain, the stack has termination protection.
    """

    def __init__(self, scope: Construct, id_: str, workload: Workload) -> None:
        stage = workload.stage
        super().__init__(
            scope,
            id_,
            description=f"Joblane, {stage.name}: database, network and buckets",
            termination_protection=stage.removal == "retain" and not stage.local,
        )
        check_services(workload)
        self._stage = stage
        self._targets: list[NetworkTarget] = []
        self._exported: tuple[str, ...] = ()
        self.network = StageNetwork(self, "Network", stage=stage, settings=stage.network) if stage.network else None
        self._access = self._access_of(stage)
        if self.network is not None:
            logins = (self._access.functions, self._access.migration)
            needs = needs_of(workload, secret_login=any(login.reads_secret for login in logins))
            check_egress(f"cdk.json: stage {stage.name!r}", self.network.settings, needs)
            self.network.add_endpoints(needs)

    def access_from(self, scope: Construct) -> DatabaseAccess:
        """Return the access to the database, with the place of functions. Creates their security group in ``scope``."""
        for value in self._exported:  # the functions import both, unless they use a restored copy in between
            self.export_value(value)  # not earlier: the CDK adds it to a construct Exports, if the application has one
        network = self.network
        if network is None:
            return self._access
        inside = FunctionNetwork(
            scope,
            "Network",
            stage=self._stage,
            vpc=network.vpc,
            subnets=network.functions,
            egress_ports=network.settings.egress_ports,
            targets=self._targets,
            ipv6=network.settings.ipv6,
            ipv4=network.settings.ipv4,
        )
        return replace(self._access, place=inside.place)

    def _access_of(self, stage: Stage) -> DatabaseAccess:
        match stage.database:
            case LocalDatabase():
                return DatabaseAccess(Login(stage.database.url), Login(stage.database.url))
            case ExistingDatabase():
                return self._existing(stage.database)
            case Aurora() | Rds():
                return self._own(stage, stage.database)
            case GivenDatabase():
                raise StageError(f"stage {stage.name!r}: database: kind aurora, rds or existing is required")

    def _existing(self, database: ExistingDatabase) -> DatabaseAccess:
        group = None
        if database.security_group_id is not None:
            group = ec2.SecurityGroup.from_security_group_id(self, "Database", database.security_group_id)
        self._targets.append(NetworkTarget(database.port, "functions to database", group))
        return existing_access(self, database)

    def _own(self, stage: Stage, settings: OwnDatabase) -> DatabaseAccess:
        if self.network is None:
            raise StageError(f"stage {stage.name!r}: network is required for database.kind {settings.kind}")
        database: AuroraDatabase | RdsInstance
        if isinstance(settings, Aurora):
            database = AuroraDatabase(self, "Database", stage=stage, settings=settings, network=self.network)
        else:
            database = RdsInstance(self, "Database", stage=stage, settings=settings, network=self.network)
        self._targets.append(NetworkTarget(PORT, "functions to database", database.security_group))
        self._exported = database.own
        if settings.kms_key:
            CfnOutput(self, DATABASE_KEY_OUTPUT, value=settings.kms_key)
        CfnOutput(self, "DatabaseHost", value=settings.restored.host if settings.restored else database.own[0])
        return database.access
