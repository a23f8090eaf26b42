"""The zips of a stage, code, dependencies and perhaps the page, each named by a hash of its content.

An existing zip is used again, so unchanged code or an unchanged lock takes no time at synth. The same input gives the
same bytes with the same Python and zlib on any machine.

The zips contain sources and bytecode. Of the packages in ``WITHOUT_SOURCES`` they have only bytecode, if the synth runs
with Lambda's version of Python: the layer is a fifth smaller. Frames of tracebacks in them have no source line.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform as machine
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from joblane.cdk.errors import SynthError
from joblane.cdk.settings.stage import Architecture, Stage
from joblane.local.locked import PYTHON, check_lock, text_of, without_provided
from joblane.local.uv import failure, find_uv, installing_environment
from joblane.project import LOCKS, Project

LIBRARY = Path(__file__).parents[1]
RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
"""Version of this interpreter. An emulator runs the functions with it if possible."""
LAYOUT = "4"
"""Part of every hash: increase it when the build changes."""

LEFT_OUT_OF_CODE = ("tests", "demo", "__pycache__")
"""Folders of these names, and hidden files, are not in the zip; all other files are, including data files."""
LEFT_OUT_OF_LIBRARY = ("testing", "cli", "page", "local", "cdk", "locks", "inspector/remote.py", "django/testing.py")
"""Parts of the library that no function imports."""
LEFT_OUT_OF_PAGE = (
    *("testing", "cli", "cdk", "locks", "django", "functions", "worker", "sweep", "fastapi.py"),
    *("local/dev", "record/driver/certificates", "record/migrations"),
)
"""Parts of the library that the page's function does not import."""
LEFT_OUT_OF_LAYER = (
    ".lock",
    "bin",
    "*.dist-info/RECORD",  # wrong once files are removed
    "**/*.pyi",
    "**/*.pyx",
    "**/*.c",
    "**/*.h",
    "**/tests",
    "alembic/testing",
    "mako/testing",
    "sqlalchemy/testing",
    "sqlalchemy/dialects/*/provision.py",  # for SQLAlchemy's tests
    *(f"sqlalchemy/dialects/{name}" for name in ("mysql", "mssql", "oracle", "sqlite")),
    "alembic/templates",  # for `alembic init`
    "pydantic/mypy.py",
    "pydantic/v1/mypy.py",
    "pydantic/v1/_hypothesis_plugin.py",
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.js",  # no route shows this page
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.css",
)
"""Files that no handler needs at run time; tests verify that no remaining module imports them. Parts of a library that
a new task might import stay in the layer."""
WITHOUT_SOURCES = (
    "alembic",
    "asn1crypto",
    "aws_lambda_powertools",
    "dateutil",
    "mako",
    "pg8000",
    "pydantic",
    "sqlalchemy",
)
"""Packages of Joblane's own lock that read none of their sources at run time. Other packages may, and keep them."""
WHEEL_PLATFORMS: Mapping[Architecture, str] = {"arm64": "aarch64-manylinux_2_28", "x86_64": "x86_64-manylinux_2_28"}
"""Platform names of uv. Lambda's glibc 2.34 accepts newer names; ``manylinux2014`` silently selects older wheels."""
MACHINES: Mapping[Architecture, str] = {"arm64": "aarch64", "x86_64": "x86_64"}
"""Processor names in the tags of wheels."""


@dataclass(frozen=True)
class Package:
    """A zip, and its asset hash for the CDK."""

    path: Path
    hash: str


@dataclass(frozen=True)
class Packages:
    """The code and the layer of the functions, and the zip of the page, which has both, if the stage has a page."""

    code: Package
    layer: Package
    page: Package | None = None


