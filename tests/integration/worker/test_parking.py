"""Messages of a type that has left its place: none runs there, none is lost, and each runs once in its own function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from joblane import TaskContext
from joblane.names import SWEEP, Queue, lane_name, queue_of
from joblane.record.driver.database import Database
from joblane.record.task.claim import CLAIMS, Verdict, claim
from joblane.sqs.message import decode
from joblane.tasks.task import Task
from joblane.testing.faults import HookedDatabase, Send
from joblane.worker.parking import ParkingWorker
from joblane.worker.run import Run
from joblane.worker.verdict import decide
from joblane.worker.worker import Worker
from tests.builders.events import record
from tests.builders.rows import In, active, archived, put
from tests.samples import Sample, behaviour, sample_batch, sample_one, sample_only, sample_single, sample_tick
from tests.world import PREFIX, World, handle

PLACE = "jobs-default-place"
"""The lane of the place that the type has left."""
PAYLOAD = {"do": "park_counts", "number": 0}
TICK = {"type": "sample:tick", "tick": {"schedule": "0", "at": "2026-11-24T10:00:00Z"}}
TICK_ID = "sample:tick:0:2026-11-24T10:00Z"
DEAD = {"joblane-dead": ("Number", "0"), "joblane-reason": ("String", "attempt 4 of 4 failed")}
RUN_NOW = "update joblane.tasks set due_at = now() - interval '1 s', sweep_at = now() - interval '2 s'"


@behaviour
def park_counts(payload: Sample, ctx: TaskContext) -> None:
    from sqlalchemy import text

    ctx.session.execute(text("insert into effects values (:id, 'ran')"), {"id": ctx.task_id})


def parking(world: World, task: Task[Any, Any] = sample_one) -> ParkingWorker:
    """Return the worker of the type in the function of its former place."""
    world.make(PLACE)
    return ParkingWorker(task, world.database, world.sqs, PREFIX)


def recorded(task: Task[Any, Any] = sample_one, id_: str = "it") -> dict[str, Any]:
    return {"type": task.type, "id": id_, "rec": True}


def external(task: Task[Any, Any] = sample_one, id_: str = "it") -> dict[str, Any]:
    return {"type": task.type, "id": id_, "payload": PAYLOAD}


def ran(world: World) -> list[str]:
    return [row[0] for row in world.run("select task_id from effects order by task_id")]


@dataclass(frozen=True)
class Case:
    """A message that the place receives. ``row`` None: no row exists.

    ``attempts``, ``generation``: of the row while it waits. ``outcomes``: of its runs after it has run.
    """

    name: str
    row: dict[str, Any] | None
    body: dict[str, Any] = field(default_factory=recorded)
    task: Task[Any, Any] = sample_one
    id: str = "it"
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)
    attempts: int = 0
    generation: int = 0
    outcomes: tuple[str, ...] = ("completed",)
    delay: tuple[float, float] = (0, 0)


HELD: dict[str, Any] = {"state": "held"}
TURN: dict[str, Any] = {"total_limit": "sample:single", "passed": "all", "seq": 1, "first_due_at": In(-60)}
CASES = [
    Case("recorded, due", {}),
    Case("recorded, due in half a minute", {"state": "scheduled", "due_at": In(30)}, delay=(27, 31)),
    Case("recorded, sent several times", {"sends": 12, "sweep_at": In(6 * 3600)}),
    Case("a retry with spent attempts", {"state": "retry", "attempts": 2, "runs": 2}, attempts=2),
    Case(
        "a retry during its back-off",
        {"state": "retry", "attempts": 1, "runs": 1, "due_at": In(300)},
        attempts=1,
        delay=(297, 301),
    ),
    Case("its only attempt is left", {"state": "retry", "attempts": 3, "runs": 3}, attempts=3),
    Case("waits for a slot", HELD, recorded(sample_single), sample_single),
    Case("has its slot", TURN, recorded(sample_single), sample_single),
    Case("external, no row", None, external()),
    Case("external, a row", {}, external()),
    Case("external, with a unique key", None, external(sample_only), sample_only),
    Case("a tick", None, TICK, sample_tick, TICK_ID),
    Case("a tick that the sweep has made", {"due_at": In(-1)}, recorded(sample_tick), sample_tick),
    Case("a dead letter", archived(), attributes=DEAD, generation=1),
    Case("a lost run", active(-1), attempts=1, outcomes=("lost", "completed")),
    Case("a lost run of a batch", active(-1, batch_size=3), outcomes=("lost", "completed")),
]


def check(world: World, case: Case) -> None:
    """Deliver the message to the place, sweep, and run what comes to the type's lane."""
    if case.row is not None:
        put(world, case.task, case.id, PAYLOAD, **case.row)
    runs = 0 if case.row is None else world.row(case.id)["runs"]
    message = record(case.body, PLACE, attributes=case.attributes)
    # when
    kept = handle(parking(world, case.task), message)
    # then the message is acknowledged, and the row waits
    assert kept == []
    assert ran(world) == []
    row = world.row(case.id)
    assert row["state"] in ("scheduled", "pending", "retry")
    assert (row["attempts"], row["runs"], row["generation"]) == (case.attempts, runs, case.generation)
    assert (row["queue"], row["lease_token"]) == ("default", None)
    assert world.depth(lane_name(PREFIX, Queue.LOW, SWEEP)) == 1, "a sweep is woken"
    # when it sweeps, then the message is in the lane of its function
    lane = world.lane(case.task)
    assert world.sweep().sent == 1
    assert world.sweep().sent == 0
    delayed = world.run("select extract(epoch from due_at - now())::float8 from joblane.tasks where id = $1", case.id)
    assert case.delay[0] <= max(0, delayed[0][0]) <= case.delay[1]
    world.run(RUN_NOW)
    for copy in (1, 2):  # the second copy finds that the task has ended
        assert world.deliver(case.task, recorded(case.task, case.id)) == [], copy
    assert world.depth(lane) == 1
    # and it runs once
    row = world.row(case.id)
    assert (row["state"], row["attempts"], row["runs"]) == ("completed", case.attempts + 1, runs + 1)
    assert tuple(world.outcomes(case.id)) == case.outcomes
    assert ran(world) == ([] if "tick" in case.body else [case.id])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_message_in_the_lane_of_the_former_place_runs_once_in_the_new_lane(effects: World, case: Case) -> None:
    effects.run("insert into joblane.limits (name, slots) values ('sample:single', 1)")
    check(effects, case)


