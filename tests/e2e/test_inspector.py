"""The Inspector on the deployed stack, connected as by the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from joblane.cli.connect import connect
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import Grade
from tests.e2e.conftest import Deployed
from tests.patience import await_true


@pytest.fixture
def inspector(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inspector]:
    """An Inspector that finds the stack by its folder only."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.setenv(name, os.environ[name])  # so that monkeypatch restores it
    monkeypatch.setenv("JOBLANE_LOCAL", str(deployed.stack.folder))
    monkeypatch.delenv("DATABASE_URL")
    inspector = connect(stage=None, profile=None, region=None)
    yield inspector
    inspector._scope.database.drop()


def test_doctor_finds_nothing_in_a_new_stack(inspector: Inspector) -> None:
    # other tests leave dead letters and failed runs, and the first sweep may not have run yet
    left = ("dead letters", "error of ", "runs of ", "jobs:sweep")
    wrong = [check for check in inspector.doctor() if check.grade is not Grade.GOOD]
    assert [check for check in wrong if not check.what.startswith(left)] == []
    good = {check.what for check in inspector.doctor() if check.grade is Grade.GOOD}
    assert {"migrations", "clock", "types", "mappings", "functions", "schedules"} <= good


def test_the_log_of_a_task_contains_lambdas_lines(deployed: Deployed, inspector: Inspector) -> None:
    id_ = deployed.send(deployed.named("default"), deployed.export(tenant_id=str(deployed.people.nobody)))
    deployed.await_state(id_, "archived")
    await_true(lambda: len(inspector.logs(id_)) >= 2, lambda: f"{inspector.logs(id_)}")
    lines = inspector.logs(id_)
    (archived,) = (line for line in lines if line.message == "task archived")
    assert (archived.level, archived.attempt, archived.fields["outcome"]) == ("WARNING", 1, "archived")
    (report,) = (line for line in lines if line.level == "PLATFORM")
    assert report.message.startswith("REPORT RequestId: ")
