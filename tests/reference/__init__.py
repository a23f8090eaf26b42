"""The generated parts of ``docs/reference``.

``python -m tests.reference`` writes them into the pages, between ``<!-- generated: NAME -->`` and ``<!-- end -->``;
``tests/unit/test_reference.py`` compares the pages with the code.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.pages import ROOT
from tests.reference.sections import PAGES

FOLDER = ROOT / "docs" / "reference"


def page(name: str) -> Path:
    return FOLDER / f"{name}.md"


def rendered(name: str, text: str) -> str:
    """The page with its generated parts made anew."""
    for mark, make in PAGES[name].items():
        marked = re.compile(rf"(<!-- generated: {mark} -->\n).*?(<!-- end -->)", re.S)
        made = make()
        text, count = marked.subn(lambda match, made=made: f"{match[1]}\n{made}\n\n{match[2]}", text)  # type: ignore[misc]
        assert count == 1, f"{name}.md has <!-- generated: {mark} --> {count} times"
    return text
