"""The container images of places: of ECR by a digest, or built from a Dockerfile in the deploy.

Docker builds a Dockerfile without attestations, whose index Lambda refuses: the CDK CLI sets
``BUILDX_NO_DEFAULT_ATTESTATIONS``. Source: ``lib/index.js`` of the package aws-cdk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aws_cdk import Stage as CdkStage
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_lambda as lambda_
from aws_cdk.aws_ecr_assets import Platform
from constructs import Construct

from joblane.cdk.errors import StageError
from joblane.cdk.settings.images import EXAMPLE, Dockerfile, EcrAddress
from joblane.cdk.settings.stage import Architecture, Stage
from joblane.local.zipped import ADD, missing_modules, shown, with_image
from joblane.project import Project
from joblane.tasks.places import places_of
from joblane.tasks.task import Task

ENTRY_POINT = ["python", "-m", "awslambdaric"]
PULLING = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
"""In the account of the repository, its policy or the role of the function must allow them; in another account both.
Source: Lambda, *Create a Lambda function using a container image*, Amazon ECR permissions."""
PLATFORMS: Mapping[Architecture, Platform] = {"arm64": Platform.LINUX_ARM64, "x86_64": Platform.LINUX_AMD64}
OUTPUT = "cdk.out"
BYTECODE = "**/__pycache__"
"""The synthesis itself writes it, by importing the handlers. The image would differ each time."""


def check_images(stage: Stage, project: Project, tasks: Iterable[Task[Any, Any]]) -> None:
    """Raise :class:`StageError` if the stage lacks the image of a place, has one that no place declares, or names a
    Dockerfile that does not exist; and if handlers import what the library's own functions lack. A local stage needs no
    images.
    """
    if stage.local:
        return
    tasks = list(tasks)
    where = f"stage {stage.name!r}: images"
    used = {place.image: place for place in places_of(tasks) if place.image is not None}
    for name, place in used.items():
        if name not in stage.images:
            raise StageError(
                f'{where}: {name}: it is required, because {place.what} declares it; write {{"{name}": "{EXAMPLE}"}}, '
                f'or {{"{name}": {{"dockerfile": "Dockerfile"}}}}, or give -c image.{name}=ADDRESS'
            )
    for name, image in stage.images.items():
        if name not in used:
            raise StageError(
                f"{where}: {name}: no place declares it; places declare {', '.join(sorted(used)) or 'none'}; "
                f"declare Lambda(…, image={name!r}), or leave it out"
            )
        if isinstance(image, Dockerfile):
            _check_dockerfile(f"{where}: {name}", project.root / image.context, image.dockerfile)
    if missing := missing_modules(project, with_image(tasks)):
        raise StageError(
            f"{where}: handlers import at their top what only their image has: {shown(missing)}. Migration, sweep, "
            "bulk actions and control API run from the zip files, and import every handler. Import it inside of the "
            f"function, or {ADD}"
        )


def _check_dockerfile(where: str, folder: Path, dockerfile: str) -> None:
    if not folder.is_dir():
        raise StageError(f"{where}: context: there is no folder {folder.resolve()}")
    file = (folder / dockerfile).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise StageError(f"{where}: dockerfile: {file} is not in the folder of context, {folder.resolve()}; move it")
    if not file.is_file():
        raise StageError(f"{where}: dockerfile: there is no file {file}; the path is relative to context")


def image_code(scope: Construct, stage: Stage, project: Project, name: str, command: str) -> lambda_.Code:
    """Return the image ``name`` of the stage as the code of a function in ``scope``. It starts with ``command``.

    The image decides the working directory.
    """
    image = stage.images[name]
    if isinstance(image, str):
        address = EcrAddress.of(image)
        return lambda_.Code.from_ecr_image(
            ecr.Repository.from_repository_attributes(
                scope, "Image", repository_arn=address.repository_arn, repository_name=address.repository
            ),
            tag_or_digest=address.digest,
            entrypoint=ENTRY_POINT,
            cmd=[command],
        )
    folder = (project.root / image.context).resolve()
    app = CdkStage.of(scope)
    return lambda_.Code.from_asset_image(
        str(folder),
        file=image.dockerfile,
        target=image.target,
        platform=PLATFORMS[stage.architecture],
        exclude=[
            BYTECODE,
            *_inside(folder, project.folder, project.root / OUTPUT, *([Path(app.outdir)] if app else [])),
        ],
        entrypoint=ENTRY_POINT,
        cmd=[command],
    )


def _inside(folder: Path, *paths: Path) -> Iterable[str]:
    """Yield those ``paths`` that are inside ``folder``, relative to it. The CDK would copy them into themselves."""
    for path in paths:
        relative = os.path.relpath(path, folder)
        if not relative.startswith(os.pardir):
            yield relative
