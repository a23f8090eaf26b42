"""The content of built zips, and that a second build gives the same. test_packages has tests of the real zips."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from joblane.cdk import packaging
from joblane.cdk.errors import SynthError
from joblane.cdk.packaging import build_code, build_layer, build_page
from joblane.local.errors import LocalError
from joblane.local.locked import without_provided
from joblane.local.uv import find_uv
from joblane.project import Project, ProjectError
from tests.pages import ROOT


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A small checkout."""
    write(tmp_path, "functions/a/handler.py", "shared/b.py", "shared/d/tests/test_d.py")
    write(tmp_path, "joblane/cli/c.py", "joblane/page/e.py", "joblane/page/static/e.js")
    return tmp_path


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"WHERE = {name!r}\n")


def build(sources: Path) -> tuple[str, Path]:
    package = build_code([sources / name for name in ("functions", "shared", "joblane")], sources / "built")
    return package.hash, package.path


def test_programs_that_need_the_same_zip_at_once_build_it_once(tmp_path: Path) -> None:
    built: list[Path] = []

    def fill(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.1)  # the others start, too

    with ThreadPoolExecutor(3) as pool:
        packages = [pool.submit(packaging._built, tmp_path, "code", "d1" * 32, fill, 1) for _ in range(3)]
    assert {package.result().path for package in packages} == {tmp_path / "code-d1d1d1d1d1d1d1d1.zip"}
    assert len(built) == 1


# --- Code ----------------------------------------------------------------------------------------------------------


def test_the_code_zip_holds_only_imported_modules_with_bytecode(sources: Path) -> None:
    _, path = build(sources)
    names = zipfile.ZipFile(path).namelist()
    assert {name for name in names if name.endswith(".py")} == {"functions/a/handler.py", "shared/b.py"}
    tag = sys.implementation.cache_tag
    assert {f"functions/a/__pycache__/handler.{tag}.pyc", f"shared/__pycache__/b.{tag}.pyc"} < set(names)


def test_data_files_are_in_the_code_zip_and_hidden_files_are_not(sources: Path) -> None:
    write(
        sources,
        "shared/certificates/ca.pem",
        "shared/joblane/record/migrations/script.py.mako",
        "shared/joblane/record/migrations/versions/1.py",
    )
    write(sources, "shared/.DS_Store", "shared/.cache/d.py")
    _, path = build(sources)
    names = {name for name in zipfile.ZipFile(path).namelist() if not name.endswith(".pyc")}
    assert names == {
        "functions/a/handler.py",
        "shared/b.py",
        "shared/certificates/ca.pem",
        "shared/joblane/record/migrations/script.py.mako",
        "shared/joblane/record/migrations/versions/1.py",
    }


def test_the_same_code_has_the_same_hash_and_the_same_zip(sources: Path) -> None:
    first, path = build(sources)
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert build(sources) == (first, path)
    assert path.stat().st_mtime_ns == written  # not built again
    path.unlink()
    build(sources)
    assert path.read_bytes() == content


BUILD = """
import os, sys
from pathlib import Path
os.umask(int(sys.argv[2], 8))
for module in sys.argv[3:]:
    __import__(module)
from joblane.cdk.packaging import build_code, build_layer
from joblane.local.uv import find_uv
from joblane.project import Project
root = Path(sys.argv[1])
print(build_code([root / "functions", root / "shared" / "joblane"], root / "built").path)
print(build_layer(root / "lock.txt", None, root / "built", find_uv(Project.here())).path)
"""
SMALL = ("mako", "markupsafe")
"""Packages of the lock for a small layer, one of them with a shared object."""


