"""Types that share a function and its lanes: what a lane has is counted once, and its advice names the place."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from joblane import Lambda, Payload, Queue, task
from joblane.inspector.bulk.dead_letters import queues_of
from joblane.inspector.scope import Scope
from joblane.inspector.stage import batching
from joblane.inspector.stage.doctor import aws
from joblane.inspector.views import Grade, Obstacle, Reason
from joblane.names import lane_name
from joblane.sqs.client import Entry
from tests.builders.rows import In, active
from tests.integration.inspector.scene import Scene
from tests.samples import sample_one
from tests.world import World

DESK = Lambda("desk", batch_size=2, max_concurrency=2, drains=("desk:stamp",))
LANE, LOW, DRAINED = "jobs-default-desk", "jobs-low-desk", "jobs-default-desk-stamp"
LATE: dict[str, Any] = {"due_at": In(-7200), "created_at": In(-7200)}


class Nothing(Payload):
    pass


@task("desk:stamp", runs_on=DESK, timeout=timedelta(seconds=20))
def desk_stamp(payload: Nothing, ctx: object) -> None:
    """Nothing."""


@task("desk:file", runs_on=DESK, also=[Queue.LOW], timeout=timedelta(seconds=100))
def desk_file(payload: Nothing, ctx: object) -> None:
    """Nothing."""


@task("desk:copy", runs_on=DESK, queue=Queue.LOW)
def desk_copy(payload: Nothing, ctx: object) -> None:
    """Nothing."""


TASKS = (desk_stamp, desk_file, desk_copy, sample_one)


@pytest.fixture
def on(world: World, scope: Scope) -> Scene:
    world.deploy(TASKS)
    return Scene(world, scope).declare(*TASKS)


def test_the_messages_of_a_lane_are_counted_once(on: Scene) -> None:
    for _ in range(3):
        on.scope.sqs.send(Entry(LANE, "{}"))
    found = {view.queue: view for view in on.inspector.overview().queues}
    lanes = {lane.type: lane for lane in found[Queue.DEFAULT].lanes}
    assert {type_: (lane.name, lane.place) for type_, lane in lanes.items()} == {
        "desk:file": (LANE, "desk"),
        "desk:stamp": (LANE, "desk"),
        "sample:one": ("jobs-default-sample-one", None),
    }
    assert {lanes[type_].depth.waiting for type_ in ("desk:file", "desk:stamp")} == {3}
    assert found[Queue.DEFAULT].depth.waiting == 3
    assert found[Queue.LOW].depth.waiting == 0
    assert [view.number_of_lanes for view in found.values()] == [0, 2, 1]
    ids = [lane.row_id for view in found.values() for lane in view.lanes]
    assert len(ids) == len(set(ids)), "the page and `joblane watch` find rows by them"


def test_a_task_waits_behind_other_types_of_its_lane(on: Scene) -> None:
    on.put("mine", desk_stamp, due_at=In(-60)).put("low", desk_copy, queue="low", **LATE).put(
        "run", desk_file, **active(60)
    )
    on.put("f1", desk_file, **LATE).put("f2", desk_file, **LATE).put("s1", desk_stamp, **LATE).put("else", **LATE)
    view = on.inspector.task("mine")
    assert view.why.reason is Reason.IN_LANE
    assert f"its message should be in {LANE}. Of all types of desk in this lane, " in view.why.text
    assert "3 waiting tasks were due earlier (2 of desk:file, 1 of desk:stamp), and 1 are running." in view.why.text
    assert (view.place, view.others) == ("desk", 2)
    other = on.inspector.task("else")
    assert "Of the same type and queue, 0 waiting tasks were due earlier, and 0 are running." in other.why.text
    assert (other.place, other.others) == (None, 0)


def test_why_a_type_is_slow_names_its_place_and_the_types_that_fill_its_lane(on: Scene) -> None:
    on.put("mine", desk_stamp, **LATE)
    for number in range(4):
        on.put(f"run{number}", desk_file, **active(60)).put(f"wait{number}", desk_file, **LATE)
    checks = {check.what: check for check in on.inspector.why_slow("desk:stamp")}
    assert checks["place"].found == "it runs on desk, with 2 other types: desk:copy, desk:file"
    assert checks["lane default"].grade is Grade.BAD
    assert checks["lane default"].found == (
        "4 run at a time, and 1 task is due, with 4 of desk:file in the same lane: the `max_concurrency` of 2 is "
        "reached"
    )
    assert checks["lane default"].do == (
        'raise `max_concurrency` of `Lambda("desk")`, and `concurrency_budget` of the stage; or give the type a '
        "function of its own: its lane is then its own, too"
    )
    alone = {check.what for check in on.inspector.why_slow("sample:one")}
    assert "place" not in alone


def test_types_name_their_place(on: Scene) -> None:
    found = {each.type: (each.place, each.others) for each in on.inspector.types()}
    assert found == {
        "desk:copy": ("desk", 2),
        "desk:file": ("desk", 2),
        "desk:stamp": ("desk", 2),
        "sample:one": (None, 0),
    }


def test_a_larger_batch_of_one_type_is_not_advised() -> None:
    found = batching.advice(desk_stamp, [batching.Runs(10, 1000, 0, 1000, 10_000, 1.0)])
    assert (found.advised, found.obstacle, found.usd_a_month) == (None, Obstacle.PLACE, 0)


def test_dead_letters_are_read_once_from_each_lane_and_from_a_former_lane() -> None:
    tasks = {each.type: each for each in TASKS}
    found = queues_of("jobs", tasks)
    assert len(found) == len(set(found))
    assert {f"{lane}-dlq" for lane in (LANE, LOW, DRAINED)} <= set(found)
    assert f"{DRAINED}-dlq" not in queues_of("jobs", tasks, ["desk:copy"])


# --- The doctor ----------------------------------------------------------------------------------------------------


def test_the_function_of_a_place_is_checked_once_with_its_longest_timeout(
    on: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Aws(SimpleNamespace):
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def get_function_configuration(self, FunctionName: str) -> dict[str, Any]:  # noqa: N803
            asked.append(FunctionName)
            alone = int(sample_one.numbers.function_timeout.total_seconds())
            return {"Timeout": 2 * 100 + 10 if FunctionName == "jobs-desk" else alone}

    monkeypatch.setattr(aws, "client", lambda *_: Aws())
    [check] = aws.functions(on.scope)
    assert check.found == "all 2 exist, as they are declared"
    assert asked == ["jobs-desk", "jobs-sample-one"]


def test_the_mapping_of_a_place_has_the_concurrency_of_all_its_types(on: Scene) -> None:
    lanes = aws._lanes(on.scope)
    assert {name: [each.type for each in tasks] for name, (_, tasks) in lanes.items()} == {
        LANE: ["desk:stamp", "desk:file"],
        DRAINED: ["desk:stamp"],
        LOW: ["desk:file", "desk:copy"],
        lane_name("jobs", Queue.DEFAULT, "sample:one"): ["sample:one"],
    }
    mapping = {
        "UUID": "u-1",
        "State": "Disabled",
        "ScalingConfig": {"MaximumConcurrency": 7},
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
    }
    disabled, most = aws._mapping(LANE, lanes[LANE], [mapping])
    assert disabled.grade is Grade.BAD
    assert most.found == (
        'its mapping allows a concurrency of 7, and max_concurrency of Lambda("desk") is declared as 2'
    )
