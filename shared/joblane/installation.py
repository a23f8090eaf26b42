"""The origin of this installation of joblane, and the command that adds an extra from there."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

PUBLISHED = False
"""True once the name ``joblane`` on PyPI belongs to this project. Until then anyone can register it, so no command, no
file that `joblane init` writes and no page installs joblane by its name."""


def missing(package: str, extra: str) -> str:
    """The message for a missing package of an extra."""
    return f"the package {package!r} is missing: {install(extra)}"


def install(extra: str) -> str:
    """Return the command that adds an extra, from the file, folder or repository from which joblane was installed.

    If that is unknown or removed, the command names the wheel, without its folder.
    """
    pip, origin = _pip(), _origin()
    url, folder = origin.get("url", ""), _path(origin)
    if origin.get("dir_info", {}).get("editable") and folder:
        return f"{pip} --editable {shlex.quote(f'{folder}[{extra}]')}"
    if vcs := origin.get("vcs_info"):
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
        if subdirectory := origin.get("subdirectory"):
            url += f"#subdirectory={subdirectory}"
    elif url.startswith("file:") and not folder:
        url = ""
    if url:
        return f"{pip} {shlex.quote(f'joblane[{extra}] @ {url}')}"
    return f"{pip} {shlex.quote(f'joblane[{extra}]' if PUBLISHED else f'{wheel_name()}[{extra}]')}"


def wheel() -> Path | None:
    """Return the wheel from which joblane was installed. None: it was installed otherwise, or the file is removed."""
    path = _path(_origin())
    return path if path and path.suffix == ".whl" else None


def wheel_name() -> str:
    """Return the name of the file of this version's wheel."""
    return f"joblane-{version()}-py3-none-any.whl"


def version() -> str:
    """Return the version of joblane; ``VERSION`` where it is not installed as a distribution."""
    found = next(iter(Distribution.discover(name="joblane")), None)
    return found.version if found else "VERSION"


def _pip() -> str:
    """Return the installer that was used, for this environment even if the shell has another one."""
    python = shlex.quote(sys.executable)
    if (_metadata("INSTALLER") or "").strip() == "uv":
        return f"uv pip install --python {python}"
    found = shutil.which("pip")
    own = found is not None and Path(found).parent == Path(sys.executable).parent
    return "pip install" if own else f"{python} -m pip install"


def _origin() -> dict[str, Any]:
    """Return the direct URL from which joblane was installed, with its kind; empty if there is none.

    Source: https://packaging.python.org/en/latest/specifications/direct-url-data-structure/
    """
    found: dict[str, Any] = json.loads(_metadata("direct_url.json") or "{}")
    return found


def _path(origin: dict[str, Any]) -> Path | None:
    where = urlsplit(origin.get("url", ""))
    path = Path(url2pathname(where.path))
    return path if where.scheme == "file" and path.exists() else None


def _metadata(name: str) -> str | None:
    """Return a file of the distribution's metadata. The ``egg-info`` of a checkout may come first, without the file."""
    return next(filter(None, (found.read_text(name) for found in Distribution.discover(name="joblane"))), None)
