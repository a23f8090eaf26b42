"""What must outlive the functions: for now the bucket of exports; the network and the database belong here too."""

from __future__ import annotations

from aws_cdk import CfnOutput, Duration, IStackSynthesizer, Stack
from aws_cdk import aws_s3 as s3
from constructs import Construct

from infra.access import DatabaseAccess, existing_access, local_access
from infra.findings import acknowledge
from infra.sections import Aurora, ExistingDatabase, LocalDatabase
from infra.stage import REMOVAL, Stage

EXPORTS = "exports/"
EXPORTS_KEPT = Duration.days(7)
"""As long as a finished export can be downloaded."""
REPORTS = "reports/"
REPORTS_KEPT = Duration.days(365)
UPLOADS_KEPT = Duration.days(1)
"""Parts of an upload whose function was killed."""


class DataStack(Stack):
    """Apart from the functions, so that a deploy of code cannot touch it."""

    def __init__(self, scope: Construct, id_: str, *, stage: Stage, synthesizer: IStackSynthesizer) -> None:
        super().__init__(scope, id_, description=f"Joblane, {stage.name}: what the jobs keep", synthesizer=synthesizer)
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
        self.access = self._access(stage)
        CfnOutput(self, "ExportBucket", value=self.exports.bucket_name)

    def _access(self, stage: Stage) -> DatabaseAccess:
        match stage.database:
            case LocalDatabase():
                return local_access(stage.database)
            case ExistingDatabase():
                return existing_access(self, stage.database, None)
            case Aurora():
                raise NotImplementedError
