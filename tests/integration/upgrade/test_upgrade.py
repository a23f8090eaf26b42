"""An upgrade from each earlier release, with work in flight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import joblane
from joblane.local.postgres import Postgres
from joblane.names import Queue, dead_letter_name, lane_name
from joblane.record.migrations.catalogue import differences
from joblane.record.sql_functions import VERSION
from joblane.testing.clock import age
from tests.conftest import administer
from tests.integration.upgrade.work import GO, RELEASE
from tests.kills import queue_server
from tests.pages import ROOT
from tests.patience import await_true
from tests.releases import releases, unpacked
from tests.world import PREFIX, World, mocked_aws

TYPES = ("work:do", "work:alone", "work:tick")
TICK = '{"type": "work:tick", "tick": {"schedule": "0", "at": "2026-01-05T02:00:00Z"}}'
DONE, OLD_DONE = "done in euro by new", "done by old"
A_DAY, ROUNDS = timedelta(days=1), 4
EFFECTS = "select id, string_agg(what || ' by ' || by, ', ' order by what) from effects group by id"


class Process:
    """A process with the code of a release, see ``process.py``."""

    def __init__(self, popen: subprocess.Popen[str], world: World) -> None:
        self._popen, self._world = popen, world

    @classmethod
    @contextmanager
    def running(cls, world: World, library: Path, **variables: str) -> Iterator[Process]:
        command = [sys.executable, "-m", "tests.integration.upgrade.process"]
        environment = os.environ | {"PYTHONPATH": f"{library}:{ROOT}", "DATABASE_URL": world.url} | variables
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as popen:
            try:
                yield cls(popen, world)
            finally:
                popen.kill()

    def do(self, name: str, *arguments: Any, **named: Any) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        print(json.dumps([name, arguments, named]), file=self._popen.stdin, flush=True)
        return json.loads(self._popen.stdout.readline())

    def run(self, type_: str, *ids: str) -> list[str]:
        """Deliver the messages in a lane, of the tasks with these ids if any are named. Return those that stay."""
        kept: list[str] = []
        for record in received(self._world, type_, *ids):
            kept += self.do("deliver", type_, record)
            done(self._world, type_, record, kept)
        return kept


def lane_of(type_: str) -> str:
    return lane_name(PREFIX, Queue.DEFAULT, type_)


def received(world: World, type_: str, *ids: str) -> list[dict[str, Any]]:
    """Receive the messages of a lane, or those of the tasks with these ids. The others stay there."""
    found = world.receive(lane_of(type_))
    wanted = [each for each in found if not ids or json.loads(each["body"]).get("id") in ids]
    for each in found:
        if each not in wanted:
            show(world, type_, each)
    return wanted


def show(world: World, type_: str, record: dict[str, Any]) -> None:
    """End the time for which a message is not visible."""
    world.sqs.set_visibility(lane_of(type_), {record["receiptHandle"]: 0})


def done(world: World, type_: str, record: dict[str, Any], kept: list[str]) -> None:
    """Delete a message, or let it be received again, as the response of the function says."""
    world.acknowledge(lane_of(type_), [record], kept)
    if record["messageId"] in kept:
        show(world, type_, record)


def is_active(world: World, id_: str) -> bool:
    return bool(world.row(id_)["state"] == "active")


def send(world: World, type_: str, body: str, **attributes: Any) -> None:
    world.sqs.client.send_message(QueueUrl=world.sqs.url(lane_of(type_)), MessageBody=body, **attributes)


@pytest.fixture
def upgrading(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A world over an empty database, whose queues other processes reach."""
    administer(postgres, "create database upgrading")
    url = postgres.database_url("upgrading")
    with mocked_aws(monkeypatch), World.over(url) as world:
        world.make(*map(lane_of, TYPES))
        world.run("create table effects (id text, what text, by text)")
        server = queue_server(world)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("JOBLANE_FUNCTIONS", "tests.integration.upgrade.functions")
        yield world
        server.shutdown()
        server.server_close()
    administer(postgres, "drop database upgrading with (force)")


