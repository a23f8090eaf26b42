"""Batches: members, the seal, and the callbacks."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy.orm import Session

from joblane import TaskContext
from joblane.enqueue.session import SessionTransaction
from joblane.errors import (
    BatchIdConflictError,
    DatabaseUnavailableError,
    DuplicateTaskError,
    EnqueueError,
    SkipRetry,
    TaskIdConflictError,
)
from joblane.inspector.filter import BulkAction
from joblane.record.driver.time_limits import TimeLimits
from joblane.record.row.states import State
from joblane.record.sql_functions import FUNCTIONS
from joblane.tasks.job import Job
from tests.integration.record.test_parents import HELD, RUN, act, ask, end, run, second, states
from tests.samples import Sample, behaviour, sample_one, sample_only
from tests.world import World

SECOND = timedelta(seconds=1)
JOB = Job(sample_one, Sample(do="nothing", number=0))
END, SUCCESS = "import-7:on_end", "import-7:on_success"


@pytest.fixture(autouse=True)
def lane(world: World) -> None:
    world.lane(sample_one)


@behaviour
def adds_a_member(_: Sample, ctx: TaskContext) -> None:
    ctx.batch.enqueue(sample_one, Sample(), task_id="late")


@behaviour
def adds_a_member_and_fails(payload: Sample, ctx: TaskContext) -> None:
    adds_a_member(payload, ctx)
    raise SkipRetry("no")


@behaviour
def names_its_batch(_: Sample, ctx: TaskContext) -> str:
    return str(ctx.batch_id)


@behaviour
def makes_a_batch(_: Sample, ctx: TaskContext) -> None:
    with ctx.new_batch("import-7", on_end=JOB) as batch:
        batch.enqueue_many([member("b"), member("c")])


def member(id_: str, do: str = "nothing", **options: Any) -> Job:
    return Job(sample_one, Sample(do=do, number=0), task_id=id_, **options)


def batch_of(world: World, *ids: str, do: str = "nothing") -> None:
    """Make a batch with both callbacks, and take the messages away."""
    with world.client.batch("import-7", on_end=JOB, on_success=JOB) as batch:
        batch.enqueue_many([member(id_, do) for id_ in ids])
    while world.take(sample_one):
        pass


def failing(world: World, session: Session | None) -> None:
    """Make a batch in a block that ends with an exception."""
    with suppress(ZeroDivisionError), world.client.batch("import-7", on_end=JOB, session=session) as batch:
        batch.enqueue(sample_one, Sample())
        1 / 0  # noqa: B018


def deliver(world: World, id_: str) -> None:
    assert world.deliver(sample_one, {"v": 1, "type": "sample:one", "id": id_, "rec": True}) == []


def callbacks(world: World) -> list[str]:
    """Deliver the callbacks' messages, and return their states."""
    for id_ in (END, SUCCESS):
        if world.row(id_)["state"] == "held":
            ask(world, id_)
    return states(world, END, SUCCESS)


# --- Callbacks -------------------------------------------------------------------------------------------------------


def test_a_callback_whose_message_comes_after_the_last_end_runs_at_once(world: World) -> None:
    batch_of(world, "a")
    assert run(world, "a") == []
    assert ask(world, END) is RUN


def test_an_empty_batch_calls_both_at_its_seal(world: World) -> None:
    with world.client.batch("import-7", on_end=JOB, on_success=JOB):
        pass
    assert len(world.take(sample_one)) == 2
    assert [ask(world, END), ask(world, SUCCESS)] == [RUN, RUN]


def test_on_success_runs_after_the_redrive_of_the_last_dead_member(world: World) -> None:
    batch_of(world, "a", "b")
    callbacks(world)
    assert run(world, "a", State.ARCHIVED) == []
    assert run(world, "b") == [END], "the end of a dead member counts"
    assert states(world, SUCCESS) == ["held"]
    act(world, BulkAction.RETRY, "a")
    assert run(world, "a") == [SUCCESS]


def test_a_cancelled_member_cancels_on_success(world: World) -> None:
    batch_of(world, "a", "b")
    callbacks(world)
    world.client.cancel("a")
    assert run(world, "b") == [END]
    assert world.row(SUCCESS)["reason"] == "cancelled: its parent a was cancelled"


