"""Planting a bug in a database, or in the code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from joblane.record.driver.database import Database
from joblane.record.sql_functions import FUNCTIONS

Texts = Mapping[str, tuple[str, str, str]]
"""Bug → a function of the database, a text there, and the text in its place."""
Methods = Mapping[str, tuple[Any, str]]
"""Bug → a class or module, and its method that does nothing."""


@contextmanager
def plant(url: str, bug: str, texts: Texts, methods: Methods) -> Iterator[None]:
    """Plant a bug. One in the code ends with the block."""
    if bug in methods:
        with patch.object(*methods[bug], lambda *_, **__: None):
            yield
        return
    function, old, new = texts[bug]
    assert old in FUNCTIONS[function], f"{function} has changed: the bug can no longer be planted by this text"
    with Database(url) as database:
        database.get().execute_simple(FUNCTIONS[function].replace(old, new))
    yield
