"""Failures of other job systems that were reported in public, as tests that dependencies and batches here pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from joblane.record.flow.release import RELEASE
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS
from joblane.record.task.finish import Finish, finish
from joblane.tasks.job import Job
from tests.integration.record.test_parents import (
    ENDED,
    ENDS,
    HELD,
    RUN,
    ask,
    end,
    finish_open,
    put,
    release,
    run,
    second,
    states,
)
from tests.samples import Sample, sample_one
from tests.world import World

CALLBACK = Job(sample_one, Sample(do="nothing", number=0))
ON_END, ON_SUCCESS = "b:on_end", "b:on_success"


def remove(world: World, *ids: str) -> None:
    """Let the time pass for which ended tasks are kept."""
    world.run("update joblane.tasks set expire_at = now(), cleared = true where id = any($1::text[])", list(ids))
    assert world.sweep().removed == len(ids)


def test_oban_722_a_parent_that_is_removed_does_not_stop_its_children(world: World) -> None:
    """Completed jobs of a workflow were removed while another one snoozed for days. The jobs after them looked for
    their parents when they ran, did not find them, and crashed. Here the end of a parent deletes the row by which a
    child waits for it, and nothing is looked up later."""
    put(world, "a", "b")
    put(world, "waits", after=["a", "b"])
    put(world, "not-asked-yet", after=["a", "b"], process_in=timedelta(days=30))
    assert ask(world, "waits") is HELD
    run(world, "a")
    put(world, "new", after=["a"], process_in=timedelta(days=30))
    remove(world, "a")

    assert run(world, "b") == ["waits"]
    remove(world, "b")
    assert run(world, "waits", State.RETRY) == []
    for child in ("waits", "not-asked-yet", "new"):
        world.run("update joblane.tasks set due_at = now() where id = $1", child)
        assert ask(world, child) is RUN


@pytest.mark.parametrize("how", ENDS)
def test_oca_queue_885_and_oban_799_every_end_of_a_parent_counts(world: World, how: str) -> None:
    """Ends on rare paths started nothing: the callback of a batch was not called when its last job was cancelled, and
    jobs after one that failed waited for ever. Here every end of a task looks for its children."""
    put(world, "a", "b", max_retry=0)
    put(world, "child", after=["a", "b"], on_parent_dead="run")
    with world.client.batch("b", on_end=CALLBACK) as batch:
        batch.enqueue(sample_one, Sample(), task_id="member", max_retry=0)
    assert [ask(world, id_) for id_ in ("child", ON_END)] == [HELD, HELD]
    run(world, "a")
    for last in ("b", "member"):
        ENDS[how](world, last)
    assert states(world, "child", ON_END) == ["pending", "pending"]
    assert world.run("select count(*) from joblane.task_parents") == [[0]]
    assert world.sweep().released == 0, "no sweep is needed"


def test_oca_queue_885_the_last_end_that_meets_another_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two parents ended at the same moment. The second one could not write the state of their child, its repetition
    failed too, and the child waited for ever (855, 867). Here the end of a parent writes nothing of its child. Who
    finds the child locked asks again, and finds it as the other one has left it."""
    put(world, "a", "b")
    put(world, "child", after=["a", "b"])
    assert ask(world, "child") is HELD
    assert [ask(world, id_) for id_ in ("a", "b")] == [RUN, RUN]
    with second(world) as one, second(world) as other:
        ends = [finish_open(one, world, "a"), finish_open(other, world, "b")]
        for database in (one, other):
            database.get().commit()
        one.get().execute_simple("begin")
        one.get().run(RELEASE, [], ends[0].released)  # and its process dies before the commit
        monkeypatch.setattr("joblane.record.flow.release.time.sleep", lambda _: one.get().rollback())
        assert [turn.id for turn in release(other.get(), [], ends[1].released)] == ["child"]
    assert ask(world, "child") is RUN


