"""JSON on a terminal: its control characters are escapes, and programs get the same document."""

from __future__ import annotations

import json

import pytest

from joblane.cli import terminal

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
