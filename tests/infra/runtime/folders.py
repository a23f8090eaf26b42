"""The file system of an execution environment: the zips as Lambda unpacks them, and the packages of its runtime."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_IXOTH

from joblane.cdk.packaging import RUNNING
from joblane.local.locked import PROVIDED
from tests.unpacked import installed

RUNTIME = ("awslambdaric", "simplejson", *PROVIDED)
"""Packages of Lambda's Python runtime, in addition to two modules of awslambdaric."""
USER = 993
"""The user of functions, who owns no file of the zips. [seen in Lambda; no page names it]"""


@dataclass(frozen=True)
class Folders:
    """The file system of an environment: ``/var/task``, ``/opt`` and ``/var/runtime``."""

    root: Path

    @property
    def task(self) -> Path:
        return self.root / "task"

    @property
    def opt(self) -> Path:
        return self.root / "opt"

    @property
    def runtime(self) -> Path:
        return self.root / "runtime"

    @property
    def path(self) -> list[str]:
        """The module search path after the current folder, which is ``/var/task``."""
        layers = [self.opt / "python" / "lib" / f"python{RUNNING}" / "site-packages", self.opt / "python"]
        return [str(folder) for folder in (*layers, self.runtime)]

    @cached_property
    def user(self) -> int | None:
        """The user of the processes: Lambda's if these tests run as root, and all users can enter the folders that hold
        Python, its packages and the zips."""
        needed = (Path(python()), installed("awslambdaric"), self.task)
        open_to_all = all(folder.stat().st_mode & S_IXOTH for path in needed for folder in path.parents)
        return USER if os.geteuid() == 0 and open_to_all else None


@contextmanager
def unpacked(code: Path, layer: Path | Folders) -> Iterator[Folders]:
    """Unpack the zips with the permissions that they contain, into folders that the functions' user cannot write to.

    ``layer``: a zip, or folders whose layer and runtime are used.
    """
    root = Path(tempfile.mkdtemp(prefix="lambda-"))
    root.chmod(0o755)
    folders = Folders(root)
    try:
        extract(code, folders.task)
        if isinstance(layer, Folders):
            folders.opt.symlink_to(layer.opt)
            folders.runtime.symlink_to(layer.runtime)
        else:
            extract(layer, folders.opt)
            link_runtime(folders.runtime)
        if os.geteuid() != 0:
            _set_mode(root, 0o555)
        yield folders
    finally:
        if os.geteuid() != 0:
            _set_mode(root, 0o755)
        shutil.rmtree(root)


def link_runtime(folder: Path) -> None:
    """Fill ``/var/runtime`` with the packages of the development environment."""
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).symlink_to(installed(name))
    site = installed("awslambdaric").parent
    for module in (site / "snapshot_restore_py.py", *site.glob("runtime_client.*.so")):
        (folder / module.name).symlink_to(module)


def _set_mode(root: Path, mode: int) -> None:
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(mode)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip, with the permissions of its files."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            path = Path(opened.extract(entry, folder))
            path.chmod(entry.external_attr >> 16 & 0o777)


def python() -> str:
    """The interpreter without a virtual environment."""
    return str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]
