"""Fetch uv, which fetches all other tools.

``make`` runs this file before any package is installed, so it imports only the standard library:
``python fetch_uv.py .joblane/tools path/to/uv.txt``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

INSTALL = (
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-warn-script-location",
    "--root-user-action",
    "ignore",
)
NO_INDEX = (
    "The package index cannot be reached. Check the network, or set PIP_INDEX_URL (Python packages) and "
    "NPM_CONFIG_REGISTRY (Node packages) to indexes that this machine can reach."
)
CONNECTION_ERRORS = (
    *("error sending request", "dns error", "connection refused", "failed to fetch", "no matching distribution"),
    *("could not find a version", "newconnectionerror", "enotfound", "econnrefused", "etimedout", "eai_again"),
)
"""Parts of the output of pip, uv and npm if a registry does not answer."""


def fetch_uv(tools: Path, lock: Path) -> None:
    """Install uv from the lock file ``lock`` as ``tools/uv/bin/uv``, if it is not installed yet.

    Without venv (a separate package on Debian), pip installs it. Without venv and pip, the uv on ``PATH`` is used.
    Raises :class:`RuntimeError` with the reason.
    """
    stamp, target = tools / "uv.stamp", tools / "uv"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if (target / "bin" / "uv").exists() and stamp.is_file() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    tools.mkdir(parents=True, exist_ok=True)
    _install(target, ["--require-hashes", "--requirement", str(lock)])
    link(tools, "uv", target / "bin" / "uv")
    stamp.write_text(wanted)


def _install(target: Path, packages: list[str]) -> None:
    if _run([sys.executable, "-m", "venv", str(target)]).returncode == 0:
        command = [str(target / "bin" / "python"), "-m", "pip", *INSTALL, *packages]
    else:
        shutil.rmtree(target, ignore_errors=True)
        if _run([sys.executable, "-m", "pip", "--version"]).returncode == 0:
            command = [sys.executable, "-m", "pip", *INSTALL, *packages, "--target", str(target)]
        elif found := shutil.which("uv"):
            (target / "bin").mkdir(parents=True)
            (target / "bin" / "uv").symlink_to(found)
            return
        else:
            raise RuntimeError(
                f"{sys.executable} has neither venv nor pip, and no uv is on PATH. On Debian and Ubuntu: apt install "
                "python3-venv"
            )
    done = _run(command)
    if done.returncode:
        raise RuntimeError(failure("uv could not be fetched", done.stdout + done.stderr))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def failure(problem: str, output: str) -> str:
    """Return the text of an error: the problem, the end of the installer's output, and what to do if it is known."""
    last = [line for line in output.strip().splitlines() if not line.startswith("WARNING: Retrying")][-8:]
    advice = [NO_INDEX] if any(part in output.lower() for part in CONNECTION_ERRORS) else []
    return "\n".join([f"{problem}:", *last, *advice])


def link(tools: Path, name: str, program: Path) -> None:
    """Link ``program`` as ``name`` into ``tools/bin``, the first folder on ``PATH``."""
    (tools / "bin").mkdir(exist_ok=True)
    new = tools / "bin" / f"{name}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(os.path.relpath(program, new.parent))
    new.replace(tools / "bin" / name)


if __name__ == "__main__":
    try:
        fetch_uv(Path(sys.argv[1]), Path(sys.argv[2]))
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))