def test_a_batch_without_callbacks_only_groups_its_members(world: World) -> None:
    with world.client.batch("import-7") as batch:
        batch.enqueue(sample_one, Sample(), task_id="a", tags=["mine"])
    assert world.row("a")["tags"] == ["mine", "batch:import-7"]
    assert world.run("select count(*) from joblane.task_parents") == [[0]]
    assert run(world, "a") == []


# --- The seal --------------------------------------------------------------------------------------------------------


def test_members_are_added_in_several_transactions_until_the_seal(world: World) -> None:
    batch = world.client.batch("import-7", on_end=JOB)
    batch.enqueue_many([member("a")])
    assert ask(world, END) is HELD
    assert run(world, "a") == [], "the batch is open"
    batch.enqueue_many([member("b")])
    assert run(world, "b") == []
    while world.take(sample_one):
        pass
    batch.seal()
    assert len(world.take(sample_one)) == 1, "the seal sends the callback's message"
    assert ask(world, END) is RUN


def test_the_sweep_sends_the_message_that_a_dead_sealer_did_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = world.client.batch("import-7", on_end=JOB)
    batch.enqueue_many([member("a")])
    ask(world, END)
    run(world, "a")
    while world.take(sample_one):
        pass
    monkeypatch.setattr(SessionTransaction, "send_later", lambda *_: None)
    batch.seal()
    swept = world.sweep()
    assert swept.sent + swept.released == 1
    assert ask(world, END) is RUN


def test_a_batch_that_is_sealed_while_its_last_member_ends_calls_once(world: World) -> None:
    batch = world.client.batch("import-7", on_end=JOB)
    batch.enqueue_many([member("a")])
    assert ask(world, END) is HELD
    assert ask(world, "a") is RUN
    while world.take(sample_one):
        pass
    with second(world) as other, Session(other.engine) as sealing, sealing.begin():
        batch._given_session = sealing
        batch.seal()
        assert end(world, "a") == [], "the seal has not committed"
    assert len(world.take(sample_one)) == 1, "the seal has committed last, and sends the message"
    assert ask(world, END) is RUN


def test_a_seal_that_sends_no_message_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionTransaction, "send_later", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_batch_that_is_sealed_while_its_last_member_ends_calls_once(world)


def test_a_batch_that_is_never_sealed_cancels_its_callbacks_in_the_end(world: World) -> None:
    world.client.batch("import-7", on_end=JOB, on_success=JOB).enqueue(sample_one, Sample(), task_id="a")
    assert callbacks(world) == ["held", "held"]
    world.run("update joblane.batches set created_at = now() - interval '121 days'")
    world.sweep()
    assert states(world, "a", END, SUCCESS) == ["pending", "cancelled", "cancelled"]
    assert world.row(END)["reason"] == "cancelled: its batch import-7 was not sealed"


def test_a_callback_does_not_wait_for_a_task_with_the_id_of_its_batch(world: World) -> None:
    batch = world.client.batch("import-7", on_end=JOB, on_success=JOB)
    batch.enqueue_many([member("a")])
    world.client.enqueue(sample_one, Sample(), task_id="import-7")
    assert callbacks(world) == ["held", "held"]
    assert run(world, "a") == run(world, "import-7") == [], "the batch is open"
    assert states(world, END, SUCCESS) == ["held", "held"]
    batch.seal()
    assert world.run("select * from joblane.task_parents") == []


def test_a_batch_is_kept_as_long_as_a_callback_waits(world: World) -> None:
    batch_of(world, "a", do="adds_a_member")
    callbacks(world)
    world.run("update joblane.batches set created_at = now() - interval '121 days'")
    world.sweep()
    deliver(world, "a")
    world.sweep()
    assert states(world, "a", END, SUCCESS) == ["completed", "held", "held"]
    for id_ in run(world, "late"):
        run(world, id_)
    world.sweep()
    assert world.run("select count(*) from joblane.batches") == [[0]]


def test_an_operator_starts_the_callback_of_a_batch_that_is_not_sealed(world: World) -> None:
    world.client.batch("import-7", on_end=JOB).enqueue(sample_one, Sample(), task_id="a")
    assert ask(world, END) is HELD
    act(world, BulkAction.RUN, END)
    assert ask(world, END) is RUN


def test_a_cancelled_on_success_that_is_retried_runs_at_once(world: World) -> None:
    batch_of(world, "a", "b")
    callbacks(world)
    world.client.cancel("a")
    assert states(world, SUCCESS) == ["cancelled"]
    act(world, BulkAction.RETRY, "a", SUCCESS)
    assert ask(world, SUCCESS) is RUN


