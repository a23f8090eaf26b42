"""`joblane`, run in this process over a real database and queues in moto."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from joblane import telemetry
from joblane.cli import connect as connecting
from joblane.cli import follow as following
from joblane.cli.main import main
from joblane.errors import JobError
from joblane.inspector import wire
from joblane.inspector.inspector import Inspector
from tests.bulks import Bulks


@dataclass
class Ran:
    """The result of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Jobs = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def made_logger() -> None:
    """Make the process's logger here: made within a test, it would always write to the output captured in that test."""
    telemetry.logger()


@pytest.fixture
def jobs(
    inspector: Inspector,
    bulks: Bulks,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Jobs:
    """Run a command. A bulk action that it follows runs at each poll."""
    bulk_view = inspector.bulk_view

    def run_and_view(id: str) -> Any:  # noqa: A002 - as the inspector calls it
        with redirect_stdout(io.StringIO()):  # the function's metrics
            bulks.run(id)
        return bulk_view(id)

    monkeypatch.setattr(connecting, "connect", lambda **_: inspector)
    monkeypatch.setattr(inspector, "bulk_view", run_and_view)
    monkeypatch.setattr(following, "POLL_SECONDS", 0)

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


class Wired:
    """An inspector behind a control API: arguments, answers and errors are encoded and decoded."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            try:
                answer = wire.call(self._inspector, operation, wire.encode_arguments(operation, positional, named))
            except JobError as error:
                raise wire.decode_error(json.loads(json.dumps(wire.encode_error(error)))) from None
            return wire.decode_answer(operation, answer)

        return call


@pytest.fixture(params=["here", "elsewhere"])
def either_way(
    request: pytest.FixtureRequest,
    jobs: Jobs,
    inspector: Inspector,
    monkeypatch: pytest.MonkeyPatch,
) -> Jobs:
    """Run a command on an inspector in this process, and on an inspector behind the control API."""
    if request.param == "elsewhere":
        monkeypatch.setattr(connecting, "connect", lambda **_: Wired(inspector))
    return jobs
