"""Bulk actions: started with an audit entry, carried out chunk by chunk, stopped by an operator."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from joblane import Queue, State, every
from joblane.inspector.errors import ActionError, SelectionError, UnknownBulkError
from joblane.inspector.filter import BulkAction, Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.views import BulkView
from tests.builders.rows import archived, put
from tests.bulks import RECORD, Bulks
from tests.samples import Sample, sample_alert, sample_batch, sample_one
from tests.sends import Sends
from tests.world import World

BRIEF = 8.0
"""Seconds of an invocation that ends after one chunk: three are Lambda's own, five are the least for a chunk."""


ONES = Filter(types=("sample:one",))


@pytest.fixture
def single_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a single task."""
    monkeypatch.setattr("joblane.inspector.bulk.run.CHUNK", 1)


def put_archived(world: World, *ids: str, **columns: object) -> None:
    for id_ in ids:
        put(world, sample_one, id_, **archived(**columns))


def states(world: World) -> dict[str, str]:
    return dict(world.run("select id, state from joblane.tasks where type <> 'jobs:bulk' order by id"))


def started(
    inspector: Inspector, bulks: Bulks, *ids: str, action: BulkAction = BulkAction.RETRY, of: Filter = ONES
) -> BulkView:
    """Put archived tasks, and start an action for them."""
    put_archived(bulks.world, *ids)
    return inspector.bulk(action, of, rate=500)


def done(inspector: Inspector, bulks: Bulks, id_: str, **how: Any) -> BulkView:
    """Run an action to its end. Return its view."""
    assert bulks.run(id_, **how) == []
    return inspector.bulk_view(id_)


# --- Start --------------------------------------------------------------------------------------------------


def test_a_bulk_action_is_a_task_with_its_count_and_its_audit_entry(inspector: Inspector, bulks: Bulks) -> None:
    # given
    put_archived(bulks.world, "a", "b", "c")
    # when
    view = inspector.bulk(BulkAction.RETRY, Filter(states=(State.ARCHIVED,)), rate=7, reason="fixed")
    # then
    assert (view.action, view.total, view.done, view.state, view.who) == ("retry", 3, 0, State.PENDING, "op")
    assert view.filter.created_before is not None
    assert inspector.bulk_view(view.id) == view
    assert inspector.bulks() == (replace(view, outcome=None),)
    [entry] = inspector.audit(target=view.id)
    assert (entry.action, entry.who, entry.reason) == ("bulk retry", "op", "fixed")
    assert entry.details["total"] == 3
    assert [message["Body"] for message in bulks.waiting()]


def test_a_filter_that_matches_nothing_starts_nothing(inspector: Inspector, bulks: Bulks) -> None:
    with pytest.raises(SelectionError, match="filter: no task matches; nothing was started"):
        inspector.bulk(BulkAction.RETRY, Filter(types=("sample:one",)))
    assert inspector.bulks() == ()
    assert bulks.world.run("select from joblane.audit") == []
    assert bulks.world.run("select from joblane.tasks") == []


@pytest.mark.parametrize("rate", [0, 501, True, 1.5])
def test_an_invalid_rate_is_refused(rate: int, inspector: Inspector, bulks: Bulks) -> None:
    put_archived(bulks.world, "a")
    with pytest.raises(SelectionError, match="rate: a whole number from 1 to 500 is required"):
        inspector.bulk(BulkAction.RETRY, Filter(), rate=rate)


def test_an_action_that_would_exceed_its_timeout_is_refused(inspector: Inspector, bulks: Bulks) -> None:
    bulks.world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds)"
        " select 'n' || n, 'sample:one', 'default', 'pending', '', 1, 60 from generate_series(1, 20000) n"
    )
    with pytest.raises(
        SelectionError, match="rate: 20000 tasks match, and at 1 a second the timeout of jobs:bulk allows 19440"
    ):
        inspector.bulk(BulkAction.CANCEL, Filter(states=(State.PENDING,)), rate=1)


# --- Run ----------------------------------------------------------------------------------------------------


def test_all_matching_tasks_are_changed_and_their_messages_sent_at_once(inspector: Inspector, bulks: Bulks) -> None:
    # given
    world = bulks.world
    put_archived(world, *(f"t{n}" for n in range(25)))
    put(world, sample_batch, "other", **archived())
    view = inspector.bulk(BulkAction.RETRY, Filter(types=("sample:one",), states=(State.ARCHIVED,)), rate=500)
    # when
    assert bulks.run(view.id) == []
    # then
    view = inspector.bulk_view(view.id)
    assert (view.state, view.total, view.done, view.skipped, view.stopped) == (State.COMPLETED, 25, 25, 0, None)
    assert set(states(world).values()) == {"pending", "archived"}
    assert states(world)["other"] == "archived"
    assert bulks.world.depth(world.lane(sample_one)) == 25
    assert world.row(view.id)["result"] == {"total": 25, "done": 25, "skipped": 0, "failed": 0, "stopped": None}


@pytest.mark.parametrize("action", list(BulkAction))
def test_a_row_that_the_database_refuses_to_change_is_skipped(
    action: BulkAction, inspector: Inspector, bulks: Bulks
) -> None:
    # given three tasks, of which one was written by SQL without the table's checks
    world = bulks.world
    columns = archived() if action is BulkAction.RETRY else {}
    for id_ in ("a", "it", "z"):
        put(world, sample_one, id_, **columns)
    before = world.row("it")["state"]
    world.run("set joblane.checks = off")
    world.run("""update joblane.tasks set options = '{"retry_delay": 5}' where id = 'it'""")
    # when
    view = done(inspector, bulks, inspector.bulk(action, ONES, rate=500).id)
    # then
    assert (view.state, view.total, view.done, view.skipped) == (State.COMPLETED, 3, 2, 1)
    assert world.row("it")["state"] == before


def test_changed_tasks_are_skipped_and_later_tasks_are_not_touched(inspector: Inspector, bulks: Bulks) -> None:
    view = started(inspector, bulks, "a", "b")
    inspector.retry("a")
    put_archived(bulks.world, "later")
    view = done(inspector, bulks, view.id)
    assert (view.total, view.done, view.skipped) == (2, 1, 1)
    assert states(bulks.world) == {"a": "pending", "b": "pending", "later": "archived"}


def test_a_retry_of_all_cancelled_tasks_counts_ticks_as_skipped(inspector: Inspector, bulks: Bulks) -> None:
    # given ticks that a change of their schedule has replaced, and another cancelled task
    world = bulks.world
    for number in (1, 2):
        world.client.schedules.put("s", sample_one, Sample(number=number), every(minutes=5))
    put(world, sample_one, "other", **archived(state="cancelled", dead_sent_at=None))
    before = states(world)
    # when
    view = done(inspector, bulks, started(inspector, bulks, of=replace(ONES, states=(State.CANCELLED,))).id)
    # then
    assert (view.done, view.skipped) == (1, list(before.values()).count("cancelled") - 1)
    assert view.why_skipped.endswith("or a skipped tick")
    assert states(world) == before | {"other": "pending"}


@pytest.mark.usefixtures("single_chunks")
def test_a_task_that_is_archived_again_is_not_retried_twice(inspector: Inspector, bulks: Bulks) -> None:
    # given a run that ends with its invocation, after the first chunk
    world, view = bulks.world, started(inspector, bulks, "a", "b", "c")
    assert bulks.run(view.id, seconds=BRIEF) == [bulks.message_id]
    assert states(world) == {"a": "pending", "b": "archived", "c": "archived"}
    # when the first task is archived again before the rest
    world.run("update joblane.tasks set state = 'archived', dead_sent_at = clock_timestamp() where id = 'a'")
    assert done(inspector, bulks, view.id).done == 3
    # then
    assert states(world) == {"a": "archived", "b": "pending", "c": "pending"}
    assert world.row("a")["generation"] == 1


def test_archived_tasks_get_their_dead_letters(inspector: Inspector, bulks: Bulks) -> None:
    sends = Sends.of(bulks.world.sqs)
    put(bulks.world, sample_one, "a")
    done(inspector, bulks, started(inspector, bulks, action=BulkAction.ARCHIVE, of=Filter(ids=("a",))).id)
    assert states(bulks.world) == {"a": "archived"}
    assert len(sends.to("jobs-low-jobs-sweep")) == 1  # the sweep is woken to send it
    [group] = inspector.dead().groups
    assert (group.error_type, group.message, len(group.fingerprint)) == ("Archived", "archived by op", 16)


def test_a_cancel_of_everything_does_not_cancel_itself(inspector: Inspector, bulks: Bulks) -> None:
    put(bulks.world, sample_one, "a")
    put(bulks.world, sample_alert, "b", state="scheduled")
    view = done(inspector, bulks, started(inspector, bulks, action=BulkAction.CANCEL, of=Filter()).id)
    assert (states(bulks.world), view.state) == ({"a": "cancelled", "b": "cancelled"}, State.COMPLETED)


def test_tasks_that_do_not_allow_the_action_are_not_counted(inspector: Inspector, bulks: Bulks) -> None:
    # given an archived task, a waiting task, and a task whose content an operator has deleted
    put_archived(bulks.world, "a", "deleted")
    put(bulks.world, sample_one, "waits")
    inspector.delete("deleted")
    # then
    assert inspector.count(Filter()).number == 3
    assert inspector.count(Filter(), action=BulkAction.RETRY).number == 1
    assert [row.id for row in inspector.tasks(Filter(), action=BulkAction.RETRY).tasks] == ["a"]
    assert inspector.count(Filter(), action=BulkAction.CANCEL).number == 1
    assert inspector.count(Filter(), action=BulkAction.DELETE).number == 2
    assert inspector.overview().archived.number == 1
    view = done(inspector, bulks, started(inspector, bulks, of=Filter()).id)
    assert (view.total, view.done, view.skipped) == (1, 1, 0)
    with pytest.raises(
        SelectionError, match="states: cancel is for tasks that are scheduled or pending or held or active or retry, n"
    ):
        inspector.bulk(BulkAction.CANCEL, Filter(states=(State.ARCHIVED,)), rate=500)


def test_earlier_bulk_actions_are_changed_only_if_the_filter_names_them(inspector: Inspector, bulks: Bulks) -> None:
    # given an aborted action
    aborted = inspector.abort(started(inspector, bulks, "a").id)
    named = Filter(types=("jobs:bulk",)), Filter(ids=(aborted.id,))
    # then an action for all tasks does not repeat it
    assert [row.id for row in inspector.tasks(Filter(), action=BulkAction.RETRY).tasks] == ["a"]
    assert started(inspector, bulks, of=Filter()).total == 1
    assert [inspector.count(filter_, action=BulkAction.RETRY).number for filter_ in named] == [1, 1]


def test_a_bulk_task_without_a_bulk_action_is_archived(bulks: Bulks) -> None:
    put(bulks.world, bulks.task, "stray", payload={}, queue=Queue.LOW)
    bulks.run("stray")
    row = bulks.world.row("stray")
    assert (row["state"], row["reason"]) == (
        "archived",
        "SkipRetry: no bulk action has this id; an operator starts one with a bulk action or a redrive",
    )


# --- Stop ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("single_chunks")
def test_an_abort_keeps_the_changes_and_makes_no_more(inspector: Inspector, bulks: Bulks) -> None:
    view = started(inspector, bulks, "a", "b", "c")
    bulks.run(view.id, seconds=BRIEF)
    # when
    stopped = inspector.abort(view.id, reason="enough")
    # then
    assert (stopped.state, stopped.done, stopped.stopped) == (State.CANCELLED, 1, "aborted by op: enough")
    bulks.run(view.id)
    assert states(bulks.world) == {"a": "pending", "b": "archived", "c": "archived"}
    assert [entry.action for entry in inspector.audit(target=view.id)] == ["abort", "bulk retry"]


@pytest.mark.usefixtures("single_chunks")
def test_a_running_bulk_action_stops_at_its_next_check(inspector: Inspector, bulks: Bulks) -> None:
    view = started(inspector, bulks, "a", "b", "c")
    bulks.run(view.id, after_commits={1: lambda: inspector.abort(view.id)})  # after its first chunk
    view = inspector.bulk_view(view.id)
    assert (view.state, view.stopped) == (State.CANCELLED, "aborted by op")
    assert states(bulks.world) == {"a": "pending", "b": "archived", "c": "archived"}


def test_a_second_abort_is_refused_with_the_first(inspector: Inspector, bulks: Bulks) -> None:
    # given a running action that has not checked yet
    view = started(inspector, bulks, "a")
    bulks.world.run(
        "update joblane.tasks set state = 'active', lease_token = gen_random_uuid(),"
        " lease_until = now() + interval '1 min' where id = $1",
        view.id,
    )
    inspector.abort(view.id)
    with pytest.raises(ActionError, match=r"is active: it is stopping\. op aborted it \d+ s ago"):
        inspector.abort(view.id)
    assert [entry.action for entry in inspector.audit(target=view.id)] == ["abort", "bulk retry"]


def test_an_ended_action_is_neither_replayed_nor_aborted(inspector: Inspector, bulks: Bulks) -> None:
    view = done(inspector, bulks, started(inspector, bulks, "a").id)
    with pytest.raises(ActionError, match="is completed: a bulk action cannot be replayed"):
        inspector.replay(view.id)
    assert not any("replay" in action for action in inspector.task(view.id).actions)
    with pytest.raises(ActionError, match=f"task '{view.id}' is completed; abort is for tasks that are scheduled, "):
        inspector.abort(view.id)


@pytest.mark.parametrize("id_", ["nothing", "a", "what no id\0can be"])
def test_an_unknown_action_is_refused(inspector: Inspector, bulks: Bulks, id_: str) -> None:
    put_archived(bulks.world, "a")
    for ask in (inspector.abort, inspector.bulk_view):
        with pytest.raises(UnknownBulkError):
            ask(id_)


def test_the_row_of_a_bulk_action_is_deleted_with_its_task(inspector: Inspector, bulks: Bulks) -> None:
    view = done(inspector, bulks, started(inspector, bulks, "a").id)
    for _ in ("content", "row"):
        bulks.world.run("update joblane.tasks set expire_at = now() where id = $1", view.id)
        bulks.world.sweep()
    assert bulks.world.run(f"select from joblane.{RECORD}") == []
    assert timedelta(days=30) <= bulks.task.retention