def build_packages(stage: Stage, project: Project) -> Packages:
    """Build both zips in ``.joblane/build``. Raises :class:`SynthError`, also for a layer that Lambda cannot run."""
    if not project.handlers.is_dir():
        raise SynthError(f"{project.handlers}: no such folder; it must contain the handlers of the functions")
    check_lock(project.lock)
    target = project.make_folder() / "build"
    layer = build_layer(
        project.lock, None if stage.local else WHEEL_PLATFORMS[stage.architecture], target, find_uv(project)
    )
    if not stage.local:
        check_layer(layer.path, stage.architecture)
    code, page = build_code([*project.code_folders, LIBRARY], target), None
    if stage.page is not None:
        page = build_page(WHEEL_PLATFORMS[stage.architecture], target, find_uv(project))
        check_layer(page.path, stage.architecture)
    return Packages(code, layer, page)


# --- Code ----------------------------------------------------------------------------------------------------------


def build_code(folders: Iterable[Path], target: Path) -> Package:
    """Zip ``folders``, each under its own name, without the parts that no function imports."""
    contents = _contents(folders, LEFT_OUT_OF_LIBRARY)

    def fill(folder: Path) -> None:
        _write(contents, folder)
        _compile(folder, "/var/task")

    return _built(
        target, "code", _digest(LAYOUT, RUNNING, *(part for content in contents for part in content)), fill, level=9
    )


