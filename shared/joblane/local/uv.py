"""uv, which installs the packages of the functions and of the local stack's tools. The extra `cdk` has it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from joblane.local.errors import LocalError
from joblane.project import Project

NO_INDEX = (
    "The package index cannot be reached. Check the network, or set PIP_INDEX_URL (Python packages) and "
    "NPM_CONFIG_REGISTRY (Node packages) to indexes that this machine can reach."
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


def failure(problem: str, output: str) -> str:
    """Return the text of an error: the problem, the end of the installer's output, and what to do if it is known."""
    last = [line for line in output.strip().splitlines() if not line.startswith("WARNING: Retrying")][-8:]
    advice = [NO_INDEX] if any(part in output.lower() for part in CONNECTION_ERRORS) else []
    return "\n".join([f"{problem}:", *last, *advice])
