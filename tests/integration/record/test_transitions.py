"""A transition has the same result on every path: whole rows are compared, column by column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from joblane.inspector.actions.changes import change
from joblane.inspector.filter import BulkAction
from joblane.names import Queue
from joblane.record.row.states import State
from joblane.record.row.transitions import RESET
from joblane.record.task.claim import arrival, claim
from joblane.record.task.finish import Finish, finish
from joblane.sqs.message import Message
from joblane.tasks.options import Options
from joblane.tasks.unique import OnConflict
from tests.builders.rows import TOKEN, In, active, archived, put
from tests.samples import Sample, sample_one, sample_only
from tests.world import World

DIRTY: Mapping[str, Any] = {
    "attempts": 4,
    "runs": 6,
    "snoozes": 2,
    "continuations": 3,
    "used_ms": 50,
    "generation": 1,
    "batch_size": 1,
    "claim_alone": True,
    "sends": 5,
    "created_at": In(-7200),
    "due_at": In(-3600),
    "deadline": In(-300),
    "mismatch_since": In(-1800),
    "reason": "before",
    "error_type": "Before",
    "error_message": "before",
    "fingerprint": "before",
}
"""A value in every column that a transition may have to clear."""

MOMENTS = ("deadline", "lease_until", "mismatch_since")
ENDING = "reason error_type error_message fingerprint"

LEASE = timedelta(seconds=120)
Path = Callable[[World, str], object]


def row_after(world: World, id_: str, path: Path) -> dict[str, Any]:
    """Return the row after a path. Its times are in half minutes from now."""
    path(world, id_)
    now = datetime.now(UTC)
    return {
        name: round((datetime.fromisoformat(value) - now).total_seconds() / 30)
        if isinstance(value, str) and (name.endswith("_at") or name in MOMENTS)
        else value
        for name, value in world.row(id_).items()
        if name != "id"
    }


def differences(world: World, first: Path, other: Path) -> set[str]:
    one, two = row_after(world, "first", first), row_after(world, "other", other)
    return {name for name in one | two if one.get(name) != two.get(name)}


def claimed(world: World, id_: str, *, dead: int | None = None, rec: bool = True, **message: Any) -> None:
    arrived = arrival(
        sample_one, Message(sample_one.type, id_, rec=rec, **message), id_, Queue.DEFAULT, dead_generation=dead
    )
    claim(world.database.get(), [arrived], LEASE, "request")


def finished(world: World, id_: str, state: State) -> None:
    assert finish(world.database.get(), [Finish(id_, TOKEN, 6, str(state), state, error_type="Now")]) == {id_}


def changed(world: World, id_: str, action: BulkAction) -> None:
    assert len(change(world.database.get(), action, [id_], who="op")) == 1


# --- Revived -------------------------------------------------------------------------------------------------------


def dead(world: World, id_: str) -> None:
    put(world, sample_one, id_, **archived(**DIRTY, cancel_requested_at=In(-400)))


def revived_by_operator(world: World, id_: str) -> None:
    dead(world, id_)
    changed(world, id_, BulkAction.RETRY)


def revived_by_redrive(world: World, id_: str) -> None:
    dead(world, id_)
    claimed(world, id_, dead=1)


def revived_by_redrive_while_paused(world: World, id_: str) -> None:
    dead(world, id_)
    world.run("insert into joblane.pauses (scope, name) values ('type', $1)", sample_one.type)
    claimed(world, id_, dead=1)


@pytest.mark.parametrize(
    ("path", "may_differ"),
    [
        (
            revived_by_redrive,
            # its message is being delivered, so it runs at once
            {"state", "attempts", "runs", "batch_size", "lease_token", "lease_until", "sweep_at"},
        ),
        (revived_by_redrive_while_paused, {"sweep_at"}),  # no message is sent: the row is due for the sweep at once
    ],
)
def test_a_task_is_revived_as_by_an_operator(world: World, path: Path, may_differ: set[str]) -> None:
    assert differences(world, revived_by_operator, path) == may_differ
    for id_ in ("first", "other"):
        row = world.row(id_)
        assert (row["generation"], row["claim_alone"], row["deadline"], row["cancel_requested_at"]) == (
            2,
            False,
            None,
            None,
        )
        assert [row[name] for name in ENDING.split()] == [None] * 4


def test_a_replaced_task_has_the_row_of_a_revived_task(world: World) -> None:
    world.lane(sample_only)
    held = world.client.enqueue(sample_only, Sample(number=1))
    names = ", ".join(RESET)
    world.run(
        f"update joblane.tasks t set ({names}) = (select {names} from jsonb_populate_record(t, $1::jsonb))",
        '{"attempts": 1, "snoozes": 2, "batch_size": 3, "claim_alone": true, "sends": 4,'
        ' "mismatch_since": "2026-01-01",'
        ' "reason": "x", "error_type": "x", "error_message": "x", "fingerprint": "x"}',
    )
    replaced = world.client.enqueue(
        sample_only, Sample(number=1), on_conflict=OnConflict.REPLACE, process_in=timedelta(minutes=1)
    )
    assert replaced.id == held.id
    revived_by_operator(world, "revived")
    one, other = world.row(held.id), world.row("revived")
    sent = {"sends"}  # its message is already sent; the message of the other is sent after the commit
    assert {name: one[name] for name in RESET.keys() - sent} == {name: other[name] for name in RESET.keys() - sent}


# --- Archived ------------------------------------------------------------------------------------------------------


def archived_by_finish(world: World, id_: str) -> None:
    put(world, sample_one, id_, **active(60, **DIRTY))
    finished(world, id_, State.ARCHIVED)


def archived_as_lost(world: World, id_: str) -> None:
    put(world, sample_one, id_, **active(-1, **DIRTY))
    claimed(world, id_)


def archived_as_overdue(world: World, id_: str) -> None:
    put(world, sample_one, id_, **DIRTY, state="retry")
    claimed(world, id_)


def archived_as_overdue_after_a_loss(world: World, id_: str) -> None:
    put(world, sample_one, id_, **active(-1, **DIRTY, max_attempts=9))
    claimed(world, id_)
    world.run("update joblane.tasks set max_attempts = 4 where id = $1", id_)


def archived_by_operator(world: World, id_: str) -> None:
    put(world, sample_one, id_, **DIRTY, state="retry")
    changed(world, id_, BulkAction.ARCHIVE)


@pytest.mark.parametrize(
    ("path", "may_differ"),
    [
        (archived_as_lost, set()),
        (archived_as_overdue, set()),
        (archived_as_overdue_after_a_loss, set()),
        (archived_by_operator, {"sweep_at"}),  # without a delivery the sweep sends the dead letter
    ],
)
def test_a_task_is_archived_as_by_a_failed_run(world: World, path: Path, may_differ: set[str]) -> None:
    found = differences(world, archived_by_finish, path)
    assert found - set(ENDING.split()) == may_differ, "only what it says of the end differs"
    assert all(world.row("other")[name] for name in ENDING.split() if path is not archived_by_operator)
    assert world.row("other")["reason"] != "before"


def test_a_message_after_its_deadline_is_archived_in_the_same_way(world: World) -> None:
    def inserted(world: World, id_: str) -> None:
        options = Options(deadline=datetime.now(UTC) - timedelta(seconds=300))
        message = Message(sample_one.type, id_, {"do": "nothing", "number": 0}, options=options)
        claim(world.database.get(), [arrival(sample_one, message, id_, Queue.DEFAULT)], LEASE, "request")

    found = differences(world, archived_as_overdue, inserted)
    # the other differences are the history of a task with earlier runs
    history = {"attempts", "runs", "snoozes", "continuations", "generation", "created_at", "due_at"}
    history |= {
        "schema",
        "options",
        "retention_seconds",
        "max_attempts",
        "reason",
    }  # the reason contains the deadline
    assert found - history == set()


# --- Cancelled -----------------------------------------------------------------------------------------------------


def cancelled_by_client(world: World, id_: str) -> None:
    put(world, sample_one, id_, **DIRTY, state="retry")
    assert world.client.cancel(id_) is State.CANCELLED


def cancelled_by_operator(world: World, id_: str) -> None:
    put(world, sample_one, id_, **DIRTY, state="retry")
    changed(world, id_, BulkAction.CANCEL)


def cancelled_while_it_runs(world: World, id_: str) -> None:
    put(world, sample_one, id_, **active(60, **DIRTY))
    assert world.client.cancel(id_) is State.ACTIVE
    finished(world, id_, State.CANCELLED)


def cancelled_after_a_loss(world: World, id_: str) -> None:
    put(world, sample_one, id_, **active(-1, **DIRTY))
    assert world.client.cancel(id_) is State.ACTIVE
    claimed(world, id_)


def revoked(world: World, id_: str) -> None:
    put(world, sample_one, id_, **active(60, **DIRTY))
    finished(world, id_, State.CANCELLED)


@pytest.mark.parametrize(
    ("path", "may_differ"),
    [
        (cancelled_by_operator, set()),
        (cancelled_while_it_runs, {*ENDING.split()}),  # of this run; the other row still has the last attempt
        (cancelled_after_a_loss, {"reason"}),
        (revoked, {*ENDING.split(), "cancel_requested_at"}),  # there was no request: the handler decided
    ],
)
def test_a_task_is_cancelled_as_by_a_client(world: World, path: Path, may_differ: set[str]) -> None:
    assert differences(world, cancelled_by_client, path) == may_differ
    row = world.row("other")
    assert (row["state"], row["sweep_at"]) == ("cancelled", None)
    assert row["expire_at"] is not None


def test_a_running_task_keeps_everything_but_the_request(world: World) -> None:
    put(world, sample_one, "t", **active(60, **DIRTY))
    before = world.row("t")
    world.client.cancel("t")
    after = world.row("t")
    assert {name for name in before if before[name] != after[name]} == {"cancel_requested_at"}
