"""`joblane watch` on a real record, in this process and behind a control API."""

from __future__ import annotations

from typing import Any

import pytest

from joblane import SkipRetry, TaskContext
from joblane.cli.watch import app as watch_app
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from tests.bulks import Bulks
from tests.integration.cli.conftest import Wired
from tests.samples import Sample, behaviour, sample_one
from tests.watching import Screen, watch
from tests.world import World


@behaviour
def watch_fails(payload: Sample, ctx: TaskContext) -> Any:
    raise SkipRetry("the [bold]provider[/] is\x1b[31m unavailable")


def fail(world: World, *ids: str) -> None:
    for id_ in ids:
        world.deliver(sample_one, {"type": "sample:one", "id": id_, "payload": {"do": "watch_fails"}})


@pytest.mark.parametrize("remote", [False, True])
def test_a_pause_and_a_retry_are_in_the_audit(deployed: World, inspector: Inspector, remote: bool) -> None:
    fail(deployed, "failed-1")

    async def scenario(screen: Screen) -> None:
        await screen.press("4")
        await screen.until("the [bold]provider[/]")
        # when a pause
        await screen.press("p")
        await screen.until("Pause type sample:one")
        await screen.press("enter")
        await screen.type("the provider is unavailable")
        await screen.type("", "for")
        await screen.until("Paused type sample:one until it is resumed")
        # and a retry that is cancelled, and another one
        await screen.press("r", "escape", "r")
        await screen.type("it works again")
        await screen.until("failed-1 was archived, is pending")
        await screen.press("enter")
        await screen.until("The type sample:one is paused by op, until it is resumed: the provider is unavailable")

    watch(Wired(inspector) if remote else inspector, scenario)
    # then
    assert deployed.row("failed-1")["state"] == "pending"
    found = [(entry.who, entry.action, entry.target, entry.reason) for entry in inspector.audit()]
    assert found == [
        ("op", "retry", "failed-1", "it works again"),
        ("op", "pause", "type:sample:one", "the provider is unavailable"),
    ]


def test_a_cause_is_redriven_and_the_outcome_is_shown(bulks: Bulks, inspector: Inspector) -> None:
    fail(bulks.world, "failed-1", "failed-2")

    async def scenario(screen: Screen) -> None:
        await screen.press("5")
        await screen.until("ARCHIVED")
        await screen.press("r")
        await screen.until("Redrive 2 tasks of sample:one")
        await screen.type("it works again")
        await screen.until("Redrive: 0 of 2 tasks sent again.")
        [started] = inspector.bulks()
        inspector.abort(started.id)
        bulks.run(started.id)
        await screen.press("R")
        await screen.until("Stopp")

    watch(inspector, scenario)
    begun = inspector.audit(action="redrive")[0]
    assert (begun.who, begun.reason) == ("op", "it works again")


def test_a_database_that_refuses_connections_comes_back(
    deployed: World, scope: Scope, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(deployed, "failed-1")
    monkeypatch.setattr(watch_app, "RETRY_SECONDS", 0.1)
    options = scope.database._options

    async def scenario(screen: Screen) -> None:
        await screen.press("2")
        await screen.until("sample:one archived")
        with monkeypatch.context() as refusing:
            with scope.lock:
                scope.database.drop()
                refusing.setitem(options, "port", 1)
            await screen.press("R")
            await screen.until("the database is unavailable: [Errno 111] Connection refused. Retrying every")
            assert "Not up to date since" in screen.text
            assert "sample:one archived" in screen.sentences
        await screen.until(lambda: "Not up to date" not in screen.text)

    watch(inspector, scenario)
