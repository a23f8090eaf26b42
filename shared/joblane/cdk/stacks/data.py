"""The stack of the resources that outlive the functions: database, network, and the application's buckets."""

from __future__ import annotations

from aws_cdk import CfnOutput, Stack
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

from joblane.cdk.constructs.aurora import AuroraDatabase
from joblane.cdk.constructs.network import StageNetwork
from joblane.cdk.database_access import DatabaseAccess, Login, existing_access
from joblane.cdk.errors import StageError
from joblane.cdk.settings.database import Aurora, ExistingDatabase, GivenDatabase, LocalDatabase
from joblane.cdk.settings.stage import Stage


class DataStack(Stack):
    """A stack without functions, so that a deploy of code cannot change it.

    With ``removal`` retain, the stack has termination protection. ``mail``: a task sends mail.
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, mail: bool) -> None:
        super().__init__(
            scope,
            id_,
            description=f"Joblane, {stage.name}: database, network and buckets",
            termination_protection=stage.removal == "retain" and not stage.local,
        )
        self.network = (
            StageNetwork(self, "Network", stage=stage, settings=stage.network, mail=mail) if stage.network else None
        )
        self.access = self._access(stage)

    def _access(self, stage: Stage) -> DatabaseAccess:
        match stage.database:
            case LocalDatabase():
                return DatabaseAccess(Login(stage.database.url), Login(stage.database.url))
            case ExistingDatabase():
                return self._existing(stage.database)
            case Aurora():
                return self._aurora(stage, stage.database)
            case GivenDatabase():
                raise StageError(f"stage {stage.name!r}: database: kind aurora or existing is required")

    def _existing(self, database: ExistingDatabase) -> DatabaseAccess:
        if self.network is None:
            return existing_access(self, database, None)
        if database.security_group_id is None:
            self.network.allow_egress(database.port, "the database")
        else:
            group = ec2.SecurityGroup.from_security_group_id(self, "Database", database.security_group_id)
            self.network.security_group.connections.allow_to(
                group, ec2.Port.tcp(database.port), "functions to database"
            )
        return existing_access(self, database, self.network.place)

    def _aurora(self, stage: Stage, settings: Aurora) -> DatabaseAccess:
        if self.network is None:
            raise StageError(f"stage {stage.name!r}: network is required for database.kind aurora")
        database = AuroraDatabase(self, "Database", stage=stage, settings=settings, network=self.network)
        CfnOutput(self, "DatabaseHost", value=database.address.host)
        return database.access
