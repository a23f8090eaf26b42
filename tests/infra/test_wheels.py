"""What is refused of a layer before it is deployed: wheels and shared objects that Lambda could not load."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from joblane.cdk import packaging
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import Package
from joblane.cdk.settings.stage import Architecture, load_stage
from joblane.cdk.wheels import check_layer, suitable_tags
from tests.infra.conftest import STAGES

ARM, INTEL, RISC = 183, 62, 243
OBJECT = "python/fast/_fast.cpython-313-aarch64-linux-gnu.so"


def elf(machine: int) -> bytes:
    """The head of a shared object: magic, 64 bits, little-endian; type 3; machine."""
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine) + bytes(44)


def layer(folder: Path, *tags: str, content: bytes = elf(ARM), name: str = OBJECT) -> Path:
    """A layer of one package."""
    path = folder / "layer.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("python/fast-1.2.dist-info/WHEEL", "".join(f"Tag: {tag}\n" for tag in tags))
    return path


@pytest.mark.parametrize(
    "tag",
    [
        "py3-none-any",
        "py2.py3-none-any",
        "cp313-cp313-manylinux2014_aarch64",
        "cp313-cp313-manylinux_2_34_aarch64",
        "cp39-abi3-manylinux_2_28_aarch64",
        "py3-none-manylinux_2_17_aarch64",
        "cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64",
    ],
)
def test_what_lambda_can_load_is_taken(tag: str, tmp_path: Path) -> None:
    check_layer(layer(tmp_path, tag), "arm64", "3.13")


@pytest.mark.parametrize(
    "tag",
    [
        "cp313-cp313-manylinux_2_17_x86_64",
        "cp313-cp313-manylinux_2_35_aarch64",  # a newer glibc
        "cp313-cp313-musllinux_1_2_aarch64",
        "cp313-cp313-macosx_11_0_arm64",
        "cp313-cp313-linux_aarch64",  # built here, against whatever glibc is here
        "cp312-cp312-manylinux_2_17_aarch64",
        "cp314-abi3-manylinux_2_17_aarch64",
        "cp313-cp313t-manylinux_2_17_aarch64",  # free-threaded
        "py2-none-any",
    ],
)
def test_a_wheel_for_elsewhere_is_refused_by_its_name_and_tag(tag: str, tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=f"architecture arm64:\n  - fast-1.2 is a wheel for {tag}\n"):
        check_layer(layer(tmp_path, tag), "arm64", "3.13")


def test_one_of_several_tags_is_enough_and_none_is_not(tmp_path: Path) -> None:
    check_layer(layer(tmp_path, "py2-none-any", "py3-none-any"), "arm64", "3.13")
    with pytest.raises(SynthError, match=r"fast-1\.2 is a wheel for nothing"):
        check_layer(layer(tmp_path), "arm64", "3.13")


@pytest.mark.parametrize(
    ("content", "name", "is_for"),
    [
        (elf(INTEL), OBJECT, "x86_64"),
        (elf(RISC), "python/fast.libs/libfast.so.1.2", "ELF machine 243"),
        (b"\xcf\xfa\xed\xfe".ljust(64, b"\0"), "python/fast/libfast.dylib", "another system than Linux"),
    ],
)
def test_a_shared_object_for_elsewhere_is_refused_whatever_the_tags_say(
    content: bytes, name: str, is_for: str, tmp_path: Path
) -> None:
    with pytest.raises(SynthError, match=f"  - {name} is for {is_for}\n"):
        check_layer(layer(tmp_path, "py3-none-any", content=content, name=name), "arm64", "3.13")


@pytest.mark.parametrize(("architecture", "other"), [("arm64", "x86_64"), ("x86_64", "arm64")])
def test_no_tag_suits_both(architecture: Architecture, other: Architecture) -> None:
    both = suitable_tags(architecture, "3.13") & suitable_tags(other, "3.13")
    assert both
    assert {tag.rpartition("-")[2] for tag in both} == {"any"}


def test_the_synth_refuses_a_layer_for_another_processor_and_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a layer in .build that was made for x86_64, and a stage on arm64
    path = layer(tmp_path, "cp313-cp313-manylinux_2_17_x86_64", content=elf(INTEL))
    monkeypatch.setattr(packaging, "build_layer", lambda *_: Package(path, "hash"))
    stage = load_stage("dev", {"dev": STAGES["dev"] | {"settings": {}}}, declared=(), environ={})
    assert stage.architecture == "arm64"

    # when it is built for
    with pytest.raises(SynthError) as refused:
        packaging.build_packages(stage)

    # then both the wheel and its object are named, and the setting
    assert "fast-1.2 is a wheel for cp313-cp313-manylinux_2_17_x86_64" in str(refused.value)
    assert f"{OBJECT} is for x86_64" in str(refused.value)
    assert "Set `architecture` of the stage" in str(refused.value)
    assert str(path) in str(refused.value)
