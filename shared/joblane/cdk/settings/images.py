"""Container images in the settings of a stage: the address of an image in ECR, or a Dockerfile."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field

from joblane.cdk.settings.keys import partition_of
from joblane.cdk.settings.section import Settings, required

ADDRESS = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z]{2}[a-z0-9-]+-\d+)\.[a-z]+(?:\.[a-z]+)+/"
    r"(?P<repository>(?:[a-z0-9]+(?:[._-]+[a-z0-9]+)*/)*[a-z0-9]+(?:[._-]+[a-z0-9]+)*)"
    r"(?::[\w.-]+)?(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)
"""Source: ECR, *Private registries* and *CreateRepository*. Lambda accepts neither a public registry, nor a FIPS
address. Source: Lambda, *Create a Lambda function using a container image*."""
CONTEXT = "image."
"""Start of the keys of the CDK's context that replace an address: ``-c image.NAME=ADDRESS``."""
EXAMPLE = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/shop@sha256:…"


@dataclass(frozen=True)
class EcrAddress:
    """An image in a private repository of ECR, by its digest ``sha256:…``."""

    account: str
    region: str
    repository: str
    digest: str

    @classmethod
    def of(cls, text: str) -> Self:
        """``text``: an address that the settings accept."""
        found = ADDRESS.fullmatch(text)
        assert found is not None
        return cls(**found.groupdict())

    @property
    def repository_arn(self) -> str:
        return f"arn:{partition_of(self.region)}:ecr:{self.region}:{self.account}:repository/{self.repository}"


ImageAddress = Annotated[
    str,
    required(
        ADDRESS.fullmatch,
        f"the address of an image in a private repository of ECR is required, with its digest: {EXAMPLE}; or an object "
        'such as {{"dockerfile": "Dockerfile"}}',
    ),
    required(
        lambda text: "@sha256:" in text,
        "it has no digest. A tag can name another image tomorrow, and Lambda does not read it again: a rollback would "
        "run the new image. Write the address with the digest that the push prints, as in "
        f"{EXAMPLE}, or that ECR has for the tag: aws ecr describe-images --repository-name REPOSITORY --image-ids "
        "imageTag=TAG --query imageDetails[0].imageDigest",
    ),
]


class Dockerfile(Settings):
    """An image that the deploy builds with Docker and pushes to the repository of the CDK's bootstrap."""

    dockerfile: str = Field(min_length=1)
    """Path of the Dockerfile, relative to ``context``."""
    target: str | None = Field(None, min_length=1)
    """Stage of a Dockerfile with several. None: the last."""
    context: str = Field(".", min_length=1)
    """Folder that Docker copies files from, relative to the project's root. Its ``.dockerignore`` says which files
    are left out. The CDK also copies the folder, and builds the image again if a file in it has changed."""


Image = ImageAddress | Dockerfile


def image_region_problem(image: EcrAddress, region: str) -> str:
    return (
        f"the image is in {image.region}, and the stage in {region}; Lambda pulls from its own region only. Push it to "
        f"a repository in {region}, or let ECR replicate it there"
    )
