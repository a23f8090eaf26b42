"""Every row of the claim's decision table, by a delivery for a task in that state."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from joblane import Payload, TaskContext, cron, every, task
from joblane.names import dead_letter_name
from joblane.record.schedules import register
from tests.builders.rows import In, active, archived, put
from tests.samples import Sample, behaviour, sample_one
from tests.world import World

RECORDED: dict[str, Any] = {"type": "sample:one", "id": "it", "rec": True, "payload": {"do": "nothing", "number": 0}}
EXTERNAL: dict[str, Any] = {"type": "sample:one", "id": "it", "payload": {"do": "nothing", "number": 0}}
OTHER_PAYLOAD: dict[str, Any] = {"type": "sample:one", "id": "it", "payload": {"do": "nothing", "number": 1}}


def dead(generation: int) -> dict[str, tuple[str, str]]:
    """Return the attributes of a redriven dead letter."""
    return {
        "joblane-dead": ("Number", str(generation)),
        "joblane-reason": ("String", "attempt 4 of 4 failed"),
    }


@dataclass(frozen=True)
class Case:
    """A row of the table. ``row`` None: no row exists. ``waits``: the visibility timeout of a message that stays.

    ``state`` … ``generation``: the row afterwards. ``dead_letters``: the number in the dead-letter queue.
    """

    name: str
    row: dict[str, Any] | None
    body: dict[str, Any] = field(default_factory=lambda: RECORDED)
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)
    waits: tuple[int, int] | None = None
    state: str | None = "completed"
    attempts: int = 0
    runs: int = 0
    generation: int = 0
    dead_letters: int = 0
    outcomes: tuple[str | None, ...] = ()
    pauses: tuple[tuple[str, str, str], ...] = ()


RAN: dict[str, Any] = {"attempts": 1, "runs": 1, "outcomes": ("completed",)}
CASES = [
    Case("recorded without a row", None, state=None),
    Case("external without a row", None, EXTERNAL, **RAN),
    Case("pending and due", {}, **RAN),
    Case("scheduled and due", {"state": "scheduled", "due_at": In(-1)}, **RAN),
    Case("retry and due", {"state": "retry", "attempts": 2, "runs": 3}, attempts=3, runs=4, outcomes=("completed",)),
    Case("due within two seconds", {"state": "scheduled", "due_at": In(1.5)}, **RAN),
    Case("an external copy of the same payload", {}, EXTERNAL, **RAN),
    Case("due in half a minute", {"state": "scheduled", "due_at": In(30)}, waits=(28, 30), state="scheduled"),
    Case(
        "a copy during the back-off",
        {"state": "retry", "attempts": 1, "runs": 1, "due_at": In(40)},
        waits=(38, 40),
        state="retry",
        attempts=1,
        runs=1,
    ),
    Case("due at the longest delay of SQS", {"due_at": In(899)}, waits=(895, 900), state="pending"),
    Case("due in an hour: only the row waits", {"state": "scheduled", "due_at": In(3600)}, state="scheduled"),
    Case("lease live", active(30), waits=(29, 31), state="active", attempts=1, runs=1, outcomes=(None,)),
    Case("lease over, attempts left", active(-1), attempts=2, runs=2, outcomes=("lost", "completed")),
    Case(
        "lease over, no attempts left",
        active(-1, attempts=4, runs=5),
        state="archived",
        attempts=4,
        runs=5,
        dead_letters=1,
        outcomes=("lost",),
    ),
    Case("completed", {"state": "completed", "attempts": 1, "runs": 1}, attempts=1, runs=1),
    Case("completed, an external copy", {"state": "completed", "attempts": 1, "runs": 1}, EXTERNAL, attempts=1, runs=1),
    Case("cancelled", {"state": "cancelled"}, state="cancelled"),
    Case(
        "archived, no dead letter yet",
        archived(dead_sent_at=None),
        state="archived",
        attempts=4,
        runs=4,
        dead_letters=1,
    ),
    Case(
        "archived, its dead letter comes back unmarked",
        archived(dead_sent_at=None),
        attributes=dead(0),
        attempts=1,
        runs=5,
        generation=1,
        outcomes=("completed",),
    ),
    Case(
        "archived, its dead letter comes back",
        archived(),
        attributes=dead(0),
        attempts=1,
        runs=5,
        generation=1,
        outcomes=("completed",),
    ),
    Case(
        "archived twice, the newer dead letter comes back",
        archived(generation=1, runs=8),
        attributes=dead(1),
        attempts=1,
        runs=9,
        generation=2,
        outcomes=("completed",),
    ),
    Case(
        "archived twice, the older dead letter comes back",
        archived(generation=1, runs=8),
        attributes=dead(0),
        state="archived",
        attempts=4,
        runs=8,
        generation=1,
    ),
    Case("archived, an obsolete copy", archived(), state="archived", attempts=4, runs=4),
    Case("archived, an obsolete external copy", archived(), EXTERNAL, state="archived", attempts=4, runs=4),
    Case(
        "archived, an earlier cancel request",
        archived(cancel_requested_at=In(-100)),
        attributes=dead(0),
        attempts=1,
        runs=5,
        generation=1,
        outcomes=("completed",),
    ),
    Case("a pause that has ended", None, EXTERNAL, pauses=(("type", "sample:one", "now() - interval '1 s'"),), **RAN),
    Case(
        "pauses of another type, queue and tenant",
        None,
        EXTERNAL,
        pauses=(("type", "default", "null"), ("queue", "low", "null"), ("tenant", "sample:one", "null")),
        **RAN,
    ),
    Case(
        "paused, lease over, no attempts left",
        active(-1, attempts=4, runs=5),
        state="archived",
        attempts=4,
        runs=5,
        dead_letters=1,
        outcomes=("lost",),
        pauses=(("type", "sample:one", "null"),),
    ),
    Case("another payload, pending", {}, OTHER_PAYLOAD, state="pending", dead_letters=1),
    Case("another payload, completed", {"state": "completed"}, OTHER_PAYLOAD, dead_letters=1),
    Case(
        "another payload, lease over",
        active(-1),
        OTHER_PAYLOAD,
        state="active",
        attempts=1,
        runs=1,
        dead_letters=1,
        outcomes=(None,),
    ),
    Case("another type, recorded", {"type": "sample:batch"}, state="pending", dead_letters=1),
    Case("another type, external", {"type": "sample:batch"}, EXTERNAL, state="pending", dead_letters=1),
    Case(
        "another type, archived, as its dead letter",
        archived(type="sample:batch"),
        attributes=dead(0),
        state="archived",
        attempts=4,
        runs=4,
        dead_letters=1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_claim_decides_by_its_table(world: World, case: Case) -> None:
    watched = world.watch()
    if case.row is not None:
        put(world, sample_one, "it", **case.row)
    for scope, name, until in case.pauses:
        pause(world, scope, name, until)

    kept = world.deliver(sample_one, case.body, attributes=case.attributes, group="acme" if case.pauses else None)

    assert bool(kept) == (case.waits is not None)
    if case.waits:
        low, high = case.waits
        assert [low <= seconds <= high for seconds in watched.visibilities] == [True]
    assert len(world.dead_letters(sample_one)) == case.dead_letters
    if case.state is None:
        assert world.run("select id from joblane.tasks") == []
        return
    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"], row["generation"]) == (
        case.state,
        case.attempts,
        case.runs,
        case.generation,
    )
    assert tuple(world.outcomes("it")) == case.outcomes


def test_an_id_of_another_task_is_a_dead_letter_and_does_not_change_the_row(world: World) -> None:
    put(world, sample_one, "it", state="retry", attempts=2, runs=2)
    before = world.row("it")

    assert world.deliver(sample_one, OTHER_PAYLOAD) == []

    (dead_letter,) = world.dead_letters(sample_one)
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"].startswith("IdConflict: 'it'")
    assert '"number": 1' in dead_letter["Body"]
    assert world.row("it") == before


def test_a_lost_last_run_is_the_reason_in_the_row_and_in_the_dead_letter(world: World) -> None:
    put(world, sample_one, "it", **active(-1, attempts=4, runs=4, generation=2))

    assert world.deliver(sample_one, RECORDED) == []

    row = world.row("it")
    assert (row["error_type"], row["lease_token"], row["sweep_at"]) == ("Lost", None, None)
    assert row["dead_sent_at"] is not None
    ((kept,),) = world.run("select extract(epoch from expire_at - now())::float8 from joblane.tasks")
    assert kept == pytest.approx(timedelta(days=90).total_seconds(), abs=60)
    (dead_letter,) = world.dead_letters(sample_one)
    assert dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"] == "2"
    assert dead_letter["MessageAttributes"]["joblane-reason"]["StringValue"].startswith("lost: ")


def test_a_redriven_task_has_all_attempts_again_and_the_next_generation(world: World) -> None:
    @behaviour
    def fail_again(payload: Sample, ctx: TaskContext) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    payload = {"do": "fail_again", "number": 0}
    put(world, sample_one, "it", payload, **archived(snoozes=20))
    body = RECORDED | {"payload": payload}

    assert len(world.deliver(sample_one, body, attributes=dead(0))) == 1
    for _ in range(3):
        world.later("it")
        world.deliver(sample_one, body, attributes=dead(0))  # SQS keeps the attributes of a message between receives

    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"], row["generation"]) == ("archived", 4, 8, 1)
    assert [attempt["generation"] for attempt in world.attempts("it")] == [1, 1, 1, 1]
    (dead_letter,) = world.dead_letters(sample_one)
    assert dead_letter["MessageAttributes"]["joblane-dead"]["StringValue"] == "1"
    assert world.deliver(sample_one, body, attributes=dead(0)) == []  # the first dead letter again
    assert world.row("it") == row


def test_a_dead_letter_of_a_later_redrive_waits_for_the_task_and_revives_it(world: World) -> None:
    """After a restore a queue can have it: the row of that redrive is in the database that the stage has left."""

    @behaviour
    def fail_each(payload: Sample, ctx: TaskContext) -> None:
        raise ValueError

    payload = {"do": "fail_each", "number": 0}
    put(world, sample_one, "it", payload, **archived())
    body = RECORDED | {"payload": payload}
    # when the console sends both back
    assert len(world.deliver(sample_one, body, attributes=dead(0))) == 1
    assert len(world.deliver(sample_one, body, attributes=dead(1))) == 1
    for _ in range(3):
        world.later("it")
        world.deliver(sample_one, body, attributes=dead(0))
    assert (world.row("it")["state"], world.row("it")["generation"]) == ("archived", 1)
    # then
    assert len(world.deliver(sample_one, body, attributes=dead(1))) == 1
    assert (world.row("it")["state"], world.row("it")["generation"]) == ("retry", 2)


def test_a_redriven_dead_letter_runs_with_its_attributes(world: World) -> None:
    @behaviour
    def succeed(payload: Sample, ctx: TaskContext) -> str:
        return "done"

    payload = {"do": "succeed", "number": 0}
    put(world, sample_one, "it", payload, **archived(dead_sent_at=None))
    assert world.deliver(sample_one, RECORDED | {"payload": payload}) == []
    (dead_letter,) = world.dead_letters(sample_one)
    attributes = {
        name: (value["DataType"], value["StringValue"]) for name, value in dead_letter["MessageAttributes"].items()
    }

    assert world.deliver(sample_one, dead_letter["Body"], attributes=attributes) == []

    row = world.row("it")
    assert (row["state"], row["result"], row["generation"]) == ("completed", "done", 1)
    assert (row["reason"], row["error_type"], row["dead_sent_at"]) == (None, None, None)
    assert row["finished_at"] > row["created_at"]
    assert world.deliver(sample_one, dead_letter["Body"], attributes=attributes) == []  # a second copy of the redrive
    assert world.row("it")["runs"] == row["runs"]


class Tick(Payload):
    of: str = "hour"


@task("sample:tick", schedule=every(hours=1))
def sample_tick(payload: Tick, ctx: TaskContext) -> None:
    pass


def test_a_tick_inserts_its_row_and_runs_once_for_all_deliveries(world: World) -> None:
    body = {"type": "sample:tick", "tick": {"schedule": "0", "at": "2026-11-24T10:00:00Z"}}

    assert world.deliver(sample_tick, body, body) != []  # the second copy stays, and later finds a completed task
    assert world.deliver(sample_tick, body) == []

    row = world.row("sample:tick:0:2026-11-24T10:00Z")
    assert (row["state"], row["runs"], row["schedule"]) == ("completed", 1, "sample:tick:0")


# --- Paused --------------------------------------------------------------------------------------------------------

SCOPES = [("type", "sample:one"), ("queue", "default"), ("tenant", "acme")]


def pause(world: World, scope: str, name: str, until: str = "null") -> None:
    world.run(f"insert into joblane.pauses (scope, name, until) values ($1, $2, {until})", scope, name)


def resume_and_sweep(world: World, id_: str) -> list[dict[str, Any]]:
    """Remove every pause, sweep the row, and take the message that the sweep sent."""
    world.run("delete from joblane.pauses")
    world.run("update joblane.tasks set sweep_at = clock_timestamp() where id = $1", id_)
    world.sweep()
    return world.take(sample_one)


@pytest.mark.parametrize(("scope", "name"), SCOPES)
@pytest.mark.parametrize("until", ["null", "now() + interval '1 hour'"])
@pytest.mark.parametrize("body", [RECORDED, EXTERNAL], ids=["recorded", "external"])
def test_a_paused_task_waits_in_its_row_and_runs_after_the_pause(
    world: World, scope: str, name: str, until: str, body: dict[str, Any]
) -> None:
    pause(world, scope, name, until)
    if body is RECORDED:
        put(world, sample_one, "it", tenant="acme", state="retry", attempts=1, runs=1)
    spent = 1 if body is RECORDED else 0

    assert world.deliver(sample_one, body, group="acme") == []

    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("retry" if spent else "pending", spent, spent)
    assert world.sweep().paused == 1
    assert world.take(sample_one) == []
    (sent,) = resume_and_sweep(world, "it")
    assert world.deliver(sample_one, sent["Body"], group="acme") == []
    row = world.row("it")
    assert (row["state"], row["attempts"]) == ("completed", spent + 1)


def test_a_pause_does_not_stop_a_live_run_and_delays_the_next_run(world: World) -> None:
    put(world, sample_one, "it", **active(30))
    pause(world, "type", "sample:one")
    assert len(world.deliver(sample_one, RECORDED)) == 1

    world.run("update joblane.tasks set lease_until = now() - interval '1 s' where id = 'it'")
    assert world.deliver(sample_one, RECORDED) == []

    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("pending", 1, 1)
    assert world.outcomes("it") == ["lost"]
    (sent,) = resume_and_sweep(world, "it")
    assert world.deliver(sample_one, sent["Body"]) == []
    assert world.outcomes("it") == ["lost", "completed"]


def test_a_dead_letter_redriven_while_paused_runs_after_the_pause(world: World) -> None:
    put(world, sample_one, "it", **archived())
    pause(world, "queue", "default")

    assert world.deliver(sample_one, RECORDED, attributes=dead(0)) == []

    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"], row["generation"]) == ("pending", 0, 4, 1)
    assert row["expire_at"] is None
    (sent,) = resume_and_sweep(world, "it")
    assert world.deliver(sample_one, sent["Body"]) == []
    row = world.row("it")
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", 1, 5)


# --- The dead-letter queue -----------------------------------------------------------------------------------------


def test_a_message_that_the_dead_letter_queue_refuses_stays_in_the_lane_unmarked(world: World) -> None:
    put(world, sample_one, "it", **archived(dead_sent_at=None, sweep_at=In(60)))
    lane = world.lane(sample_one)
    world.worker(sample_one)
    world.sqs.client.delete_queue(QueueUrl=world.sqs.url(dead_letter_name(lane)))
    records = [{"type": "sample:one", "id": "it", "rec": True}]
    world.lane = lambda task: lane  # type: ignore[method-assign] # so that the queue is not created again

    assert len(world.deliver(sample_one, *records)) == 1

    assert world.row("it")["dead_sent_at"] is None
    assert world.row("it")["sweep_at"] is not None


def test_a_tick_of_a_paused_schedule_is_cancelled_and_other_ticks_run(world: World) -> None:
    # given
    register(world.database.get(), {sample_ticking.type: sample_ticking})
    world.client.schedules.pause("sample:ticking:nightly")
    ticks = [{"type": "sample:ticking", "tick": {"schedule": name, "at": "2026-03-01T02:00:00Z"}} for name in NAMES]
    # when
    for tick in ticks:
        assert world.deliver(sample_ticking, tick) == []
    # then
    paused, other = (world.row(f"sample:ticking:{name}:2026-03-01T02:00Z") for name in NAMES)
    assert (paused["state"], paused["runs"]) == ("cancelled", 0)
    assert paused["reason"] == "SchedulePaused: its schedule is paused"
    assert other["state"] == "completed"
    # and a pause that has ended has no effect
    world.run("update joblane.schedules set paused_until = now()")
    world.deliver(
        sample_ticking, {"type": "sample:ticking", "tick": {"schedule": "nightly", "at": "2026-03-02T02:00Z"}}
    )
    assert world.row("sample:ticking:nightly:2026-03-02T02:00Z")["state"] == "completed"


NAMES = ("nightly", "weekly")


@task("sample:ticking", schedule=[cron("0 2 * * *", name="nightly"), cron("0 2 * * 0", name="weekly")])
def sample_ticking(payload: Sample, ctx: TaskContext) -> None:
    pass