def test_sidekiq_batch_100_a_batch_ends_after_its_seal_only(world: World) -> None:
    """The first job of a batch ended while the block that enqueued the jobs still ran: the batch counted as complete,
    and its callback ran before the other jobs existed. Here the seal is a parent of the callbacks."""
    batch = world.client.batch("b", on_end=CALLBACK, on_success=CALLBACK)
    for number in range(3):
        batch.enqueue(sample_one, Sample(do="nothing", number=0), task_id=f"m{number}")
        assert run(world, f"m{number}") == []
        assert [ask(world, id_) for id_ in (ON_END, ON_SUCCESS)] == [HELD, HELD]
        assert world.sweep().released == 0
    batch.seal()
    assert [ask(world, id_) for id_ in (ON_END, ON_SUCCESS)] == [RUN, RUN]


def test_sidekiq_6852_a_member_that_runs_twice_calls_back_once(world: World) -> None:
    """The last job of a batch was killed at the end of its run and ran again. Each end lowered the number of pending
    jobs, and the callback ran twice. Here nothing is counted, and a run that lost its lease ends nothing."""
    with world.client.batch("b", on_end=CALLBACK) as batch:
        batch.enqueue(sample_one, Sample(do="nothing", number=0), task_id="m")
    assert ask(world, ON_END) is HELD
    assert ask(world, "m") is RUN
    zombie = world.row("m")
    world.expire_leases()
    assert ask(world, "m") is RUN
    late = Finish("m", zombie["lease_token"], zombie["runs"], "completed", State.COMPLETED)
    assert finish(world.database.get(), [late]) == set()
    assert end(world, "m") == [ON_END]
    assert run(world, ON_END) == []

    assert ask(world, "m") is ENDED
    assert release(world.database.get(), ["m"], [ON_END]) == []
    world.sweep()
    assert ask(world, ON_END) is ENDED
    assert world.row(ON_END)["runs"] == 1


def test_rq_1692_a_child_is_released_after_the_commit_of_its_parent(world: World) -> None:
    """A job looked for the jobs after it before its own end was written: they saw that it had not ended, and nobody
    looked again. Here an end commits first, and then the children are released."""
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    assert ask(world, "a") is RUN
    with second(world) as handler:
        ended = finish_open(handler, world, "a")
        assert ended.released == ["child"]
        assert release(world.database.get(), ["a"], ended.released) == []
        assert ask(world, "child") is HELD
        handler.get().commit()
    assert [turn.id for turn in release(world.database.get(), [], ended.released)] == ["child"]


# --- Planted faults --------------------------------------------------------------------------------------------------

IS_FREE = "t.state = 'held' and t.wait_kind is not distinct from 'parents' and t.place is not null\n         and"
PLANTED = [
    ("oban_722", "link_task", " and p.state <> 'completed'", "", {}),
    ("oca_queue_885_and", "claim", "('held', 'ended', 'archived') then", "('held', 'ended') then",
     {"how": "loses its last run"}),
    ("oca_queue_885_the_last", "release_children", "later := array(select t.id from joblane.tasks t where",
     "later := array(select t.id from joblane.tasks t where false and", {"monkeypatch": None}),
    ("sidekiq_batch_100", "link_task", "where t.callback_of is not null", "where false", {}),
    ("sidekiq_6852", "release_children", IS_FREE, "", {}),
    ("rq_1692", "release_children", "limit 1) is null", "limit 1) is not distinct from true", {}),
]  # fmt: skip
"""A part of the name of a test, the function and the text there that the fault replaces, and the test's parameters."""


@pytest.mark.parametrize(("name", "function", "old", "new", "given"), PLANTED)
def test_each_planted_fault_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, function: str, old: str, new: str, given: dict[str, Any]
) -> None:
    text_of_function = FUNCTIONS[function]
    assert old in text_of_function, "the function has changed: the fault can no longer be planted by this text"
    [test] = [test for found, test in globals().items() if found.startswith(f"test_{name}")]
    world.run(text_of_function.replace(old, new))
    with pytest.raises((AssertionError, DatabaseError)):
        test(world, **given | ({"monkeypatch": monkeypatch} if "monkeypatch" in given else {}))
