"""The live view on a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import termios
from collections.abc import Iterator

import pytest
from rich.console import Console

from joblane.cli import watch as live
from joblane.errors import DatabaseUnavailableError
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Page
from tests.builders import views
from tests.inspector import FakeInspector

OFTEN_SECONDS = 0.01


@pytest.fixture
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The keyboard end of the terminal that the view reads."""
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "r") as stdin, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stdin)
        before = termios.tcgetattr(theirs)
        yield ours
        assert termios.tcgetattr(theirs) == before  # the terminal is restored for the shell
    os.close(ours)


def view(stub: FakeInspector, every: float) -> str:
    screen = io.StringIO()
    inspector: Inspector = stub  # type: ignore[assignment]
    live.run(inspector, Console(file=screen, force_terminal=True, width=100, height=60), every, 30)
    return screen.getvalue()


@pytest.fixture
def quiet(stub: FakeInspector) -> FakeInspector:
    stub.answers |= {"overview": views.overview(), "tasks": Page((views.task_row(),), None)}
    return stub


@pytest.mark.parametrize("key", ["q", "Q", "\x1b"])
def test_only_an_end_key_ends_it(quiet: FakeInspector, keyboard: int, key: str) -> None:
    os.write(keyboard, f"xy {key}".encode())
    # then none of the other keys, of which arrows, function keys and the mouse send several bytes, has ended it
    assert views.ID in view(quiet, 60)
    assert len(quiet.called("overview")) == 1


@pytest.mark.parametrize("sequence", ["\x1b[B", "\x1bOP", "\x1b[15~", "\x1b[<64;10;10M"])
def test_a_key_of_several_bytes_does_not_end_it(quiet: FakeInspector, keyboard: int, sequence: str) -> None:
    # given a key of several bytes during the first frame, and an end key during the second
    def second() -> object:
        os.write(keyboard, b"q")
        return views.overview()

    answers = iter([views.overview, second])
    quiet.answers["overview"] = lambda **_: next(answers)()
    os.write(keyboard, sequence.encode())
    # when
    view(quiet, 0.3)
    # then
    assert len(quiet.called("overview")) == 2


def test_it_updates_and_reports_an_unavailable_database(quiet: FakeInspector, keyboard: int) -> None:
    # given a second query that fails, and a third that ends the view
    def third() -> object:
        os.write(keyboard, b"q")
        return views.overview()

    answers = iter(
        [views.overview, lambda: (_ for _ in ()).throw(DatabaseUnavailableError("the database is unavailable")), third]
    )
    quiet.answers["overview"] = lambda **_: next(answers)()
    # when
    drawn = view(quiet, OFTEN_SECONDS)
    # then
    assert "the database is unavailable" in drawn
    assert len(quiet.called("overview")) == 3


def test_a_bug_ends_it_and_restores_the_terminal(quiet: FakeInspector, keyboard: int) -> None:
    answers = iter([views.overview(), ZeroDivisionError()])
    quiet.answers["overview"] = [next(answers), next(answers)]
    with pytest.raises(ZeroDivisionError):
        view(quiet, OFTEN_SECONDS)
