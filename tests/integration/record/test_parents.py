"""Tasks that run after others: who waits, and who lets them go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
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
from tests.stories import (
    Story,
    by_name,
    cancel,
    enqueue,
    expire_leases,
    play,
    row,
    sent,
    sql,
    step,
    stories,
    sweep,
    while_locked,
)
from tests.world import PREFIX, World

LEASE = timedelta(seconds=60)
RUN, HELD, ENDED, LOCKED = Verdict.RUN, Verdict.HELD, Verdict.ENDED, Verdict.LOCKED


@behaviour
def dies_at_once(_: Sample, ctx: TaskContext) -> None:
    raise SkipRetry("no")


def release(connection: Connection, ended: list[str], children: Iterable[str] = ()) -> list[Turn]:
    """Release children with all steps. Return the tasks whose messages are to be sent."""
    return [turn for turns in Release(ended, children).steps(lambda step: step(connection)) for turn in turns]


def put(world: World, /, *ids: str, task: Any = sample_one, **options: Any) -> None:
    """Enqueue tasks, and take their messages away."""
    for id_ in ids:
        world.lane(task)
        world.client.enqueue(task, Sample(do="nothing", number=0), task_id=id_, **options)
    while world.take(task):
        pass


def ask(world: World, /, id_: str, *, task: Any = sample_one, database: Database | None = None, **how: Any) -> Verdict:
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


puts, asks, runs, ends, acts, are = step(put), step(ask), step(run), step(end), step(act), step(states)


# --- Waiting, and the end of the parents -----------------------------------------------------------------------------


# --- The end of a parent ---------------------------------------------------------------------------------------------


def lose_the_last_run(world: World, id_: str) -> None:
    """Kill the run of a task that has no attempt left. Its message comes again after the lease."""
    assert ask(world, id_) is RUN
    world.run("update joblane.tasks set max_attempts = 1 where id = $1", id_)
    world.expire_leases()
    assert ask(world, id_) is Verdict.ARCHIVED


def pass_the_deadline(world: World, id_: str) -> None:
    world.run("update joblane.tasks set deadline = now() - interval '1 s' where id = $1", id_)
    assert ask(world, id_) is Verdict.ARCHIVED


def die_and_be_deleted(world: World, id_: str) -> None:
    run(world, id_, State.ARCHIVED)
    act(world, BulkAction.DELETE, id_)


def die_and_lose_the_content(world: World, id_: str) -> None:
    run(world, id_, State.ARCHIVED)
    world.run("update joblane.tasks set expire_at = now(), dead_letter_unsent = false, dead_sent_at = now()"
              " where id = $1", id_)  # fmt: skip
    assert world.sweep().cleared == 1
    world.sweep()


def change_by_sql(sql: str) -> Callable[[World, str], None]:
    """End the parent by a statement of an operator. The sweep finds that."""

    def change_it(world: World, id_: str) -> None:
        world.run(sql, id_)
        world.sweep()

    return change_it


ENDS: dict[str, Callable[[World, str], Any]] = {
    "completes": run,
    "dies": lambda world, id_: run(world, id_, State.ARCHIVED),
    "revokes itself": lambda world, id_: run(world, id_, State.CANCELLED),
    "loses its last run": lose_the_last_run,
    "passes its deadline": pass_the_deadline,
    "is cancelled": lambda world, id_: world.client.cancel(id_),
    "is archived by an operator": lambda world, id_: act(world, BulkAction.ARCHIVE, id_),
    "is deleted by an operator": lambda world, id_: act(world, BulkAction.DELETE, id_),
}
RARE_ENDS = ENDS | {
    "fails, and is retried": lambda world, id_: run(world, id_, State.RETRY),
    "is cancelled by an operator": lambda world, id_: act(world, BulkAction.CANCEL, id_),
    "dies and is deleted": die_and_be_deleted,
    "dies, and its content is removed": die_and_lose_the_content,
    "is completed by SQL": change_by_sql("update joblane.tasks set state = 'completed' where id = $1"),
    "is deleted by SQL": change_by_sql("delete from joblane.tasks where id = $1"),
}
FATES = [
    # the parent …                      the child                its next claim, and the end of its reason
    ("completes",                       "held, hold",            RUN, None),
    ("completes",                       "sent, hold",            RUN, None),
    ("completes",                       "later, hold",           RUN, None),
    ("fails, and is retried",           "held, hold",            HELD, None),
    ("dies",                            "held, hold",            HELD, None),
    ("dies",                            "held, cancel",          ENDED, "archived"),
    ("dies",                            "sent, cancel",          ENDED, "archived"),
    ("dies",                            "held, run",             RUN, None),
    ("dies",                            "later, hold",           HELD, None),  # the failure of fossology 3852: a
    ("dies",                            "later, cancel",         ENDED, "archived"),  # parent that ends fast
    ("dies",                            "later, run",            RUN, None),
    ("revokes itself",                  "held, run",             RUN, None),
    ("passes its deadline",             "held, run",             RUN, None),
    ("is cancelled",                    "held, hold",            ENDED, "cancelled"),
    ("is cancelled",                    "held, cancel",          ENDED, "cancelled"),
    ("is cancelled",                    "later, hold",           ENDED, "cancelled"),
    ("loses its last run",              "held, run",             RUN, None),
    ("is archived by an operator",      "held, hold",            HELD, None),
    ("is archived by an operator",      "held, cancel",          ENDED, "archived"),
    ("is archived by an operator",      "held, run",             RUN, None),
    ("is cancelled by an operator",     "held, hold",            ENDED, "cancelled"),
    ("is cancelled by an operator",     "held, run",             RUN, None),
    ("is deleted by an operator",       "held, hold",            ENDED, "deleted"),
    ("is deleted by an operator",       "held, cancel",          ENDED, "deleted"),
    ("is deleted by an operator",       "held, run",             RUN, None),
    ("dies and is deleted",             "held, hold",            ENDED, "deleted"),
    ("dies, and its content is removed", "held, hold",           ENDED, "deleted"),
    ("is completed by SQL",             "held, hold",            RUN, None),
    ("is deleted by SQL",               "held, hold",            ENDED, "deleted"),
]  # fmt: skip
"""The child is held by its claim, its message is sent and not claimed, or it is enqueued after the end of its parent;
and the option ``on_parent_dead``."""
STATES = {RUN: "pending", HELD: "held", ENDED: "cancelled"}


@pytest.mark.parametrize(("how", "child", "fate", "reason"), FATES)
def test_the_end_of_a_parent_decides_on_its_child(
    world: World, how: str, child: str, fate: Verdict, reason: str | None
) -> None:
    moment, on_parent_dead = child.split(", ")
    given = {"after": ["a"], "on_parent_dead": on_parent_dead}
    put(world, "a")
    if moment != "later":
        put(world, "child", **given)
    if moment == "held":
        assert ask(world, "child") is HELD

    released = RARE_ENDS[how](world, "a")

    if moment == "held":
        assert states(world, "child") == [STATES[fate]]
    if isinstance(released, list):
        assert released == (["child"] if (moment, fate) == ("held", RUN) else [])
    if moment == "later":
        put(world, "child", **given)
    assert ask(world, "child") is fate
    assert world.row("child")["reason"] == (f"cancelled: its parent a was {reason}" if reason else None)


# --- Redriven parents ------------------------------------------------------------------------------------------------


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


# --- The sweep -------------------------------------------------------------------------------------------------------


@step
def die_after_the_finish(world: World, id_: str, state: State) -> None:
    """Run a task in a process that dies before it releases the children."""
    assert ask(world, id_) is RUN
    row = world.row(id_)
    finish(world.database.get(), [Finish(id_, row["lease_token"], row["runs"], "x", state, reason="because")])


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
            thread.join(0.01)
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


# --- Stories ---------------------------------------------------------------------------------------------------------

DIES = "update joblane.tasks set payload = '{\"do\": \"dies_at_once\"}' where id = 'a'"
RETRIED = [acts(BulkAction.RETRY, "child"), asks("child").gives(RUN)]
STORIES: dict[str, Story] = {
    "a child runs after its last parent": [
        puts("a", "b"),
        puts("child", after=["a", "b"]),
        are("child").gives(["held"]),
        asks("child").gives(HELD),
        row("child", runs=0, attempts=0, sweep_at=None),
        runs("a").gives([]),
        asks("child").gives(HELD),
        runs("b").gives(["child"]),
        are("child").gives(["pending"]),
        asks("child").gives(RUN),
        sql("select count(*) from joblane.task_parents").gives([[0]]),
    ],
    "a child that is due later waits for both": [
        puts("a"),
        puts("child", after=["a"], process_in=timedelta(minutes=10)),
        are("child").gives(["scheduled"]),
        # it leaves its message, and waits for its parent
        asks("child").gives(HELD),
        runs("a").gives(["child"]),
        are("child").gives(["scheduled"]),
        asks("child").gives(Verdict.WAIT),
    ],
    "a child enters its order when it is released": [
        puts("a"),
        puts("first", task=sample_ordered, after=["a"], tenant="acme"),
        puts("second", task=sample_ordered, tenant="acme"),
        asks("first", task=sample_ordered).gives(HELD),
        # a child that waits for a parent blocks nobody
        asks("second", task=sample_ordered).gives(RUN),
        runs("a").gives(["first"]),
        sql("select id from joblane.tasks where seq is not null order by first_due_at").gives([["second"], ["first"]]),
    ],
    "a dead parent holds its child until it is redriven": [
        puts("a"),
        puts("child", after=["a"]),
        asks("child").gives(HELD),
        runs("a", State.ARCHIVED).gives([]),
        are("child").gives(["held"]),
        sweep(released=0),
        acts(BulkAction.RETRY, "a"),
        runs("a").gives(["child"]),
    ],
    "a child waits again for a dead parent that is redriven": [
        puts("a", "b", max_retry=0),
        puts("child", after=["a", "b"], on_parent_dead="run"),
        asks("child").gives(HELD),
        runs("a", State.ARCHIVED).gives([]),
        sql("update joblane.tasks set dead_sent_at = now(), dead_letter_unsent = false where id = 'a'"),
        # its dead letter comes back
        asks("a", dead_generation=0).gives(RUN),
        runs("b").gives([]),
        ends("a").gives(["child"]),
    ],
    "the sweep releases what a dead worker left": [
        puts("a", "b"),
        puts("child", after=["a"]),
        puts("stopped", after=["b"], on_parent_dead="cancel"),
        *(asks(child).gives(HELD) for child in ("child", "stopped")),
        die_after_the_finish("a", State.COMPLETED),
        die_after_the_finish("b", State.ARCHIVED),
        sweep(released=1),
        are("child", "stopped").gives(["pending", "cancelled"]),
        sweep(released=0),
    ],
    "a completed parent can be removed": [
        puts("a", "b"),
        puts("child", after=["a", "b"]),
        asks("child").gives(HELD),
        runs("a"),
        sql("update joblane.tasks set expire_at = now(), cleared = true where id = 'a'"),
        sweep(removed=1),
        runs("b").gives(["child"]),
    ],
    "a child that another transaction has locked is released later": [
        puts("a"),
        puts("child", after=["a"]),
        asks("child").gives(HELD),
        while_locked("child", runs("a").gives([])),
        sweep(released=1),
    ],
    "a child that waits for its parents is not replaced": [
        puts("a"),
        puts("child", task=sample_only, after=["a"]),
        enqueue(sample_only, Sample(do="nothing", number=0), on_conflict="replace").fails(
            DuplicateTaskError, "nor one that waits for other tasks"
        ),
    ],
    **{
        f"the child of a child that is cancelled has its own option: {on_parent_dead}": [
            puts("a"),
            puts("child", after=["a"], on_parent_dead="cancel"),
            puts("grandchild", after=["child"], on_parent_dead=on_parent_dead),
            asks("grandchild").gives(HELD),
            runs("a", State.ARCHIVED).gives(released),
            are("child", "grandchild").gives(["cancelled", fate]),
            row("grandchild", reason=reason),
        ]
        for on_parent_dead, released, fate, reason in (
            ("hold", [], "cancelled", "cancelled: its parent child was cancelled"),
            ("run", ["grandchild"], "pending", None),
        )
    },
    **{
        f"a child can start or end without its parent: it {how}": [
            puts("a"),
            puts("child", after=["a"]),
            asks("child").gives(HELD),
            *then,
            runs("a").gives([]),
            are("child").gives([fate]),
        ]
        for how, fate, then in (
            ("is cancelled by an operator", "active", [acts(BulkAction.CANCEL, "child"), *RETRIED]),
            ("is archived by an operator", "active", [acts(BulkAction.ARCHIVE, "child"), *RETRIED]),
            ("is cancelled", "cancelled", [cancel("child")]),
            ("passes its deadline", "archived", [step(pass_the_deadline)("child")]),
            ("is started by an operator", "active", [acts(BulkAction.RUN, "child"), asks("child").gives(RUN)]),
        )
    },
    **{
        f"SQL enqueues a child: {given}": [
            lambda world: register(world.database.get(), {sample_one.type: sample_one}),
            puts("a"),
            sql(f"select joblane.enqueue('sample:one', task_id => 'child', after => {given}, on_parent_dead => 'run')"),
            are("child").gives(["held"]),
            asks("child").gives(HELD),
            runs("a", State.ARCHIVED).gives(["child"]),
        ]
        for given in ("array['a']", "array['a', 'a']")
    },
    **{
        f"a worker releases the child of a task that it ends: it {how}": [
            puts("a", max_retry=0),
            puts("child", after=["a"], on_parent_dead=on_parent_dead),
            step(deliver)("child").gives([]),
            are("child").gives(["held"]),
            *given,
            step(deliver)("a").gives([]),
            are("a", "child").gives(fates),
            sent(sample_one).gives(messages),
            sql("select count(*) from joblane.task_parents").gives([[0]]),
        ]
        for how, on_parent_dead, given, fates, messages in (
            ("completes", "hold", [], ["completed", "pending"], ["child"]),
            ("is lost", "run", [asks("a").gives(RUN), expire_leases()], ["archived", "pending"], ["child"]),
            ("dies", "cancel", [sql(DIES)], ["archived", "cancelled"], []),
        )
    },
}


@stories(STORIES)
def test_story(world: World, story: Story) -> None:
    play(world, story)


# --- Planted faults --------------------------------------------------------------------------------------------------

OTHER_PARENT = "select from joblane.task_parents o where o.child = g.child and o.parent <> g.parent"
PLANTED = [
    ("open_parents", "order by t.id for share", "order by t.id", "claimed_while_its_parent_commits_waits_for_it"),
    ("open_parents", "if not is_held then", "if false then", ("is cancelled", "later, hold", ENDED, "cancelled")),
    ("link_task", "p.state <> 'completed'", "p.finished_at is null", ("dies", "later, hold", HELD, None)),
    ("let_go", "into released from gone g;",
     f"into released from gone g where not exists ({OTHER_PARENT});", "two_parents_that_end_at_once"),
    ("let_go", "<> 'read committed'", "= 'never'", "a_finish_with_an_old_snapshot_looks_again"),
    ("let_go", "when x.state = 'completed'", "when x.state <> 'retry'", "a_dead_parent_holds_its_child"),
    ("release_children", "limit 1) is null", "limit 1) is not distinct from true", "runs_after_its_last_parent"),
    ("release_children", "and t.place is not null", "", ("completes", "sent, hold", RUN, None)),
    ("release_children", "coalesce(t.first_due_at, greatest(t.due_at, clock_timestamp())) end, sweep",
     "t.created_at end, sweep", "enters_its_order_when_it_is_released"),
]  # fmt: skip
"""A function, a text there and the fault, and a part of the name of the test that finds it, or a row of the table."""


@pytest.mark.parametrize(("function", "old", "new", "finder"), PLANTED)
def test_each_planted_fault_is_found(world: World, function: str, old: str, new: str, finder: str | Any) -> None:
    text_of_function = FUNCTIONS[function]
    assert old in text_of_function, "the function has changed: the fault can no longer be planted by this text"
    name, row = (finder, ()) if isinstance(finder, str) else ("the_end_of_a_parent_decides_on_its_child", finder)
    [test] = [test for found, test in (globals() | by_name(STORIES)).items() if name in found]
    world.run(text_of_function.replace(old, new))
    with pytest.raises(AssertionError):
        test(world, *row)
