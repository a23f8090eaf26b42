"""Golden files: what a program wrote when it was last reviewed. ``pytest --golden=write`` writes them again."""

from __future__ import annotations

from pathlib import Path

import pytest


class Mode:
    """Set by the option ``--golden``."""

    writes = False


def add_option(parser: pytest.Parser) -> None:
    help_ = "write: replace golden files that differ, instead of failing; review their diff"
    parser.addoption("--golden", default="check", choices=("check", "write"), help=help_)


def golden(path: Path, text: str) -> None:
    """Compare a string with the golden file ``path``, line by line."""
    text = text.rstrip("\n") + "\n"
    known = path.read_text() if path.exists() else ""
    if Mode.writes and text != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        known = text
    assert text.splitlines() == known.splitlines(), f"if the change is right: pytest --golden=write, for {path.name}"
