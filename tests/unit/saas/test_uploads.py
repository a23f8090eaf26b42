"""An upload writes the whole object or none."""

from __future__ import annotations

import os
import zipfile
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from saas import uploads
from saas.uploads import Upload, s3

pytestmark = pytest.mark.usefixtures("aws")
BUCKET = "exports"
MIB = 1024 * 1024


class Interrupt(BaseException):
    """An exception like that of a timeout."""


@pytest.fixture(autouse=True)
def bucket(aws: None) -> None:
    s3().create_bucket(Bucket=BUCKET)


def upload(key: str = "a.zip") -> Upload:
    return Upload(s3(), BUCKET, key, content_type="application/zip")


def write_and_raise(size: int, error: BaseException) -> None:
    with upload() as file:
        file.write(bytes(size))
        raise error


def content(key: str = "a.zip") -> bytes:
    return s3().get_object(Bucket=BUCKET, Key=key)["Body"].read()


def assert_nothing_is_left() -> None:
    assert "Contents" not in s3().list_objects_v2(Bucket=BUCKET)
    assert "Uploads" not in s3().list_multipart_uploads(Bucket=BUCKET)


@pytest.mark.parametrize("size", [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB])
def test_the_object_has_the_written_content(size: int) -> None:
    data = os.urandom(size)
    with upload() as file:
        for start in range(0, size, 100_000):
            file.write(data[start : start + 100_000])
    assert content() == data
    assert file.size_bytes == size
    assert s3().head_object(Bucket=BUCKET, Key="a.zip")["ContentType"] == "application/zip"
    assert "Uploads" not in s3().list_multipart_uploads(Bucket=BUCKET)


def test_a_zip_is_written_through_it() -> None:
    with upload() as file, zipfile.ZipFile(file, "w") as archive:  # type: ignore[call-overload]
        archive.writestr("random", os.urandom(9 * MIB))
        archive.writestr("b.txt", "b")
    with zipfile.ZipFile(BytesIO(content())) as read:
        assert read.testzip() is None
        assert read.namelist() == ["random", "b.txt"]


@pytest.mark.parametrize("error", [ValueError, Interrupt])
@pytest.mark.parametrize("size", [10, 9 * MIB])
def test_an_exception_leaves_no_object_and_no_upload(size: int, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_and_raise(size, error())
    assert_nothing_is_left()


@pytest.mark.parametrize("step", ["upload_part", "complete_multipart_upload"])
def test_a_failed_step_leaves_nothing_and_raises_its_error(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "InternalError"}}, step)

    monkeypatch.setattr(s3(), step, fail)
    with pytest.raises(ClientError, match=step), upload() as file:
        file.write(bytes(9 * MIB))
    monkeypatch.undo()
    assert_nothing_is_left()


def test_a_failed_abort_does_not_hide_the_first_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "InternalError"}}, "abort")

    monkeypatch.setattr(s3(), "abort_multipart_upload", fail)
    with pytest.raises(ValueError, match="the first"):
        write_and_raise(9 * MIB, ValueError("the first"))


def test_parts_are_large_enough_for_s3() -> None:
    assert uploads.PART_BYTES >= 5 * MIB


# --- Links ---------------------------------------------------------------------------------------------------------


def host_of_link() -> str:
    s3.cache_clear()
    link = s3().generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a.zip"})
    parts = urlsplit(link)
    return f"{parts.netloc}{parts.path}"


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "ap-southeast-4"])
def test_a_link_is_signed_for_the_host_of_its_region(region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    regional = "s3.amazonaws.com" if region == "us-east-1" else f"s3.{region}.amazonaws.com"
    assert host_of_link() == f"{BUCKET}.{regional}/a.zip"
    monkeypatch.setenv("AWS_USE_DUALSTACK_ENDPOINT", "true")
    assert host_of_link() == f"{BUCKET}.s3.dualstack.{region}.amazonaws.com/a.zip"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
@pytest.mark.parametrize("host", ["127.0.0.1:4566", "localhost:4566"])
def test_a_link_of_an_emulator_has_the_bucket_in_its_path(
    variable: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://{host}")
    assert host_of_link() == f"{host}/{BUCKET}/a.zip"