def build_elsewhere(folder: Path, *loaded: str, written_at: int, umask: str, **environ: str) -> list[Path]:
    """Build zips of this checkout's code and of a small layer, from a copy, in a separate interpreter."""
    for name in ("functions", "shared"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    lock = Project.here().lock.read_text()
    entries = re.findall(rf"^(?:{'|'.join(SMALL)})==.*(?:\n +--hash.*)*", lock, re.MULTILINE)
    (folder / "lock.txt").write_text("\n".join(entries) + "\n")
    for path in folder.rglob("*"):
        os.utime(path, (written_at, written_at))
    command = [sys.executable, "-c", BUILD, str(folder), umask, *loaded]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def test_zips_are_the_same_to_the_byte_on_any_machine(uv: str, tmp_path: Path) -> None:
    # In an interpreter that has loaded alembic.command, the compiler writes different bytecode for mako.
    first = build_elsewhere(tmp_path / "first", written_at=10**9, umask="022", PYTHONHASHSEED="1", TZ="UTC")
    folder = tmp_path / "a longer name"
    second = build_elsewhere(
        folder, "alembic.command", written_at=2 * 10**9, umask="077", PYTHONHASHSEED="2", TZ="Asia/Tokyo"
    )
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    names = zipfile.ZipFile(first[1]).namelist()
    assert "python/mako/codegen.pyc" in names
    assert any(name.startswith("python/markupsafe/") and name.endswith(".so") for name in names)


@pytest.mark.parametrize("change", ["content", "name"])
def test_changed_code_has_another_hash(sources: Path, change: str) -> None:
    before, _ = build(sources)
    file = sources / "shared" / "b.py"
    if change == "content":
        file.write_text("WHERE = 'elsewhere'\n")
    else:
        file.rename(file.with_name("c.py"))
    assert build(sources)[0] != before


def test_a_change_outside_the_functions_changes_no_hash(sources: Path) -> None:
    before, _ = build(sources)
    (sources / "joblane" / "cli" / "c.py").write_text("WHERE = 'elsewhere'\n")
    assert build(sources)[0] == before


def test_no_path_of_this_machine_is_in_the_zip(sources: Path) -> None:
    _, path = build(sources)
    archive = zipfile.ZipFile(path)
    assert not [name for name in archive.namelist() if str(sources).encode() in archive.read(name)]


# --- Dependencies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "passed"), [(None, "true"), ("false", "false")])
def test_uv_trusts_the_authorities_of_this_machine_and_caches_where_it_can_write(
    given: str | None, passed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_SYSTEM_CERTS", raising=False)
    if given is not None:
        monkeypatch.setenv("UV_SYSTEM_CERTS", given)
    monkeypatch.setenv("HOME", "/proc/nope")
    monkeypatch.delenv("UV_CACHE_DIR", raising=False)
    program, lock = tmp_path / "uv", tmp_path / "lock.txt"
    program.write_text('#!/bin/sh\necho "certificates: $UV_SYSTEM_CERTS, cache: $UV_CACHE_DIR" >&2\nexit 1\n')
    program.chmod(0o755)
    lock.write_text("a==1\n")
    with pytest.raises(SynthError, match=f"certificates: {passed}, cache: .*/.joblane/cache/uv"):
        build_layer(lock, None, tmp_path / "built", str(program))


def test_the_lock_is_used_without_the_packages_of_the_runtime() -> None:
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
    with pytest.raises(ProjectError, match=r"nowhere\.txt: no such file; it must be the lock, with hashes"):
        build_layer(tmp_path / "nowhere.txt", None, tmp_path, "uv")


def test_a_missing_uv_is_an_error_that_names_the_places_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV", "/no/such/uv")
    with pytest.raises(LocalError, match="UV=/no/such/uv is not an executable; uv installs packages"):
        find_uv(Project.here())


def test_a_failed_installation_is_an_error_with_the_output_of_uv(tmp_path: Path, uv: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("pg8000==1.31.5\n")  # no hash
    with pytest.raises(SynthError, match=r"the dependency layer cannot be built for this machine:\n(.|\n)*hash"):
        build_layer(lock, None, tmp_path, uv)


def test_the_layer_holds_no_package_of_the_page() -> None:
    lock = Project.here().lock.read_text()
    assert re.findall(r"^(?:starlette|jinja2|uvicorn|anyio|h11)\b", lock, re.MULTILINE) == []


# --- The page ------------------------------------------------------------------------------------------------------


def test_the_zip_of_the_page_has_its_packages_and_the_page_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a small library, and packages that are not fetched
    write(tmp_path, "joblane/page/e.py", "joblane/cli/c.py", "joblane/local/errors.py", "joblane/local/dev/d.py")
    write(tmp_path, "joblane/record/migrations/m.py", "joblane/worker/w.py", "joblane/page/templates/t.html")
    installed: list[str] = []

    def install(uv: str, requirements: str, platform: str | None, python: str, target: Path) -> None:
        installed.append(requirements)
        write(target, "jwt/j.py", "jwt/tests/t.py", "bin/b")

    monkeypatch.setattr(packaging, "LIBRARY", tmp_path / "joblane")
    monkeypatch.setattr(packaging, "_install", install)
    # when
    built = build_page(None, tmp_path / "built", "uv")
    # then
    names = {name for name in zipfile.ZipFile(built.path).namelist() if not name.endswith(".pyc")}
    assert names == {"joblane/page/e.py", "joblane/page/templates/t.html", "joblane/local/errors.py", "jwt/j.py"}
    assert "pyjwt==" in installed[0]
    assert not [name for name in ("pg8000", "sqlalchemy", "boto3") if f"{name}==" in installed[0]]
    # and it is built again only if something has changed
    assert build_page(None, tmp_path / "built", "uv") == built
    assert len(installed) == 1
    write(tmp_path, "joblane/page/new.py")
    assert build_page(None, tmp_path / "built", "uv").hash != built.hash
