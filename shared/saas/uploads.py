"""Writes a large object to S3 while its content is created, with bounded memory."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 8 * 1024 * 1024
"""Limits: at least 5 MiB, except the last part, and 10,000 parts, which is 80 GB here. Source: Amazon S3 multipart
upload limits."""


@cache
def s3() -> S3Client:
    """Return the process's S3 client."""
    import boto3
    from botocore.config import Config

    emulated = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard"},
        signature_version="s3v4",  # in some regions boto3 signs links with an older one, which other regions refuse
        # Otherwise boto3 signs links for s3.amazonaws.com, which does not answer for newer regions, and redirects for a
        # new bucket. Source: boto/boto3, pull request 4768. The host of an emulator has no subdomains.
        s3={"addressing_style": "path" if emulated else "virtual"},
    )
    return boto3.client("s3", config=config)


class Upload:
    """A writable file that becomes the object ``key`` at the end of its block. If the block fails, there is no object.

    Content of one part is sent by PutObject. More content is a multipart upload, which any exception aborts. A killed
    process leaves its parts; the bucket's lifecycle rule for incomplete uploads removes them.
    """

    def __init__(self, client: S3Client, bucket: str, key: str, *, content_type: str) -> None:
        self.size_bytes = 0
        self._client, self._bucket, self._key, self._content_type = client, bucket, key, content_type
        self._buffer = BytesIO()
        self._upload_id: str | None = None
        self._parts: list[CompletedPartTypeDef] = []

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abort()
            return
        try:
            self._complete()
        except BaseException:  # interrupts included: parts cost money until they are aborted
            self._abort()
            raise

    def write(self, data: bytes) -> int:
        """Add ``data`` to the buffer, and send the buffer when it has the size of a part."""
        self._buffer.write(data)
        self.size_bytes += len(data)
        if self._buffer.tell() >= PART_BYTES:
            self._send_part()
        return len(data)

    def flush(self) -> None:
        """Do nothing: a part must not be sent before it is large enough."""

    def _send_part(self) -> None:
        if self._upload_id is None:
            begun = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._key, ContentType=self._content_type, ChecksumAlgorithm="CRC32"
            )
            self._upload_id = begun["UploadId"]
        number = len(self._parts) + 1
        self._buffer.seek(0)
        sent = self._client.upload_part(
            Bucket=self._bucket,
            Key=self._key,
            UploadId=self._upload_id,
            PartNumber=number,
            Body=self._buffer,
            ChecksumAlgorithm="CRC32",
        )
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": sent["ETag"]}
        if checksum := sent.get("ChecksumCRC32"):
            part["ChecksumCRC32"] = checksum
        self._parts.append(part)
        self._buffer = BytesIO()

    def _complete(self) -> None:
        if self._upload_id is None:
            self._buffer.seek(0)
            self._client.put_object(
                Bucket=self._bucket, Key=self._key, Body=self._buffer, ContentType=self._content_type
            )
            return
        if self._buffer.tell():
            self._send_part()
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._key, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
        )

    def _abort(self) -> None:
        if self._upload_id is None:
            return
        from botocore.exceptions import BotoCoreError, ClientError

        with suppress(BotoCoreError, ClientError):  # the first error is the one to raise
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=self._upload_id)
        self._upload_id = None
