"""An import that does not end is named by its line."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from joblane.local.dev import channel
from joblane.local.dev.channel import named_if_slow
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
def naming(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[], None]:
    """A function that ends when its place was named, which waits until it is called."""
    called, named = Event(), Event()
    name = channel._name

    def name_and_tell(thread: int, root: Path) -> None:
        called.wait(PATIENCE_SECONDS)
        name(thread, root)
        named.set()

    def wait() -> None:
        called.set()
        assert named.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(channel, "SECONDS", 0.01)
    monkeypatch.setattr(channel, "_name", name_and_tell)
    return wait


def test_a_slow_import_is_named_by_its_line(
    tmp_path: Path, naming: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("import os\nwait()\n")
    with named_if_slow(tmp_path):
        runpy.run_path(str(handler), {"wait": naming})
    assert capsys.readouterr().out.startswith("handler.py, line 2: this import has not ended after")
