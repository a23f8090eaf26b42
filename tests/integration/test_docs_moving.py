"""The projects that pages show are written into a folder and tested there by pytest; other systems' code compiles.

A block of Python that begins with a path, ``# functions/receipt_send/handler.py``, is that file of the page's project.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import OTHER_SYSTEMS, ROOT, Block, blocks

DOCS = ROOT / "docs"
LLMS = DOCS / "llms.txt"
PROJECTS = (
    DOCS / "moving" / "celery.md",
    DOCS / "moving" / "dramatiq.md",
    DOCS / "moving" / "redis-queues.md",
    LLMS,
)
OWN = 'lint.isort.known-first-party = ["functions", "joblane"]'
"""As ruff finds out where the files exist."""
NAME = re.compile(r"# (\S+\.py)\n")
TEST = re.compile(r"^def (test_\w+)", re.M)


def write(folder: Path, page: Path) -> int:
    """Write the files of a page's project. Returns how many tests they hold."""
    tests = 0
    for block in blocks("python", page):
        if block.mark in OTHER_SYSTEMS:
            continue
        name = NAME.match(block.text)
        assert name, f"{block}: begin with the file's path, or mark the block"
        path = folder / name[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        if not path.parent.is_relative_to(folder / "tests"):
            for package in (path.parent, *path.parent.parents):
                if package == folder:
                    break
                (package / "__init__.py").touch()
        tests += len(TEST.findall(block.text))
    return tests


def imported(folder: Path) -> None:
    """Add a test that imports each module of the project: the tests of the page need not use all of them."""
    files = (path.relative_to(folder) for path in folder.rglob("*.py") if path.name != "__init__.py")
    modules = sorted(".".join(path.with_suffix("").parts) for path in files if path.parts[0] != "tests")
    lines = ["def test_every_module_is_imported():", *(f"    import {module}" for module in modules)]
    (folder / "tests" / "test_every_module.py").write_text("\n".join(lines))


def run(folder: Path, server: str) -> str:
    """Run the tests of a project in a process of their own. Returns what pytest printed."""
    installed = {point.name for point in importlib.metadata.entry_points(group="pytest11")}
    plugin = [] if "joblane" in installed else ["-p", "joblane.testing.pytest_plugin"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT / "shared")])
    command = [sys.executable, "-m", "pytest", *plugin, "-q", "-W", "error", "-p", "no:cacheprovider", "tests"]
    command.append(f"--joblane-database={server}")
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.parametrize("page", PROJECTS, ids=lambda page: page.stem)
def test_the_project_of_a_page_passes_its_tests(page: Path, tmp_path: Path, joblane_server: str) -> None:
    tests = write(tmp_path, page)
    assert tests
    imported(tmp_path)
    assert f"\n{tests + 1} passed" in (printed := run(tmp_path, joblane_server)), printed


@pytest.mark.parametrize("block", blocks("python", LLMS), ids=str)
@pytest.mark.parametrize("command", ["check", "format --check"])
def test_the_example_for_coding_agents_is_in_this_projects_form(command: str, block: Block) -> None:
    name = block.text.split()[1].replace("tests/", "tests/integration/")
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command.split(), "--config", OWN, "--stdin-filename", name, "-"],
        input=block.text,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.mark in OTHER_SYSTEMS], ids=str)
def test_code_of_another_system_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec", dont_inherit=True)


def test_every_test_that_the_comparison_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+\.py)`", (DOCS / "explanation" / "comparison.md").read_text()))
    assert named
    assert named - {path.name for path in (ROOT / "tests").rglob("test_*.py")} == set()


def test_every_name_that_the_glossary_gives_is_in_the_code() -> None:
    names = set(re.findall(r"`(?:\w+\.)*(\w+)=?`", (DOCS / "glossary.md").read_text()))
    folders = [ROOT / "shared" / "joblane", ROOT / "functions"]
    code = "\n".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))
    assert len(names) > 20
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()
