"""`joblane up`: its messages on failure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joblane.errors import DeclarationError
from joblane.local.stack import LocalStack
from tests.unit.cli.conftest import Run


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

    cdk_json = {"app": "python infra/app.py", "context": {"stages": {"local": {"prefix": "jobs", "local": True}}}}
    (project / "cdk.json").write_text(json.dumps(cdk_json))
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
