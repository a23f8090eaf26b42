"""The bucket of exports and reports, and its folders under the names that tasks and the API declare."""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import CfnOutput, Duration, Stack
from aws_cdk import aws_s3 as s3

from infra.settings import PlatformStage
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.constructs.stage_key import stage_key
from joblane.cdk.nag import acknowledge
from joblane.cdk.settings.stage import REMOVAL

EXPORTS = "exports/"
EXPORTS_KEPT = Duration.days(7)
"""Time for which a completed export can be downloaded."""
REPORTS = "reports/"
REPORTS_KEPT = Duration.days(365)
UPLOADS_KEPT = Duration.days(1)
"""Retention of the parts of an upload whose function was killed."""
VARIABLE = "EXPORT_BUCKET"


def add_exports(data: Stack, stage: PlatformStage) -> Mapping[str, GrantedBucket]:
    """Add the bucket. Tasks write to ``exports`` and ``reports``, and remove objects of both with ``old-exports``."""
    key = stage_key(data, stage)
    bucket = s3.Bucket(
        data,
        "Exports",
        bucket_name=stage.export_bucket,
        encryption=s3.BucketEncryption.KMS if key else s3.BucketEncryption.S3_MANAGED,
        encryption_key=key,
        bucket_key_enabled=True if key else None,  # fewer requests to KMS
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
        bucket,
        "S1",
        "The task table has the requester of each export, and a link is valid for minutes. Access logs need another "
        "bucket; to log each request, turn on CloudTrail's data events for the account.",
    )
    CfnOutput(data, "ExportBucket", value=bucket.bucket_name)
    return {
        "exports": GrantedBucket(bucket, VARIABLE, (EXPORTS,)),
        "reports": GrantedBucket(bucket, VARIABLE, (REPORTS,)),
        "old-exports": GrantedBucket(bucket, VARIABLE, (EXPORTS, REPORTS), removes=True),
    }