def _contents(folders: Iterable[Path], left_out_of_library: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return the name and the content of each file."""
    files = {
        path.relative_to(folder.parent): path for folder in folders for path in _sources(folder, left_out_of_library)
    }
    return [(name.as_posix(), path.read_bytes()) for name, path in sorted(files.items())]


def _write(contents: Iterable[tuple[str, bytes]], folder: Path) -> None:
    for name, content in contents:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _sources(folder: Path, left_out_of_library: Sequence[str]) -> Iterator[Path]:
    left_out = {folder / name for name in left_out_of_library} if folder.name == LIBRARY.name else set()

    def kept(path: Path) -> bool:
        return path.name not in LEFT_OUT_OF_CODE and not path.name.startswith(".") and path not in left_out

    for root, folders, files in os.walk(folder):
        where = Path(root)
        folders[:] = [name for name in folders if kept(where / name)]
        paths = (where / name for name in files if not name.endswith(".pyc"))
        yield from (path for path in paths if kept(path) and path.is_file())


# --- Dependencies --------------------------------------------------------------------------------------------------


def build_layer(lock: Path, platform: str | None, target: Path, uv: str) -> Package:
    """Install the packages of ``lock`` for ``platform`` (None: this machine), and zip them as a layer.

    Only wheels are installed, and their hashes are checked.
    """
    return _with_dependencies("layer", lock, platform, target, uv)


def build_page(platform: str | None, target: Path, uv: str) -> Package:
    """Zip the page with its packages, of ``platform`` (None: this machine). It has no database driver."""
    return _with_dependencies(
        "page", LOCKS / "page.txt", platform, target, uv, contents=_contents([LIBRARY], LEFT_OUT_OF_PAGE)
    )


def _with_dependencies(
    name: str, lock: Path, platform: str | None, target: Path, uv: str, *, contents: Sequence[tuple[str, bytes]] = ()
) -> Package:
    """Zip the packages of ``lock`` and ``contents``: together, or without contents as a layer."""
    wanted, (inside, mounted_at) = (
        without_provided(text_of(lock)),
        (".", "/var/task") if contents else ("python", "/opt"),
    )
    where, python = (platform, PYTHON) if platform else (f"{sys.platform}-{machine.machine()}", RUNNING)

    def fill(folder: Path) -> None:
        _install(uv, wanted, platform, python, folder / inside)
        _remove(folder / inside)
        _write(contents, folder)
        if python == RUNNING:
            _compile(folder, mounted_at)
            _remove_sources(folder / inside)
        elif not contents:
            message = f"joblane: the layer has no bytecode, so functions start slower; Python {python} builds it"
            print(message, file=sys.stderr)  # noqa: T201

    parts = (part for content in contents for part in content)
    shape = (*LEFT_OUT_OF_LAYER, *WITHOUT_SOURCES)
    digest = _digest(LAYOUT, RUNNING, python, where, wanted, *shape, *parts)
    return _built(target, f"{name}-{where}", digest, fill, level=6)


def _install(uv: str, requirements: str, platform: str | None, python: str, target: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(requirements)
        file.flush()
        command = [uv, "pip", "install", "--quiet", "--no-config", "--require-hashes", "--no-deps"]
        command += ["--only-binary", ":all:", "--link-mode", "copy", "--python", sys.executable]
        command += ["--python-version", python, "--target", str(target), "--requirements", file.name]
        command += ["--python-platform", platform] if platform else []
        environment = installing_environment(Project.here())
        done = subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    if done.returncode:
        problem = f"the dependency layer cannot be built for {platform or 'this machine'}"
        raise SynthError(failure(problem, done.stderr))


def _remove(folder: Path) -> None:
    """Remove the files of packages that no function needs."""
    for pattern in LEFT_OUT_OF_LAYER:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _remove_sources(folder: Path) -> None:
    """Replace the sources of :data:`WITHOUT_SOURCES` by their bytecode, which Python loads from the same place."""
    for source in [path for name in WITHOUT_SOURCES for path in (folder / name).rglob("*.py")]:
        bytecode = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        if bytecode.exists():
            bytecode.rename(source.with_suffix(".pyc"))
            source.unlink()


def check_layer(layer: Path, architecture: Architecture) -> None:
    """Raise :class:`SynthError` if a wheel in the zip ``layer`` is built for another processor than Lambda's.

    uv selects wheels for the right platform; this finds a zip that was built for another architecture.
    """
    suitable = re.compile(rf"^Tag: \S+-(any|\S*manylinux\S*_{MACHINES[architecture]})$", re.MULTILINE)
    with zipfile.ZipFile(layer) as archive:
        wheels = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        unsuitable = [Path(name).parent.stem for name in wheels if not suitable.search(archive.read(name).decode())]
    if unsuitable:
        raise SynthError(
            f"the dependency layer does not run on Lambda's architecture {architecture}: {', '.join(unsuitable)}. Set "
            f"the stage's `architecture` to that of the layer, or remove {layer} so that it is built again"
        )


# --- Both ----------------------------------------------------------------------------------------------------------


def _built(target: Path, name: str, digest: str, fill: Callable[[Path], None], level: int) -> Package:
    """Return the zip ``NAME-DIGEST`` of the files that ``fill`` writes into a folder. An existing zip is used again.

    ``level``: of zlib, 6 by default. 9 is 0.5 to 1 % smaller and takes up to four times as long, so it is for the code
    only, which is small.
    """
    package = Package(target / f"{name}-{digest[:16]}.zip", digest)
    if package.path.exists():
        return package
    target.mkdir(parents=True, exist_ok=True)
    with (target / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may build it at this moment
        if not package.path.exists():
            # next to the zips, so that a finished zip is moved in one step
            with tempfile.TemporaryDirectory(dir=target, prefix="building-") as folder:
                fill(Path(folder))
                _zip(Path(folder), package.path, level)
    return package


def _digest(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8))
        digest.update(content)
    return digest.hexdigest()


def _compile(folder: Path, mounted_at: str) -> None:
    """Compile to bytecode with Lambda's paths, because a function cannot write bytecode itself.

    Python loads it without checking the source. A separate interpreter compiles, because the strings that a ``.pyc``
    shares depend on the modules loaded in the interpreter.
    """
    command = [sys.executable, "-I", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(folder), "-p", mounted_at, str(folder)]
    subprocess.run(command, check=False)  # noqa: S603 - a file with invalid syntax gets no bytecode


def _zip(folder: Path, target: Path, level: int) -> None:
    """Zip ``folder``, always with the same times and permissions, and move the complete zip to ``target``."""
    unfinished = folder.with_suffix(".zip")
    with zipfile.ZipFile(unfinished, "w") as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes(), compresslevel=level)
    unfinished.replace(target)
