"""`joblane`, run in this process over an inspector without a stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from joblane.cli import connect as connecting
from joblane.cli import follow as following
from joblane.cli import target, terminal
from joblane.cli.commands import tasks as task_commands
from joblane.cli.main import main
from tests.fixed_time import Golden, at_fixed_time
from tests.inspector import FakeInspector


@dataclass
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Golden:
    """Compare a string with a golden file."""
    return at_fixed_time(monkeypatch)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> FakeInspector:
    made = FakeInspector()

    def connect(**where: str | None) -> FakeInspector:
        made.where = where
        return made

    monkeypatch.setattr(connecting, "connect", connect)
    monkeypatch.setattr(target, "program", lambda: "jobs")
    monkeypatch.setattr(following, "POLL_SECONDS", 0)
    monkeypatch.setattr(task_commands, "POLL_SECONDS", 0)
    monkeypatch.setattr(task_commands, "FOLLOW_SECONDS", 0)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "JOBLANE_STAGE"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def jobs(stub: FakeInspector, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command. ``columns``: the width of the terminal. ``person``: the answer to a question, ``y`` or ``n``."""

    def run(*arguments: str, columns: int | None = None, person: str | None = None) -> Ran:
        if columns is not None:
            monkeypatch.setenv("COLUMNS", str(columns))
        if person is not None:
            monkeypatch.setattr(terminal, "is_terminal", lambda: True)
            monkeypatch.setattr("typer.confirm", lambda *_, **__: person == "y")
        capsys.readouterr()
        try:
            main(list(arguments))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run
