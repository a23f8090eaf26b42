"""The documentation site builds without a warning, and its pages load nothing from another host."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from joblane.project import Project
from tests.pages import ROOT

STRICT = ("--quiet", "--fresh-env", "--fail-on-warning")
EXTERNAL = re.compile(r"(?:[a-z]+:)?//", re.I)
LOADED_BY_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.I)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as by `make docs`. The next run uses it again if no page and no package has changed."""
    pages = (path for path in sorted((ROOT / "docs").rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    digest = hashlib.sha256(sys.version.encode())
    for path in (*pages, *sorted(ROOT.glob("*.md")), ROOT / "requirements" / "dev.txt", ROOT / "pyproject.toml"):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    kept = Project(ROOT).make_folder() / "cache" / "site"
    site = kept / digest.hexdigest()[:16]
    if not site.exists():
        new = tmp_path_factory.mktemp("site")
        command = [
            sys.executable,
            "-m",
            "sphinx",
            *STRICT,
            "--doctree-dir",
            str(new / "trees"),
            "docs",
            str(new / "site"),
        ]
        built = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
        assert built.returncode == 0, built.stdout + built.stderr
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(new / "site", kept / "new")
        (kept / "new").rename(site)
    return site


class Loaded(HTMLParser):
    """The addresses that a browser loads to show a page: all except links to click."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "srcset", "poster", "data"} or (name == "href" and tag in {"link", "use", "image"}):
                self.addresses.append(value or "")


def loaded(text: str) -> list[str]:
    parser = Loaded()
    parser.feed(text)
    return [*parser.addresses, *LOADED_BY_CSS.findall(text)]


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    assert all(loaded(page.read_text()) for page in pages)
    found = {(page.name, address) for page in pages for address in loaded(page.read_text()) if EXTERNAL.match(address)}
    assert found == set()


def test_no_stylesheet_loads_anything_from_another_host(site: Path) -> None:
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    assert {(sheet.name, address) for sheet in sheets for address in LOADED_BY_CSS.findall(sheet.read_text())} == set()


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.example.com/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example.com/css">',
        "<style>@import url('https://fonts.example.com/css');</style>",
    ],
)
def test_an_address_on_another_host_is_found(text: str) -> None:
    assert any(EXTERNAL.match(address) for address in loaded(text))


def test_a_link_to_click_is_not_loaded() -> None:
    assert loaded('<a href="https://example.com/">more</a>') == []


def test_the_page_for_coding_agents_is_at_the_root(site: Path) -> None:
    assert (site / "llms.txt").read_text() == (ROOT / "docs" / "llms.txt").read_text()


def test_make_builds_the_site_with_the_same_options() -> None:
    assert f"sphinx {' '.join(STRICT)} " in (ROOT / "Makefile").read_text()
