"""JSON on a terminal: its control characters are escapes, and programs get the same document."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper

import pytest

from joblane.cli import terminal
from tests.inspector import FakeInspector
from tests.unit.cli.conftest import Run

TEXT = "a\u009b31m\u202e\u200f\x7fü"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_no_control_characters_in_a_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    terminal.document({"text": TEXT})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": TEXT}
    assert ("\u009b" in out) is not is_terminal
    assert "ü" in out


def test_an_output_without_utf_8_shows_similar_signs(
    jobs: Run, stub: FakeInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", out)
    assert jobs("queues").code == 0
    terminal.console().print("✓ ✗ × · – │┤ ▁▂▃▄▅▆▇█ a → b … ü")
    terminal.document({"text": "ü ✓"})  # a program reads it
    out.flush()
    queues, signs, document = out.buffer.getvalue().decode("ascii").partition("+ ! x . - || .:-=+*#@ a -> b ... ?\n")
    assert "default" in queues
    assert "?" not in queues
    assert signs
    assert json.loads(document) == {"text": "ü ✓"}
