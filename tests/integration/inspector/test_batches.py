"""Batches, as an operator sees them: progress, callbacks, archived members, the redrive and the seal."""

from __future__ import annotations

import pytest

from joblane.inspector.errors import BusyError, SelectionError, UnknownBatchError
from joblane.inspector.filter import BulkAction
from joblane.inspector.inspector import Inspector
from joblane.inspector.stage import batches
from joblane.inspector.views import Relative, archived_members
from joblane.record.row.states import State
from tests.bulks import TASKS
from tests.integration.inspector.scene import JOB, Scene
from tests.integration.record.test_parents import second
from tests.samples import sample_one

END, SUCCESS = "import-7:on_end", "import-7:on_success"


def batch_of(on: Scene, *ids: str, id_: str = "import-7") -> Scene:
    on.batch(id_, *ids, on_end=JOB, on_success=JOB)
    while on.world.take(sample_one):
        pass
    return on


def test_a_batch_is_shown_with_its_members_and_callbacks(scene: Scene, operator: Inspector) -> None:
    batch_of(scene, "a", "b", "c").enqueue("other").claim(END, SUCCESS, verdict="held")
    scene.end("a").end("b", State.ARCHIVED)
    view = operator.batch("import-7")
    assert view.members == {State.COMPLETED: 1, State.ARCHIVED: 1, State.PENDING: 1}
    assert (view.number, view.ended, view.exact) == (3, 2, True)
    assert [(row.id, row.reason) for row in view.dead] == [("b", "because")]
    assert view.row.sealed_at is not None
    assert view.row.on_end == Relative(END, "sample:one", State.HELD)
    view = scene.end("c").inspector.batch("import-7")
    assert (view.row.on_end, view.row.on_success) == (
        Relative(END, "sample:one", State.PENDING),
        Relative(SUCCESS, "sample:one", State.HELD),
    )


def test_batches_are_listed_newest_first(scene: Scene, operator: Inspector) -> None:
    assert operator.batches() == ()
    batch_of(scene, "a", id_="first").batch("second", "b", seal=False)
    newest, oldest = operator.batches()
    assert (newest.id, newest.sealed_at, newest.on_end, newest.on_success) == ("second", None, None, None)
    assert (oldest.id, oldest.on_end) == ("first", Relative("first:on_end", "sample:one", State.HELD))
    assert [row.id for row in operator.batches(limit=1)] == ["second"]
    with pytest.raises(SelectionError, match="limit"):
        operator.batches(limit=501)


@pytest.mark.parametrize("id_", ["unknown", "", "a b", 7])
def test_an_unknown_batch_is_named(operator: Inspector, id_: str) -> None:
    for ask in (operator.batch, operator.seal_batch):
        with pytest.raises(UnknownBatchError, match="there is no batch"):
            ask(id_)


def test_a_callback_whose_row_is_removed_has_no_state(scene: Scene, operator: Inspector) -> None:
    batch_of(scene, "a").sql("delete from joblane.tasks where id = $1", END)
    assert operator.batch("import-7").row.on_end == Relative(END, None, None)


def test_the_archived_members_are_redriven_and_the_callback_runs(scene: Scene, operator: Inspector) -> None:
    batch_of(batch_of(scene, "a", "b", "c"), "d", id_="other").cancel("c")
    for id_ in "abd":
        scene.end(id_, State.ARCHIVED)
    scene.sql("update joblane.tasks set dead_sent_at = now(), dead_letter_unsent = false where state = 'archived'")
    assert operator.count(archived_members("import-7"), action=BulkAction.RETRY).number == 2
    found = operator.batches()
    assert [(row.id, row.archived, row.archived_at is None) for row in found] == [
        ("other", 1, False),
        ("import-7", 2, False),
    ]
    bulk = TASKS["jobs:bulk"]
    scene.world.lane(bulk)
    started = operator.redrive(archived_members("import-7"))
    assert started.total == 2
    scene.deliver(started.id, task=bulk, seconds=600)
    assert scene.states("a", "b", "c", "d") == ["pending", "pending", "cancelled", "archived"]
    assert [(row.id, row.archived) for row in operator.batches()] == [("other", 1), ("import-7", 0)]


# --- The seal --------------------------------------------------------------------------------------------------------


def test_an_operator_seals_a_batch_whose_creator_died(scene: Scene, operator: Inspector) -> None:
    scene.batch("import-7", "a", seal=False, on_end=JOB).end("a").claim(END, verdict="held")
    view = operator.seal_batch("import-7", reason="the importer died")
    assert view.row.sealed_at is not None
    [entry] = operator.audit()
    assert (entry.action, entry.target, entry.reason) == ("seal_batch", "batch:import-7", "the importer died")
    assert scene.world.sweep().released == 1
    scene.claim(END)
    with pytest.raises(SelectionError, match="the batch 'import-7' is sealed already"):
        operator.seal_batch("import-7")
    assert len(operator.audit()) == 1


def test_a_callback_whose_message_was_never_sent_runs_after_the_seal(scene: Scene, operator: Inspector) -> None:
    scene.batch("import-7", "a", seal=False, on_end=JOB).end("a")
    operator.seal_batch("import-7")
    assert len(scene.world.run("select id from joblane.tasks where sweep_at <= now()")) == 1
    assert scene.world.sweep().sent == 1
    scene.claim(END)


def test_the_seal_waits_only_briefly_for_members_that_are_being_added(scene: Scene, operator: Inspector) -> None:
    scene.batch("import-7", "a", seal=False, on_end=JOB)
    with second(scene.world) as adding:
        adding.get().execute_simple("begin; select from joblane.batches where id = 'import-7' for share")
        with pytest.raises(BusyError, match="batch:import-7"):
            operator.seal_batch("import-7")
        adding.get().rollback()
    assert operator.batch("import-7").row.sealed_at is None


# --- Bounds ----------------------------------------------------------------------------------------------------------


def test_members_are_counted_up_to_a_bound(scene: Scene, operator: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_MEMBERS", 2)
    monkeypatch.setattr(batches, "MEMBERS", batches.MEMBERS.replace("50001", "3"))
    batch_of(batch_of(scene, "a", "b"), *"cdef", id_="other")
    assert operator.batch("import-7").exact
    view = operator.batch("other")
    assert (view.number, view.exact, view.dead) == (3, False, ())


def test_no_statement_reads_more_than_the_batch(scene: Scene) -> None:
    # given a batch among many tasks and batches, and statistics from before they came
    batch_of(scene, "a", "b").sql("analyze joblane.tasks, joblane.batches").others(20_000).sql(
        "insert into joblane.batches (id, on_end, created_at)"
        " select 'b-' || n, 'other-' || n, now() - interval '1 day' from generate_series(1, 20000) n"
    )
    # then
    statements = ((batches.LATEST, "5", 60), (batches.ONE, "import-7", 30), (batches.MEMBERS, "batch:import-7", 30))
    for sql, parameter, most in statements:
        number, plan = scene.rows_read(sql, parameter)
        assert number <= most, plan