# --- Plants ----------------------------------------------------------------------------------------------------------


def keeps_the_message(patch: pytest.MonkeyPatch) -> None:
    def keeping(run: Run, log_fields: dict[str, Any]) -> Any:
        return 30 if run.claim.verdict is Verdict.PAUSED else decide(run, log_fields)

    patch.setattr("joblane.worker.worker.decide", keeping)


def forgets_the_insert(patch: pytest.MonkeyPatch) -> None:
    def forgetting(connection: Any, arrivals: Sequence[Any], *rest: Any) -> Any:
        found = claim(connection, arrivals, *rest)
        connection.run("delete from joblane.tasks where state = 'pending' and runs = 0")
        return found

    patch.setattr("joblane.worker.worker.claim", forgetting)


def runs_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ParkingWorker, "parks", False)


def hides_the_row(patch: pytest.MonkeyPatch) -> None:
    def hiding(connection: Any, arrivals: Sequence[Any], *rest: Any) -> Any:
        found = claim(connection, arrivals, *rest)
        connection.run("update joblane.tasks set sweep_at = now() + interval '6 h'")
        return found

    patch.setattr("joblane.worker.worker.claim", hiding)


@pytest.mark.parametrize("plant", [keeps_the_message, forgets_the_insert, runs_it, hides_the_row])
def test_a_fault_of_parking_is_found(
    effects: World, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check(effects, Case("external", None, external()))


# --- Other rows ------------------------------------------------------------------------------------------------------


def test_a_task_that_still_runs_keeps_its_message_until_its_lease_ends(effects: World) -> None:
    watched = effects.watch()
    put(effects, sample_one, "it", PAYLOAD, **active(30))
    before = effects.row("it")
    message = record(recorded(), PLACE)
    assert handle(parking(effects), message) == [message["messageId"]]
    assert watched.visibilities == [pytest.approx(31, abs=2)]
    assert effects.row("it") == before


@pytest.mark.parametrize(
    ("row", "dead_letters"),
    [
        (None, 0),
        ({"state": "completed"}, 0),
        ({"state": "cancelled"}, 0),
        (archived(), 0),
        (archived(dead_sent_at=None, sweep_at=In(60)), 1),
        (active(-1, attempts=4, runs=4), 1),
    ],
    ids=["no row", "completed", "cancelled", "archived", "archived, dead letter not sent", "its last attempt was lost"],
)
def test_a_task_that_has_ended_has_no_further_message(
    effects: World, row: dict[str, Any] | None, dead_letters: int
) -> None:
    if row is not None:
        put(effects, sample_one, "it", PAYLOAD, **row)
    assert handle(parking(effects), record(recorded(), PLACE)) == []
    assert effects.depth(f"{PLACE}-dlq") == dead_letters
    assert effects.sweep().sent == 0
    assert ran(effects) == []


def test_a_task_that_is_also_paused_waits_for_the_end_of_the_pause(effects: World) -> None:
    effects.lane(sample_one)
    effects.run("insert into joblane.pauses (scope, name) values ('type', 'sample:one')")
    assert handle(parking(effects), record(external(), PLACE)) == []
    assert (effects.sweep().sent, effects.sweep().paused) == (0, 1)
    effects.run("delete from joblane.pauses")
    assert effects.sweep().sent == 1


@pytest.mark.parametrize("body", [{"payload": PAYLOAD}, TICK | {"type": "sample:closed"}], ids=["external", "tick"])
def test_who_may_send_to_the_place_starts_no_closed_type(effects: World, body: dict[str, Any]) -> None:
    closed = replace(sample_tick, type="sample:closed", front_door=False)
    assert handle(parking(effects, closed), record({"type": closed.type} | body, PLACE)) == []
    assert effects.run("select from joblane.tasks") == []
    (dead_letter,) = effects.receive(f"{PLACE}-dlq")
    assert "does not run here any more" in str(dead_letter)


def test_an_external_message_without_an_id_gets_one_before_it_is_parked(effects: World) -> None:
    body = external()
    del body["id"]
    message = record(body, PLACE)
    assert handle(parking(effects), message) == []
    (copy,) = effects.receive(PLACE)
    assert decode(copy["body"]).id == message["messageId"]
    assert handle(parking(effects), copy) == []
    assert effects.row(message["messageId"])["state"] == "pending"


def test_a_new_task_is_in_the_queue_of_the_lane_if_its_type_has_one_there(effects: World) -> None:
    effects.make("jobs-critical-place", "jobs-low-place")
    for task in (sample_batch, sample_one):
        for queue in Queue:
            message = record(external(task, f"{task.type} {queue}".replace(" ", "-")), f"jobs-{queue}-place")
            assert handle(parking(effects, task), message) == []
    assert dict(effects.run("select id, queue from joblane.tasks")) == {
        "sample:batch-critical": "critical",  # also=[CRITICAL]
        "sample:batch-default": "default",
        "sample:batch-low": "default",
        "sample:one-critical": "default",
        "sample:one-default": "default",
        "sample:one-low": "default",
    }


def test_the_queue_of_a_lane_is_in_its_name() -> None:
    assert queue_of("jobs-dev", "jobs-dev-critical-data-export") is Queue.CRITICAL
    assert queue_of("jobs", "jobs-low-place") is Queue.LOW
    with pytest.raises(ValueError, match="'other'"):
        queue_of("jobs", "other-low-place")


# --- Batches, and both functions at once -----------------------------------------------------------------------------


def test_a_batch_of_ten_is_parked_in_one_statement(effects: World) -> None:
    lane = effects.lane(sample_batch)
    effects.make(PLACE, "jobs-critical-sample-batch")
    claims: list[str] = []

    def note(sql: str, send: Send) -> Any:
        claims.extend([sql] if sql in CLAIMS else [])
        return send()

    rows: dict[str, dict[str, Any]] = {
        "due": {},
        "later": {"state": "scheduled", "due_at": In(100)},
        "retry": {"state": "retry", "attempts": 2, "runs": 2},
        "running": active(30),
        "lost": active(-1),
        "done": {"state": "completed"},
        "critical": {"queue": "critical"},
    }
    for id_, columns in rows.items():
        put(effects, sample_batch, id_, PAYLOAD, **columns)
    bodies = [*(recorded(sample_batch, id_) for id_ in [*rows, "gone"]), external(sample_batch, "new")]
    records = [record(body, PLACE) for body in bodies] + [record("not JSON", PLACE)]
    # when
    effects.run("create table before as select id, attempts from joblane.tasks")
    with HookedDatabase(effects.url, note) as database:
        kept = handle(ParkingWorker(sample_batch, database, effects.sqs, PREFIX), *records)
    # then
    assert kept == [records[3]["messageId"]]
    assert len(claims) == 1
    assert effects.run("select b.id from before b join joblane.tasks t using (id) where t.attempts <> b.attempts") == []
    assert effects.sweep().sent == 6
    sent = [decode(message["Body"]).id for message in effects.received("jobs-critical-sample-batch")]
    assert sent == ["critical"]
    sent = [decode(message["Body"]).id for message in effects.take(sample_batch)]
    assert sorted(str(id_) for id_ in sent) == ["due", "lost", "new", "retry"]  # SQS delays "later"
    left = [*sent, "later", "critical"]
    effects.run("update joblane.tasks set due_at = now() where id = 'later'")
    while left:  # a lost run is claimed alone
        records = [record(recorded(sample_batch, str(id_)), lane) for id_ in left]
        kept = handle(effects.worker(sample_batch), *records)
        left = [id_ for id_, one in zip(left, records, strict=True) if one["messageId"] in kept]
    assert ran(effects) == sorted(["due", "later", "retry", "lost", "critical", "new"])


def test_a_message_that_comes_while_the_new_function_runs_its_task_is_kept(effects: World) -> None:
    kept: list[list[str]] = []

    @behaviour
    def meets_the_former_place(payload: Sample, ctx: TaskContext) -> None:
        with Database(effects.url) as database:
            worker = ParkingWorker(sample_one, database, effects.sqs, PREFIX)
            kept.append(handle(worker, record(recorded(), PLACE)))
        park_counts(payload, ctx)

    effects.make(PLACE)
    put(effects, sample_one, "it", {"do": "meets_the_former_place", "number": 0})
    assert effects.deliver(sample_one, recorded()) == []
    assert [len(ids) for ids in kept] == [1]
    assert (ran(effects), effects.outcomes("it")) == (["it"], ["completed"])
    assert handle(parking(effects), record(recorded(), PLACE)) == []


def test_a_row_that_another_transaction_has_locked_keeps_its_message(effects: World) -> None:
    put(effects, sample_one, "it", PAYLOAD)
    with effects.locked("it"):
        assert len(handle(parking(effects), record(recorded(), PLACE))) == 1
    assert handle(parking(effects), record(recorded(), PLACE)) == []


def test_messages_in_both_lanes_at_once_are_one_run_each(effects: World) -> None:
    ids = [f"it-{number}" for number in range(40)]
    for id_ in ids[::2]:  # the others are external
        put(effects, sample_batch, id_, PAYLOAD)
    bodies = [
        recorded(sample_batch, id_) if number % 2 == 0 else external(sample_batch, id_)
        for number, id_ in enumerate(ids)
    ]
    lane = effects.lane(sample_batch)
    effects.make(PLACE)
    with Database(effects.url) as database, ThreadPoolExecutor(2) as threads:
        former: Worker = ParkingWorker(sample_batch, database, effects.sqs, PREFIX)
        workers = {PLACE: former, lane: effects.worker(sample_batch)}
        # when
        for start in range(0, len(ids), 10):
            batch = bodies[start : start + 10]
            given = [(worker, [record(body, queue) for body in batch]) for queue, worker in workers.items()]
            list(threads.map(lambda one: handle(one[0], *one[1]), given))
    # and the messages that stayed come back, and the sweep sends the messages of parked rows
    for body in bodies:
        effects.deliver(sample_batch, body)
    effects.sweep()
    while messages := effects.take(sample_batch):
        for message in messages:
            effects.deliver(sample_batch, message["Body"])
    # then
    assert ran(effects) == sorted(ids)
    assert effects.run("select distinct state, attempts, runs from joblane.tasks") == [["completed", 1, 1]]
