"""What functions are made of: one zip of the code and one of the dependencies, each named by a hash of what it holds.

A zip that exists is taken as it is, so an unchanged lock or unchanged code costs nothing at synth. The same input makes
the same bytes with the same Python and zlib, wherever it is built.

Sources stay beside the bytecode: without them a layer would be a fifth smaller and a start up to a tenth sooner, but
tracebacks, which the record keeps, would lose their lines, and an interpreter of another version could read nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform as machine
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from joblane.cdk.errors import SynthError
from joblane.cdk.settings.stage import Architecture, Stage
from joblane.project import LOCKS, Project

LIBRARY = Path(__file__).parents[1]
PYTHON = "3.13"
"""Of the functions on AWS. An emulator runs them with an interpreter of this machine, best with this one:"""
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
LAYOUT = "2"
"""Part of every hash: count up where the way of building changes."""

LEFT_OUT_OF_CODE = ("tests", "demo", "__pycache__")
"""Folders of these names, and hidden files, stay out of the zip; all other files go into it, data too."""
LEFT_OUT_OF_LIBRARY = ("testing", "cli", "page", "local", "cdk", "locks", "inspector/remote.py")
"""What no function imports of the library."""
PROVIDED = ("boto3", "botocore", "s3transfer", "urllib3")
"""Brought by Lambda's Python runtime, locally by the emulator's environment, and the greater part of the lock's size.
jmespath, python-dateutil and six come with boto3 too, and stay: Powertools and pg8000 want the versions of the lock."""
LEFT_OUT_OF_LAYER = (
    ".lock",
    "bin",
    "*.dist-info/RECORD",  # untrue from here on
    "**/*.pyi",
    "**/*.pyx",
    "**/*.c",
    "**/*.h",
    "**/tests",
    "alembic/testing",
    "mako/testing",
    "sqlalchemy/testing",
    "sqlalchemy/dialects/*/provision.py",  # for its tests
    *(f"sqlalchemy/dialects/{name}" for name in ("mysql", "mssql", "oracle", "sqlite")),
    "alembic/templates",  # what `alembic init` copies
    "pydantic/mypy.py",
    "pydantic/v1/mypy.py",
    "pydantic/v1/_hypothesis_plugin.py",
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.js",  # a page that no route shows
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.css",
)
"""What no handler can want at run time; tests hold that nothing that stays imports any of it. Parts of a library that a
new task might import stay, though no task does so yet."""
WHEEL_PLATFORMS: Mapping[Architecture, str] = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28"}
"""As uv names them. Lambda's glibc, 2.34, takes newer ones, too; ``manylinux2014`` silently takes older wheels."""
MACHINES: Mapping[Architecture, str] = {"arm64": "aarch64", "x86_64": "x86_64"}
"""As wheels name them."""


@dataclass(frozen=True)
class Package:
    """A zip, and the hash CDK knows it by."""

    path: Path
    hash: str


@dataclass(frozen=True)
class Packages:
    """All that a function needs beside its environment."""

    code: Package
    layer: Package


def build_packages(stage: Stage, project: Project) -> Packages:
    """Both, into ``.joblane/build``. Raises :class:`SynthError`, also for a layer that Lambda cannot run."""
    if not project.handlers.is_dir():
        raise SynthError(f"{project.handlers}: no such folder; the functions are packed from there")
    check_lock(project.lock)
    target = project.make_folder() / "build"
    layer = build_layer(
        project.lock, None if stage.local else WHEEL_PLATFORMS[stage.architecture], target, find_uv(project)
    )
    if not stage.local:
        check_layer(layer.path, stage.architecture)
    return Packages(code=build_code([*project.code_folders, LIBRARY], target), layer=layer)


# --- Code ----------------------------------------------------------------------------------------------------------


def build_code(folders: Iterable[Path], target: Path) -> Package:
    """Zip ``folders``, each under its own name, without what no function imports."""
    files = {path.relative_to(folder.parent): path for folder in folders for path in _sources(folder)}
    contents = [(name.as_posix(), path.read_bytes()) for name, path in sorted(files.items())]
    digest = _digest(LAYOUT, RUNNING, *(part for name, content in contents for part in (name, content)))
    package = Package(target / f"code-{digest[:16]}.zip", digest)
    if not package.path.exists():
        with _scratch(target) as scratch:
            for name, content in contents:
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(content)
            _compile(scratch, "/var/task")
            _zip(scratch, package.path)
    return package


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        parts, hidden = name.parts, any(part.startswith(".") for part in name.parts)
        operators = folder.name == LIBRARY.name and {parts[0], name.as_posix()} & {*LEFT_OUT_OF_LIBRARY}
        left_out = hidden or operators or {*parts} & {*LEFT_OUT_OF_CODE}
        if path.is_file() and path.suffix != ".pyc" and not left_out:
            yield path


# --- Dependencies --------------------------------------------------------------------------------------------------


