"""uv, which installs the packages of the functions and of the local stack's tools. The extra `cdk` has it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from joblane.local.errors import LocalError
from joblane.project import Project

NO_INDEX = (
    "the package index cannot be reached. Check the network, or set PIP_INDEX_URL (Python packages) and "
    "NPM_CONFIG_REGISTRY (Node packages) to indexes that this machine can reach:"
)
CONNECTION_ERRORS = (
    *("error sending request", "dns error", "connection refused", "failed to fetch", "no matching distribution"),
    *("could not find a version", "newconnectionerror", "enotfound", "econnrefused", "etimedout", "eai_again"),
)
"""Parts of the output of pip, uv and npm if a registry does not answer."""


def find_uv(project: Project) -> str:
    """Return the path of uv: ``UV`` of the environment, ``.joblane/tools/bin/uv``, next to this Python, or on ``PATH``.

    Raises :class:`LocalError`.
    """
    given = os.environ.get("UV")
    tools = project.folder / "tools" / "bin"
    candidates = [given] if given else [str(tools / "uv"), str(Path(sys.executable).with_name("uv")), "uv"]
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    problem = f"UV={given} is not an executable" if given else f"uv is neither in {tools} nor on PATH"
    raise LocalError(f"{problem}; uv installs packages. Install joblane[cdk], or set UV to the path of uv")


def installing_environment(project: Project) -> dict[str, str]:
    """Return this process's environment for uv and npm, with the machine's certificates and pip's index for uv.

    Their caches are the user's, or in the project if the home folder cannot be written.
    """
    given = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")
    }
    defaults = {
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "true",
        "NODE_USE_SYSTEM_CA": "1",
        "NPM_CONFIG_UPDATE_NOTIFIER": "false",
    }
    if "UV_INDEX_URL" not in given and "PIP_INDEX_URL" in given:
        defaults["UV_DEFAULT_INDEX"] = given["PIP_INDEX_URL"]
    if not _can_cache(Path(given.get("HOME", "/"))):
        cache = project.folder / "cache"
        defaults |= {"UV_CACHE_DIR": str(cache / "uv"), "NPM_CONFIG_CACHE": str(cache / "npm")}
    path = os.pathsep.join([str(project.folder / "tools" / "bin"), given.get("PATH", os.defpath)])
    return {**defaults, **given, "PATH": path}


def _can_cache(home: Path) -> bool:
    try:
        (home / ".cache").mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(home / ".cache", os.W_OK)


def failure(problem: str, output: str) -> str:
    """Return the text of an error: the problem, what to do if it is known, and the end of the installer's output."""
    last = [line for line in output.strip().splitlines() if not line.startswith("WARNING: Retrying")][-8:]
    advice = f" {NO_INDEX}" if any(part in output.lower() for part in CONNECTION_ERRORS) else ""
    return "\n".join([f"{problem}:{advice}", *last])
