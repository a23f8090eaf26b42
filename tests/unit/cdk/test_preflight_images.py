"""The preflight's rules on container images, and their readers with the answers of AWS's models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import IncompleteRead
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from joblane.cdk.preflight import images
from joblane.cdk.preflight.findings import Finding, FindingKind, blocks_deploy, unchecked
from joblane.cdk.preflight.images import INDEXES, MANIFESTS, Found, Wanted
from joblane.cdk.settings.images import EcrAddress

ACCESS: Any = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "eu-central-1"}
DIGEST, CONFIG = f"sha256:{'5e' * 32}", f"sha256:{'c0' * 32}"
SHOP = EcrAddress("111122223333", "eu-central-1", "team/shop", DIGEST)
PLACE = {"registryId": "111122223333", "repositoryName": "team/shop"}
DOCKER, OCI = MANIFESTS


def template(**functions: str) -> dict[str, Any]:
    """The functions of places, each with the type of its package."""
    resources = {
        name: {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "FunctionName": f"jobs-{name}",
                "Environment": {"Variables": {"JOBLANE_PLACE": name}},
                **({"PackageType": kind} if kind == "Image" else {}),
            },
        }
        for name, kind in functions.items()
    }
    own = {"Type": "AWS::Lambda::Function", "Properties": {"FunctionName": "jobs-router"}}
    settings = {
        "Joblane": {"prefix": "jobs", "images": {"shop": vars(SHOP)}},
        "JoblaneCosts": {"architecture": "arm64"},
    }
    return {"jobs-jobs": {"Metadata": settings, "Resources": {**resources, "Router": own}}}


def test_images_architecture_and_functions_of_places_are_read_from_the_templates() -> None:
    found = Wanted.of(template(web="Image", mail="Zip"))
    assert found == Wanted({"shop": SHOP}, "arm64", {"jobs-web": "Image", "jobs-mail": "Zip"})


def test_a_stage_without_places_reads_nothing() -> None:
    wanted = Wanted.of({"jobs-jobs": {"Metadata": {"Joblane": {"prefix": "jobs"}}, "Resources": {}}})
    assert list(images.findings_on_images(wanted, "eu-central-1", lambda *_: pytest.fail("it was read"))) == []


# --- Rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", MANIFESTS)
def test_a_manifest_for_the_architecture_is_no_finding(media_type: str) -> None:
    assert list(images.image("shop", SHOP, "arm64", Found(media_type, "linux/arm64"))) == []
    assert list(images.image("shop", SHOP, "x86_64", Found(media_type, "linux/amd64"))) == []


@pytest.mark.parametrize(
    ("found", "why", "do"),
    [
        (None, f"team/shop of account 111122223333 in eu-central-1 has no image {DIGEST}", "push the image"),
        (Found(INDEXES[0]), "an index of manifests (application/vnd.docker.distribution.manifest.list", "--sbom=false"),
        (Found(INDEXES[1]), "an index of manifests (application/vnd.oci.image.index.v1+json), which Lambda", "--prov"),
        (
            Found("application/vnd.oci.empty.v1+json"),
            "no image that Lambda runs: its type is application/vnd.oci.em",
            "",
        ),
        (Found("", failure="KmsError"), f"ECR does not return {DIGEST}: KmsError", "check the key of the repository"),
        (Found(OCI, "linux/amd64"), "is for linux/amd64, and the functions of the stage are for linux/arm64", "or set"),
        (Found(OCI, "unknown/unknown"), "is for unknown/unknown, and", "--platform linux/arm64 --provenance=false"),
    ],
)
def test_an_image_that_lambda_refuses_is_refused(found: Found | None, why: str, do: str) -> None:
    (finding,) = images.image("shop", SHOP, "arm64", found)
    assert (finding.kind, finding.what) == (FindingKind.REFUSED, "images.shop")
    assert why in finding.why
    assert do in finding.do


def test_an_unknown_architecture_does_not_block_the_deploy() -> None:
    (finding,) = images.image("shop", SHOP, "arm64", Found(OCI, None))
    assert not blocks_deploy([finding], strict=True)
    assert finding.do == "compare it by hand: the stage needs linux/arm64"


@pytest.mark.parametrize("region", ["eu-west-1", "eu-central-2"])
def test_an_image_of_another_region_is_refused_without_a_request(region: str) -> None:
    wanted = Wanted({"shop": SHOP}, "arm64", {})
    (finding,) = images.findings_on_images(wanted, region, lambda *_: pytest.fail("it was read"))
    assert finding.kind is FindingKind.REFUSED
    assert f"the image is in eu-central-1, and the stage in {region}; Lambda pulls from its own region" in finding.why


def test_a_denied_request_is_unchecked_with_the_permission() -> None:
    denied: list[Finding] = []

    def read(service: str, what: str, permission: str, reader: object) -> Finding:
        denied.append(unchecked(what, f"{service} denies", f"allow {permission}"))
        return denied[-1]

    found = list(images.findings_on_images(Wanted.of(template(web="Image")), "eu-central-1", read))
    assert found == denied
    assert [finding.do for finding in found] == [
        "allow ecr:BatchGetImage and ecr:GetDownloadUrlForLayer",
        "allow lambda:GetFunctionConfiguration",
    ]


@pytest.mark.parametrize(
    ("wanted", "deployed", "refused"),
    [
        ("Image", "Zip", True),
        ("Zip", "Image", True),
        ("Image", "Image", False),
        ("Zip", "Zip", False),
        ("Image", None, False),
    ],
)
def test_a_deployed_function_keeps_the_type_of_its_package(wanted: str, deployed: str | None, refused: bool) -> None:
    found = [*images.package_type("jobs-web", wanted, deployed)]
    assert [finding.kind for finding in found] == [FindingKind.REFUSED] * refused
    for finding in found:
        assert f"deployed with the package type {deployed}, and the new templates have {wanted}" in finding.why
        assert finding.do.startswith("give the place another name")


# --- Readers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ecr() -> Iterator[tuple[Any, Stubber]]:
    """ECR with answers of the test. The code must request each of them, in this order."""
    with closing(boto3.client("ecr", **ACCESS)) as client, Stubber(client) as stub:
        yield client, stub
        stub.assert_no_pending_responses()


def answer(manifest: dict[str, Any], **more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer to the request of the manifest, and the request."""
    request = {**PLACE, "imageIds": [{"imageDigest": DIGEST}], "acceptedMediaTypes": [*MANIFESTS, *INDEXES]}
    return {"images": [{"imageManifest": json.dumps(manifest), **more}], "failures": []}, request


