"""Buckets that tasks and functions use by a name, and what they may do there."""

from __future__ import annotations

from dataclasses import dataclass

from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from joblane.cdk.constructs.task_function import JobFunction
from joblane.cdk.nag import acknowledge_wildcards


@dataclass(frozen=True)
class GrantedBucket:
    """A bucket, or folders of it, that tasks and functions use by a name of the application.

    A task that declares the name in ``Grants.buckets`` can write objects. A function that declares it in ``reads`` can
    read them.
    """

    bucket: s3.IBucket
    """The bucket."""
    variable: str
    """Environment variable of the functions with the bucket's name."""
    folders: tuple[str, ...] = ("",)
    """Beginnings of the keys, for example ``exports/``. ``("",)``: every key."""
    removes: bool = False
    """True: tasks can list and delete objects instead of writing them."""

    @property
    def objects(self) -> list[str]:
        """The ARNs of all that is in the folders."""
        return [self.bucket.arn_for_objects(f"{folder}*") for folder in self.folders]


def writing(granted: GrantedBucket) -> list[iam.PolicyStatement]:
    """Writing objects, in parts too, and giving up such a write. Not deleting: the bucket's lifecycle does that."""
    return [iam.PolicyStatement(actions=["s3:PutObject", "s3:AbortMultipartUpload"], resources=granted.objects)]


def reading(granted: GrantedBucket) -> list[iam.PolicyStatement]:
    """Reading objects, also by a link that the function has signed."""
    return [iam.PolicyStatement(actions=["s3:GetObject"], resources=granted.objects)]


def removal(granted: GrantedBucket) -> list[iam.PolicyStatement]:
    """Finding objects and removing them."""
    within = {"StringLike": {"s3:prefix": [f"{folder}*" for folder in granted.folders]}}
    return [
        iam.PolicyStatement(actions=["s3:DeleteObject"], resources=granted.objects),
        iam.PolicyStatement(actions=["s3:ListBucket"], resources=[granted.bucket.bucket_arn], conditions=within),
    ]


def grant_objects(to: JobFunction, granted: GrantedBucket, statements: list[iam.PolicyStatement]) -> None:
    for statement in statements:
        to.function.add_to_role_policy(statement)
    to.function.add_environment(granted.variable, granted.bucket.bucket_name)
    why = "The keys are made at run time; of a key, its folder is what is known."
    acknowledge_wildcards(to.role, granted.objects, why)
