"""The real zips as Lambda unpacks them, and interpreters with only these."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from joblane.cdk.packaging import LIBRARY, Package, build_code, build_layer
from joblane.local.locked import PROVIDED
from joblane.local.uv import find_uv
from joblane.project import Project

PROJECT = Project.here()
BUILT = PROJECT.folder / "build"


@dataclass(frozen=True)
class Unpacked:
    """Code (``/var/task``), layer (``/opt/python``), and the packages of Lambda's runtime."""

    code: Path
    layer: Path
    provided: Path

    def run(
        self, script: str, *arguments: str, provided: bool = True, under: Sequence[str] = (), **environ: str
    ) -> str:
        """Run a script in an interpreter with only these folders. Return its output; fail with its traceback.

        ``under``: the prefix of the command.
        """
        folders = [self.code, self.layer, *([self.provided] if provided else [])]
        start = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]!r}\n"
        command = [*under, sys.executable, "-P", "-s", "-S", "-B", "-c", start + script, *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout


def code() -> Package:
    """Build the code zip of this checkout."""
    return build_code([*PROJECT.code_folders, LIBRARY], BUILT)


def layer(platform: str | None = None) -> Package:
    """Build the layer of this checkout's lock, for this machine or a platform of ``WHEEL_PLATFORMS``."""
    return build_layer(PROJECT.lock, platform, BUILT, find_uv(PROJECT))


def unpack(folder: Path) -> Unpacked:
    """Unpack both zips into ``folder``. The packages of the runtime are those of the development environment."""
    unpacked = Unpacked(folder / "task", folder / "opt" / "python", folder / "runtime")
    zipfile.ZipFile(code().path).extractall(unpacked.code)
    zipfile.ZipFile(layer().path).extractall(unpacked.layer.parent)
    unpacked.provided.mkdir()
    for name in PROVIDED:
        (unpacked.provided / name).symlink_to(installed(name))
    return unpacked


def installed(package: str) -> Path:
    """Return the folder of a package in the development environment."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
