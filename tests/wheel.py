"""The wheel of this checkout, and environments with it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path

from joblane.local.uv import find_uv, installing_environment
from joblane.project import Project
from tests.pages import ROOT

BUILT_FROM = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile", "shared", "requirements", ".ci")


def build(folder: Path) -> Path:
    """Run `make wheel` in a copy of the checkout in ``folder``, and return the wheel."""
    copy = folder / "checkout"
    for name in BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, copy / name, ignore=left_out)
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    (copy / ".venv").symlink_to(Path(sys.prefix))
    (copy / ".joblane").symlink_to(ROOT / ".joblane")
    run(copy, "make", "--assume-old=.venv/.dev", "--assume-old=.joblane/tools/bin/uv", "wheel")
    (wheel,) = (copy / "dist").glob("*.whl")
    return wheel


DEVELOPMENT = ROOT / "requirements" / "dev.txt"


def uv() -> str:
    return find_uv(Project(ROOT))


def environment(
    folder: Path, wheel: Path, *extras: str, base: str | Path = sys.executable, lock: Path = DEVELOPMENT
) -> Path:
    """Make an environment in ``folder`` with the wheel and its ``extras``; return its Python."""
    python = folder / "bin" / "python"
    run(folder.parent, uv(), "venv", "--quiet", "--no-project", "--python", base, folder)
    requirement = f"joblane[{','.join(extras)}] @ {wheel.as_uri()}" if extras else f"joblane @ {wheel.as_uri()}"
    install(python, requirement, lock=lock)
    return python


def install(python: Path, *packages: str, lock: Path = DEVELOPMENT) -> None:
    """Install packages in the versions of the lock."""
    command: list[str | Path] = [
        uv(),
        "pip",
        "install",
        "--quiet",
        "--no-config",
        "--python",
        python,
    ]
    run(ROOT, *command, "--constraint", lock, *packages)
    _link_compiled(Path(sysconfig.get_path("purelib")), Path(next(python.parents[1].glob("lib/python*/site-packages"))))


def _link_compiled(ours: Path, theirs: Path) -> None:
    """Give an environment the compiled modules of this one, where both have the same source: to compile takes 10 s."""
    for compiled in ours.rglob("__pycache__/*.pyc"):
        source = compiled.parents[1] / f"{compiled.name.partition('.')[0]}.py"
        other = theirs / compiled.relative_to(ours)
        with suppress(FileNotFoundError, FileExistsError):
            if source.samefile(theirs / source.relative_to(ours)):  # uv links each file to its cache
                other.parent.mkdir(exist_ok=True)
                other.hardlink_to(compiled)


def run(folder: Path, *command: str | Path, **variables: str) -> str:
    """Run a program that must succeed, without this checkout on its path; return its output."""
    variables = installing_environment(Project(ROOT)) | variables
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
