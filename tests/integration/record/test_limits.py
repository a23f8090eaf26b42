"""Limits: who gets a slot, who waits, and who is served when a slot becomes free."""

from __future__ import annotations

import json
from typing import Any

import pytest

from joblane.declaration import Task
from joblane.record.states import State
from joblane.record.task_types import LIMITS, declared_limits
from tests.samples import (
    LIMITED,
    Sample,
    behaviour,
    sample_keyed,
    sample_ordered,
    sample_single,
)
from tests.world import World


@pytest.fixture
def limited(world: World) -> World:
    world.run(LIMITS, json.dumps(declared_limits({task.type: task for task in LIMITED})))
    return world


def put(world: World, task: Task[Any, Any], *ids: str, number: int = 0, do: str = "nothing", **options: Any) -> None:
    for id_ in ids:
        world.lane(task)
        world.client.enqueue(task, Sample(do=do, number=number), task_id=id_, tenant="acme", **options)


def deliver(world: World, task: Task[Any, Any], *ids: str) -> list[str]:
    return world.deliver(task, *({"type": task.type, "id": id_, "rec": True} for id_ in ids))


def state(world: World, id_: str) -> str:
    return str(world.row(id_)["state"])


@behaviour
def deliver_others(payload: Sample, ctx: Any) -> None:
    """While this task runs, deliver the others by another worker."""
    deliver_others.hook()  # type: ignore[attr-defined]


def while_running(world: World, task: Task[Any, Any], id_: str, others: Any, **options: Any) -> None:
    deliver_others.hook = others  # type: ignore[attr-defined]
    put(world, task, id_, do="deliver_others", **options)
    deliver(world, task, id_)


@pytest.mark.parametrize("task", [sample_keyed, sample_single, sample_ordered])
def test_a_second_task_waits_for_the_first(limited: World, task: Task[Any, Any]) -> None:
    put(limited, task, "b", "c")

    def others() -> None:
        with limited.rival(task) as rival:
            from tests.builders.events import record
            from tests.world import handle

            for id_ in ("b", "c"):
                assert handle(rival, record({"type": task.type, "id": id_, "rec": True}, limited.lane(task))) == []
            assert [state(limited, id_) for id_ in "abc"] == ["active", "held", "held"]

    put(limited, task, "a", do="deliver_others")
    limited.run("update joblane.tasks set first_due_at = first_due_at - interval '1 hour' where id = 'a'")
    deliver_others.hook = others  # type: ignore[attr-defined]
    limited.take(task)
    deliver(limited, task, "a")
    assert [state(limited, id_) for id_ in "abc"] == ["completed", "pending", "held"]
    [message] = limited.take(task)
    assert json.loads(message["Body"])["id"] == "b"
    deliver(limited, task, "b")
    assert [state(limited, id_) for id_ in "abc"] == ["completed", "completed", "pending"]
    deliver(limited, task, "c")
    assert state(limited, "c") == State.COMPLETED
