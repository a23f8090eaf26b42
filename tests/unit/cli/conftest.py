"""`joblane`, run in this process over an inspector that answers what a test tells it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from joblane.cli import connect as connecting
from joblane.cli import follow as following
from joblane.cli import target, terminal
from joblane.cli.commands import look as looking
from joblane.cli.main import main
from joblane.inspector.inspector import Inspector


@dataclass
class Stub:
    """Has the operations of an inspector: each answers what is set for it, raises it, or calls it; and is noted."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    where: dict[str, str | None] = field(default_factory=dict)

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        assert operation in vars(Inspector), f"an inspector has no {operation}"

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((operation, arguments, named))
            answer = self.answers[operation]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if isinstance(answer, BaseException):
                raise answer
            return answer(*arguments, **named) if callable(answer) else answer

        return call

    def called(self, operation: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(arguments, named) for name, arguments, named in self.calls if name == operation]


@dataclass
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()

    def connect(**where: str | None) -> Stub:
        made.where = where
        return made

    monkeypatch.setattr(connecting, "connect", connect)
    monkeypatch.setattr(target, "program", lambda: "jobs")
    monkeypatch.setattr(following, "LOOK_AGAIN_SECONDS", 0)
    monkeypatch.setattr(looking, "LOOK_AGAIN_SECONDS", 0)
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "JOBLANE_STAGE"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def jobs(stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command. ``columns``: as in a terminal so wide. ``person``: the answer of somebody who is asked."""

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