def test_a_sealed_batch_takes_no_member(world: World) -> None:
    batch = world.client.batch("import-7")
    batch.enqueue(sample_one, Sample())
    batch.seal()
    with pytest.raises(EnqueueError, match="batch: 'import-7' is sealed"):
        batch.enqueue(sample_one, Sample())
    with pytest.raises(EnqueueError, match="batch: 'import-7' is sealed"):
        batch.seal()


def test_a_member_adds_a_member_as_it_ends(world: World) -> None:
    batch_of(world, "a", do="adds_a_member")
    callbacks(world)
    deliver(world, "a")
    assert states(world, "a", "late") == ["completed", "pending"]
    assert callbacks(world) == ["held", "held"]
    assert sorted(run(world, "late")) == [END, SUCCESS]


def test_a_member_that_fails_adds_nothing(world: World) -> None:
    batch_of(world, "a", do="adds_a_member_and_fails")
    deliver(world, "a")
    assert world.run("select count(*) from joblane.tasks where id = 'late'") == [[0]]
    assert ask(world, END) is RUN


def test_a_task_outside_of_a_batch_has_none(world: World) -> None:
    world.client.enqueue(sample_one, Sample(do="names_its_batch"), task_id="a")
    deliver(world, "a")
    assert world.row("a")["result"] == "None"


# --- One transaction -------------------------------------------------------------------------------------------------


def test_nothing_exists_after_an_exception_in_the_block(world: World) -> None:
    with Session(world.database.engine) as session, session.begin():
        failing(world, session)
        world.client.enqueue(sample_one, Sample(), task_id="other", session=session)
    assert world.run("select id from joblane.tasks") == [["other"]]
    assert world.run("select count(*) from joblane.batches") == [[0]]
    assert len(world.take(sample_one)) == 1, "no message of what was rolled back"


def test_nothing_is_sent_before_the_callers_commit(world: World) -> None:
    with Session(world.database.engine) as session:
        with world.client.batch("import-7", on_end=JOB, session=session) as batch:
            batch.enqueue(sample_one, Sample())
        assert world.take(sample_one) == []
        session.commit()
    assert len(world.take(sample_one)) == 2


def test_a_handler_makes_a_batch_in_its_transaction(world: World) -> None:
    world.client.enqueue(sample_one, Sample(do="makes_a_batch"), task_id="a")
    deliver(world, "a")
    assert states(world, "a", "b", "c", END) == ["completed", "pending", "pending", "held"]


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_a_batch_id_that_exists_is_refused(world: World) -> None:
    batch_of(world, "a")
    with pytest.raises(BatchIdConflictError, match="id: a batch 'import-7' exists already") as refusal:
        batch_of(world, "b")
    assert refusal.value.batch_id == "import-7"
    assert world.run("select count(*) from joblane.tasks") == [[3]]


