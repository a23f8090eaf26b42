"""The job of the README and the code that enqueues it are run, from files of the names that they have there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.orm import Session

import functions
from tests.pages import ROOT
from tests.world import World

SHOWN = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.S)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The modules of the README, in its order."""
    names = []
    for path, source in SHOWN.findall((ROOT / "README.md").read_text()):
        file = tmp_path / path
        file.parent.mkdir(parents=True)
        file.write_text(source)
        names.append(path.removesuffix(".py").replace("/", "."))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(functions, "__path__", [*functions.__path__, str(tmp_path / "functions")])
    yield [importlib.import_module(name) for name in names]
    for name in names:
        sys.modules.pop(name)


def test_the_task_exists_if_and_only_if_the_transaction_commits(
    world: World, session: Session, programs: list[Any]
) -> None:
    # given the README's job, and its table
    job, app = programs
    world.run("create table invoices (id uuid primary key, reminded_at timestamptz)")
    kept, dropped = uuid4(), uuid4()
    # when one invoice is committed and one is rolled back
    app.issue(session, kept)
    session.commit, commit = session.rollback, session.commit  # type: ignore[method-assign]
    app.issue(session, dropped)
    session.commit = commit  # type: ignore[method-assign]
    # then there is one invoice and one reminder, in 14 days
    assert world.run("select id from invoices") == [[kept]]
    [[id_, type_, state, days]] = world.run(
        "select id, type, state, round(extract(epoch from due_at - now()) / 86400) from joblane.tasks"
    )
    assert (type_, state, days) == ("invoice:remind", "scheduled", 14)
    # when it is due
    world.lane(job.invoice_remind)
    world.run("update joblane.tasks set due_at = now(), sweep_at = now() where id = $1", id_)
    world.sweep()
    world.deliver(job.invoice_remind, world.take(job.invoice_remind)[0]["Body"])
    # then the invoice is marked and the task completed
    assert world.row(id_)["state"] == "completed"
    assert world.run("select reminded_at is not null from invoices") == [[True]]
