"""The worker sends the messages of tasks whose parents have ended."""

from __future__ import annotations

import pytest

from joblane import SkipRetry, TaskContext
from joblane.enqueue import follow_up
from joblane.enqueue.follow_up import FollowUp
from joblane.names import lane_name
from joblane.record.task.claim import Verdict
from tests.integration.record.test_parents import ask, put, states
from tests.logs import lines
from tests.samples import Sample, behaviour, sample_one, sample_only
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


# --- The order of what follows a commit ----------------------------------------------------------------------------


@behaviour
def gives_up_now(_: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no")


def hopeless_parent(world: World) -> None:
    """Enqueue a task that is archived at once, and a child that runs after it whatever its end."""
    world.lane(sample_one)
    world.client.enqueue(sample_one, Sample(do="gives_up_now", number=0), task_id="a")
    world.take(sample_one)
    put(world, "child", task=sample_only, after=["a"], on_parent_dead="run")
    assert ask(world, "child", task=sample_only) is Verdict.HELD


def test_a_part_of_the_follow_up_that_fails_stops_no_other_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("the connection is lost")

    hopeless_parent(world)
    monkeypatch.setattr(follow_up, "mark_dead_sent", refuse)
    with lines() as logged:
        deliver(world, "a")
    [warning] = [line for line in logged.fields if line["message"] == follow_up.NOT_MARKED]
    assert (warning["error"], warning["task_ids"]) == ("the connection is lost", ["a"])
    assert (len(world.dead_letters(sample_one)), world.row("a")["dead_sent_at"]) == (1, None)
    assert len(world.take(sample_only)) == 1


def test_the_sweep_does_all_that_follows_a_commit_of_a_process_that_died(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    hopeless_parent(world)
    with monkeypatch.context() as patched:
        patched.setattr(FollowUp, "act", die)
        with pytest.raises(KeyboardInterrupt):
            deliver(world, "a")
    assert (len(world.dead_letters(sample_one)), world.row("a")["dead_sent_at"]) == (1, None)
    assert states(world, "a", "child") == ["archived", "held"]
    world.run("update joblane.tasks set sweep_at = clock_timestamp() where sweep_at is not null")
    swept = world.sweep()
    assert (swept.released, len(world.take(sample_only))) == (1, 1)
    assert world.row("a")["dead_sent_at"] is not None


def test_nothing_is_called_after_the_commit_of_a_plain_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, "a")
    monkeypatch.setattr("joblane.worker.worker.FollowUp", None)
    deliver(world, "a")
    assert states(world, "a") == ["completed"]
