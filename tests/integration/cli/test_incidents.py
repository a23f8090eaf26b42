"""Thirteen incidents: start page, doctor and the command of the alarm name the true cause first, and the cure works."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.functions.jobs_bulk import handler as bulk_handler
from joblane.inspector.bulk import run as bulk_run
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.stage import why_slow
from joblane.inspector.stage.doctor import aws, work
from joblane.inspector.views import Grade
from joblane.record.driver.database import Database
from tests.builders.snapshots import session
from tests.bulks import Bulks
from tests.incidents import happens, platform
from tests.incidents.platform import broken
from tests.incidents.table import INCIDENTS, Incident
from tests.integration.cli.conftest import Jobs
from tests.integration.inspector.scene import Scene, is_like
from tests.world import World, handle

LATER = """
update joblane.task_attempts set started_at = started_at - interval '2 h', finished_at = finished_at - interval '2 h'
"""
FAILED_BULKS = """
select error_message from joblane.task_attempts
 where type = 'jobs:bulk' and outcome = 'failed' and error_message <> 'the process ends'
"""


@pytest.fixture
def inspector(scope: Scope) -> Inspector:
    return Inspector(replace(scope, tasks=platform.TASKS))


@pytest.fixture
def stage(world: World, scope: Scope, bulks: Bulks, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A healthy stage, whose doctor does not ask AWS. Tasks run whenever a bulk action waits."""
    on = platform.healthy(Scene(world, scope))
    monkeypatch.setattr(aws, "PARTS", ())
    monkeypatch.setattr(bulk_handler, "discover", lambda: platform.TASKS)
    monkeypatch.setenv("COLUMNS", "300")
    with ThreadPoolExecutor(1) as other:  # as another process: a run starts no run in itself
        waiting = SimpleNamespace(sleep=lambda _: other.submit(run_messages, on).result(), monotonic=time.monotonic)
        monkeypatch.setattr(bulk_run, "time", waiting)
        yield on
    broken.clear()


def run_messages(on: Scene) -> None:
    """Run the messages of all lanes."""
    for task in platform.TYPES:
        lane = on.world.lane(task)
        while records := on.world.receive(lane):
            on.world.acknowledge(lane, records, handle(on.world.worker(task), *records))


def first_line(text: str) -> str:
    """The first line of an output without the head of its table."""
    head, *rest = text.splitlines()
    return rest[0].strip() if re.fullmatch(r"[A-Z][A-Z ]+", head.strip()) else head.strip()


def first_of(on: Scene) -> list[tuple[str, str]]:
    """The first findings of the start page and of the doctor."""
    found = (next(iter(on.inspector.trouble().needs), None), on.inspector.doctor()[0])
    return [(each.what, each.found) for each in found if each is not None and each.grade is not Grade.GOOD]


def test_a_healthy_stage_needs_nobody(stage: Scene) -> None:
    assert first_of(stage) == []


@pytest.mark.parametrize("incident", INCIDENTS, ids=lambda incident: incident.happens.__name__)
def test_an_incident_is_named_and_cured(incident: Incident, stage: Scene, bulks: Bulks, jobs: Jobs) -> None:
    def run(line: str) -> str:
        ran = jobs(*shlex.split(line.format(id=id_, fingerprint=fingerprint)))
        return ran.out + ran.err

    with ExitStack() as open_:
        # given
        if incident.happens is happens.old_snapshot:
            open_.enter_context(session(stage.world.url))
        id_, fingerprint = incident.happens(stage), ""
        # then start page and doctor name the cause first
        for what, found in (seen := first_of(stage)):
            assert what == incident.what.format(id=id_)
            assert is_like(found, incident.line), found
        assert len(seen) == 2
        # and so does the command of the alarm, and other commands show it
        if incident.alarm:
            text = run(incident.alarm)
            assert is_like(first_line(text), incident.says), text
            fingerprint = next(iter(re.findall(r"\b[0-9a-f]{16}\b", text)), "")
        for command, words in incident.shown:
            text = run(command)
            assert words in text, text
        # when it is cured
        incident.fixed(stage)
    stage.sql("update joblane.tasks set due_at = now() where state = 'retry'")
    text = ""
    for command in incident.cure:
        text = run(command)
    run_messages(stage)
    # then
    assert not stage.world.run(FAILED_BULKS)
    assert is_like(text.replace("\n", " "), f"…{incident.checks}…"), text
    assert incident.steps <= incident.most
    stage.sql(LATER)
    needs = {need.what for need in stage.inspector.trouble().needs}
    assert (incident.what.format(id=id_) in needs) is incident.stays


COMMANDS = ("queues", "errors", "runs", "schedules", "show it", "pause type mail:send --reason r", "doctor")


def test_without_a_free_connection_each_command_says_what_frees_one(
    stage: Scene, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page, `joblane watch` and the control API have the same error, see `test_connect.py`."""

    def refused(_: Database) -> Any:
        raise DatabaseError({"C": "53300", "M": "sorry, too many clients already"})

    with monkeypatch.context() as patch:
        patch.setattr(Database, "get", refused)
        outputs = [jobs(*shlex.split(command)) for command in COMMANDS]
    for ran in outputs:
        text = " ".join((ran.out + ran.err).split()).lower()
        assert "close connections, or raise its max_connections" in text, text


# --- Planted faults ---------------------------------------------------------------------------------------------------

PLANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "the wait comes before its cause": (
        lambda patch: patch.setattr(why_slow, "_order", lambda _: 0),
        "tenant_floods",
    ),
    "a failing bulk action is not named": (
        lambda patch: patch.setattr("joblane.inspector.bulk.start.bulks", lambda *_: ()),
        "redrive_is_wrong",
    ),
    "a failing type has no error": (
        lambda patch: patch.setattr(work, "_with_error", lambda check, _: check),
        "receipts_are_down",
    ),
}


@pytest.mark.plants
@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_planted_fault_is_found(
    plant: tuple[Callable[[pytest.MonkeyPatch], None], str],
    stage: Scene,
    bulks: Bulks,
    jobs: Jobs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breaks, name = plant
    breaks(monkeypatch)
    incident = next(each for each in INCIDENTS if each.happens.__name__ == name)
    with pytest.raises(AssertionError):
        test_an_incident_is_named_and_cured(incident, stage, bulks, jobs)
