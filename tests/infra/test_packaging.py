"""What goes into the zips, and that what goes in is enough: every handler is imported from them alone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from infra.constructs.front_door import HANDLER
from infra.constructs.task_function import ENTRY
from infra.errors import SynthError
from infra.packaging import (
    LEFT_OUT_OF_CODE,
    PROVIDED,
    ROOT,
    WHEEL_PLATFORMS,
    build_code,
    build_layer,
    find_uv,
    without_provided,
)
from shared.jobs.discovery import discover

LOCK = ROOT / "requirements" / "runtime.txt"
BUILT = ROOT / ".build"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A small checkout."""
    for name in ("functions/a/handler.py", "shared/b.py", "shared/cli/c.py", "shared/d/tests/test_d.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"WHERE = {name!r}\n")
    return tmp_path


def build(sources: Path) -> tuple[str, Path]:
    package = build_code([sources / "functions", sources / "shared"], sources / "built")
    return package.hash, package.path


# --- Code ----------------------------------------------------------------------------------------------------------


def test_code_holds_what_functions_import_with_bytecode_and_nothing_else(sources: Path) -> None:
    _, path = build(sources)
    names = zipfile.ZipFile(path).namelist()
    assert {name for name in names if name.endswith(".py")} == {"functions/a/handler.py", "shared/b.py"}
    tag = sys.implementation.cache_tag
    assert {f"functions/a/__pycache__/handler.{tag}.pyc", f"shared/__pycache__/b.{tag}.pyc"} < set(names)


def test_the_same_code_has_the_same_hash_and_the_same_zip(sources: Path) -> None:
    first, path = build(sources)
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert build(sources) == (first, path)
    assert path.stat().st_mtime_ns == written  # not even built again
    path.unlink()
    build(sources)
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", ["content", "name"])
def test_changed_code_has_another_hash(sources: Path, change: str) -> None:
    before, _ = build(sources)
    file = sources / "shared" / "b.py"
    if change == "content":
        file.write_text("WHERE = 'elsewhere'\n")
    else:
        file.rename(file.with_name("c.py"))
    assert build(sources)[0] != before


def test_a_change_that_no_function_sees_changes_nothing(sources: Path) -> None:
    before, _ = build(sources)
    (sources / "shared" / "cli" / "c.py").write_text("WHERE = 'elsewhere'\n")
    assert build(sources)[0] == before


def test_no_path_of_this_machine_is_in_the_zip(sources: Path) -> None:
    _, path = build(sources)
    archive = zipfile.ZipFile(path)
    assert not [name for name in archive.namelist() if str(sources).encode() in archive.read(name)]


# --- Dependencies --------------------------------------------------------------------------------------------------


def test_the_lock_is_taken_without_what_the_runtime_brings() -> None:
    lock = (
        "# made by uv\n"
        "boto3==1.2 \\\n    --hash=sha256:aa\n    # via joblane\n"
        "boto3-stubs==3 \\\n    --hash=sha256:bb\n"
        "pg8000==1.31 \\\n    --hash=sha256:cc \\\n    --hash=sha256:dd\n    # via joblane\n"
        "Urllib3==2 ; python_version > '3' \\\n    --hash=sha256:ee\n"
    )
    assert without_provided(lock) == (
        "boto3-stubs==3 \\\n    --hash=sha256:bb\npg8000==1.31 \\\n    --hash=sha256:cc \\\n    --hash=sha256:dd\n"
    )


def test_a_missing_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(SynthError, match=r"nowhere\.txt: no such file; it is the hashed lock"):
        build_layer(tmp_path / "nowhere.txt", None, tmp_path)


def test_a_missing_uv_says_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV", "/no/such/uv")
    with pytest.raises(SynthError, match="UV=/no/such/uv is no executable; it builds the dependency layer"):
        find_uv()


def test_what_cannot_be_installed_is_told_with_uvs_words(tmp_path: Path, uv: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("pg8000==1.31.5\n")  # no hash
    with pytest.raises(SynthError, match=r"the dependency layer cannot be built for this machine:\n(.|\n)*hash"):
        build_layer(lock, None, tmp_path)


# --- The real ones -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def uv() -> str:
    try:
        return find_uv()
    except SynthError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def unpacked(uv: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The real code and this machine's layer, as Lambda unpacks them: ``/var/task`` and ``/opt/python``."""
    code, layer = tmp_path_factory.mktemp("task"), tmp_path_factory.mktemp("opt")
    zipfile.ZipFile(build_code([ROOT / "functions", ROOT / "shared"], BUILT).path).extractall(code)
    zipfile.ZipFile(build_layer(LOCK, None, BUILT).path).extractall(layer)
    return code, layer / "python"


def test_the_layer_holds_no_package_that_the_runtime_brings(unpacked: tuple[Path, Path]) -> None:
    installed = {path.name for path in unpacked[1].iterdir()}
    assert {"pg8000", "pydantic", "sqlalchemy", "aws_lambda_powertools"} <= installed
    assert not installed & set(PROVIDED)


def test_the_code_holds_nothing_of_operators_and_tests(unpacked: tuple[Path, Path]) -> None:
    parts = {part for path in unpacked[0].rglob("*.py") for part in path.relative_to(unpacked[0]).parts}
    assert not parts & {*LEFT_OUT_OF_CODE}


IMPORT = """
import sys
sys.path[:0] = sys.argv[2:]
module, _, name = sys.argv[1].rpartition(".")
import importlib
assert callable(getattr(importlib.import_module(module), name))
"""


def import_alone(what: str, unpacked: tuple[Path, Path], **environ: str) -> subprocess.CompletedProcess[str]:
    """Import ``module.name`` in an interpreter that has nothing but the two folders and the standard library."""
    command = [sys.executable, "-I", "-S", "-B", "-c", IMPORT, what, *map(str, unpacked)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("type_", [*discover()])
def test_every_task_is_imported_from_the_zips_alone_without_boto3(type_: str, unpacked: tuple[Path, Path]) -> None:
    done = import_alone(ENTRY, unpacked, JOBLANE_TASK=type_, DATABASE_URL="postgresql://jobs@127.0.0.1:1/jobs")
    assert done.returncode == 0, done.stderr


def test_the_router_is_imported_from_the_zips_alone(unpacked: tuple[Path, Path]) -> None:
    done = import_alone(HANDLER, unpacked)
    assert done.returncode == 0, done.stderr


def test_an_interpreter_without_the_zips_finds_nothing(tmp_path: Path) -> None:
    assert "ModuleNotFoundError" in import_alone(HANDLER, (tmp_path, tmp_path)).stderr


def test_the_layer_for_aws_holds_wheels_for_arm_alone(uv: str) -> None:
    layer = build_layer(LOCK, WHEEL_PLATFORMS["arm64"], BUILT)
    libraries = [name for name in zipfile.ZipFile(layer.path).namelist() if name.endswith(".so")]
    assert libraries
    assert [name for name in libraries if "aarch64" not in name] == []
    assert layer.path.stat().st_size < 20_000_000
