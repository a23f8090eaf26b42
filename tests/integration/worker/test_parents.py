"""The worker sends the messages of tasks whose parents have ended."""

from __future__ import annotations

from joblane.names import lane_name
from joblane.record.task.claim import Verdict
from tests.integration.record.test_parents import ask, put, states
from tests.logs import lines
from tests.samples import Sample, sample_one, sample_only
from tests.world import PREFIX, World


def deliver(world: World, id_: str) -> None:
    assert world.deliver(sample_one, {"v": 1, "type": "sample:one", "id": id_, "rec": True}) == []


def test_the_worker_of_the_last_parent_sends_the_message_of_the_child(world: World) -> None:
    put(world, "a", "b")
    put(world, "child", task=sample_only, after=["a", "b"])
    assert ask(world, "child", task=sample_only) is Verdict.HELD
    deliver(world, "a")
    assert world.take(sample_only) == []
    deliver(world, "b")
    [sent] = world.take(sample_only)
    assert '"id":"child"' in sent["Body"]


def test_a_message_that_the_worker_may_not_send_is_logged_and_the_sweep_sends_it(world: World) -> None:
    put(world, "a")
    world.client.enqueue(sample_only, Sample(do="nothing", number=0), task_id="child", after=["a"])
    assert ask(world, "child", task=sample_only) is Verdict.HELD
    with lines() as logged:  # the child's lane does not exist
        deliver(world, "a")
    [warning] = [line for line in logged.fields if line["level"] == "WARNING"]
    assert warning["message"] == "messages of tasks that may start now could not be sent; the sweep sends them"
    assert (warning["messages"], warning["queue"]) == (1, lane_name(PREFIX, sample_only.queue, sample_only.type))
    assert states(world, "child") == ["pending"]
    world.lane(sample_only)
    world.run("update joblane.tasks set sweep_at = now() where id = 'child'")
    world.sweep()
    assert len(world.take(sample_only)) == 1