@pytest.fixture(params=releases())
def library(request: pytest.FixtureRequest) -> Path:
    """The library of an earlier release. The workflow must fetch the whole history."""
    try:
        return unpacked(request.param)
    except FileNotFoundError as error:
        if os.environ.get("GITHUB_ACTIONS"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def processes(upgrading: World, library: Path, tmp_path: Path) -> Iterator[list[Process]]:
    """A process of the earlier release, and one of this code."""
    with ExitStack() as stack:
        paths = {"old": library, "new": ROOT / "shared"}
        yield [
            stack.enter_context(Process.running(upgrading, path, **{RELEASE: name, GO: str(tmp_path / "go")}))
            for name, path in paths.items()
        ]


def test_an_upgrade_loses_no_work_in_flight_and_repeats_none(
    upgrading: World, library: Path, processes: list[Process], tmp_path: Path
) -> None:
    world, (old, new) = upgrading, processes
    assert old.do("code")[0] == str(library / "joblane" / "__init__.py")
    assert new.do("code") == [joblane.__file__, VERSION]
    # given tasks of the earlier release: completed, failed, archived, in a wait, in a sleep, and waiting for children
    old.do("migrated")
    for kind in ("write", "fail", "refuse", "wait", "sleep", "gather"):
        old.do("enqueue", "work:do", kind, kind)
    assert old.run("work:do") == []
    # and a task of tomorrow, a schedule, a batch half done, messages that no worker has received, and two equal ticks
    old.do("enqueue", "work:do", "write", "tomorrow", hours=20)
    old.do("put_schedule", "hourly")
    old.do("batch", "half", "first", "second")
    old.run("work:do", "first")
    old.do("enqueue", "work:do", "write", "sent")
    send(world, "work:do", '{"type": "work:do", "id": "external", "payload": {}}')
    for _ in range(2):
        send(world, "work:tick", TICK)
    one, other = received(world, "work:tick")
    done(world, "work:tick", one, old.do("deliver", "work:tick", one))
    show(world, "work:tick", other)
    # and a task that runs, one that its limit holds, and one whose process is killed
    running = {"runs": "work:alone", "lost": "work:do"}
    messages, numbers = {}, {}
    for id_, type_ in running.items():
        old.do("enqueue", type_, "stay", id_)
        [messages[id_]] = received(world, type_, id_)
        numbers[id_] = old.do("start", type_, messages[id_])
        await_true(partial(is_active, world, id_), lambda: "the task was not claimed")
    old.do("enqueue", "work:alone", "write", "held")
    assert old.run("work:alone", "held") == []
    assert world.row("held")["state"] == "held"
    # when a function has this code before the migration, the message runs, or stays in the queue uncounted
    kept = new.run("work:do", "sent")
    assert (world.row("sent")["state"], world.row("sent")["attempts"]) == (("pending", 0) if kept else ("completed", 1))
    # and the migration runs
    new.do("migrated")
    assert differences(world.database.get()) == []
    # then the earlier release finishes what it runs, runs what this code enqueues, and enqueues
    old.do("kill", numbers["lost"])
    show(world, "work:do", messages["lost"])
    (tmp_path / "go").touch()
    done(world, "work:alone", messages["runs"], old.do("join", numbers["runs"]))
    new.do("enqueue", "work:do", "write", "of-new-code")
    assert old.run("work:do", "of-new-code") == []
    old.do("enqueue", "work:do", "write", "of-old-code")
    # and this code does the rest
    assert new.do("answer", "wait")
    [dead] = world.received(dead_letter_name(lane_of("work:do")), visibility=30)
    send(world, "work:do", dead["Body"], MessageAttributes=dead["MessageAttributes"])
    new.do("run_schedule", "hourly")
    for _ in range(ROUNDS):
        age(world.database.get(), A_DAY, ())
        world.sweep()
        for type_ in TYPES:
            new.run(type_)
    # and each effect is there, once
    effects = dict(world.run(EFFECTS))
    expected = {
        **dict.fromkeys(("write", "first", "runs", "of-new-code", "work:tick:0:2026-01-05T02:00Z"), OLD_DONE),
        **dict.fromkeys(("fail", "refuse", "gather", "tomorrow", "second", "half:on_success"), DONE),
        **dict.fromkeys(("external", "held", "lost", "of-old-code"), DONE),
        "wait": f"asked by old, {DONE}",
        "sleep": f"{DONE}, paused by old",
    }
    assert {id_: effects.pop(id_) for id_ in expected} == expected
    unnamed = [id_ for id_ in effects if not id_.startswith(("@hourly:", "work:tick:"))]
    assert len(unnamed) == len(["sent", "the schedule's task"] + ["a child"] * 2)
    assert {*effects.values()} <= {DONE, OLD_DONE}
    # and nothing else is left
    assert world.run("select distinct state from joblane.tasks where type like 'work:%'") == [["completed"]]
    assert world.run("select id from joblane.tasks where attempts > 1 order by 1") == [["fail"], ["lost"]]
    assert {world.depth(name) for type_ in TYPES for name in (lane_of(type_), dead_letter_name(lane_of(type_)))} == {
        0,
        1,
    }
