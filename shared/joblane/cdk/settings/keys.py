"""ARNs of KMS keys in the settings of a stage."""

from __future__ import annotations

import re
from typing import Annotated

from joblane.cdk.settings.section import required

KEY_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):kms:(?P<region>[a-z0-9-]+):\d{12}:key/"
    r"(mrk-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
"""Source: KMS, *Key identifiers (KeyId)*; the second form is of a multi-Region key."""
PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}
"""Start of a region's name → its partition; all other regions are in ``aws``. Source: partitions.json of botocore."""
RIGHT = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab, for example, is right"


def partition_of(region: str) -> str:
    """Return the partition of a region, the second part of its ARNs."""
    return next((name for start, name in PARTITIONS.items() if region.startswith(start)), "aws")


def _is_in_its_partition(arn: str) -> bool:
    """True if the region in the ARN is in its partition."""
    found = KEY_ARN.fullmatch(arn)
    return found is not None and found["partition"] == partition_of(found["region"])


KeyArn = Annotated[
    str,
    required(
        lambda text: ":alias/" not in text and not text.startswith("alias/"),
        "an alias is refused, because it can name another key tomorrow and a permission cannot name it; write the ARN "
        "of the key: aws kms describe-key --key-id alias/NAME --query KeyMetadata.Arn --output text",
    ),
    required(KEY_ARN.fullmatch, f"the ARN of a KMS key is required; {RIGHT}"),
    required(_is_in_its_partition, "the partition in the ARN does not have its region; copy the ARN from KMS"),
]
"""ARN of a key. A key that a template creates has no ARN before the deploy, and is refused."""


def region_of(arn: str) -> str:
    """Return the region of a key."""
    return arn.split(":")[3]


def account_of(arn: str) -> str:
    """Return the id of the account of a key."""
    return arn.split(":")[4]
