"""Queues and lanes: the part of the database and the part of SQS, each also without the other."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from joblane import Queue, TaskContext
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.stage import glance, overview
from joblane.inspector.views import Count, Depth, Lane, Overview, QueueView
from joblane.record.row.states import State
from joblane.sqs.client import Sqs
from tests.bulks import TASKS
from tests.integration.inspector.scene import Scene
from tests.samples import Sample, behaviour, sample_batch
from tests.world import World


@behaviour
def overviewed_failure(payload: Sample, ctx: TaskContext) -> None:
    raise ValueError("no room")


def queue_of(found: Overview, queue: Queue = Queue.DEFAULT) -> QueueView:
    return next(view for view in found.queues if view.queue is queue)


def lane_of(found: Overview, type_: str, queue: Queue = Queue.DEFAULT) -> Lane:
    return next(lane for lane in queue_of(found, queue).lanes if lane.type == type_)


@pytest.fixture
def scene(world: World, scope: Scope) -> Scene:
    """A deployed stage of the types of ``TASKS``."""
    world.deploy(TASKS.values())
    return Scene(world, scope).declare(*TASKS.values())


def test_each_queue_has_its_lanes_and_the_sum_of_their_rows(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("now-0", "now-1", "now-2").enqueue("far", process_in=timedelta(hours=1))
    scene.enqueue("failed", do="overviewed_failure").enqueue("dead", do="overviewed_failure", max_retry=0)
    scene.enqueue("other", task=sample_batch, queue=Queue.CRITICAL).deliver("now-0", "failed", "dead")
    found = operator.overview()
    assert [(view.queue, view.weight) for view in found.queues] == [
        (Queue.CRITICAL, 6), (Queue.DEFAULT, 3), (Queue.LOW, 1),
    ]  # fmt: skip
    one = lane_of(found, "sample:one")
    assert one.name == "jobs-default-sample-one"
    assert one.tasks == {State.PENDING: 2, State.SCHEDULED: 1, State.RETRY: 1}
    assert queue_of(found).tasks == one.tasks, "the other lanes hold nothing"
    assert queue_of(found, Queue.CRITICAL).tasks == {State.PENDING: 1}
    assert [lane.type for lane in queue_of(found).lanes] == sorted(set(TASKS) - {"jobs:bulk"})
    assert [lane.type for lane in queue_of(found, Queue.CRITICAL).lanes] == ["sample:batch"]
    assert [lane.type for lane in queue_of(found, Queue.LOW).lanes] == ["jobs:bulk"]
    assert found.archived == Count(1, exact=True)
    assert abs(found.at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_oldest_wait_is_that_of_the_task_that_was_due_first(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("far", process_in=timedelta(hours=1))
    assert lane_of(operator.overview(), "sample:one").oldest_wait_seconds is None
    for id_, minutes in (("a", 10), ("b", 20), ("done", 30)):
        scene.enqueue(id_).change(id_, f"due_at = due_at - interval '{minutes} min'")
    scene.deliver("done")
    found = operator.overview()
    waited = lane_of(found, "sample:one").oldest_wait_seconds
    assert waited is not None
    assert 1200 <= waited < 1260
    assert queue_of(found).oldest_wait_seconds == waited
    assert queue_of(found, Queue.LOW).oldest_wait_seconds is None


def test_a_pause_says_how_many_tasks_wait_for_its_end(scene: Scene, operator: Inspector) -> None:
    # given tasks of two tenants that are due, a later task, and one of another queue
    scene.enqueue("a", "b", tenant="acme").enqueue("c", tenant="globex")
    scene.enqueue("later", tenant="acme", process_in=timedelta(hours=1))
    scene.change("a", "due_at = due_at - interval '20 min'")
    # when
    operator.pause(PauseScope.TENANT, "acme", reason="flood")
    # then what is paused is not late
    found = operator.overview()
    assert [(one.pause.name, one.waiting) for one in found.paused] == [("acme", 2)]
    assert lane_of(found, "sample:one").tasks == {State.PENDING: 3, State.SCHEDULED: 1}
    waited = queue_of(found).oldest_wait_seconds
    assert waited is not None
    assert waited < 600
    # and a pause of a queue or of a type counts the tasks of all tenants
    operator.pause(PauseScope.TYPE, "sample:one", reason="bug")
    operator.pause(PauseScope.QUEUE, "default", reason="outage")
    found = operator.overview()
    assert {one.pause.name: one.waiting for one in found.paused} == {"acme": 2, "sample:one": 3, "default": 3}
    assert queue_of(found).oldest_wait_seconds is None


def test_depths_of_lanes_front_doors_and_dead_letter_queues_come_from_sqs(scene: Scene, operator: Inspector) -> None:
    deployed = scene.enqueue("now", "taken").enqueue("soon", process_in=timedelta(minutes=5)).world
    scene.enqueue("dead", do="overviewed_failure", max_retry=0).deliver("dead")
    client = deployed.sqs.client
    client.receive_message(QueueUrl=deployed.sqs.url("jobs-default-sample-one"), MaxNumberOfMessages=1)
    client.send_message(QueueUrl=deployed.sqs.url("jobs-default"), MessageBody="x")
    client.send_message(QueueUrl=deployed.sqs.url("jobs-default-dlq"), MessageBody="x")
    found = operator.overview()
    depth = Depth(waiting=2, in_flight=1, delayed=1, dead=1)
    assert lane_of(found, "sample:one").depth == depth
    assert queue_of(found).depth == depth
    assert queue_of(found).front_door == Depth(waiting=1, in_flight=0, delayed=0, dead=1)
    assert queue_of(found, Queue.LOW).depth == Depth(0, 0, 0, 0)


def test_minutes_have_no_gaps_and_count_the_runs_that_started(scene: Scene, operator: Inspector) -> None:
    scene.enqueue("good").enqueue("bad", do="overviewed_failure").deliver("good", "bad").sql(
        "update joblane.task_attempts set started_at = started_at - interval '3 min', wait_ms = 500 where "
        "outcome = 'failed'"
    )
    scene.sql("update joblane.tasks set due_at = started_at - interval '100 ms' where state = 'completed'")
    found = operator.overview(minutes=5)
    minutes = queue_of(found).minutes
    assert len(minutes) == 5
    assert {after.at - before.at for before, after in itertools.pairwise(minutes)} == {timedelta(minutes=1)}
    assert minutes[-1].at <= found.at < minutes[-1].at + timedelta(minutes=1)
    runs = [(one.started, one.completed, one.failed, one.wait_ms) for one in minutes if one.started]
    assert runs == [(1, 0, 1, 500), (1, 1, 0, 100)]
    assert all(one.wait_ms is None for one in minutes if not one.started)
    assert not any(one.started for one in queue_of(found, Queue.LOW).minutes)
    assert [len(queue_of(operator.overview(minutes=n)).minutes) for n in (1, 240)] == [1, 240]


@pytest.mark.parametrize(
    ("bound", "expected", "live"),
    [
        (2, {"sample:one": 2, "sample:tick": 2}, Count(4, exact=False)),
        (3, {"sample:one": 3, "sample:batch": 1, "sample:tick": 2}, Count(6, exact=False)),
        (4, {"sample:one": 3, "sample:batch": 1, "sample:tick": 2}, Count(6, exact=True)),
    ],
)
def test_the_oldest_and_the_newest_live_tasks_are_counted_once(
    scene: Scene,
    operator: Inspector,
    monkeypatch: pytest.MonkeyPatch,
    bound: int,
    expected: dict[str, int],
    live: Count,
) -> None:
    # given three tasks of a type, then one, then two of other types, each of one time
    for module in (overview, glance):
        monkeypatch.setattr(module, "BOUND", bound)
    scene.sql(
        "insert into joblane.tasks"
        " (id, type, queue, state, payload_digest, max_attempts, retention_seconds, created_at)"
        " select type || n, type, 'default', 'pending', '', 1, 1, timestamptz '2026-01-01' + age * interval '1 s'"
        " from (values ('sample:one', 3, 1), ('sample:batch', 1, 2), ('sample:tick', 2, 3)) as t (type, number, age),"
        " generate_series(1, number) n"
    )
    # when
    found = operator.overview()
    # then
    counted = {lane.type: lane.tasks[State.PENDING] for lane in queue_of(found).lanes if lane.tasks}
    assert (counted, found.live) == (expected, live)


@pytest.mark.parametrize("minutes", [0, 241, "5", None])
def test_1_to_240_minutes_are_allowed(inspector: Inspector, minutes: Any) -> None:
    with pytest.raises(SelectionError, match="minutes: a whole number from 1 to 240 is required"):
        inspector.overview(minutes=minutes)


def test_a_pause_is_shown_at_its_queue_or_the_lanes_of_its_type(scene: Scene, operator: Inspector) -> None:
    scene.sql(
        "insert into joblane.pauses (scope, name, reason, paused_by, until) values ('queue', 'low', 'why', "
        "'ann', null),"
        " ('type', 'sample:batch', null, null, clock_timestamp() + interval '1 h'),"
        " ('type', 'sample:one', null, null, clock_timestamp() - interval '1 s'), ('tenant', 'low', null, null, null)"
    )
    found = operator.overview()
    pause = queue_of(found, Queue.LOW).pause
    assert pause is not None
    assert (pause.scope, pause.name, pause.reason, pause.by, pause.until) == ("queue", "low", "why", "ann", None)
    for queue in (Queue.DEFAULT, Queue.CRITICAL):
        paused = lane_of(found, "sample:batch", queue).pause
        assert paused is not None
        assert paused.until is not None
    assert lane_of(found, "sample:one").pause is None
    assert queue_of(found).pause is None


def test_if_sqs_is_unavailable_the_tasks_are_shown_and_sqs_is_asked_once(
    scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.enqueue("it")
    requested: list[str] = []

    def refuse(_sqs: Sqs, name: str) -> str:
        requested.append(name)
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr(Sqs, "url", refuse)
    found = operator.overview()
    assert lane_of(found, "sample:one").tasks == {State.PENDING: 1}
    assert lane_of(found, "sample:one").depth == queue_of(found).depth == queue_of(found).front_door == Depth()
    assert len(requested) <= 8, "requests in flight at the first failure"


def test_a_missing_queue_has_no_depth_and_makes_the_sum_unknown(scene: Scene, operator: Inspector) -> None:
    for name in ("jobs-default-sample-tick", "jobs-default-sample-one-dlq"):
        scene.world.sqs.client.delete_queue(QueueUrl=scene.world.sqs.url(name))
    found = operator.overview()
    assert lane_of(found, "sample:tick").depth == Depth(dead=0, missing=("jobs-default-sample-tick",))
    assert lane_of(found, "sample:one").depth == Depth(0, 0, 0, None, ("jobs-default-sample-one-dlq",))
    assert queue_of(found).depth == Depth(missing=("jobs-default-sample-one-dlq", "jobs-default-sample-tick"))
    assert queue_of(found, Queue.CRITICAL).depth == Depth(0, 0, 0, 0)


def test_rows_of_an_undeclared_type_have_a_lane_of_their_own(scene: Scene) -> None:
    scene.enqueue("it").declare(*(task for type_, task in TASKS.items() if type_ != "sample:one"))
    found = scene.inspector.overview()
    lane = lane_of(found, "sample:one")
    assert (lane.tasks, lane.depth) == ({State.PENDING: 1}, Depth())
    assert queue_of(found).depth == Depth(0, 0, 0, 0), "the sum covers the deployed lanes"
