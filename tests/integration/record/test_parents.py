"""Tasks that run after others: who waits, and who lets them go."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import text
from sqlalchemy.orm import Session

from joblane import TaskContext
from joblane.errors import DuplicateTaskError, EnqueueError, SkipRetry
from joblane.inspector.actions.changes import change, serve_freed
from joblane.inspector.filter import BulkAction
from joblane.names import Queue
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.flow import release as release_module
from joblane.record.flow.free_slots import Turn
from joblane.record.flow.release import Release
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS
from joblane.record.task.claim import Verdict, arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.record.task_types import register
from joblane.sqs.message import Message
from joblane.tasks.job import Job
from joblane.tasks.unique import OnConflict
from tests.samples import Sample, behaviour, sample_one, sample_only, sample_ordered
from tests.world import PREFIX, World

LEASE = timedelta(seconds=60)
RUN, HELD, ENDED, LOCKED = Verdict.RUN, Verdict.HELD, Verdict.ENDED, Verdict.LOCKED


@behaviour
def dies_at_once(_: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no")


def release(connection: Connection, ended: list[str], children: Iterable[str] = ()) -> list[Turn]:
    """Release children with all steps. Return the tasks whose messages are to be sent."""
    return [turn for turns in Release(ended, children).steps(lambda step: step(connection)) for turn in turns]


def put(world: World, *ids: str, task: Any = sample_one, **options: Any) -> None:
    """Enqueue tasks, and take their messages away."""
    for id_ in ids:
        world.lane(task)
        world.client.enqueue(task, Sample(do="nothing", number=0), task_id=id_, **options)
    while world.take(task):
        pass


def ask(world: World, id_: str, *, task: Any = sample_one, database: Database | None = None, **how: Any) -> Verdict:
    """Claim a task, as a worker does, and look for its parents again if the claim asks for it."""
    item = arrival(task, Message(task.type, id_, rec=True), id_, Queue.DEFAULT, **how)
    connection = (database or world.database).get()
    claimed = claim(connection, [item], LEASE, "request")[id_]
    if claimed.release:
        held = claimed.verdict is HELD
        release(connection, [] if held else [id_], [id_] if held else [])
    return claimed.verdict


def end(world: World, id_: str, state: State = State.COMPLETED) -> list[str]:
    """End a run, and return the ids of the tasks that it has released."""
    row = world.row(id_)
    end_of_run = Finish(id_, row["lease_token"], row["runs"], str(state), state, reason="because")
    assert finish(world.database.get(), [end_of_run]) == {id_}
    return [turn.id for turn in release(world.database.get(), [id_] if end_of_run.look else [], end_of_run.released)]


def run(world: World, id_: str, state: State = State.COMPLETED) -> list[str]:
    assert ask(world, id_) is RUN
    return end(world, id_, state)


def states(world: World, *ids: str) -> list[str]:
    return [str(world.row(id_)["state"]) for id_ in ids]


def act(world: World, action: BulkAction, *ids: str) -> None:
    """Do what an operator does."""
    rows = change(world.database.get(), action, list(ids), who="me")
    serve_freed(world.database.get(), world.sqs, PREFIX, rows)


# --- Waiting, and the end of the parents -----------------------------------------------------------------------------


def test_a_child_runs_after_its_last_parent(world: World) -> None:
    put(world, "a", "b")
    put(world, "child", after=["a", "b"])
    assert states(world, "child") == ["held"]
    assert ask(world, "child") is HELD
    assert world.row("child") | {"runs": 0, "attempts": 0, "sweep_at": None} == world.row("child")
    assert run(world, "a") == []
    assert ask(world, "child") is HELD
    assert run(world, "b") == ["child"]
    assert states(world, "child") == ["pending"]
    assert ask(world, "child") is RUN
    assert world.run("select count(*) from joblane.task_parents") == [[0]]


def test_a_child_whose_parents_end_before_its_message_comes_runs_at_once(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert run(world, "a") == [], "its message is on its way"
    assert ask(world, "child") is RUN


def test_a_parent_that_has_completed_is_not_waited_for(world: World) -> None:
    put(world, "a", "b")
    run(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is RUN


def test_a_retry_of_a_parent_does_not_release_its_child(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    assert run(world, "a", State.RETRY) == []
    assert states(world, "child") == ["held"]


def test_a_child_that_is_due_later_waits_for_both(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"], process_in=timedelta(minutes=10))
    assert states(world, "child") == ["scheduled"]
    assert ask(world, "child") is HELD, "it leaves its message, and waits for its parent"
    assert run(world, "a") == ["child"]
    assert states(world, "child") == ["scheduled"]
    assert ask(world, "child") is Verdict.WAIT


def test_a_child_enters_its_order_when_it_is_released(world: World) -> None:
    put(world, "a")
    put(world, "first", task=sample_ordered, after=["a"], tenant="acme")
    put(world, "second", task=sample_ordered, tenant="acme")
    assert ask(world, "first", task=sample_ordered) is HELD
    assert ask(world, "second", task=sample_ordered) is RUN, "a child that waits for a parent blocks nobody"
    assert run(world, "a") == ["first"]
    assert world.row("first")["first_due_at"] > world.row("second")["first_due_at"]


# --- Dead and cancelled parents --------------------------------------------------------------------------------------


def test_a_dead_parent_holds_its_child_until_it_is_redriven(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    assert run(world, "a", State.ARCHIVED) == []
    assert states(world, "child") == ["held"]
    assert world.sweep().released == 0
    act(world, BulkAction.RETRY, "a")
    assert run(world, "a") == ["child"]


@pytest.mark.parametrize("known", [True, False], ids=["held", "not held yet"])
def test_a_dead_parent_cancels_its_child_with_that_option(world: World, known: bool) -> None:
    put(world, "a")
    put(world, "child", after=["a"], on_parent_dead="cancel")
    put(world, "grandchild", after=["child"])
    if known:
        assert ask(world, "child") is HELD
    assert run(world, "a", State.ARCHIVED) == []
    assert states(world, "child", "grandchild") == ["cancelled", "cancelled"]
    assert world.row("child")["reason"] == "cancelled: its parent a was archived"
    assert world.row("grandchild")["reason"] == "cancelled: its parent child was cancelled"


@pytest.mark.parametrize("state", [State.ARCHIVED, State.CANCELLED])
def test_a_child_runs_after_a_dead_or_cancelled_parent_with_that_option(world: World, state: State) -> None:
    put(world, "a")
    put(world, "child", after=["a"], on_parent_dead="run")
    assert ask(world, "child") is HELD
    assert run(world, "a", state) == ["child"]


@pytest.mark.parametrize("on_parent_dead", ["hold", "cancel"])
def test_a_cancelled_parent_cancels_its_child(world: World, on_parent_dead: str) -> None:
    put(world, "a")
    put(world, "child", after=["a"], on_parent_dead=on_parent_dead)
    put(world, "grandchild", after=["child"], on_parent_dead="run")
    assert ask(world, "child") is HELD
    assert ask(world, "grandchild") is HELD
    assert world.client.cancel("a") is State.CANCELLED
    assert states(world, "child", "grandchild") == ["cancelled", "pending"]


def test_a_child_of_a_cancelled_parent_is_cancelled_by_its_own_claim(world: World) -> None:
    put(world, "a")
    world.client.cancel("a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is ENDED
    assert world.row("child")["reason"] == "cancelled: its parent a was cancelled"


def test_a_claim_that_archives_a_parent_releases_its_child(world: World) -> None:
    put(world, "a", max_retry=0)
    put(world, "child", after=["a"], on_parent_dead="run")
    assert ask(world, "child") is HELD
    assert ask(world, "a") is RUN
    world.expire_leases()
    assert ask(world, "a") is Verdict.ARCHIVED
    assert states(world, "child") == ["pending"]


@pytest.mark.parametrize("action", [BulkAction.ARCHIVE, BulkAction.DELETE, BulkAction.CANCEL])
def test_an_operator_who_ends_a_parent_decides_on_its_child(world: World, action: BulkAction) -> None:
    put(world, "a")
    for id_, on_parent_dead in (("held", "hold"), ("stopped", "cancel"), ("free", "run")):
        put(world, id_, after=["a"], on_parent_dead=on_parent_dead)
        assert ask(world, id_) is HELD
    act(world, action, "a")
    held = "held" if action is BulkAction.ARCHIVE else "cancelled"
    assert states(world, "held", "stopped", "free") == [held, "cancelled", "pending"]


def test_a_child_of_a_deleted_dead_parent_is_cancelled(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    run(world, "a", State.ARCHIVED)
    act(world, BulkAction.DELETE, "a")
    assert world.row("child")["reason"] == "cancelled: its parent a was deleted"


def test_a_dead_parent_whose_content_is_removed_cancels_its_child(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    run(world, "a", State.ARCHIVED)
    world.run(
        "update joblane.tasks set expire_at = now(), dead_letter_unsent = false, dead_sent_at = now() where id = 'a'"
    )
    assert world.sweep().cleared == 1
    world.sweep()
    assert world.row("child")["reason"] == "cancelled: its parent a was deleted"


@pytest.mark.parametrize("end_it", [BulkAction.CANCEL, BulkAction.ARCHIVE])
def test_a_child_that_an_operator_retries_does_not_wait_any_more(world: World, end_it: BulkAction) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    act(world, end_it, "child")
    act(world, BulkAction.RETRY, "child")
    assert ask(world, "child") is RUN
    assert run(world, "a") == []


def test_an_operator_runs_a_child_without_its_parents(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    act(world, BulkAction.RUN, "child")
    assert ask(world, "child") is RUN
    assert run(world, "a") == []


def test_a_child_can_be_cancelled_while_it_waits(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    assert world.client.cancel("child") is State.CANCELLED
    assert run(world, "a") == []
    assert states(world, "child") == ["cancelled"]


def test_a_child_past_its_deadline_is_archived(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    world.run("update joblane.tasks set deadline = now() - interval '1 s' where id = 'child'")
    assert ask(world, "child") is Verdict.ARCHIVED


def test_a_child_waits_again_for_a_dead_parent_that_is_redriven(world: World) -> None:
    put(world, "a", "b", max_retry=0)
    put(world, "child", after=["a", "b"], on_parent_dead="run")
    assert ask(world, "child") is HELD
    assert run(world, "a", State.ARCHIVED) == []
    world.run("update joblane.tasks set dead_sent_at = now(), dead_letter_unsent = false where id = 'a'")
    assert ask(world, "a", dead_generation=0) is RUN, "its dead letter comes back"
    assert run(world, "b") == []
    assert end(world, "a") == ["child"]


def test_a_release_does_not_wait_for_rows_that_a_finish_deletes(world: World) -> None:
    put(world, "a", "b")
    put(world, "child", after=["a", "b"], on_parent_dead="cancel")
    assert ask(world, "child") is HELD
    assert ask(world, "a") is RUN
    assert ask(world, "b") is RUN
    with second(world) as handler:
        finish_open(handler, world, "a")  # has deleted a row, and not committed
        assert end(world, "b", State.ARCHIVED) == []
        assert states(world, "child") == ["cancelled"]
        handler.get().commit()


# --- A worker --------------------------------------------------------------------------------------------------------


def deliver(world: World, *ids: str) -> list[str]:
    return world.deliver(sample_one, *({"v": 1, "type": "sample:one", "id": id_, "rec": True} for id_ in ids))


def sent(world: World) -> list[str]:
    return [json.loads(message["Body"])["id"] for message in world.take(sample_one)]


def test_a_worker_sends_the_message_of_a_released_child(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert deliver(world, "child") == []
    assert states(world, "child") == ["held"]
    assert deliver(world, "a") == []
    assert sent(world) == ["child"]


def test_a_worker_releases_the_children_of_a_task_that_its_claim_ends(world: World) -> None:
    put(world, "a", max_retry=0)
    put(world, "child", after=["a"], on_parent_dead="run")
    deliver(world, "child")
    assert ask(world, "a") is RUN
    world.expire_leases()
    assert deliver(world, "a") == []
    assert sent(world) == ["child"]


def test_a_worker_cancels_the_children_of_a_dead_task(world: World) -> None:
    put(world, "a", max_retry=0)
    put(world, "child", after=["a"], on_parent_dead="cancel")
    deliver(world, "child")
    world.run("update joblane.tasks set payload = '{\"do\": \"dies_at_once\"}' where id = 'a'")
    deliver(world, "a")
    assert states(world, "a", "child") == ["archived", "cancelled"]
    assert world.run("select count(*) from joblane.task_parents") == [[0]]


# --- The sweep -------------------------------------------------------------------------------------------------------


def test_the_sweep_releases_what_a_dead_worker_left(world: World) -> None:
    put(world, "a", "b")
    put(world, "child", after=["a"])
    put(world, "stopped", after=["b"], on_parent_dead="cancel")
    for child in ("child", "stopped"):
        assert ask(world, child) is HELD
    for id_, state in (("a", State.COMPLETED), ("b", State.ARCHIVED)):
        assert ask(world, id_) is RUN
        row = world.row(id_)
        finish(world.database.get(), [Finish(id_, row["lease_token"], row["runs"], "x", state, reason="because")])
    swept = world.sweep()
    assert swept.released == 1
    assert states(world, "child", "stopped") == ["pending", "cancelled"]
    assert world.sweep().released == 0


def test_the_sweep_finds_parents_that_were_ended_or_deleted_by_sql(world: World) -> None:
    put(world, "a", "b")
    for id_, parent in (("child", "a"), ("orphan", "b")):
        put(world, id_, after=[parent])
        assert ask(world, id_) is HELD
    world.run("update joblane.tasks set state = 'completed' where id = 'a'")
    world.run("delete from joblane.tasks where id = 'b'")
    world.sweep()
    assert states(world, "child", "orphan") == ["pending", "cancelled"]


def test_a_completed_parent_can_be_removed(world: World) -> None:
    put(world, "a", "b")
    put(world, "child", after=["a", "b"])
    assert ask(world, "child") is HELD
    run(world, "a")
    world.run("update joblane.tasks set expire_at = now(), cleared = true where id = 'a'")
    assert world.sweep().removed == 1
    assert run(world, "b") == ["child"]


# --- Two at once -----------------------------------------------------------------------------------------------------


@contextmanager
def second(world: World) -> Iterator[Database]:
    """A second connection."""
    with world.database.another() as database:
        yield database


def finish_open(database: Database, world: World, id_: str) -> Finish:
    """Finish a run in a transaction that stays open, as that of a handler."""
    row = world.row(id_)
    ended = Finish(id_, row["lease_token"], row["runs"], "completed", State.COMPLETED)
    connection = database.get()
    if connection.idle:
        connection.execute_simple("begin")
    assert finish(connection, [ended]) == {id_}
    return ended


def test_two_parents_that_end_at_once_release_their_child(world: World) -> None:
    put(world, "a", "b")
    put(world, "child", after=["a", "b"])
    assert ask(world, "child") is HELD
    assert ask(world, "a") is RUN
    assert ask(world, "b") is RUN
    with second(world) as one, second(world) as other:
        ends = [finish_open(one, world, "a"), finish_open(other, world, "b")]
        for database in (one, other):
            database.get().commit()
        released = [release(database.get(), [], end.released) for database, end in zip((one, other), ends, strict=True)]
    assert [turn.id for turns in released for turn in turns] == ["child"], "one of them, once"


def test_a_child_that_is_claimed_while_its_parent_commits_waits_for_it(world: World) -> None:
    put(world, "a")
    assert ask(world, "a") is RUN
    with second(world) as handler, second(world) as claimer:
        ended = finish_open(handler, world, "a")
        put(world, "child", after=["a"])  # after the finish has looked for children, and before its commit
        verdicts: list[Verdict] = []
        thread = threading.Thread(target=lambda: verdicts.append(ask(world, "child", database=claimer)))
        thread.start()
        waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%claim%'"
        while not world.run(waiting)[0][0] and thread.is_alive():
            pass
        handler.get().commit()
        thread.join()
        assert ended.released == []
    assert verdicts == [RUN]


def test_a_claim_does_not_wait_long_for_a_parent_that_does_not_commit(world: World) -> None:
    put(world, "a")
    assert ask(world, "a") is RUN
    with second(world) as handler:
        finish_open(handler, world, "a")
        put(world, "child", after=["a"])
        assert ask(world, "child") is LOCKED
        handler.get().commit()
    assert ask(world, "child") is RUN


def test_a_finish_with_an_old_snapshot_looks_again_after_its_commit(world: World) -> None:
    put(world, "a")
    assert ask(world, "a") is RUN
    with second(world) as handler:
        handler.get().execute_simple("begin isolation level repeatable read; select 1")
        put(world, "child", after=["a"])
        assert ask(world, "child") is HELD
        ended = finish_open(handler, world, "a")
        handler.get().commit()
        assert (ended.released, ended.look) == ([], True)
        assert [turn.id for turn in release(handler.get(), ["a"])] == ["child"]


def test_a_child_that_another_transaction_has_locked_is_released_later(world: World) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    with second(world) as editor:
        editor.get().execute_simple("begin; select from joblane.tasks where id = 'child' for update")
        assert run(world, "a") == []
        editor.get().commit()
    assert world.sweep().released == 1


def test_a_locked_child_of_a_cancelled_parent_is_cancelled_after_a_pause(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, "a")
    put(world, "child", after=["a"])
    assert ask(world, "child") is HELD
    with second(world) as editor:
        editor.get().execute_simple("begin; select from joblane.tasks where id = 'child' for update")
        monkeypatch.setattr(time, "sleep", lambda _: editor.get().commit())
        assert run(world, "a", State.CANCELLED) == []
    assert states(world, "child") == ["cancelled"]


def test_a_locked_child_is_released_after_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    put(world, "a")
    put(world, "c1", "c2", after=["a"])
    for child in ("c1", "c2"):
        assert ask(world, child) is HELD
    monkeypatch.setattr(release_module, "MOST_RELEASED", 1)
    with second(world) as editor:
        editor.get().execute_simple("begin; select from joblane.tasks where id = 'c1' for update")
        monkeypatch.setattr(time, "sleep", lambda _: editor.get().commit())
        assert sorted(run(world, "a")) == ["c1", "c2"]


# --- Enqueue ---------------------------------------------------------------------------------------------------------


def test_a_child_can_name_the_results_of_enqueues(world: World) -> None:
    world.lane(sample_one)
    with Session(world.database.engine) as session, session.begin():
        parent = world.client.enqueue(sample_one, Sample(), session=session)
        child = world.client.enqueue(sample_one, Sample(), after=[parent], session=session)
    assert child.state is State.HELD
    row = world.row(child.id)
    assert (row["after"], row["on_parent_dead"]) == ([parent.id], "hold")


def test_a_child_of_nobody_waits_for_nobody(world: World) -> None:
    put(world, "child", after=[])
    assert ask(world, "child") is RUN


@pytest.mark.parametrize(
    ("field", "says", "options"),
    [
        ("after", "there is no task 'unknown' in this stage's database", {"after": ["unknown"]}),
        ("after", "a list of ids", {"after": "a"}),
        ("after", "an id, or a result of an enqueue, is required, not int", {"after": [7]}),
        ("after", "at most 1,000 parents, not 1,001; put them into a batch", {"after": [f"p{n}" for n in range(1001)]}),
        ("after", "a task cannot wait for itself", {"after": ["me"], "task_id": "me"}),
        ("after", "use on_conflict='return'", {"after": ["a"], "on_conflict": OnConflict.REPLACE, "unique_for": LEASE}),
        ("on_parent_dead", "'wait' is not one of hold, cancel, run", {"after": ["a"], "on_parent_dead": "wait"}),
        ("on_parent_dead", "this task has no parents", {"on_parent_dead": "run"}),
    ],
)
def test_wrong_parents_are_refused_before_anything_is_written(
    world: World, field: str, says: str, options: dict[str, Any]
) -> None:
    put(world, "a")
    with pytest.raises(EnqueueError, match=says) as refused:
        world.client.enqueue(sample_one, Sample(), **options)
    assert str(refused.value).startswith(f"{field}: ")
    assert world.run("select count(*) from joblane.tasks") == [[1]]


def test_an_unknown_parent_leaves_the_callers_transaction_usable(world: World) -> None:
    world.lane(sample_one)
    with Session(world.database.engine) as session, session.begin():
        with pytest.raises(EnqueueError):
            world.client.enqueue_many([Job(sample_one, Sample(), after=["unknown"])], session=session)
        assert session.execute(text("select 1")).scalar() == 1


def test_a_child_that_waits_for_its_parents_is_not_replaced(world: World) -> None:
    put(world, "a")
    put(world, "child", task=sample_only, after=["a"])
    with pytest.raises(DuplicateTaskError, match="nor one that waits for other tasks"):
        world.client.enqueue(sample_only, Sample(do="nothing", number=0), on_conflict="replace")


@pytest.mark.parametrize("given", ["array['a']", "array['a', 'a']"])
def test_sql_enqueues_a_child(world: World, given: str) -> None:
    register(world.database.get(), {sample_one.type: sample_one})
    put(world, "a")
    world.run(f"select joblane.enqueue('sample:one', task_id => 'child', after => {given}, on_parent_dead => 'run')")
    assert states(world, "child") == ["held"]
    assert ask(world, "child") is HELD
    assert run(world, "a", State.ARCHIVED) == ["child"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("after => array['unknown']", "after: there is no task 'unknown'"),
        ("after => array[null]::text[]", "after: null is not an id"),
        ("on_parent_dead => 'run'", "on_parent_dead: give after too"),
        ("on_parent_dead => 'wait'", "on_parent_dead: hold, cancel or run is required"),
    ],
)
def test_sql_refuses_wrong_parents(world: World, given: str, says: str) -> None:
    register(world.database.get(), {sample_one.type: sample_one})
    with pytest.raises(DatabaseError, match=says):
        world.run(f"select joblane.enqueue('sample:one', {given})")


# --- Planted faults --------------------------------------------------------------------------------------------------

OTHER_PARENT = "select from joblane.task_parents o where o.child = g.child and o.parent <> g.parent"
PLANTED = [
    ("open_parents", "order by t.id for share", "order by t.id", "claimed_while_its_parent_commits_waits_for_it"),
    ("open_parents", "if not is_held then", "if false then", "child_of_a_cancelled_parent_is_cancelled_by_its_own"),
    ("finish", "into released from gone g;",
     f"into released from gone g where not exists ({OTHER_PARENT});", "two_parents_that_end_at_once"),
    ("finish", "<> 'read committed'", "= 'never'", "a_finish_with_an_old_snapshot_looks_again"),
    ("finish", "when x.state = 'completed'", "when x.state <> 'retry'", "a_dead_parent_holds_its_child"),
    ("release_children", "limit 1) is null", "limit 1) is not distinct from true", "runs_after_its_last_parent"),
    ("release_children", "and t.place is not null", "", "whose_parents_end_before_its_message_comes"),
    ("release_children", "greatest(t.due_at, clock_timestamp()) end, sweep", "t.created_at end, sweep",
     "enters_its_order_when_it_is_released"),
]  # fmt: skip
"""A function, a text there and the fault, and a part of the name of the test that finds it."""


@pytest.mark.parametrize(("function", "old", "new", "name"), PLANTED)
def test_each_planted_fault_is_found(world: World, function: str, old: str, new: str, name: str) -> None:
    text_of_function = FUNCTIONS[function]
    assert old in text_of_function, "the function has changed: the fault can no longer be planted by this text"
    [test] = [test for found, test in globals().items() if name in found]
    world.run(text_of_function.replace(old, new))
    with pytest.raises(AssertionError):
        test(world)
