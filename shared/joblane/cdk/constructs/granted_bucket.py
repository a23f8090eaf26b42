"""Buckets that tasks and functions use by a name, and their permissions there."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from joblane.cdk.constructs.stage_key import READ, WRITE, use_statement
from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.nag import acknowledge_wildcards


@dataclass(frozen=True)
class GrantedBucket:
    """A bucket, or folders of it, that tasks and functions use by a name of the application.

    A task that declares the name in ``Grants.buckets`` can write objects. A function that declares it in ``reads`` can
    read them.
    """

    bucket: s3.IBucket
    """The bucket. If it has a KMS key, give it as ``encryption_key``, even of an imported one."""
    variable: str
    """Name of the functions' environment variable that holds the bucket's name."""
    folders: tuple[str, ...] = ("",)
    """Beginnings of the keys, for example ``exports/``. ``("",)``: every key."""
    removes: bool = False
    """True: tasks can list and delete objects instead of writing them."""

    @property
    def objects(self) -> list[str]:
        """The ARN patterns of all objects in the folders."""
        return [self.bucket.arn_for_objects(f"{folder}*") for folder in self.folders]


def grant_objects(to: JobFunction, granted: GrantedBucket, *, reads: bool) -> None:
    """Allow a function that ``reads`` to read objects, even by links that it signs, and a task to write or remove them.

    Writing includes multipart uploads and their abortion. The bucket's lifecycle deletes what was written.
    """
    if reads:
        to.allow(["s3:GetObject"], granted.objects)
    elif granted.removes:
        within = {"StringLike": {"s3:prefix": [f"{folder}*" for folder in granted.folders]}}
        to.allow(["s3:DeleteObject"], granted.objects)
        to.permit(
            iam.PolicyStatement(actions=["s3:ListBucket"], resources=[granted.bucket.bucket_arn], conditions=within)
        )
    else:
        to.allow(["s3:PutObject", "s3:AbortMultipartUpload"], granted.objects)
    key = granted.bucket.encryption_key
    keys = [*([key.key_arn] if key else []), *to.stage.other_kms_keys]
    if keys and not granted.removes:
        to.permit(use_statement("s3", READ if reads else WRITE, keys, region=Stack.of(to).region))
    to.function.add_environment(granted.variable, granted.bucket.bucket_name)
    reason = "Object keys are created at run time; only their folder is known at the deploy."
    acknowledge_wildcards(to.role, granted.objects, reason)
