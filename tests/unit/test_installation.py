"""The command that installs an extra, and the name `joblane`, which no text installs until it is published."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from joblane import installation
from joblane.cli.extras import advice
from joblane.project import LOCKS
from tests.pages import PAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_list_for_ci_has_the_extras_in_the_versions_of_the_functions() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([\w-]+)==(\S+)", (LOCKS / name).read_text(), re.M))

    needed = [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["cdk"],
        *PROJECT["optional-dependencies"]["test"],
    ]
    ours = versions("ci.txt")
    assert {Requirement(each).name for each in needed} <= ours.keys()
    assert ours.items() >= versions("runtime.txt").items()


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The files of joblane's distribution. pip of this environment is on the path."""
    found = {"INSTALLER": "pip\n"}
    monkeypatch.setattr(installation, "_metadata", found.get)
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).with_name(name)))
    return found


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({"url": "file:///WHEEL", "archive_info": {}}, "pip install 'joblane[cdk] @ file:///WHEEL'"),
        ({"url": "file:///gone.whl", "archive_info": {}}, "pip install 'joblane-VERSION-py3-none-any.whl[cdk]'"),
        ({"url": "file:///FOLDER", "dir_info": {"editable": True}}, "pip install --editable '/FOLDER[cdk]'"),
        ({"url": "file:///FOLDER", "dir_info": {}}, "pip install 'joblane[cdk] @ file:///FOLDER'"),
        (
            {"url": "https://host/path.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'joblane[cdk] @ git+https://host/path.git@abc'",
        ),
        (
            {"url": "https://h/p", "vcs_info": {"vcs": "git", "commit_id": "abc"}, "subdirectory": "lib"},
            "pip install 'joblane[cdk] @ git+https://h/p@abc#subdirectory=lib'",
        ),
        (
            {"url": "https://host/joblane.whl", "archive_info": {}},
            "pip install 'joblane[cdk] @ https://host/joblane.whl'",
        ),
        ({}, "pip install 'joblane-VERSION-py3-none-any.whl[cdk]'"),
    ],
)
def test_an_extra_comes_from_the_origin_of_the_installation(
    origin: dict[str, Any], command: str, installed: dict[str, str], tmp_path: Path
) -> None:
    wheel, folder = tmp_path / "a joblane.whl", tmp_path / "checkout"
    wheel.touch()
    folder.mkdir()

    def at(text: str) -> str:
        return text.replace("/FOLDER", str(folder)).replace("file:///WHEEL", wheel.as_uri())

    installed["direct_url.json"] = at(json.dumps(origin))
    assert installation.install("cdk") == at(command).replace("VERSION", installation.version())
    assert installation.wheel() == (wheel if "WHEEL" in command else None)


def test_once_published_an_installation_from_an_index_names_the_package(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "PUBLISHED", True)
    assert installation.install("cdk") == "pip install 'joblane[cdk]'"
    assert advice("typer.main") == "the package 'typer' is missing: pip install 'joblane[cli]'"
    # and another one does not
    installed["direct_url.json"] = '{"url": "https://host/joblane.whl"}'
    assert installation.install("cdk") == "pip install 'joblane[cdk] @ https://host/joblane.whl'"