@pytest.mark.parametrize(
    ("says", "id_", "callbacks"),
    [
        ("id: 1 to 90 printable", "a b", {}),
        ("id: 1 to 90 printable", "x" * 91, {}),
        ("id: 1 to 90 printable", None, {}),
        ("on_end: a Job is required, not function", "b", {"on_end": lambda: None}),
        ("on_success: a callback has no task_id", "b", {"on_success": member("x")}),
        ("on_end: a callback is a task of its own", "b", {"on_end": Job(sample_one, Sample(), on_conflict="return")}),
        ("on_end: a callback is a task of its own", "b", {"on_end": Job(sample_one, Sample(), debounce=SECOND)}),
        ("on_end: tenant: 1 to 128", "b", {"on_end": Job(sample_one, Sample(), tenant="")}),
        ("on_end: payload: ", "b", {"on_end": Job(sample_one, {"number": 1})}),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_batch_is_refused_before_anything_is_written(
    world: World, says: str, id_: Any, callbacks: dict[str, Any]
) -> None:
    with pytest.raises(EnqueueError, match=says):
        world.client.batch(id_, **callbacks)


@pytest.mark.parametrize(
    ("known", "callback", "last", "error"),
    [
        (member(END), JOB, member("a"), TaskIdConflictError),
        (Job(sample_only, Sample()), Job(sample_only, Sample()), member("a"), DuplicateTaskError),
        (None, JOB, Job(sample_one, Sample(), on_conflict="replace"), EnqueueError),
        (None, JOB, None, FileNotFoundError),
    ],
    ids=["the id of a callback", "the unique key of a callback", "a wrong member", "an error of the block itself"],
)
def test_a_block_that_fails_leaves_nothing(
    world: World, known: Job | None, callback: Job, last: Job | None, error: type[Exception]
) -> None:
    world.client.enqueue_many([known] if known else [])
    before = world.run("select id from joblane.tasks")
    with pytest.raises(error), world.client.batch("import-7", on_end=callback) as batch:  # noqa: PT012
        batch.enqueue_many([member("first"), *([last] if last else [])])
        if last is None:
            raise FileNotFoundError
    assert world.run("select count(*) from joblane.batches") == [[0]]
    assert world.run("select id from joblane.tasks") == before
    assert len(world.take(sample_one)) == (known is not None and known.task is sample_one)


def test_the_block_comes_before_the_first_member(world: World) -> None:
    batch = world.client.batch("import-7")
    batch.enqueue(sample_one, Sample())
    with pytest.raises(EnqueueError, match="has members already"), batch:
        pass


def test_a_seal_that_was_rolled_back_can_be_repeated(world: World) -> None:
    with Session(world.database.engine) as session:
        batch = world.client.batch("import-7", on_end=JOB, session=session)
        batch.enqueue_many([member("a")])
        session.commit()
        batch.seal()
        session.rollback()
        batch.seal()
        session.commit()
    assert world.run("select sealed_at is not null from joblane.batches") == [[True]]


def test_a_first_call_that_fails_leaves_no_half_of_a_batch(world: World) -> None:
    world.client.enqueue(sample_one, Sample(), task_id=SUCCESS)
    with Session(world.database.engine) as session:
        batch = world.client.batch("import-7", on_end=JOB, on_success=JOB, session=session)
        with pytest.raises(TaskIdConflictError):
            batch.enqueue(sample_one, Sample())
        session.commit()
    assert world.run("select count(*) from joblane.batches") == [[0]]
    assert world.run("select id from joblane.tasks") == [[SUCCESS]]


def test_a_batch_without_a_session_can_begin_again_after_a_failed_call(world: World) -> None:
    batch = world.client.batch("import-7", on_end=JOB)
    with pytest.raises(EnqueueError, match="after: there is no task"):
        batch.enqueue(sample_one, Sample(), after=["unknown"])
    batch.enqueue(sample_one, Sample(), task_id="a")
    assert world.run("select count(*) from joblane.batches") == [[1]]


def test_on_end_waits_for_a_dead_member_that_runs_again(world: World) -> None:
    batch_of(world, "a", "b")
    callbacks(world)
    assert run(world, "a", State.ARCHIVED) == []
    act(world, BulkAction.RETRY, "a")
    assert run(world, "b") == [], "the first one has not ended for good"
    assert sorted(run(world, "a")) == [END, SUCCESS]


def test_a_seal_does_not_wait_for_ever(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblane.enqueue.producer.CLIENT", TimeLimits(connect=5, lock=0.1, statement=5))
    batch = world.client.batch("import-7", on_end=JOB)
    batch.enqueue(sample_one, Sample())
    with second(world) as other:
        other.get().execute_simple("begin; select from joblane.batches for share")
        with pytest.raises(DatabaseUnavailableError, match="lock timeout"):
            batch.seal()
        other.get().commit()
    batch.seal()


# --- Planted faults --------------------------------------------------------------------------------------------------

PLANTED = [
    ("link_task", "where t.callback_of is not null", "where false", "members_are_added_in_several_transactions"),
    ("link_task", "'', t.callback_of", "t.callback_of, ''", "a_task_with_the_id_of_its_batch"),
    ("link_task", "if t.batch is not null then", "if false then", "a_member_adds_a_member_as_it_ends"),
    ("let_go", "when x.state = 'completed'", "when x.state <> 'retry'", "on_success_runs_after_the_redrive"),
    ("wait_again", "where b.id = batch", "where false", "on_end_waits_for_a_dead_member"),
]
"""A function, a text there and the fault, and a part of the name of the test that finds it."""


@pytest.mark.parametrize(("function", "old", "new", "name"), PLANTED)
def test_each_planted_fault_is_found(world: World, function: str, old: str, new: str, name: str) -> None:
    text = FUNCTIONS[function]
    assert old in text, "the function has changed: the fault can no longer be planted by this text"
    [test] = [test for found, test in globals().items() if name in found]
    world.run(text.replace(old, new))
    with pytest.raises((AssertionError, DatabaseError)):
        test(world)
