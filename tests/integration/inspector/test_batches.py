"""Batches, as an operator sees them: progress, callbacks, archived members, the redrive and the seal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from joblane.inspector.errors import BusyError, SelectionError, UnknownBatchError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.inspector.stage import batches
from joblane.inspector.tasks.filter_sql import reading
from joblane.inspector.views import Relative, archived_members
from joblane.record.row.states import State
from joblane.tasks.job import Job
from tests.bulks import TASKS
from tests.integration.record.test_parents import HELD, RUN, ask, put, run, second, states
from tests.samples import LIMITED, Sample, sample_one
from tests.world import World

JOB = Job(sample_one, Sample(do="nothing", number=0))
END, SUCCESS = "import-7:on_end", "import-7:on_success"
READ = (
    "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int from pg_stat_xact_all_tables where schemaname='joblane'"
)


@pytest.fixture
def operator(scope: Scope, world: World) -> Inspector:
    world.lane(sample_one)
    world.make("jobs-low-jobs-sweep")
    return Inspector(replace(scope, tasks={**TASKS, **{task.type: task for task in (sample_one, *LIMITED)}}))


def batch_of(world: World, *ids: str, id_: str = "import-7") -> None:
    with world.client.batch(id_, on_end=JOB, on_success=JOB) as batch:
        batch.enqueue_many([Job(sample_one, Sample(do="nothing", number=0), task_id=each) for each in ids])
    while world.take(sample_one):
        pass


def test_a_batch_is_shown_with_its_members_and_callbacks(world: World, operator: Inspector) -> None:
    batch_of(world, "a", "b", "c")
    put(world, "other")
    for callback in (END, SUCCESS):
        assert ask(world, callback) is HELD
    run(world, "a")
    run(world, "b", State.ARCHIVED)
    view = operator.batch("import-7")
    assert view.members == {State.COMPLETED: 1, State.ARCHIVED: 1, State.PENDING: 1}
    assert (view.number, view.ended, view.exact) == (3, 2, True)
    assert [(row.id, row.reason) for row in view.dead] == [("b", "because")]
    assert view.row.sealed_at is not None
    assert view.row.on_end == Relative(END, "sample:one", State.HELD)
    run(world, "c")
    view = operator.batch("import-7")
    assert (view.row.on_end, view.row.on_success) == (
        Relative(END, "sample:one", State.PENDING),
        Relative(SUCCESS, "sample:one", State.HELD),
    )


def test_batches_are_listed_newest_first(world: World, operator: Inspector) -> None:
    assert operator.batches() == ()
    batch_of(world, "a", id_="first")
    world.client.batch("second").enqueue(sample_one, Sample())
    newest, oldest = operator.batches()
    assert (newest.id, newest.sealed_at, newest.on_end, newest.on_success) == ("second", None, None, None)
    assert (oldest.id, oldest.on_end) == ("first", Relative("first:on_end", "sample:one", State.HELD))
    assert [row.id for row in operator.batches(limit=1)] == ["second"]
    with pytest.raises(SelectionError, match="limit"):
        operator.batches(limit=501)


@pytest.mark.parametrize("id_", ["unknown", "", "a b", 7])
def test_an_unknown_batch_is_named(operator: Inspector, id_: str) -> None:
    with pytest.raises(UnknownBatchError, match="there is no batch"):
        operator.batch(id_)
    with pytest.raises(UnknownBatchError):
        operator.seal_batch(id_)


def test_a_callback_whose_row_is_removed_has_no_state(world: World, operator: Inspector) -> None:
    batch_of(world, "a")
    world.run("delete from joblane.tasks where id = $1", END)
    assert operator.batch("import-7").row.on_end == Relative(END, None, None)


def test_the_archived_members_are_redriven_and_the_callback_runs(world: World, operator: Inspector) -> None:
    batch_of(world, "a", "b", "c")
    batch_of(world, "d", id_="other")
    for id_ in "abd":
        run(world, id_, State.ARCHIVED)
    world.client.cancel("c")
    world.run("update joblane.tasks set dead_sent_at = now(), dead_letter_unsent = false where state = 'archived'")
    assert operator.count(archived_members("import-7"), action=BulkAction.RETRY).number == 2
    world.lane(TASKS["jobs:bulk"])
    started = operator.redrive(archived_members("import-7"))
    assert started.total == 2
    for body in world.take(TASKS["jobs:bulk"]):
        world.deliver(TASKS["jobs:bulk"], body["Body"], seconds=600)
    assert states(world, "a", "b", "c", "d") == ["pending", "pending", "cancelled", "archived"]


# --- The seal --------------------------------------------------------------------------------------------------------


def test_an_operator_seals_a_batch_whose_creator_died(world: World, operator: Inspector) -> None:
    batch = world.client.batch("import-7", on_end=JOB)
    batch.enqueue(sample_one, Sample(do="nothing", number=0), task_id="a")
    run(world, "a")
    assert ask(world, END) is HELD
    view = operator.seal_batch("import-7", reason="the importer died")
    assert view.row.sealed_at is not None
    [entry] = operator.audit()
    assert (entry.action, entry.target, entry.reason) == ("seal_batch", "batch:import-7", "the importer died")
    assert world.sweep().released == 1
    assert ask(world, END) is RUN
    with pytest.raises(SelectionError, match="the batch 'import-7' is sealed already"):
        operator.seal_batch("import-7")
    assert len(operator.audit()) == 1


def test_a_callback_whose_message_was_never_sent_runs_after_the_seal(world: World, operator: Inspector) -> None:
    world.client.batch("import-7", on_end=JOB).enqueue(sample_one, Sample(do="nothing", number=0), task_id="a")
    run(world, "a")
    while world.take(sample_one):
        pass
    operator.seal_batch("import-7")
    assert len(world.run("select id from joblane.tasks where sweep_at <= now()")) == 1
    assert world.sweep().sent == 1
    assert ask(world, END) is RUN


def test_the_seal_waits_only_briefly_for_members_that_are_being_added(world: World, operator: Inspector) -> None:
    batch = world.client.batch("import-7", on_end=JOB)
    batch.enqueue(sample_one, Sample())
    with second(world) as adding:
        adding.get().execute_simple("begin; select from joblane.batches where id = 'import-7' for share")
        with pytest.raises(BusyError, match="batch:import-7"):
            operator.seal_batch("import-7")
        adding.get().rollback()
    assert operator.batch("import-7").row.sealed_at is None


# --- Bounds ----------------------------------------------------------------------------------------------------------


def test_members_are_counted_up_to_a_bound(world: World, operator: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_MEMBERS", 2)
    monkeypatch.setattr(batches, "MEMBERS", batches.MEMBERS.replace("50001", "3"))
    batch_of(world, "a", "b")
    assert operator.batch("import-7").exact
    batch_of(world, *"cdef", id_="other")
    view = operator.batch("other")
    assert (view.number, view.exact, view.dead) == (3, False, ())


def test_no_statement_reads_more_than_the_batch(world: World, operator: Inspector) -> None:
    # given a batch among many tasks and batches, and statistics from before they came
    batch_of(world, "a", "b")
    world.run("analyze joblane.tasks, joblane.batches")
    world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, tags)"
        " select 'other-' || n, 'a:b', 'default', 'pending', '', 4, 60, array['batch:' || n]"
        " from generate_series(1, 20000) n"
    )
    world.run(
        "insert into joblane.batches (id, on_end, created_at)"
        " select 'b-' || n, 'other-' || n, now() - interval '1 day' from generate_series(1, 20000) n"
    )
    connection = world.database.get()
    for sql, parameter, most in (
        (batches.LATEST, "5", 60),
        (batches.ONE, "import-7", 30),
        (batches.MEMBERS, "batch:import-7", 30),
    ):
        # when
        with reading(connection):
            [[before]] = connection.run(READ)
            connection.run(sql, parameter)
            [[after]] = connection.run(READ)
            plan = "\n".join(row[0] for row in connection.run("explain analyze " + sql, parameter))
        # then
        assert after - before <= most, plan
