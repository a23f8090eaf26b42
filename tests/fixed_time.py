"""A clock that stands, for golden files of commands and pages below ``tests/unit/golden``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from tests.builders import views
from tests.golden import golden

FOLDER = Path(__file__).parent / "unit" / "golden"
NOW = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)
Golden = Callable[[str, str], None]


class _AnyTime(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, datetime)


class Clock(datetime, metaclass=_AnyTime):
    """A clock that stands."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Any:
        return NOW.astimezone(tz)


def at_fixed_time(monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Stop the clock of the library and of :mod:`tests.builders.views`.

    Return the function that compares a string with the golden file of a name.
    """
    monkeypatch.setattr(views, "NOW", NOW)
    for name, module in list(sys.modules.items()):
        if name.startswith(("joblane.cli", "joblane.page", "joblane.inspector")) and hasattr(module, "datetime"):
            monkeypatch.setattr(module, "datetime", Clock)
    return compare


def compare(name: str, text: str) -> None:
    """Compare a string with its file, without spaces at the ends of lines."""
    golden(FOLDER / name, "\n".join(line.rstrip() for line in text.strip().splitlines()))
