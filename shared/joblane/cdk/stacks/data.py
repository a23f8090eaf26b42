"""What must outlive the functions: the bucket of exports, the database, and the network they meet in."""

from __future__ import annotations

from aws_cdk import CfnOutput, Duration, IStackSynthesizer, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_s3 as s3
from constructs import Construct

from joblane.cdk.constructs.aurora import AuroraDatabase
from joblane.cdk.constructs.network import StageNetwork
from joblane.cdk.database_access import DatabaseAccess, existing_access, local_access
from joblane.cdk.errors import StageError
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.database import Aurora, ExistingDatabase, LocalDatabase
from joblane.cdk.settings.stage import REMOVAL, Stage

EXPORTS = "exports/"
EXPORTS_KEPT = Duration.days(7)
"""As long as a finished export can be downloaded."""
REPORTS = "reports/"
REPORTS_KEPT = Duration.days(365)
UPLOADS_KEPT = Duration.days(1)
"""Parts of an upload whose function was killed."""


class DataStack(Stack):
    """Apart from the functions, so that a deploy of code cannot touch it.

    Where things are to be kept, CloudFormation does not remove the stack before its termination protection is off.
    ``mail``: whether any task sends mail.
    """

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, mail: bool, synthesizer: IStackSynthesizer) -> None:
        super().__init__(
            scope,
            id_,
            description=f"Joblane, {stage.name}: what the jobs keep",
            termination_protection=stage.removal == "retain" and not stage.local,
            synthesizer=synthesizer,
        )
        self.exports = s3.Bucket(
            self,
            "Exports",
            bucket_name=stage.export_bucket,
            encryption=s3.BucketEncryption.S3_MANAGED,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=not stage.local,
            removal_policy=REMOVAL[stage.removal],
            lifecycle_rules=[
                s3.LifecycleRule(id="exports", prefix=EXPORTS, expiration=EXPORTS_KEPT),
                s3.LifecycleRule(id="reports", prefix=REPORTS, expiration=REPORTS_KEPT),
                s3.LifecycleRule(id="unfinished-uploads", abort_incomplete_multipart_upload_after=UPLOADS_KEPT),
            ],
        )
        acknowledge(
            self.exports,
            "S1",
            "Who asked for which export is in the record, and a link to one is good for minutes. Access logs want "
            "another bucket; who wants each request logged switches on CloudTrail's data events for the account.",
        )
        CfnOutput(self, "ExportBucket", value=self.exports.bucket_name)
        self.network = (
            StageNetwork(self, "Network", stage=stage, settings=stage.network, mail=mail) if stage.network else None
        )
        self.access = self._access(stage)

    def _access(self, stage: Stage) -> DatabaseAccess:
        match stage.database:
            case LocalDatabase():
                return local_access(stage.database)
            case ExistingDatabase():
                return self._existing(stage.database)
            case Aurora():
                return self._aurora(stage, stage.database)

    def _existing(self, database: ExistingDatabase) -> DatabaseAccess:
        if self.network is None:
            return existing_access(self, database, None)
        if database.security_group_id is None:
            self.network.let_out(database.port, "the database")
        else:
            group = ec2.SecurityGroup.from_security_group_id(self, "Database", database.security_group_id)
            self.network.security_group.connections.allow_to(
                group, ec2.Port.tcp(database.port), "functions to database"
            )
        return existing_access(self, database, self.network.place)

    def _aurora(self, stage: Stage, settings: Aurora) -> DatabaseAccess:
        if self.network is None:
            raise StageError(f"stage {stage.name!r}: network: is required for database.kind aurora")
        database = AuroraDatabase(self, "Database", stage=stage, settings=settings, network=self.network)
        CfnOutput(self, "DatabaseHost", value=database.address.host)
        CfnOutput(self, "DatabaseSecret", value=database.secret_arn)
        return database.access