def test_the_command_installs_into_the_environment_that_runs(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    python = shlex.quote(sys.executable)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/pip")
    assert installation.install("cdk").startswith(f"{python} -m pip install 'joblane-")
    installed["INSTALLER"] = "uv"
    assert installation.install("cdk").startswith(f"uv pip install --python {python} 'joblane-")


def test_code_without_a_distribution_names_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert installation.install("cdk").endswith(" 'joblane-VERSION-py3-none-any.whl[cdk]'")
    assert installation.wheel() is None


# --- The name --------------------------------------------------------------------------------------------------------

NAME = r"joblane(?:\[[^\]\n]*\])?(?![\w.\[-]| *@)"
"""The name of the package as a requirement: neither a wheel nor an address."""
BY_NAME = re.compile(
    "|".join(
        (
            rf"\b(?:pip3?|pipx|uv|poetry|pdm)\b[^\n`]*? (?:install|add|inject)\b[^\n`]*?[ '\"]{NAME}",
            rf"--(?:with|from)[ =]['\"]?{NAME}",
            rf"\b(?:uvx|pipx run) ['\"]?{NAME}",
            r"\bjoblane(?:\[[\w,]+\])?\s*[=~><]=\s*[\d{]",
        )
    )
)
"""Text that installs joblane from an index."""
SHIPPED = [
    *PAGES,
    ROOT / "Makefile",
    *(
        path
        for folder in ("shared", ".github", ".ci", "infra", "functions", "requirements")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.is_file() and not {"__pycache__", "joblane.egg-info"} & {*path.parts}
    ),
]
BRANCH = re.compile(r"{% if published %}.*?{% else %}", re.S)
"""The part of a template that is written once the name is published."""


@pytest.mark.skipif(installation.PUBLISHED, reason="the name belongs to this project")
def test_no_shipped_text_installs_joblane_by_its_name() -> None:
    texts = {path: BRANCH.sub("", path.read_bytes().decode("utf-8", "replace")) for path in SHIPPED}
    assert len(texts) > 500
    assert [f"{path}: {found[0]}" for path, text in texts.items() for found in BY_NAME.finditer(text)] == []


@pytest.mark.parametrize(
    ("text", "by_name"),
    [
        ("pip install joblane", True),
        ("pip install 'joblane[cdk]'", True),
        ('python -m pip install "joblane[cdk,test]==0.1.0" uv', True),
        ("uv add joblane", True),
        ('uv add "joblane[local]"', True),
        ("uv pip install --python x joblane", True),
        ("uv run --with=joblane joblane ls", True),
        ("pipx install joblane", True),
        ("uvx joblane ls", True),
        ('dependencies = ["joblane[cdk]>=0.1"]', True),
        ("joblane==0.1.0", True),
        ('pip install "joblane-0.1.0-py3-none-any.whl[local,test]"', False),
        ("pip install 'joblane[cdk] @ file:///x/joblane-0.1.0-py3-none-any.whl'", False),
        ('uvx --from "./joblane-0.1.0-py3-none-any.whl[cli]" joblane --help', False),
        ('fastapi = ["joblane[async]", "fastapi>=0.115"]', False),
        ("pip install -r requirements-joblane.txt", False),
    ],
)
def test_an_installation_by_name_is_recognised(text: str, by_name: bool) -> None:
    assert bool(BY_NAME.search(text)) is by_name


# --- A Python that is too old ----------------------------------------------------------------------------------------

OLD = "import sys; sys.version, sys.version_info = '3.10.13 (main)', (3, 10, 13, 'final', 0); "


def test_an_import_by_an_old_python_names_the_version_that_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", OLD + "import joblane"], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert last == f"ImportError: Joblane needs Python 3.11 or newer, and {sys.executable} is 3.10.13"


def test_make_refuses_an_old_python_before_it_writes_anything(tmp_path: Path) -> None:
    # given
    locks = tmp_path / LOCKS.relative_to(ROOT)
    locks.mkdir(parents=True)
    for path in (ROOT / "Makefile", LOCKS / "uv.txt"):
        shutil.copy(path, tmp_path / path.parent.relative_to(ROOT))
    old = tmp_path / "python3.10"
    old.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{OLD} exec(sys.argv[2])" "$@"\n')
    old.chmod(0o755)
    # when
    command = ["make", "PYTHON=./python3.10", ".joblane/tools/bin/uv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    # then
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "Joblane needs Python 3.11 or newer, and ./python3.10 is 3.10; name another with make PYTHON=…\n"
    )
    assert not (tmp_path / ".joblane").exists()
