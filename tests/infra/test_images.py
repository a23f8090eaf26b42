"""Container images of places: the functions in the templates, and what is refused at synth."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.app import APP
from joblane import Lambda, Payload, task
from joblane.cdk.app import Synthesised
from joblane.cdk.constructs import image
from joblane.cdk.constructs.image import PULLING, _inside
from joblane.cdk.errors import StageError
from joblane.cdk.packaging import Packages
from joblane.cdk.preflight.images import Wanted
from joblane.cdk.settings.images import Dockerfile, EcrAddress
from joblane.cdk.settings.load import load_stage
from joblane.cdk.settings.stage import Stage
from joblane.installation import version
from joblane.local.zipped import missing_modules
from joblane.project import Project
from tests.infra import templates
from tests.infra.conftest import APPS, EXISTING_NETWORK, IMAGE, STAGE_KEY, STAGES, Synth
from tests.pages import ROOT, blocks

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


def test_a_dockerfile_is_an_asset_for_the_architecture_without_bytecode(
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


def test_the_preflight_reads_images_and_package_types_from_the_templates(imaged: Synthesised) -> None:
    found = Wanted.of(imaged.templates)
    assert found == Wanted({"shop": EcrAddress.of(IMAGE)}, "arm64", {"acme-web": "Image", "acme-train": "Image"})


def test_cfn_lint_finds_nothing_in_the_templates(imaged: Synthesised) -> None:
    program = str(Path(sys.executable).with_name("cfn-lint"))
    files = [str(file) for file in imaged.directory.glob("*.template.json")]
    # W3005: the CDK adds a DependsOn in addition to the reference
    command = [program, "--ignore-checks", "W3005", "--regions", "eu-central-1", "--", *files]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (len(files), ran.stdout, ran.returncode) == (len(imaged.templates), "", 0)


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


def test_a_tag_next_to_a_digest_is_accepted_and_the_digest_counts() -> None:
    assert EcrAddress.of(f"{ADDRESS}:v7@{DIGEST}") == EcrAddress.of(IMAGE)


@pytest.mark.parametrize(
    ("host", "arn"),
    [
        ("eu-central-1.amazonaws.com", "arn:aws:ecr:eu-central-1:"),
        ("cn-north-1.amazonaws.com.cn", "arn:aws-cn:ecr:cn-north-1:"),
        ("us-gov-west-1.amazonaws.com", "arn:aws-us-gov:ecr:us-gov-west-1:"),
    ],
)
def test_the_arn_of_a_repository_has_the_partition_of_its_region(host: str, arn: str) -> None:
    address = EcrAddress.of(f"111122223333.dkr.ecr.{host}/team/shop@{DIGEST}")
    assert address.repository_arn == f"{arn}111122223333:repository/team/shop"


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


# --- The page ------------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "how-to" / "python-packages.md"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the files of the page. Only its image has the package ``shop``."""
    folder = tmp_path_factory.mktemp("shop")
    for block in blocks("python", PAGE):
        first, source = block.text.split("\n", 1)
        path = folder / first.removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        (path.parent / "__init__.py").touch()
    return folder


def test_the_command_of_the_page_prints_types_or_names_the_missing_client(shop: Path) -> None:
    (block,) = (block for block in blocks("sh", PAGE) if "docker run" in block.text)
    words = shlex.split(block.text)
    assert words[:6] == ["docker", "run", "--rm", "--entrypoint", "python", "IMAGE"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "shared"), "JOBLANE_FUNCTIONS": "functions"}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *options, *words[6:]]
        return subprocess.run(command, cwd=shop, env=variables, capture_output=True, text=True, check=False)

    assert run().stdout.split() == ["catalogue:index", "jobs:bulk", "jobs:sweep"]
    assert "No module named 'awslambdaric'" in run("-S").stderr


def test_the_handler_of_the_page_suits_the_zip_files_on_aws_and_not_here(shop: Path) -> None:
    place = Lambda("web", image="shop")

    @task("catalogue:index", runs_on=place)
    def catalogue_index(payload: Payload, ctx: object) -> None:
        """Nothing."""

    project = Project(shop)
    assert missing_modules(project, [catalogue_index]) == {}
    assert missing_modules(project, [catalogue_index], inside=True) == {"shop": ["catalogue:index"]}


def test_a_stage_accepts_the_settings_of_the_page_and_other_addresses() -> None:
    by_digest, by_dockerfile = (json.loads(block.text) for block in blocks("json", PAGE) if '"images"' in block.text)

    def load(given: dict[str, Any], images: dict[str, str]) -> Stage:
        stages = {"dev": {**STAGES["dev"], "settings": {}, **given}}
        return load_stage("dev", stages, kind=Stage, declared=(), environ={}, images=images)

    assert load(by_digest, {}).ecr_images["shop"].repository == "shop"
    assert load(by_dockerfile, {}).images["shop"] == Dockerfile(dockerfile="Dockerfile")
    for given in (by_digest, by_dockerfile):
        assert load(given, {"shop": IMAGE}).images == {"shop": IMAGE}
    with pytest.raises(StageError, match=r"images\.shop: it has no digest"):
        load(by_digest, {"shop": f"{ADDRESS}:v7"})


@pytest.mark.parametrize("given", ["zones", "key", "credentials"])
def test_an_image_outside_of_the_region_of_the_stage_is_refused(given: str) -> None:
    known: dict[str, Any] = {
        "zones": {"network": {**EXISTING_NETWORK, "availability_zones": ["eu-west-1a", "eu-west-1b"]}},
        "key": {"kms_key": STAGE_KEY.replace("eu-central-1", "eu-west-1")},
        "credentials": {},
    }
    stages = {"dev": {**STAGES["dev"], "settings": {}, "images": {"shop": IMAGE}, **known[given]}}
    environ = {"CDK_DEFAULT_REGION": "eu-west-1"} if given == "credentials" else {}
    problem = "images.shop: the image is in eu-central-1, and the stage in eu-west-1; Lambda pulls from its own region"
    with pytest.raises(StageError, match=re.escape(problem)):
        load_stage("dev", stages, kind=Stage, declared=(), environ=environ)
    # and another account of the region is not
    other = {"shop": IMAGE.replace("111122223333", "444455556666").replace("eu-central-1", "eu-west-1")}
    assert load_stage("dev", stages, kind=Stage, declared=(), environ=environ, images=other).images == other


def test_an_address_of_the_context_reaches_the_stage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, no_packages: Packages
) -> None:
    status = APP.main(["-c", f"image.shop={ADDRESS}:v7", "-o", str(tmp_path)], lambda *_: no_packages)
    assert (status, "images.shop: it has no digest" in capsys.readouterr().err) == (1, True)
