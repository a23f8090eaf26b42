"""Rules on the container images of a stage, on plain data, and their readers.

Lambda runs one manifest for one architecture, and refuses an index. Docker's BuildKit pushes an index by default, in
which the image has an attestation next to it. Source: docker/buildx, issue 1533; aws/aws-lambda-roadmap, issue 82.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.request import urlopen

from joblane.cdk.preflight.findings import Finding, note, refused
from joblane.cdk.preflight.region import Read, existing
from joblane.cdk.settings.images import EcrAddress, image_region_problem
from joblane.cdk.templates import COSTS, SETTINGS, Template, metadata, of_type, variables
from joblane.names import PLACE

READING = "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer"
MANIFESTS = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
INDEXES = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
"""Media types. Source: Docker, *Image Manifest Version 2, Schema 2*; OCI, *Image Media Types*."""
PLATFORMS = {"arm64": "linux/arm64", "x86_64": "linux/amd64"}
"""Architecture in Lambda → platform in Docker."""
SECONDS = 10
MAX_CONFIG_BYTES = 4 * 1024 * 1024
IMAGE, ZIP = "Image", "Zip"
"""Package types. Source: CreateFunction, Lambda API reference."""


@dataclass(frozen=True)
class Wanted:
    """The images of a stage in ECR, by their names; its architecture; and the functions of places, by their names, each
    with the type of its package."""

    images: Mapping[str, EcrAddress]
    architecture: str
    functions: Mapping[str, str]

    @classmethod
    def of(cls, templates: Mapping[str, Template]) -> Wanted:
        settings, costs = (metadata(templates.values(), key) or {} for key in (SETTINGS, COSTS))
        return cls(
            {name: EcrAddress(**image) for name, image in settings.get("images", {}).items()},
            str(costs.get("architecture")),
            {
                function["FunctionName"]: function.get("PackageType", ZIP)
                for template in templates.values()
                for _, function in of_type(template, "AWS::Lambda::Function")
                if PLACE in variables(function)
            },
        )


@dataclass(frozen=True)
class Found:
    """The manifest with a digest: its media type, and ``platform``, such as ``linux/arm64``; None: not an image's, or
    its configuration could not be read. ``failure``: the code with which ECR does not return the manifest."""

    media_type: str
    platform: str | None = None
    failure: str = ""


def image(name: str, address: EcrAddress, architecture: str, found: Found | None) -> Iterator[Finding]:
    """Find an image that Lambda refuses. ``found`` None: ECR has no such image."""
    what, wanted = f"images.{name}", PLATFORMS.get(architecture, architecture)
    build = (
        f"build it with docker buildx build --platform {wanted} --provenance=false --sbom=false, push it, and write "
        "the digest of that push"
    )
    if found is None:
        yield refused(
            what,
            f"the repository {address.repository} of account {address.account} in {address.region} has no image "
            f"{address.digest}",
            "push the image, or write the digest of one that exists; a lifecycle policy of the repository must keep "
            "the images of deployed functions",
        )
    elif found.failure:
        yield refused(
            what,
            f"ECR does not return {address.digest}: {found.failure}",
            "Lambda could not pull it either: check the key of the repository, or its pull-through cache rule",
        )
    elif found.media_type in INDEXES:
        yield refused(
            what,
            f"{address.digest} is an index of manifests ({found.media_type}), which Lambda refuses: it runs a single "
            "manifest",
            build,
        )
    elif found.media_type not in MANIFESTS:
        yield refused(what, f"{address.digest} is no image that Lambda runs: its type is {found.media_type}", build)
    elif found.platform is None:
        yield note(
            what,
            f"the configuration of {address.digest} could not be read, so its architecture is not known",
            f"compare it by hand: the stage needs {wanted}",
        )
    elif found.platform != wanted:
        yield refused(
            what,
            f"{address.digest} is for {found.platform}, and the functions of the stage are for {wanted}",
            f"{build}; or set the stage's architecture to match the image",
        )


def package_type(function: str, wanted: str, deployed: str | None) -> Iterator[Finding]:
    """Find a function whose type of package changes, which Lambda refuses. ``deployed`` None: it does not exist."""
    if deployed not in (None, wanted):
        yield refused(
            f"function {function}",
            f"it is deployed with the package type {deployed}, and the new templates have {wanted}. Lambda cannot "
            "change the type of a function, and CloudFormation cannot replace one with a name",
            "give the place another name, with or without image=; its types then move to the new function",
        )


def findings_on_images(wanted: Wanted, region: str, read: Read) -> Iterator[Finding]:
    """Return the findings on the images, and on the functions of places. Nothing is read for a stage without places."""
    for name, address in wanted.images.items():
        if address.region != region:
            yield refused(f"images.{name}", image_region_problem(address, region), "write an address of the region")
            continue
        found = read("ecr", f"the image {name}", READING, partial(read_image, address=address))
        yield from (found,) if isinstance(found, Finding) else image(name, address, wanted.architecture, found)
    for function, kind in wanted.functions.items():
        reader = partial(existing, "get_function_configuration", "ResourceNotFoundException", FunctionName=function)
        deployed = read("lambda", f"the function {function}", "lambda:GetFunctionConfiguration", reader)
        if isinstance(deployed, Finding):
            yield deployed
        else:
            yield from package_type(function, kind, None if deployed is None else deployed.get("PackageType", ZIP))


def read_image(client: Any, address: EcrAddress) -> Found | None:
    """Return what ECR has of an image; None: nothing.

    The architecture is only in the configuration of the image, which ECR stores as it stores layers. Source:
    BatchGetImage and GetDownloadUrlForLayer, ECR API reference. A request without the media types of an index could
    fail for an index.
    """
    place = {"registryId": address.account, "repositoryName": address.repository}
    answer = existing(
        "batch_get_image",
        "RepositoryNotFoundException",
        client,
        **place,
        imageIds=[{"imageDigest": address.digest}],
        acceptedMediaTypes=[*MANIFESTS, *INDEXES],
    )
    if not answer or not answer["images"]:
        codes = {failure["failureCode"] for failure in (answer or {}).get("failures", ())}
        return Found("", failure=min(codes)) if codes - {"ImageNotFound"} else None
    (image_,) = answer["images"]
    manifest = json.loads(image_["imageManifest"])
    media_type = image_.get("imageManifestMediaType") or manifest.get("mediaType", "unknown")
    if media_type not in MANIFESTS:
        return Found(media_type)
    digest = manifest["config"]["digest"]
    layer = existing("get_download_url_for_layer", "LayersNotFoundException", client, **place, layerDigest=digest)
    return Found(media_type, read_platform(layer["downloadUrl"]) if layer else None)


def read_platform(url: str) -> str | None:
    """Return the platform in the configuration of an image. None: the address, which is of S3, cannot be read."""
    try:
        with urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - from ECR
            config = json.loads(answer.read(MAX_CONFIG_BYTES))
    except (OSError, ValueError, HTTPException):
        return None
    return f"{config.get('os')}/{config.get('architecture')}"
