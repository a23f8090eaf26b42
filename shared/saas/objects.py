"""Removes objects from a bucket, page by page. :mod:`saas.uploads` writes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from saas.errors import StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def remove(
    client: S3Client,
    bucket: str,
    prefix: str,
    *,
    older_than: datetime | None = None,
    may_continue: Callable[[], bool] = lambda: True,
) -> int:
    """Remove the objects under ``prefix``, or those last written before ``older_than``, and return their number.

    ``may_continue`` is called before each page of at most 1,000 objects; after False the rest stays. Raises
    :class:`StoreError` if objects could not be removed.
    """
    removed = 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        if not may_continue():
            break
        found = page.get("Contents", [])
        keys = [item["Key"] for item in found if older_than is None or item["LastModified"] < older_than]
        if not keys:
            continue
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
        if failed := answer.get("Errors"):
            raise StoreError(f"{len(failed)} of {len(keys)} objects were not removed ({failed[0].get('Code')})")
        removed += len(keys)
    return removed