def build_layer(lock: Path, platform: str | None, target: Path, uv: str) -> Package:
    """Install what ``lock`` names for ``platform`` (None: this machine) and zip it as a layer. Wheels only, by hash."""
    wanted = without_provided(_read(lock))
    where, python = (platform, PYTHON) if platform else (f"{sys.platform}-{machine.machine()}", RUNNING)
    digest = _digest(LAYOUT, RUNNING, python, where, wanted, *LEFT_OUT_OF_LAYER)
    package = Package(target / f"layer-{where}-{digest[:16]}.zip", digest)
    if not package.path.exists():
        with _scratch(target) as scratch:
            _install(uv, wanted, platform, python, scratch / "python")
            for pattern in LEFT_OUT_OF_LAYER:
                for path in list((scratch / "python").glob(pattern)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if python == RUNNING:
                _compile(scratch, "/opt")
            else:
                message = f"joblane: the layer has no bytecode, which takes Python {python}: slower starts"
                print(message, file=sys.stderr)  # noqa: T201
            _zip(scratch, package.path)
    return package


def check_lock(lock: Path) -> None:
    """Raise :class:`SynthError` where ``lock`` lacks a package that the library imports in the functions."""
    ours, theirs = (
        {_name(entry) for entry in _entries(without_provided(_read(file)))} for file in (LOCKS / "runtime.txt", lock)
    )
    if missing := sorted(ours - theirs):
        raise SynthError(
            f"{lock} lacks what joblane itself imports in the functions: {', '.join(missing)}. Make the lock of joblane"
            " and your packages together: list both in requirements.in, then"
            f" `uv pip compile --generate-hashes requirements.in -o {lock.name}`"
        )


def without_provided(lock: str) -> str:
    """The lock's text without comments and without the packages that the runtime brings."""
    kept = [entry for entry in _entries(lock) if _name(entry) not in PROVIDED]
    lines = [line for entry in kept for line in entry.splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines) + "\n"


def _read(lock: Path) -> str:
    if not lock.is_file():
        raise SynthError(f"{lock}: no such file; it is the hashed lock of what functions import")
    return lock.read_text()


def _entries(lock: str) -> list[str]:
    """A text for each package: its line, and those of its hashes."""
    return re.findall(r"^[^\s#].*(?:\n[ \t]+.*)*", lock, re.MULTILINE)


def _name(entry: str) -> str:
    """The package's name as registries compare it. Source: PyPA, *Names and normalization*."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", entry)[0]).lower()


def _install(uv: str, requirements: str, platform: str | None, python: str, target: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(requirements)
        file.flush()
        command = [uv, "pip", "install", "--quiet", "--no-config", "--require-hashes", "--no-deps"]
        command += ["--only-binary", ":all:", "--link-mode", "copy", "--python", sys.executable]
        command += ["--python-version", python, "--target", str(target), "--requirements", file.name]
        command += ["--python-platform", platform] if platform else []
        environment = {
            "UV_SYSTEM_CERTS": "true",
            **os.environ,
        }  # a company's own certificate authority is in the system's store
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        what = f"the dependency layer cannot be built for {platform or 'this machine'}"
        raise SynthError(f"{what}:\n{done.stderr.strip()}")


def check_layer(layer: Path, architecture: Architecture) -> None:
    """Raise :class:`SynthError` where a wheel in the zip ``layer`` is neither for Lambda's processor nor for all.

    uv chose the wheels by platform and version; a zip that was built for another architecture is what this finds.
    """
    suitable = re.compile(rf"^Tag: \S+-(any|\S*manylinux\S*_{MACHINES[architecture]})$", re.MULTILINE)
    with zipfile.ZipFile(layer) as archive:
        wheels = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        unsuitable = [Path(name).parent.stem for name in wheels if not suitable.search(archive.read(name).decode())]
    if unsuitable:
        raise SynthError(
            f"the dependency layer does not run on Lambda's architecture {architecture}: {', '.join(unsuitable)}. Set "
            f"`architecture` of the stage to what the layer is for, or remove {layer} to have it built again"
        )


def find_uv(project: Project) -> str:
    """The uv executable: ``UV`` of the environment, ``.joblane/tools/bin/uv``, this Python's, or that on ``PATH``.

    Raises :class:`SynthError`.
    """
    given = os.environ.get("UV")
    tools = project.folder / "tools" / "bin"
    candidates = [given] if given else [str(tools / "uv"), str(Path(sys.executable).with_name("uv")), "uv"]
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    where = f"UV={given} is no executable" if given else f"uv is neither in {tools} nor on PATH"
    raise SynthError(f"{where}; it builds the dependency layer. Install joblane[cdk], or set UV to its path")


# --- Both ----------------------------------------------------------------------------------------------------------


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder beside the result, so that the finished zip can be moved there in one step."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix="building-") as folder:
        yield Path(folder)


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8))
        digest.update(content)
    return digest.hexdigest()


def _compile(folder: Path, mounted_at: str) -> None:
    """Bytecode, which a function could not write: read without a look at its source, and with Lambda's paths.

    By an interpreter of its own: which strings are shared in a ``.pyc`` depends on what is loaded beside the compiler.
    """
    command = [sys.executable, "-I", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(folder), "-p", mounted_at, str(folder)]
    subprocess.run(command, check=False)  # noqa: S603 - what has no valid syntax stays a source


def _zip(folder: Path, target: Path) -> None:
    """Zip what is in ``folder``, always with the same times and rights, and move it to ``target`` when it is whole.

    At zlib's default level: the highest takes four times as long for one part in a hundred.
    """
    unfinished = folder.with_suffix(".zip")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    unfinished.replace(target)
