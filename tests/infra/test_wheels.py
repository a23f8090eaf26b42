"""A layer with wheels that Lambda cannot load is refused before the deploy."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from joblane.cdk import packaging
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import Package, check_layer
from joblane.cdk.settings.load import load_stage
from joblane.cdk.settings.stage import Stage
from joblane.project import Project, ProjectError
from tests.infra.conftest import STAGES


def layer(folder: Path, *tags: str) -> Path:
    """A layer of one package."""
    path = folder / "layer.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("python/fast-1.2.dist-info/WHEEL", "".join(f"Tag: {tag}\n" for tag in tags))
    return path


@pytest.mark.parametrize(
    "tag",
    [
        "py3-none-any",
        "cp313-cp313-manylinux2014_aarch64",
        "cp39-abi3-manylinux_2_28_aarch64",
        "cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64",
    ],
)
def test_a_wheel_that_lambda_can_load_is_accepted(tag: str, tmp_path: Path) -> None:
    check_layer(layer(tmp_path, tag), "arm64")


@pytest.mark.parametrize(
    "tag",
    [
        "cp313-cp313-manylinux_2_17_x86_64",
        "cp313-cp313-musllinux_1_2_aarch64",
        "cp313-cp313-macosx_11_0_arm64",
        "cp313-cp313-linux_aarch64",  # built on this machine, with its glibc
    ],
)
def test_a_wheel_for_another_platform_is_refused_by_its_name(tag: str, tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"architecture arm64: fast-1\.2\. Set"):
        check_layer(layer(tmp_path, tag), "arm64")


def test_one_suitable_tag_of_several_is_enough(tmp_path: Path) -> None:
    check_layer(layer(tmp_path, "cp313-cp313-manylinux_2_17_x86_64", "py3-none-any"), "arm64")
    with pytest.raises(SynthError, match=r"fast-1\.2"):
        check_layer(layer(tmp_path), "arm64")


def test_the_synth_refuses_a_lock_below_the_library_s_versions(tmp_path: Path) -> None:
    lock = tmp_path / "functions.txt"
    lock.write_text(re.sub(r"^pg8000==\S+", "pg8000==1.31.0", Project.here().lock.read_text(), flags=re.MULTILINE))
    stage = load_stage("dev", {"dev": STAGES["dev"] | {"settings": {}}}, kind=Stage, declared=(), environ={})
    with pytest.raises(ProjectError, match=r"pg8000 is 1\.31\.0, and joblane needs pg8000>="):
        packaging.build_packages(stage, replace(Project.here(), lock=lock))


def test_the_synth_refuses_a_layer_for_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a layer for x86_64, and a stage on arm64
    path = layer(tmp_path, "cp313-cp313-manylinux_2_17_x86_64")
    monkeypatch.setattr(packaging, "build_layer", lambda *_: Package(path, "hash"))
    monkeypatch.setattr(packaging, "find_uv", lambda _: "uv")
    stage = load_stage("dev", {"dev": STAGES["dev"] | {"settings": {}}}, kind=Stage, declared=(), environ={})
    assert stage.architecture == "arm64"

    # when the stage's packages are built, then it is refused
    with pytest.raises(SynthError, match="Set the stage's `architecture` to that of the layer") as refused:
        packaging.build_packages(stage, Project.here())

    # and the error names the zip
    assert str(path) in str(refused.value)
