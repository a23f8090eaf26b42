"""Whether Lambda can run what is in a layer: read from the wheels' tags, and from the shared objects themselves.

A layer for another processor deploys without a word, and its functions fail at their first import.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.tags import compatible_tags, cpython_tags, parse_tag

from joblane.cdk.errors import SynthError
from joblane.cdk.settings.stage import Architecture

GLIBC = (2, 34)
"""Of Amazon Linux 2023, on which Lambda runs Python from 3.12.

Source: AWS, *Lambda runtimes* and *Comparing Amazon Linux 2 and Amazon Linux 2023*.
"""
OLDEST_GLIBC = (2, 17)
"""The first of ``manylinux`` for arm64, also named ``manylinux2014``. Source: PEP 599, PEP 600."""
MACHINES: dict[Architecture, str] = {"arm64": "aarch64", "x86_64": "x86_64"}
"""As wheels name them."""
ELF_MACHINES: dict[int, Architecture] = {62: "x86_64", 183: "arm64"}
"""``e_machine`` of an ELF header, two bytes at offset 18. Source: System V ABI, *elf*, and its supplements."""
ELF_MAGIC = b"\x7fELF"
SHARED_OBJECT = re.compile(r"\.(so(\.\d+)*|dylib|pyd)$")


def check_layer(layer: Path, architecture: Architecture, python: str) -> None:
    """Raise :class:`SynthError` where something in the zip ``layer`` is not for ``architecture`` and ``python``."""
    with zipfile.ZipFile(layer) as archive:
        problems = [*_foreign_wheels(archive, architecture, python), *_foreign_objects(archive, architecture)]
    if problems:
        raise SynthError(
            f"the dependency layer does not run on Lambda's Python {python}, architecture {architecture}:\n"
            + "".join(f"  - {problem}\n" for problem in problems)
            + f"Set `architecture` of the stage to what the layer is for, or remove {layer} to have it built again"
        )


def suitable_tags(architecture: Architecture, python: str) -> frozenset[str]:
    """Every wheel tag that Lambda's Python can install: ``cp313-cp313-manylinux_2_34_aarch64``, …"""
    version = tuple(int(part) for part in python.split("."))
    machine = MACHINES[architecture]
    platforms = [f"manylinux_{GLIBC[0]}_{minor}_{machine}" for minor in range(GLIBC[1], OLDEST_GLIBC[1] - 1, -1)]
    platforms.append(f"manylinux2014_{machine}")
    interpreter = f"cp{''.join(python.split('.'))}"
    found = [*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)]
    return frozenset(map(str, found))


def _foreign_wheels(archive: zipfile.ZipFile, architecture: Architecture, python: str) -> Iterator[str]:
    suitable = suitable_tags(architecture, python)
    for name in archive.namelist():
        if name.endswith(".dist-info/WHEEL"):
            text = archive.read(name).decode()
            tags = {str(tag) for line in re.findall(r"^Tag: *(\S+)", text, re.MULTILINE) for tag in parse_tag(line)}
            if not tags & suitable:
                wheel = Path(name).parent.stem
                yield f"{wheel} is a wheel for {', '.join(sorted(tags)) or 'nothing'}"


def _foreign_objects(archive: zipfile.ZipFile, architecture: Architecture) -> Iterator[str]:
    """The first of each package."""
    found: set[str] = set()
    for name in archive.namelist():
        package = name.removeprefix("python/").partition("/")[0]
        if SHARED_OBJECT.search(name) and package not in found:
            with archive.open(name) as file:
                is_for = _built_for(file.read(20))
            if is_for != architecture:
                found.add(package)
                yield f"{name} is for {is_for}"


def _built_for(header: bytes) -> str:
    if not header.startswith(ELF_MAGIC):
        return "another system than Linux"
    machine = int.from_bytes(header[18:20], "little")
    return ELF_MACHINES.get(machine, f"ELF machine {machine}")
