"""The commands of an operator on a restored copy in which the deploy has paused everything, until the resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from joblane.cli import connect as connecting
from joblane.functions.migrate.handler import _moved
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from joblane.record.pauses import pause_everything
from tests.builders.rows import archived, put
from tests.conftest import administer
from tests.integration.cli.conftest import Jobs
from tests.samples import sample_one
from tests.unit.page.conftest import COOKIE, client_of
from tests.world import World

END_SESSIONS = "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'"
WHY = "the stage uses the restored copy cluster-COPY. Check what will run again, then resume each queue"
QUEUES = ("critical", "default", "low")
AUDIT = "select action, target, who, reason from joblane.audit order by number"


@pytest.fixture
def copy(
    deployed: World, scope: Scope, jobs: Jobs, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    """A copy of a stage with a waiting and an archived task, paused as the deploy does; the commands use it."""
    monkeypatch.setenv("COLUMNS", "240")
    put(deployed, sample_one, "waits")
    put(deployed, sample_one, "failed", **archived())
    name = deployed.url.rpartition("/")[2]
    for statement in (END_SESSIONS.format(name), f"create database {name}_copy template {name}"):
        administer(postgres, statement)
    with Database(postgres.database_url(f"{name}_copy")) as database:
        reason = _moved({"ResourceProperties": {"Restored": "cluster-COPY"}, "OldResourceProperties": {}})
        assert reason is not None
        pause_everything(database.get(), reason, "ann")
        inspector = Inspector(replace(scope, database=database))
        monkeypatch.setattr(connecting, "connect", lambda **_: inspector)
        yield database
    administer(postgres, f"drop database {name}_copy with (force)")


def test_each_view_of_a_paused_copy_says_that_the_restore_is_the_reason(
    copy: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # in a narrower table the text continues in the next line
    for command in ("pause", "queues", "doctor", "show waits", "why sample:one"):
        ran = jobs(*command.split())
        assert WHY in " ".join((ran.out + ran.err).split()), (command, ran)
        assert "ann" in ran.out + ran.err, command
    doctor = jobs("doctor")
    assert "every queue is paused, and no task starts until they are resumed" in doctor.out
    for queue in QUEUES:
        assert f"`joblane resume queue {queue}`" in doctor.out
    assert "`joblane resume type jobs:bulk`" in doctor.out


def test_the_page_says_that_the_restore_is_the_reason(copy: Database) -> None:
    connect: Any = connecting.connect
    browser = client_of(connect())
    browser.cookies.update(COOKIE)
    overview, task = browser.get("/").text, browser.get("/task?id=waits").text
    assert overview.count(WHY) >= len(QUEUES) + 1
    assert "Resume" in overview
    assert WHY in task.replace("</strong>", "")  # its first sentence is bold


def test_a_resume_of_everything_is_audited_and_ends_the_warning(copy: Database, jobs: Jobs) -> None:
    for queue in QUEUES:
        ran = jobs("resume", "queue", queue, "--reason", "looked")
        assert f"Resumed queue {queue}; it was paused by ann since" in ran.out + ran.err
        assert "every queue is paused" not in jobs("doctor").out
        is_last = queue == QUEUES[-1]
        assert ("every queue is paused" not in jobs("doctor").out) or not is_last
    assert jobs("resume", "type", "jobs:bulk", "--reason", "looked").code == 0
    assert copy.get().run("select from joblane.pauses") == []
    assert copy.get().run(AUDIT)[-4:] == [
        *(["resume", f"queue:{queue}", "op", "looked"] for queue in QUEUES),
        ["resume", "type:jobs:bulk", "op", "looked"],
    ]
    assert "queue 'low' is not paused; current pauses: none" in jobs("resume", "queue", "low").err


def test_a_bulk_action_that_waits_for_the_resume_says_so(
    copy: Database, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("joblane.cli.follow.time.sleep", interrupt)  # else the command waits for the resume
    ran = jobs("redrive", "--all", "--yes")
    assert f"It waits: type jobs:bulk is paused by ann: {WHY}" in " ".join(ran.err.split())
    assert "resume type jobs:bulk" in ran.err
    jobs("resume", "type", "jobs:bulk")
    assert "It waits" not in jobs("redrive", "--all", "--yes").err
