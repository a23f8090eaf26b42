"""Container images of places: the functions in the templates, and what is refused at synth."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.constructs import image
from joblane.cdk.constructs.image import PULLING, _inside
from joblane.cdk.errors import StageError
from joblane.installation import version
from tests.infra import templates
from tests.infra.conftest import APPS, IMAGE, Synth

ADDRESS, _, DIGEST = IMAGE.partition("@")
BUILT = {"dockerfile": "Dockerfile", "context": "tests/infra/imaged"}
HERE = Path(__file__).parent / "imaged"
KEPT = {"images": APPS["imaged"]["images"]}


@pytest.fixture(scope="module")
def imaged(synth: Synth) -> Synthesised:
    return synth.app("imaged")


def refused(synth: Synth, **changes: Any) -> str:
    with pytest.raises(StageError) as caught:
        synth.anew(**{**APPS["imaged"], **changes})
    return str(caught.value)


# --- Templates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["web", "train"])
def test_the_function_of_a_place_starts_its_image_with_the_runtime_client(imaged: Synthesised, name: str) -> None:
    function = templates.functions(imaged.whole("acme-jobs"))[f"acme-{name}"]
    assert (function["PackageType"], function["Architectures"]) == ("Image", ["arm64"])
    assert function["ImageConfig"] == {  # and no working directory, so that of the image
        "EntryPoint": ["python", "-m", "awslambdaric"],
        "Command": ["joblane.worker.lambda_entry.handler"],
    }
    assert not {"Layers", "Handler", "Runtime"} & function.keys()
    assert function["Environment"]["Variables"]["JOBLANE_VERSION"] == version()


def test_an_image_of_ecr_has_its_digest_and_only_its_function_may_pull_it(imaged: Synthesised) -> None:
    template = imaged.whole("acme-jobs")
    functions = templates.functions(template)
    uri = "111122223333.dkr.ecr.eu-central-1.${AWS::URLSuffix}/team/shop@" + DIGEST
    assert templates.target(template, functions["acme-web"]["Code"]["ImageUri"]) == uri
    may = {name: {action: allowed[action] for action in PULLING if action in allowed} for name, allowed in each(imaged)}
    repository = {"arn:aws:ecr:eu-central-1:111122223333:repository/team/shop"}
    assert {name: found for name, found in may.items() if found} == {"acme-web": dict.fromkeys(PULLING, repository)}


def each(done: Synthesised) -> list[tuple[str, dict[str, set[str]]]]:
    template = done.whole("acme-jobs")
    return [(name, templates.allowed(template, name)) for name in templates.functions(template)]


def test_a_dockerfile_is_an_asset_for_the_architecture_without_what_the_synthesis_writes(
    imaged: Synthesised,
) -> None:
    (asset,) = json.loads((imaged.directory / "acme-jobs.assets.json").read_text())["dockerImages"].values()
    folder = asset["source"].pop("directory")
    assert asset["source"] == {"dockerFile": "Dockerfile", "dockerBuildTarget": "app", "platform": "linux/arm64"}
    copied = {str(path.relative_to(imaged.directory / folder)) for path in (imaged.directory / folder).rglob("*")}
    assert {"Dockerfile", "shop_price/handler.py"} <= copied
    assert not [path for path in copied if "__pycache__" in path]


def test_the_folders_of_the_synthesis_are_left_out_of_the_context(tmp_path: Path) -> None:
    inside = tmp_path / "shop" / ".joblane"
    assert [*_inside(tmp_path, inside, tmp_path / "cdk.out", tmp_path.parent / "elsewhere")] == [
        "shop/.joblane",
        "cdk.out",
    ]


def test_functions_without_an_image_keep_zip_layer_and_variables(imaged: Synthesised) -> None:
    functions = templates.functions(imaged.whole("acme-jobs"))
    others = {name: function for name, function in functions.items() if name not in ("acme-web", "acme-train")}
    assert others.keys() == {"acme-jobs-bulk", "acme-jobs-sweep", "acme-migrate", "acme-router"}
    for function in others.values():
        assert "S3Key" in function["Code"]
        assert len(function["Layers"]) == 1
        assert "JOBLANE_VERSION" not in function["Environment"]["Variables"]


def test_a_local_stage_runs_the_zip_and_needs_no_image(synth: Synth) -> None:
    done = synth(stage="local", package="tests.infra.imaged", settings={})
    functions = templates.functions(done.whole("jobs-jobs"))
    assert {("S3Key" in function["Code"], "ImageConfig" in function) for function in functions.values()} == {
        (True, False)
    }


# --- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (f"{ADDRESS}:v7", r"it has no digest. A tag can name another image .* imageTag=TAG"),
        (ADDRESS, "it has no digest"),
        ("public.ecr.aws/shop/shop@" + DIGEST, "the address of an image in a private repository of ECR is required"),
        (f"{ADDRESS}@sha256:5e", "the address of an image .*sha256:…; or an object"),
        (IMAGE.replace("dkr.ecr.", "dkr.ecr-fips."), "the address of an image"),
        (7, "it must be a valid string"),
        ({"dockerfile": "Dockerfile", "tag": "v7"}, "tag: there is no such setting here"),
        ({"dockerfile": ""}, "dockerfile: "),
        ({"target": "app"}, "dockerfile: it is required"),
    ],
)
def test_an_image_without_a_digest_or_of_another_registry_is_refused(given: Any, problem: str, synth: Synth) -> None:
    text = refused(synth, images={**KEPT["images"], "shop": given})
    assert re.search(rf"cdk.json: stage 'dev': images.shop[.:] ?{problem}", text), text


def test_a_tag_next_to_a_digest_is_accepted_and_the_digest_counts(synth: Synth) -> None:
    done = synth.anew(**{**APPS["imaged"], "images": {**KEPT["images"], "shop": f"{ADDRESS}:v7@{DIGEST}"}})
    uri = templates.functions(done.whole("acme-jobs"))["acme-web"]["Code"]["ImageUri"]
    assert templates.target(done.whole("acme-jobs"), uri).endswith(f"/team/shop@{DIGEST}")


@pytest.mark.parametrize(
    ("built", "problem"),
    [
        ({**BUILT, "dockerfile": "Dockerfil"}, f"dockerfile: there is no file {HERE / 'Dockerfil'}; the path is"),
        ({"dockerfile": "Dockerfile"}, f"dockerfile: there is no file {Path.cwd() / 'Dockerfile'}"),
        ({**BUILT, "context": "docker"}, f"context: there is no folder {Path.cwd() / 'docker'}"),
        ({**BUILT, "dockerfile": "../conftest.py"}, f"dockerfile: {HERE.parent / 'conftest.py'} is not in the folder"),
    ],
)
def test_a_missing_dockerfile_is_refused_with_its_path(built: dict[str, str], problem: str, synth: Synth) -> None:
    assert f"stage 'dev': images: built: {problem}" in refused(synth, images={"shop": IMAGE, "built": built})


def test_an_image_that_a_place_declares_and_the_stage_lacks_is_named(synth: Synth) -> None:
    text = refused(synth, images={"built": BUILT})
    assert "images: shop: it is required, because Lambda 'web' declares it; write" in text
    assert "-c image.shop=ADDRESS" in text


def test_an_image_that_no_place_declares_is_named(synth: Synth) -> None:
    text = refused(synth, images={**KEPT["images"], "shp": IMAGE})
    assert "images: shp: no place declares it; places declare built, shop;" in text


def test_what_only_an_image_has_is_imported_inside_of_the_function(
    synth: Synth, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a handler whose module needs a package of its image; the migration would fail with it
    monkeypatch.setattr(image, "missing_modules", lambda project, tasks: {"torch": [task.type for task in tasks]})
    text = refused(synth)
    assert "import at their top what only their image has: torch, for shop:index, shop:price. Migration, sweep" in text
    assert "Import it inside of the function, or add packages to the lock" in text


def test_an_image_on_a_local_stage_is_refused(synth: Synth) -> None:
    text = refused(synth, stage="local", images={"shop": IMAGE})
    assert "images: an emulator runs the zip files instead; leave it out" in text