def config(folder: Path, text: str) -> str:
    file = folder / "config.json"
    file.write_text(text)
    return file.as_uri()


@pytest.mark.parametrize("media_type", MANIFESTS)
def test_the_architecture_is_read_from_the_configuration(ecr: Any, tmp_path: Path, media_type: str) -> None:
    client, stub = ecr
    stub.add_response("batch_get_image", *answer({"config": {"digest": CONFIG}}, imageManifestMediaType=media_type))
    url = config(tmp_path, '{"architecture": "arm64", "os": "linux", "config": {}}')
    stub.add_response("get_download_url_for_layer", {"downloadUrl": url}, {**PLACE, "layerDigest": CONFIG})
    assert images.read_image(client, SHOP) == Found(media_type, "linux/arm64")


def test_a_configuration_without_an_address_is_no_platform(ecr: Any) -> None:
    client, stub = ecr
    stub.add_response("batch_get_image", *answer({"config": {"digest": CONFIG}}, imageManifestMediaType=OCI))
    stub.add_client_error("get_download_url_for_layer", "LayersNotFoundException")
    assert images.read_image(client, SHOP) == Found(OCI, None)


@pytest.mark.parametrize("content", ["no JSON", None])
def test_a_configuration_that_cannot_be_read_is_no_platform(tmp_path: Path, content: str | None) -> None:
    url = (tmp_path / "missing").as_uri() if content is None else config(tmp_path, content)
    assert images.read_platform(url) is None


def test_a_connection_that_ends_within_the_configuration_is_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BytesIO):
        def read(self, *_: object) -> bytes:
            raise IncompleteRead(b'{"arch', 900)

    monkeypatch.setattr(images, "urlopen", lambda *_, **__: Ended())
    assert images.read_platform("https://bucket.test/config") is None


@pytest.mark.parametrize("media_type", INDEXES)
def test_an_index_is_read_no_further(ecr: Any, media_type: str) -> None:
    client, stub = ecr
    stub.add_response("batch_get_image", *answer({"mediaType": media_type, "manifests": []}))
    assert images.read_image(client, SHOP) == Found(media_type)


def test_a_missing_image_and_a_missing_repository_are_nothing(ecr: Any) -> None:
    client, stub = ecr
    missing = {"imageId": {"imageDigest": DIGEST}, "failureCode": "ImageNotFound"}
    stub.add_response("batch_get_image", {"images": [], "failures": [missing]})
    stub.add_client_error("batch_get_image", "RepositoryNotFoundException")
    assert [images.read_image(client, SHOP) for _ in range(2)] == [None, None]


def test_another_failure_is_not_a_missing_image(ecr: Any) -> None:
    client, stub = ecr
    failure = {"imageId": {"imageDigest": DIGEST}, "failureCode": "KmsError"}
    stub.add_response("batch_get_image", {"images": [], "failures": [failure]})
    assert images.read_image(client, SHOP) == Found("", failure="KmsError")


def test_the_package_type_of_each_function_is_read() -> None:
    with closing(boto3.client("lambda", **ACCESS)) as client, Stubber(client) as stub:
        stub.add_response("get_function_configuration", {"PackageType": "Zip"}, {"FunctionName": "jobs-web"})
        stub.add_client_error("get_function_configuration", "ResourceNotFoundException")
        wanted = Wanted({}, "arm64", {"jobs-web": "Image", "jobs-new": "Image"})
        found = [*images.findings_on_images(wanted, "eu-central-1", lambda _service, _what, _may, read: read(client))]
    assert [finding.what for finding in found] == ["function jobs-web"]
