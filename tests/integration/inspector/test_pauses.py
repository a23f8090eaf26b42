"""Pauses: nothing new starts, nothing is lost or spent, and all tasks continue after the end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from joblane import Queue, task
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.names import lane_name
from joblane.record.driver.database import Database
from joblane.sqs.message import Message
from tests.builders.rows import In, active, put
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


def deliver_all(world: World) -> int:
    """Deliver all messages in the lane of ``sample:one``. Returns their number."""
    messages = world.take(sample_one)
    for message in messages:
        world.deliver(sample_one, message["Body"], group=message.get("Attributes", {}).get("MessageGroupId"))
    return len(messages)


def audited(world: World) -> list[list[Any]]:
    return world.run("select action, target, reason from joblane.audit order by number")


# --- On the runtime ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), SCOPES)
def test_a_pause_keeps_every_message_and_resume_runs_all(
    world: World, inspector: Inspector, kind: PauseScope, name: str
) -> None:
    # given: a task with a message in the lane, a task that the sweep has to send, and an external message
    world.lane(sample_one)
    world.client._producer.sqs = world.sqs
    sent = world.client.enqueue(sample_one, Sample(), tenant="acme").id
    put(world, sample_one, "unsent", tenant="acme", sweep_at=In(-1))

    # when: all is paused, all messages are delivered, and sweeps run
    inspector.pause(kind, name, reason="the provider is down")
    assert deliver_all(world) == 1
    kept = world.deliver(sample_one, {"type": "sample:one", "id": "external", "payload": {}}, group="acme")
    for _ in range(2):
        world.run("update joblane.tasks set sweep_at = clock_timestamp() where sweep_at is not null")
        assert world.sweep().sent == 0

    # then: no message is left, each task waits, and no attempt was spent
    assert kept == []
    for id_ in (sent, "unsent", "external"):
        row = world.row(id_)
        assert (row["state"], row["attempts"], row["runs"]) == ("pending", 0, 0)

    # when: it is resumed
    inspector.resume(kind, name)
    assert world.sweep().sent == 3
    assert deliver_all(world) == 3

    # then
    assert [world.outcomes(id_) for id_ in (sent, "unsent", "external")] == [["completed"]] * 3


def test_the_pause_of_a_tenant_applies_to_messages_without_their_group(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "it", tenant="acme")
    inspector.pause(PauseScope.TENANT, "acme")
    assert world.deliver(sample_one, {"type": "sample:one", "id": "it", "rec": True}) == []
    assert (world.row("it")["state"], world.row("it")["runs"]) == ("pending", 0)


def test_a_task_with_a_changed_tenant_waits_only_for_the_new_tenant(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "it", tenant="acme")
    inspector.pause(PauseScope.TENANT, "initech")
    assert world.deliver(sample_one, {"type": "sample:one", "id": "it", "rec": True}, group="initech") == []
    assert world.row("it")["state"] == "completed"


def test_during_a_pause_a_run_ends_and_its_retry_waits(world: World, inspector: Inspector) -> None:
    put(world, sample_one, "lost", **active(60))
    inspector.pause(PauseScope.TYPE, "sample:one")
    world.expire_leases()

    world.sweep()

    inspector.resume(PauseScope.TYPE, "sample:one")
    world.lane(sample_one)
    assert world.sweep().sent == 1
    assert deliver_all(world) == 1
    assert world.outcomes("lost") == ["lost", "completed"]


def test_resume_wakes_the_sweep(world: World, inspector: Inspector) -> None:
    lane = lane_name(PREFIX, Queue.LOW, "jobs:sweep")
    world.sqs.client.create_queue(QueueName=lane)
    inspector.pause(PauseScope.TYPE, "sample:one")

    watched = Sends.of(world.sqs)
    inspector.resume(PauseScope.TYPE, "sample:one")

    assert len(watched.to(lane)) == 1


def test_a_pause_ends_automatically(world: World, inspector: Inspector) -> None:
    inspector.pause(PauseScope.TYPE, "sample:one", until=datetime.now(UTC) + HOUR)
    put(world, sample_one, "t")
    world.deliver(sample_one, {"type": "sample:one", "id": "t", "rec": True})
    assert world.row("t")["state"] == "pending"

    world.run("update joblane.pauses set until = clock_timestamp()")
    world.deliver(sample_one, {"type": "sample:one", "id": "t", "rec": True})

    assert world.row("t")["state"] == "completed"
    assert inspector.pauses() == ()


def test_a_type_is_also_paused_under_its_former_names(world: World, scope: Scope) -> None:
    tasks = {sample_renamed.type: sample_renamed}
    inspector = Inspector(Scope(scope.database, scope.sqs, scope.prefix, tasks, "op"))

    inspector.pause(PauseScope.TYPE, "sample:renamed")
    world.lane(sample_renamed)
    for type_ in sample_renamed.types:
        world.deliver(sample_renamed, Message(type_, f"as-{type_}").encode())

    assert world.run("select distinct state from joblane.tasks") == [["pending"]]
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


def test_pausing_again_replaces_reason_and_end_and_says_so(inspector: Inspector) -> None:
    first = inspector.pause(PauseScope.TYPE, "sample:one", reason="one", until=datetime.now(UTC) + HOUR)

    second = inspector.pause(PauseScope.TYPE, "sample:one", reason="two")

    assert (first.replaced, second.replaced) == (False, True)
    assert (second.reason, second.until, second.since) == ("two", None, first.since)


def test_pausing_again_names_the_earlier_operator(inspector: Inspector, scope: Scope) -> None:
    first = inspector.pause(PauseScope.QUEUE, "low")

    second = Inspector(replace(scope, who="bob")).pause(PauseScope.QUEUE, "low")

    assert (first.replaced_by, second.replaced_by, second.by) == (None, "op", "bob")


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


def test_a_pause_that_has_ended_starts_anew(world: World, inspector: Inspector) -> None:
    first = inspector.pause(PauseScope.TYPE, "sample:one", until=datetime.now(UTC) + HOUR)
    world.run("update joblane.pauses set until = clock_timestamp()")

    second = inspector.pause(PauseScope.TYPE, "sample:one")

    assert not second.replaced
    assert second.since > first.since


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


WEST = timezone(timedelta(hours=-12))


@pytest.mark.parametrize(
    "until",
    [datetime.now(UTC) - HOUR, datetime.now(UTC).replace(tzinfo=None), datetime.max.replace(tzinfo=WEST), "tomorrow"],
    ids=["past", "naive", "beyond the calendar", "no time"],
)
def test_an_end_that_is_not_in_the_future_is_refused(inspector: Inspector, until: Any) -> None:
    with pytest.raises(SelectionError, match="until: "):
        inspector.pause(PauseScope.TYPE, "sample:one", until=until)


def test_the_sweep_cannot_be_paused(scope: Scope) -> None:
    from joblane.functions.jobs_sweep.handler import jobs_sweep

    tasks = {jobs_sweep.type: jobs_sweep}
    with pytest.raises(SelectionError, match="no waiting task of any queue would continue"):
        Inspector(Scope(scope.database, scope.sqs, scope.prefix, tasks, "op")).pause(PauseScope.TYPE, "jobs:sweep")


def test_a_resume_without_a_pause_lists_the_pauses(world: World, inspector: Inspector) -> None:
    inspector.pause(PauseScope.TYPE, sample_batch.type)

    with pytest.raises(SelectionError, match="'sample:one' is not paused; current pauses: type sample:batch"):
        inspector.resume(PauseScope.TYPE, "sample:one")

    assert [row[0] for row in audited(world)] == ["pause"]


def test_a_target_that_a_deploy_has_removed_can_be_resumed(world: World, inspector: Inspector) -> None:
    world.run("insert into joblane.pauses (scope, name) values ('type', 'gone:type')")

    assert inspector.resume(PauseScope.TYPE, "gone:type").name == "gone:type"
