"""Fetch uv, which fetches all other tools. ``make`` runs this before any package is installed.

``python .ci/fetch_uv.py .joblane/tools path/to/uv.txt``
"""

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
NO_INDEX = "Check the network, or set PIP_INDEX_URL to an index of packages that this machine can reach"


def fetch_uv(tools: Path, lock: Path) -> None:
    """Install uv from the lock file ``lock`` as ``tools/uv/bin/uv``, if it is not installed yet.

    Without venv (a separate package on Debian), pip installs it. Without venv and pip, the uv on ``PATH`` is used.
    Raises :class:`RuntimeError` with the reason.
    """
    stamp, target = tools / "uv.stamp", tools / "uv"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if (target / "bin" / "uv").exists() and stamp.is_file() and stamp.read_text() == wanted:
        return
    sys.stdout.write("Fetching uv, 50 MB\n")
    sys.stdout.flush()
    stamp.unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    tools.mkdir(parents=True, exist_ok=True)
    _install(target, ["--require-hashes", "--requirement", str(lock)])
    (tools / "bin").mkdir(exist_ok=True)
    (tools / "bin" / "uv").unlink(missing_ok=True)
    (tools / "bin" / "uv").symlink_to("../uv/bin/uv")
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
        lines = [line for line in (done.stdout + done.stderr).strip().splitlines() if "WARNING: Retrying" not in line]
        raise RuntimeError("\n".join([f"uv could not be fetched. {NO_INDEX}:", *lines[-8:]]))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


if __name__ == "__main__":
    try:
        fetch_uv(Path(sys.argv[1]), Path(sys.argv[2]))
    except (RuntimeError, OSError) as error:
        sys.exit(str(error))
