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


def test_a_failure_after_a_start_says_that_parts_still_run(
    project: Path, jobs: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_stack: LocalStack) -> None:
        raise DeclarationError("functions/shop/handler.py: two tasks of one type")

    (project / "cdk.json").write_text(json.dumps(CDK_JSON))
    monkeypatch.setattr(LocalStack, "up", fail)
    ran = jobs("up")
    assert ran.code == 1
    assert "two tasks of one type\nThe parts that started still run; `joblane down` stops them." in ran.err


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
