"""The modules of each extra, by which a command says what to install."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from joblane.cli.extras import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_asks_only_for_modules_that_it_installs(extra: str) -> None:
    installed = {re.split(r"[^\w-]", package)[0] for package in PROJECT["optional-dependencies"][extra]}
    sources = packages_distributions()
    of = {module: {name.lower() for name in sources.get(module, ())} for module in EXTRAS[extra]}
    assert [module for module, packages in of.items() if installed.isdisjoint(packages)] == []
