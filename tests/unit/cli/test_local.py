"""`joblane up`: its messages on failure."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest

from joblane.errors import DeclarationError
from joblane.local.ports import free_port
from joblane.local.stack import LocalStack
from tests.unit.cli.conftest import Run

CDK_JSON = {"app": "python infra/app.py", "context": {"stages": {"local": {"prefix": "jobs", "local": True}}}}
PORTS = ("JOBLANE_AWS_PORT", "JOBLANE_POSTGRES_PORT")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("JOBLANE_LOCAL", "JOBLANE_FUNCTIONS"):
        monkeypatch.setenv(name, "")  # the command changes these variables
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DeclarationError("two tasks of one type"), 1, "joblane: two tasks of one type"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_a_start_that_does_not_end_says_if_parts_still_run(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str, runs: bool
) -> None:
    def fail(_stack: LocalStack) -> None:
        raise error

    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    monkeypatch.setattr(LocalStack, "check", lambda _stack: None)
    monkeypatch.setattr(LocalStack, "up", fail)
    monkeypatch.setattr(LocalStack, "status", lambda _stack: {"PostgreSQL": (runs, "")})
    ran = jobs("up")
    advice = "The parts that started still run; `joblane down` stops them.\n" if runs else ""
    assert (ran.code, ran.err) == (code, f"{text}\n{advice}")


@pytest.mark.parametrize(
    ("running", "code", "advice"),
    [
        ((True, True), 0, ""),
        ((True, False), 3, "`joblane up` starts what is stopped; `joblane down` stops the rest.\n"),
        ((False, False), 3, "`joblane up` starts what is stopped.\n"),
    ],
)
def test_the_status_of_a_stopped_part_says_what_to_do(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch, running: tuple[bool, bool], code: int, advice: str
) -> None:
    parts = {name: (runs, "here") for name, runs in zip(("PostgreSQL", "Ticker"), running, strict=True)}
    monkeypatch.setattr(LocalStack, "status", lambda _stack: parts)
    ran = jobs("status")
    assert (ran.code, ran.err) == (code, advice)


def test_a_failure_before_the_start_does_not(project: Path, jobs: Run) -> None:
    (project / "cdk.json").write_text('{"app": "node bin/app.js", "context": {}}')
    ran = jobs("up")
    assert ran.code == 1
    assert "no `stages` in its `context`" in ran.err
    assert "still run" not in ran.err


@pytest.mark.parametrize("setting", PORTS)
def test_a_used_port_is_refused_before_anything_starts(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    for name in PORTS:
        monkeypatch.setenv(name, str(free_port()))
    monkeypatch.setattr(LocalStack, "up", lambda _stack: pytest.fail("up started"))
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        monkeypatch.setenv(setting, port := str(other.getsockname()[1]))
        ran = jobs("up")
    assert ran.code == 1
    assert f"cannot listen on 127.0.0.1:{port}: another program already listens there" in ran.err
    assert ran.err.endswith(f"or choose another port with {setting}.\n")


@pytest.mark.parametrize("command", ["up", "dev"])
def test_a_folder_that_cannot_be_created_says_what_to_do(project: Path, jobs: Run, command: str) -> None:
    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    (project / ".joblane").touch()
    ran = jobs(command)
    assert ran.code == 1
    assert f"{project / '.joblane'} cannot be created: File exists." in ran.err
    assert ran.err.endswith("Let this user write there, or name another folder with JOBLANE_LOCAL.\n")
