"""The module for FastAPI."""

from __future__ import annotations

import asyncio
import importlib
import sys

import pytest
from fastapi import FastAPI

import joblane.fastapi
from joblane import JobClient


def test_a_missing_package_is_named_with_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "joblane.fastapi")
    with pytest.raises(
        ModuleNotFoundError, match=r"^the package 'fastapi' is missing: pip install 'joblane\[fastapi\]'$"
    ):
        importlib.import_module("joblane.fastapi")


def test_each_application_has_its_own_client() -> None:
    outer, mounted = FastAPI(), FastAPI()

    async def main() -> None:
        async with joblane.fastapi.lifespan(outer), joblane.fastapi.lifespan(mounted):
            assert isinstance(outer.state.joblane, JobClient)
            assert outer.state.joblane is not mounted.state.joblane

    asyncio.run(main())
