"""Pauses: nothing new starts, nothing is lost or spent, and all tasks continue after the end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from joblane import Queue, task
from joblane.functions.jobs_sweep.handler import jobs_sweep
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.names import lane_name
from joblane.record.driver.database import Database
from joblane.sqs.message import Message
from tests.integration.inspector.scene import Scene
from tests.patience import PATIENCE_SECONDS
from tests.samples import Sample, sample_batch, sample_one
from tests.sends import Sends
from tests.world import PREFIX, World

SCOPES = [
    (PauseScope.TYPE, "sample:one"),
    (PauseScope.QUEUE, "default"),
    (PauseScope.TENANT, "acme"),
]
HOUR = timedelta(hours=1)


@task("sample:renamed", aliases=["sample:former"])
def sample_renamed(payload: Sample, ctx: Any) -> None:
    pass


@task("jobs:housekeeping", queue=Queue.LOW)
def jobs_housekeeping(payload: Sample, ctx: Any) -> None:
    pass


def audited(world: World) -> list[list[Any]]:
    return world.run("select action, target, reason from joblane.audit order by number")


# --- On the runtime ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), SCOPES)
def test_a_paused_task_waits_and_runs_after_the_resume(
    scene: Scene, operator: Inspector, kind: PauseScope, name: str
) -> None:
    scene.world.lane(sample_one)
    scene.put("t", tenant="acme").act("pause", kind, name)
    assert scene.deliver("t").states("t") == ["pending"]  # a tenant's also without the group of its message
    operator.resume(kind, name)
    assert scene.world.sweep().sent == 1
    assert scene.deliver("t").states("t") == ["completed"]


def test_a_task_with_a_changed_tenant_waits_only_for_the_new_tenant(scene: Scene) -> None:
    scene.put("t", tenant="acme").act("pause", PauseScope.TENANT, "initech").deliver("t", group="initech")
    assert scene.states("t") == ["completed"]


def test_resume_wakes_the_sweep(world: World, inspector: Inspector) -> None:
    lane = lane_name(PREFIX, Queue.LOW, "jobs:sweep")
    world.sqs.client.create_queue(QueueName=lane)
    inspector.pause(PauseScope.TYPE, "sample:one")

    watched = Sends.of(world.sqs)
    inspector.resume(PauseScope.TYPE, "sample:one")

    assert len(watched.to(lane)) == 1


def test_a_pause_ends_automatically_and_another_starts_anew(scene: Scene, operator: Inspector) -> None:
    first = operator.pause(PauseScope.TYPE, "sample:one", until=datetime.now(UTC) + HOUR)
    assert scene.put("t").deliver("t").states("t") == ["pending"]
    scene.sql("update joblane.pauses set until = clock_timestamp()")
    assert scene.deliver("t").states("t") == ["completed"]
    assert operator.pauses() == ()
    second = operator.pause(PauseScope.TYPE, "sample:one")
    assert not second.replaced
    assert second.since > first.since


def test_a_type_is_also_paused_under_its_former_names(scene: Scene) -> None:
    inspector = scene.declare(sample_renamed).act("pause", PauseScope.TYPE, "sample:renamed").inspector
    scene.deliver(*(Message(type_, f"as-{type_}").encode() for type_ in sample_renamed.types), task=sample_renamed)
    assert scene.world.run("select distinct state from joblane.tasks") == [["pending"]]
    inspector.resume(PauseScope.TYPE, "sample:renamed")
    assert inspector.pauses() == ()


def test_the_pause_of_a_queue_leaves_the_housekeeping_running(world: World, inspector: Inspector) -> None:
    inspector.pause(PauseScope.QUEUE, "low")

    world.deliver(jobs_housekeeping, {"type": "jobs:housekeeping", "id": "t", "payload": {}})

    assert world.row("t")["state"] == "completed"


# --- Asking and refusing -------------------------------------------------------------------------------------------


def test_a_pause_has_its_operator_reason_and_end(world: World, inspector: Inspector) -> None:
    until = datetime.now(UTC) + HOUR

    paused = inspector.pause(PauseScope.QUEUE, "default", reason="  the provider\n is down ", until=until)

    assert inspector.pauses() == (paused,)
    assert (paused.by, paused.reason, paused.until) == ("op", "the provider is down", until)
    assert audited(world) == [["pause", "queue:default", "the provider is down"]]


def test_pausing_again_replaces_reason_and_end_and_names_the_earlier_operator(
    inspector: Inspector, as_operator: Callable[[str], Inspector]
) -> None:
    first = inspector.pause(PauseScope.TYPE, "sample:one", reason="one", until=datetime.now(UTC) + HOUR)
    second = as_operator("bob").pause(PauseScope.TYPE, "sample:one", reason="two")
    assert (first.replaced, second.replaced) == (False, True)
    assert (first.replaced_by, second.replaced_by, second.by) == (None, "op", "bob")
    assert (second.reason, second.until, second.since) == ("two", None, first.since)


WAITS = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


def test_the_second_of_two_concurrent_operators_sees_the_first(
    world: World, inspector: Inspector, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    # given: the first has paused, and has not committed yet
    ann = Database(world.url)
    ann.get().execute_simple("begin")
    ann.get().run("insert into joblane.pauses (scope, name, reason, paused_by) values ('queue', 'low', 'hers', 'ann')")
    # when
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inspector.pause, PauseScope.QUEUE, "low", reason="his")
        wait_until(lambda: world.run(WAITS) != [])
        ann.get().commit()
        second = waiting.result(timeout=PATIENCE_SECONDS)
    ann.drop()
    # then
    assert (second.reason, second.replaced, second.replaced_by) == ("his", True, "ann")
    [[details]] = world.run("select details from joblane.audit order by number desc limit 1")
    assert (details["paused_by"], details["since"]) == ("ann", second.since.isoformat())


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        (PauseScope.QUEUE, "lowest", "Known: critical, default, low"),
        (PauseScope.TYPE, "sample:none", "there is no task type 'sample:none'. Did you mean 'sample:one'"),
        (PauseScope.TENANT, "with space", "1 to 128 ASCII letters"),
        ("everything", "x", "queue, type, tenant are valid"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_names(
    world: World, inspector: Inspector, kind: Any, name: str, says: str
) -> None:
    with pytest.raises(SelectionError, match=says):
        inspector.pause(kind, name)

    assert (inspector.pauses(), audited(world)) == ((), [])


WEST = timezone(timedelta(hours=-12))


@pytest.mark.parametrize(
    "until",
    [datetime.now(UTC) - HOUR, datetime.now(UTC).replace(tzinfo=None), datetime.max.replace(tzinfo=WEST), "tomorrow"],
    ids=["past", "naive", "beyond the calendar", "no time"],
)
def test_an_end_that_is_not_in_the_future_is_refused(inspector: Inspector, until: Any) -> None:
    with pytest.raises(SelectionError, match="until: "):
        inspector.pause(PauseScope.TYPE, "sample:one", until=until)


def test_the_sweep_cannot_be_paused(scene: Scene) -> None:
    with pytest.raises(SelectionError, match="no waiting task of any queue would continue"):
        scene.declare(jobs_sweep).act("pause", PauseScope.TYPE, "jobs:sweep")


def test_a_resume_without_a_pause_lists_the_pauses(world: World, inspector: Inspector) -> None:
    inspector.pause(PauseScope.TYPE, sample_batch.type)

    with pytest.raises(SelectionError, match="'sample:one' is not paused; current pauses: type sample:batch"):
        inspector.resume(PauseScope.TYPE, "sample:one")

    assert [row[0] for row in audited(world)] == ["pause"]


def test_a_target_that_a_deploy_has_removed_can_be_resumed(world: World, inspector: Inspector) -> None:
    world.run("insert into joblane.pauses (scope, name) values ('type', 'gone:type')")

    assert inspector.resume(PauseScope.TYPE, "gone:type").name == "gone:type"
